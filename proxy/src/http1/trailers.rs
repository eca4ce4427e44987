//! Trailers: which of the fields behind a chunked body pass.
//!
//! Whoever merges them into the head would take them for fields of it, so nothing passes here that would end there, or that
//! the proxy alone may say. A trailer may always be dropped (RFC 9110 6.5.1): none of them costs the message.

use super::{
    FieldChanges,
    way::{is_alias, is_way},
};
use crate::limits::{NOMINATED_TRAILERS_COUNT_MAX, TRAILER_NAME_BYTES_MAX};

/// Fields about framing, routing, the connection, authentication, conditions, and how a response is to be taken: they come too
/// late behind a body (RFC 9110 6.5.1). All that begin with `if-` are conditions.
const FORBIDDEN: [&[u8]; 35] = [
    b"age",
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-location",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expect",
    b"expires",
    b"host",
    b"http2-settings",
    b"keep-alive",
    b"location",
    b"max-forwards",
    b"pragma",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"realm",
    b"retry-after",
    b"set-cookie",
    b"strict-transport-security",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"vary",
    b"via",
    b"warning",
    b"www-authenticate",
];

/// What of one message's trailers does not pass, beside what never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trailers {
    /// Hashes of the names in Connection. Another name with the same hash is dropped with it, as any may be.
    nominated: [u32; NOMINATED_TRAILERS_COUNT_MAX],
    /// One more than there is room for: no trailer passes.
    nominated_count: u8,
    /// The fields that tell an upstream where a request came from are this proxy's.
    has_own_way: bool,
}

impl Trailers {
    /// Takes note that Connection names this field.
    pub(super) fn nominate(&mut self, name: &[u8]) {
        if let Some(room) = self.nominated.get_mut(usize::from(self.nominated_count)) {
            *room = hash(name);
        }
        let full = u8::try_from(self.nominated.len() + 1).unwrap_or(u8::MAX);
        self.nominated_count = self.nominated_count.saturating_add(1).min(full);
    }

    /// The same, without the fields that tell where a request came from.
    pub(super) fn without_way(self, has_own_way: bool) -> Self {
        Self { has_own_way, ..self }
    }

    /// The same; none passes where a route changes fields: what it sets or takes out of the head may not come behind the body.
    pub(super) fn unless_changed(self, changes: Option<&FieldChanges>) -> Self {
        let is_changed = changes.is_some_and(|changes| !changes.is_nothing());
        let nominated_count = if is_changed { u8::MAX } else { self.nominated_count };
        Self { nominated_count, ..self }
    }

    fn passes(&self, name: &[u8]) -> bool {
        let Some(nominated) = self.nominated.get(..usize::from(self.nominated_count)) else { return false };
        // With an underscore or a dot for a hyphen it is the same name to many applications.
        let is_forbidden = FORBIDDEN.iter().any(|of| is_alias(name, of))
            || name.get(..3).is_some_and(|start| is_alias(start, b"if-"));
        let is_way = self.has_own_way && is_way(name);
        !is_forbidden && !is_way && (nominated.is_empty() || !nominated.contains(&hash(name)))
    }
}

/// FNV-1a, of lower case.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    })
}

/// A trailer's name as far as it has come. It is held until it is whole: only then it is known whether its line passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrailerName {
    text: [u8; TRAILER_NAME_BYTES_MAX],
    bytes: u8,
}

const _: () = assert!(TRAILER_NAME_BYTES_MAX < u8::MAX as usize);

impl Default for TrailerName {
    fn default() -> Self {
        Self { text: [0; TRAILER_NAME_BYTES_MAX], bytes: 0 }
    }
}

impl TrailerName {
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
    }

    pub(super) fn push(&mut self, byte: u8) {
        if let Some(room) = self.text.get_mut(usize::from(self.bytes)) {
            *room = byte;
        }
        self.bytes = self.bytes.saturating_add(1);
    }

    /// The name, if it was not too long to be held.
    fn text(&self) -> Option<&[u8]> {
        self.text.get(..usize::from(self.bytes))
    }

    /// The name, if its line passes.
    pub(super) fn passing(&self, trailers: &Trailers) -> Option<&[u8]> {
        self.text().filter(|name| trailers.passes(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(trailers: Trailers, name: &str) -> bool {
        let mut held = TrailerName::default();
        name.bytes().for_each(|byte| held.push(byte));
        held.passing(&trailers).is_some()
    }

    #[test]
    fn what_belongs_into_a_head_does_not_pass_by_whatever_alias() {
        for name in FORBIDDEN.iter().map(|name| str::from_utf8(name).unwrap()).chain(["if-match", "If-Range"])
        {
            let aliases =
                [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replace('-', ".")];
            for alias in aliases {
                assert!(!passes(Trailers::default(), &alias), "{alias}");
            }
        }
        for name in
            ["grpc-status", "Server-Timing", "Digest", "ETag", "X-Checksum", "iffy", "X-Forwarded-For"]
        {
            assert!(passes(Trailers::default(), name), "{name}");
        }
    }

    #[test]
    fn where_the_way_is_told_by_the_proxy_trailers_do_not_tell_it() {
        let trailers = Trailers::default().without_way(true);
        for name in ["X-Forwarded-For", "forwarded", "x_forwarded_proto", "X-Real-IP", "X.Forwarded.Host"] {
            assert!(!passes(trailers, name), "{name}");
        }
        assert!(passes(trailers, "X-Forwarded-Fox") && passes(trailers, "grpc-message"));
    }

    #[test]
    fn what_connection_names_does_not_pass_and_with_too_many_names_nothing_does() {
        let mut trailers = Trailers::default();
        let names: Vec<String> = (0..=NOMINATED_TRAILERS_COUNT_MAX).map(|n| format!("X-{n}")).collect();
        let (last, rest) = names.split_last().unwrap();
        rest.iter().for_each(|name| trailers.nominate(name.as_bytes()));
        assert!(rest.iter().all(|name| !passes(trailers, &name.to_lowercase())) && passes(trailers, last));
        (0..300).for_each(|_| trailers.nominate(last.as_bytes()));
        assert!(!passes(trailers, "X-Other"));
    }

    #[test]
    fn a_name_at_the_limit_passes_and_one_over_it_is_dropped() {
        assert!(passes(Trailers::default(), &"x".repeat(TRAILER_NAME_BYTES_MAX)));
        for bytes in [TRAILER_NAME_BYTES_MAX + 1, 255, 256, 1000] {
            assert!(!passes(Trailers::default(), &"x".repeat(bytes)), "{bytes}");
        }
    }
}
