//! What a route changes of a message: fields that are taken out and put in, and the beginning of the path.

use super::{
    fields::{Field, FieldSet, is_token},
    target::stripped_bytes,
    way::is_alias,
};
use crate::limits::{CHANGED_BYTES_MAX, CHANGED_COUNT_MAX};

/// Fields that say where a message ends, whose it is, or what is between two hops: changing them would change what the next hop reads.
const RESERVED: [&str; 16] = [
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "proxy-authenticate",
    "www-authenticate",
];

/// Why fields cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No name of a field.
    #[error("{0:?} is not the name of a field: expected letters, digits and -")]
    Name(String),
    /// One that a route must not touch.
    #[error("{0} says where a message ends or what is between two hops: expected another field")]
    Reserved(String),
    /// Not the value of a field.
    #[error("{0:?} is not the value of a field: expected visible characters and spaces between them")]
    Value(String),
    /// Too many.
    #[error("more than {CHANGED_COUNT_MAX} fields")]
    TooMany,
    /// Too long.
    #[error("more than {CHANGED_BYTES_MAX} bytes of fields")]
    TooLong,
}

/// Fields to take out, and lines to put in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldChanges {
    dropped: Box<[Box<str>]>,
    added: Box<[u8]>,
}

impl FieldChanges {
    /// Sets some, in the place of all that have the name, and takes others out.
    ///
    /// # Errors
    /// A name or a value that is none, or must not be touched, or too much of it.
    pub fn new<'a>(
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        removed: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ChangeError> {
        let (mut dropped, mut added) = (Vec::new(), Vec::new());
        for (name, value) in set {
            check_name(name)?;
            check_value(value)?;
            dropped.push(name.to_ascii_lowercase().into());
            added.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        for name in removed {
            check_name(name)?;
            dropped.push(name.to_ascii_lowercase().into());
        }
        if dropped.len() > CHANGED_COUNT_MAX {
            return Err(ChangeError::TooMany);
        }
        if added.len() > CHANGED_BYTES_MAX {
            return Err(ChangeError::TooLong);
        }
        Ok(Self { dropped: dropped.into(), added: added.into() })
    }

    /// All passes as it is.
    pub(super) fn is_nothing(&self) -> bool {
        self.dropped.is_empty() && self.added.is_empty()
    }

    /// Which of these do not pass.
    pub(super) fn dropped(&self, fields: &[Field<'_>]) -> FieldSet {
        // With an underscore or a dot for a hyphen it is the same name to many applications.
        let is_dropped = |field: &Field<'_>| {
            self.dropped.iter().any(|name| is_alias(field.name.as_bytes(), name.as_bytes()))
        };
        let positions = fields.iter().enumerate().filter(|(_, field)| is_dropped(field));
        positions.fold(0, |set, (position, _)| set | 1 << position)
    }

    /// Lines of fields.
    pub(super) fn added(&self) -> &[u8] {
        &self.added
    }
}

fn check_name(name: &str) -> Result<(), ChangeError> {
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(ChangeError::Name(name.to_owned()));
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(ChangeError::Reserved(name.to_owned()));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), ChangeError> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if value.trim() != value || !value.bytes().all(is_allowed) {
        return Err(ChangeError::Value(value.to_owned()));
    }
    Ok(())
}

/// What becomes of the path of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathChange {
    /// So many of its first characters are taken off, as routes are compared ([`super::target`]).
    pub strip_count: usize,
    /// What it begins with instead, without a `/` at the end.
    pub prefix: Box<str>,
}

impl PathChange {
    /// Where what stays of a target begins.
    pub(super) fn stripped_bytes(&self, target: &[u8]) -> usize {
        stripped_bytes(target, self.strip_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_frame_a_message_or_break_out_of_their_line_are_refused() {
        let set = |name: &str, value: &str| FieldChanges::new([(name, value)], []).map(drop);
        assert_eq!(set("X-A", "b c"), Ok(()));
        for name in ["Content-Length", "HOST", "transfer-encoding"] {
            assert_eq!(set(name, "1"), Err(ChangeError::Reserved(name.to_owned())));
            assert!(FieldChanges::new([], [name]).is_err());
        }
        for name in ["", "a b", "a:", "a\r\n"] {
            assert_eq!(set(name, "1"), Err(ChangeError::Name(name.to_owned())));
        }
        for value in ["a\r\nX: y", " a", "a\t", "\u{e4}", "a\0"] {
            assert_eq!(set("X-A", value), Err(ChangeError::Value(value.to_owned())));
        }
    }

    #[test]
    fn a_route_changes_so_many_fields_and_bytes_and_no_more() {
        let names: Vec<String> = (0..=CHANGED_COUNT_MAX).map(|i| format!("x{i}")).collect();
        let removed = |count: usize| FieldChanges::new([], names[..count].iter().map(String::as_str));
        assert!(removed(CHANGED_COUNT_MAX).is_ok());
        assert_eq!(removed(CHANGED_COUNT_MAX + 1), Err(ChangeError::TooMany));
        let long = |bytes: usize| FieldChanges::new([("x", "a".repeat(bytes - 5).as_str())], []).map(drop);
        assert_eq!(long(CHANGED_BYTES_MAX), Ok(()));
        assert_eq!(long(CHANGED_BYTES_MAX + 1), Err(ChangeError::TooLong));
    }
}
