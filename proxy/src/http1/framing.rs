//! How long a body is: decided once, here, and closed against every ambiguity (RFC 9112 6.3).

use super::{
    Fields, Reject, Version,
    fields::{Field, FieldSet, set_of},
};

/// The length of a message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks until the last.
    Chunked,
    /// Until the upstream closes. Never a request's.
    UntilClose,
}

impl Framing {
    /// Whether the end of a response's body is the end of the client's connection: it has no length, or chunks that the client cannot
    /// read.
    pub(crate) fn ends_with_close(self, client: Version) -> bool {
        self == Self::UntilClose || (self == Self::Chunked && client == Version::Http10)
    }
}

/// The framing of a request.
///
/// # Errors
/// Anything that two implementations might read differently.
pub fn request_framing(fields: &[Field<'_>], found: &Fields, version: Version) -> Result<Framing, Reject> {
    if found.is_length_listed {
        return Err(Reject::LengthRepeated);
    }
    // RFC 9112 6.3 (7): a request without either field has no body.
    Ok(declared(fields, found, version)?.unwrap_or(Framing::Empty))
}

/// The framing of the response with this status to a request with this method.
///
/// # Errors
/// Anything that two implementations might read differently.
pub fn response_framing(
    fields: &[Field<'_>],
    found: &Fields,
    version: Version,
    status: u16,
    to_head: bool,
) -> Result<Framing, Reject> {
    // Checked even where no body follows: a contradiction is one either way.
    let declared = declared(fields, found, version)?;
    // RFC 9112 6.3 (1): no body, whatever the fields say.
    if to_head || (100..200).contains(&status) || status == 204 || status == 304 {
        return Ok(Framing::Empty);
    }
    Ok(declared.unwrap_or(Framing::UntilClose))
}

/// The framing fields that may not be sent with this status, or that mislead whoever reads them although no body can follow:
/// both with 1xx and 204 (RFC 9112 6.1, RFC 9110 8.6), and a coding with 304, which any recipient may take out (RFC 9112 6.1).
pub(super) fn misleading(found: &Fields, status: u16) -> FieldSet {
    match status {
        100..200 | 204 => found.content_length | set_of(found.transfer_encoding),
        304 => set_of(found.transfer_encoding),
        _ => 0,
    }
}

/// Whether an upstream announces a body with a status that has none. It may send one: its connection is not to be trusted.
pub(super) fn announces_body(fields: &[Field<'_>], found: &Fields, status: u16) -> bool {
    let is_zero = |value: &[u8]| value.iter().all(|&byte| byte == b'0');
    let has_length = status == 204 && values(fields, found.content_length).any(|value| !is_zero(value));
    has_length || (matches!(status, 204 | 304) && found.transfer_encoding.is_some())
}

/// The length of a response that is to be said once, because it came more than once.
pub(super) fn merged_length<'a>(fields: &[Field<'a>], found: &Fields) -> Option<&'a [u8]> {
    if !found.is_length_listed {
        return None;
    }
    let first = first_value(fields, found.content_length)?;
    first.split(|&byte| byte == b',').next().map(<[u8]>::trim_ascii)
}

/// The value of the first field of a set.
fn first_value<'a>(fields: &[Field<'a>], set: FieldSet) -> Option<&'a [u8]> {
    fields.get(set.trailing_zeros() as usize).map(|field| field.value)
}

/// Values of the fields of a set.
fn values<'a>(fields: &[Field<'a>], set: FieldSet) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .enumerate()
        .filter(move |(position, _)| set & (1 << position) != 0)
        .map(|(_, field)| field.value)
}

