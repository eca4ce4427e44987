//! `X-Request-ID`: by what a request is found again in the logs of all that it passed.

use std::fmt::Write as _;

use super::{
    Pieces,
    fields::{Field, FieldSet},
    pieces::Full,
    trace_context::put_hex,
    way::is_alias,
};
use crate::limits::REQUEST_ID_BYTES_MAX;

/// The field, as it is compared.
const NAME: &[u8] = b"x-request-id";

/// What a request is called: visible ASCII without quotes, backslashes and separators, so that it is the same in every log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    bytes: [u8; REQUEST_ID_BYTES_MAX],
    length: u8,
}

impl RequestId {
    /// One of 128 bits, in hexadecimal.
    pub fn of_bits(high: u64, low: u64) -> Self {
        let mut id = Self { bytes: [0; REQUEST_ID_BYTES_MAX], length: 32 };
        put_hex(high, &mut id.bytes[..16]);
        put_hex(low, &mut id.bytes[16..32]);
        id
    }

    /// What was sent, if it is one.
    pub fn parse(sent: &[u8]) -> Option<Self> {
        let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:+/=@".contains(byte);
        let length = u8::try_from(sent.len()).ok()?;
        if sent.is_empty() || sent.len() > REQUEST_ID_BYTES_MAX || !sent.iter().all(is_fit) {
            return None;
        }
        let mut bytes = [0; REQUEST_ID_BYTES_MAX];
        bytes[..sent.len()].copy_from_slice(sent);
        Some(Self { bytes, length })
    }

    /// The only one among these values; of several nobody knows which is meant.
    pub fn of_values<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let only = values.next()?;
        if values.next().is_some() { None } else { Self::parse(only) }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// The lines that say another one, whatever they spell the name like.
    pub(super) fn replaced(fields: &[Field<'_>]) -> FieldSet {
        let is_it = |field: &Field<'_>| is_alias(field.name.as_bytes(), NAME);
        let positions = fields.iter().enumerate().filter(|(_, field)| is_it(field));
        positions.fold(0, |set, (position, _)| set | 1 << position)
    }

    pub(super) fn push(&self, pieces: &mut Pieces) -> Result<(), Full> {
        pieces.add(b"X-Request-ID: ")?;
        pieces.add(self.as_str().as_bytes())?;
        pieces.add(b"\r\n")
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().chars().try_for_each(|letter| f.write_char(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_bits_has_all_of_them() {
        let id = RequestId::of_bits(0x0123_4567_89ab_cdef, 1);
        assert_eq!(id.as_str(), "0123456789abcdef0000000000000001");
        assert_eq!(RequestId::parse(id.as_str().as_bytes()), Some(id));
    }

    #[test]
    fn what_could_mean_something_to_a_log_is_no_id_and_neither_is_one_of_two() {
        let longest = vec![b'x'; REQUEST_ID_BYTES_MAX];
        assert_eq!(RequestId::parse(&longest).unwrap().as_str().len(), REQUEST_ID_BYTES_MAX);
        for bad in [&b""[..], b"a b", b"a\"", b"a\\", b"a,b", b"\xe4", &[&longest[..], b"x"].concat()] {
            assert_eq!(RequestId::parse(bad), None, "{bad:?}");
        }
        let of = |values: &[&'static str]| RequestId::of_values(values.iter().map(|value| value.as_bytes()));
        assert_eq!(of(&["a-1:2"]).unwrap().as_str(), "a-1:2");
        assert_eq!((of(&["a", "a"]), of(&[])), (None, None));
    }
}
