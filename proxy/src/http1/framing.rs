//! How long a body is: decided once, here, and closed against every ambiguity (RFC 9112 6.3).

use super::{Fields, Reject, Version, fields::Field};

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

/// The framing of a request.
///
/// # Errors
/// Anything that two implementations might read differently.
pub fn request_framing(fields: &[Field<'_>], found: &Fields, version: Version) -> Result<Framing, Reject> {
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

fn declared(fields: &[Field<'_>], found: &Fields, version: Version) -> Result<Option<Framing>, Reject> {
    // RFC 9112 6.1: this "ought to be handled as an error"; choosing one of the two is how requests are smuggled.
    if found.content_length.is_some() && found.transfer_encoding.is_some() {
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
    let Some(index) = found.content_length else { return Ok(None) };
    // RFC 9110 8.6 would let equal repetitions merge; no honest sender repeats it.
    if found.content_length_repeated {
        return Err(Reject::LengthRepeated);
    }
    Ok(Some(match parse_length(fields[usize::from(index)].value)? {
        0 => Framing::Empty,
        length => Framing::Length(length),
    }))
}

/// Digits and nothing else: `str::parse` would take a `+` (CVE-2021-32715).
fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    if value.contains(&b',') {
        return Err(Reject::LengthRepeated);
    }
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