/// The length that a response declares: once, or again and again the same (RFC 9110 8.6). Origins behind filters do so, and it is
/// passed on once. A request says it once: no honest client repeats it.
fn parse_lengths(fields: &[Field<'_>], set: FieldSet) -> Result<u64, Reject> {
    let mut lengths = values(fields, set).flat_map(|value| value.split(|&byte| byte == b','));
    let first = parse_length(lengths.next().unwrap_or_default().trim_ascii())?;
    for length in lengths {
        if parse_length(length.trim_ascii())? != first {
            return Err(Reject::LengthRepeated);
        }
    }
    Ok(first)
}

fn declared(fields: &[Field<'_>], found: &Fields, version: Version) -> Result<Option<Framing>, Reject> {
    // RFC 9112 6.1: this "ought to be handled as an error"; choosing one of the two is how requests are smuggled.
    if found.content_length != 0 && found.transfer_encoding.is_some() {
        return Err(Reject::LengthAndCoding);
    }
    if let Some(index) = found.transfer_encoding {
        // RFC 9112 6.1: HTTP/1.0 has no transfer codings; its framing is faulty if it claims one (CVE-2026-2835).
        if version == Version::Http10 {
            return Err(Reject::CodingInHttp10);
        }
        let is_chunked = fields[usize::from(index)].value.eq_ignore_ascii_case(b"chunked");
        if found.transfer_encoding_repeated || !is_chunked {
            return Err(Reject::Coding);
        }
        return Ok(Some(Framing::Chunked));
    }
    let Some(first) = first_value(fields, found.content_length) else { return Ok(None) };
    let length = if found.is_length_listed {
        parse_lengths(fields, found.content_length)
    } else {
        parse_length(first)
    };
    Ok(Some(match length? {
        0 => Framing::Empty,
        length => Framing::Length(length),
    }))
}

/// Digits and nothing else: `str::parse` would take a `+` (CVE-2021-32715).
fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    // 18 digits cannot overflow, and no body is that long.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::LengthMalformed);
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn fields(pairs: Pairs) -> Vec<Field<'static>> {
        pairs.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect()
    }

    fn request(pairs: Pairs) -> Result<Framing, Reject> {
        let fields = fields(pairs);
        request_framing(&fields, &Fields::parse(&fields)?, Version::Http11)
    }

    fn response(pairs: Pairs, status: u16, to_head: bool) -> Result<Framing, Reject> {
        let fields = fields(pairs);
        response_framing(&fields, &Fields::parse(&fields)?, Version::Http11, status, to_head)
    }

    #[test]
    fn unambiguous_requests_are_framed() {
        assert_eq!(request(&[]), Ok(Framing::Empty));
        assert_eq!(request(&[("content-length", "0")]), Ok(Framing::Empty));
        assert_eq!(request(&[("Content-Length", "42")]), Ok(Framing::Length(42)));
        assert_eq!(request(&[("Transfer-Encoding", "Chunked")]), Ok(Framing::Chunked));
    }

    #[test]
    fn lengths_are_one_plain_number() {
        for bad in ["", "+5", "-5", "5x", "0x10", "5 5", "1e3", "1234567890123456789", "\u{a0}5", "5."] {
            let fields = [Field { name: "content-length", value: bad.as_bytes() }];
            let found = Fields::parse(&fields).unwrap();
            assert_eq!(
                request_framing(&fields, &found, Version::Http11),
                Err(Reject::LengthMalformed),
                "{bad:?}"
            );
        }
        assert_eq!(request(&[("content-length", "5, 5")]), Err(Reject::LengthRepeated));
        assert_eq!(request(&[("content-length", "5"), ("content-length", "5")]), Err(Reject::LengthRepeated));
    }

    #[test]
    fn a_response_may_say_the_same_length_again_and_no_other() {
        for (same, said) in [
            (&[("content-length", "5"), ("content-length", "5")][..], "5"),
            (&[("content-length", "5, 5")], "5"),
            (&[("content-length", "05 ,5"), ("x", "y"), ("Content-Length", "5")], "05"),
        ] {
            assert_eq!(response(same, 200, false), Ok(Framing::Length(5)), "{same:?}");
            let fields = fields(same);
            let merged = merged_length(&fields, &Fields::parse(&fields).unwrap());
            assert_eq!(merged, Some(said.as_bytes()));
            assert_eq!(request(same), Err(Reject::LengthRepeated));
        }
        for (other, why) in [
            (&[("content-length", "5"), ("content-length", "6")][..], Reject::LengthRepeated),
            (&[("content-length", "5, 6")], Reject::LengthRepeated),
            (&[("content-length", "5,")], Reject::LengthMalformed),
            (&[("content-length", ",5")], Reject::LengthMalformed),
            (&[("content-length", "5"), ("content-length", "")], Reject::LengthMalformed),
            (&[("content-length", "5, +5")], Reject::LengthMalformed),
        ] {
            assert_eq!(response(other, 200, false), Err(why), "{other:?}");
            assert_eq!(response(other, 200, true), Err(why), "checked where no body follows, too");
        }
        let once = fields(&[("content-length", "5")]);
        assert_eq!(merged_length(&once, &Fields::parse(&once).unwrap()), None);
    }

    #[test]
    fn a_status_without_a_body_has_no_framing_and_an_upstream_that_announces_one_is_suspect() {
        for (pairs, status, taken_out, is_suspect) in [
            (&[("content-length", "0")][..], 204, 1, false),
            (&[("x", "y"), ("content-length", "5")], 204, 2, true),
            (&[("transfer-encoding", "chunked")], 204, 1, true),
            (&[("content-length", "5")], 103, 1, false),
            (&[("transfer-encoding", "chunked")], 101, 1, false),
            (&[("content-length", "5")], 304, 0, false),
            (&[("transfer-encoding", "chunked")], 304, 1, true),
            (&[("content-length", "5")], 200, 0, false),
        ] {
            let fields = fields(pairs);
            let found = Fields::parse(&fields).unwrap();
            assert_eq!(misleading(&found, status), taken_out, "{status} {pairs:?}");
            assert_eq!(announces_body(&fields, &found, status), is_suspect, "{status} {pairs:?}");
        }
    }

    #[test]
    fn codings_are_exactly_chunked() {
        for bad in [
            "",
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            ",chunked",
            "xchunked",
            "identity",
            "chunked;q=1",
        ] {
            let fields = [Field { name: "transfer-encoding", value: bad.as_bytes() }];
            let found = Fields::parse(&fields).unwrap();
            assert_eq!(request_framing(&fields, &found, Version::Http11), Err(Reject::Coding), "{bad:?}");
        }
        let twice: Pairs = &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(request(twice), Err(Reject::Coding));
    }

    #[test]
    fn length_and_coding_together_are_refused_in_either_order() {
        let both: Pairs = &[("content-length", "5"), ("transfer-encoding", "chunked")];
        let swapped: Pairs = &[("transfer-encoding", "chunked"), ("content-length", "5")];
        assert_eq!(request(both), Err(Reject::LengthAndCoding));
        assert_eq!(request(swapped), Err(Reject::LengthAndCoding));
        assert_eq!(response(both, 200, false), Err(Reject::LengthAndCoding));
    }

    #[test]
    fn http_1_0_has_no_coding() {
        let fields = fields(&[("transfer-encoding", "chunked")]);
        let found = Fields::parse(&fields).unwrap();
        assert_eq!(request_framing(&fields, &found, Version::Http10), Err(Reject::CodingInHttp10));
    }

    #[test]
    fn bodyless_responses_have_no_body_whatever_they_declare() {
        let declared: Pairs = &[("content-length", "5")];
        assert_eq!(response(declared, 200, true), Ok(Framing::Empty));
        for status in [100, 101, 103, 204, 304] {
            assert_eq!(response(declared, status, false), Ok(Framing::Empty), "{status}");
        }
        assert_eq!(response(declared, 200, false), Ok(Framing::Length(5)));
        assert_eq!(response(&[], 200, false), Ok(Framing::UntilClose));
    }
}
