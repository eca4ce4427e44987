//! Heads: the first lines and fields of a message, parsed in place and turned into the pieces to forward.
//!
//! `httparse` finds the lines; what it tolerates and a proxy must not (bare LF, odd targets, contradictory fields) is
//! refused here. A head that came in one read is parsed once, any other at most twice: see [`is_complete`].

use std::{
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr},
};

use super::{Fields, Forwarding, Framing, Parse, Pieces, Reject, Version, fields::Field, framing, rewrite};
use crate::limits::{FIELDS_COUNT_MAX, HEAD_BYTES_MAX, TARGET_BYTES_MAX};

/// What the method means to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Safe, and therefore repeatable: GET, OPTIONS.
    Safe,
    /// Safe, and its response has no body.
    Head,
    /// Not safe, but doing it twice is doing it once: PUT, DELETE.
    Idempotent,
    /// Everything else.
    Other,
}

impl Method {
    /// Whether sending the request twice is as good as once (RFC 9110 9.2.2).
    pub fn is_repeatable(self) -> bool {
        self != Self::Other
    }
}

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Length of the head.
    pub bytes: usize,
    /// Its method.
    pub method: Method,
    /// The client's version.
    pub version: Version,
    /// Its body.
    pub framing: Framing,
    /// The client will send another request on the same connection.
    pub keep_alive: bool,
    /// The client wants to leave HTTP.
    pub upgrade: bool,
}

/// What a request is told of this hop.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The Host that an HTTP/1.0 request without one is forwarded with.
    pub host: &'a str,
    /// Who has sent it.
    pub peer: IpAddr,
    /// What the upstream is told of that; by default nothing, and what the client has said of it passes.
    pub forwarding: Option<Forwarding>,
    /// The name of this hop in Via.
    pub via: Option<&'a str>,
}

impl<'a> Hop<'a> {
    /// One that says nothing of itself or the client.
    pub const fn plain(host: &'a str) -> Self {
        Self { host, peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED), forwarding: None, via: None }
    }
}

/// What the response must take into account.
#[derive(Debug, Clone, Copy)]
pub struct Exchanged<'a> {
    /// The request was HEAD.
    pub to_head: bool,
    /// The client's version.
    pub client: Version,
    /// The client asked for an upgrade, and its request is over.
    pub upgrade: bool,
    /// The client's connection can be used again.
    pub keep_alive: bool,
    /// The name of this hop in Via.
    pub via: Option<&'a str>,
}

/// What was decided about a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Length of the head.
    pub bytes: usize,
    /// The status code.
    pub status: u16,
    /// Its body.
    pub framing: Framing,
    /// The upstream's connection can be used again.
    pub upstream_keep_alive: bool,
    /// The client's connection can be used again.
    pub client_keep_alive: bool,
}

impl ResponseHead {
    /// 1xx other than 101: the real response is still to come.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// A head's fields and where their lines are.
pub(super) struct Layout<'a> {
    pub(super) buffer: &'a [u8],
    pub(super) fields: &'a [Field<'a>],
    /// Where the fields begin.
    pub(super) fields_start: usize,
    /// Length of the head; its last two bytes are the empty line.
    pub(super) bytes: usize,
    /// As it came.
    pub(super) version: Version,
}

impl Layout<'_> {
    /// Where the line of this field begins; one past the last field is the empty line.
    pub(super) fn line_start(&self, position: usize) -> usize {
        match self.fields.get(position) {
            Some(field) => offset(self.buffer, field.name.as_bytes()),
            None => self.bytes - 2,
        }
    }

    /// Every line ends in CR LF: httparse takes a bare LF, which others read as part of a value.
    fn check_line_ends(&self) -> Result<(), Reject> {
        let crlf_before = |at: usize| at >= 2 && self.buffer.get(at - 2..at) == Some(b"\r\n");
        let lines = self.line_start(0) == self.fields_start
            && (0..=self.fields.len()).all(|position| crlf_before(self.line_start(position)))
            && crlf_before(self.bytes);
        if lines { Ok(()) } else { Err(Reject::BareLineEnd) }
    }
}

pub(super) fn offset(buffer: &[u8], part: &[u8]) -> usize {
    let offset = part.as_ptr() as usize - buffer.as_ptr() as usize;
    debug_assert!(offset <= buffer.len(), "httparse returned a slice of another buffer");
    offset
}

/// Whether the bytes from `scanned` on complete a head that was incomplete before, if only by a bare LF that is to be
/// refused. Call it instead of parsing again: a head that arrives byte by byte is then searched once and parsed twice.
pub fn is_complete(buffer: &[u8], scanned: usize) -> bool {
    let new = &buffer[scanned.saturating_sub(2)..];
    memchr::memchr_iter(b'\n', new).any(|at| matches!(new[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// Parses a request's head at the start of `buffer` and fills `pieces` with what to forward of it, with what
/// `hop` adds.
///
/// # Errors
/// Why the request is refused.
pub fn parse_request(
    buffer: &mut [u8],
    hop: Hop<'_>,
    pieces: &mut Pieces,
) -> Result<Parse<RequestHead>, Reject> {
    // httparse would skip it, and however many follow.
    if buffer.first() == Some(&b'\n') {
        return Err(Reject::BareLineEnd);
    }
    let mut storage = [MaybeUninit::uninit(); FIELDS_COUNT_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        buffer,
        &mut storage,
    );
    let bytes = match parsed.map_err(reject_of)? {
        httparse::Status::Complete(bytes) if bytes <= HEAD_BYTES_MAX => bytes,
        httparse::Status::Partial if buffer.len() < HEAD_BYTES_MAX => return Ok(Parse::NeedMore),
        _ => return Err(too_large(request.path)),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Reject::Malformed);
    };
    let target_start = offset(buffer, target.as_bytes());
    let version_start = target_start + target.len() + 1;
    let version = version_of(minor);
    let fields_start = version_start + 10;
    let layout = Layout { buffer, fields: request.headers, fields_start, bytes, version };
    // Empty lines before a request (RFC 9112 2.2) are skipped by the caller; here they would hide where it begins.
    if buffer.get(version_start - 1) != Some(&b' ') || offset(buffer, method.as_bytes()) != 0 {
        return Err(Reject::Malformed);
    }
    layout.check_line_ends()?;
    let mut found = Fields::parse(request.headers)?;
    if version == Version::Http10 {
        // RFC 9110 7.8: ignored in HTTP/1.0.
        found.upgrade = None;
    }
    let framing = framing::request_framing(request.headers, &found, version)?;
    let kind = method_of(method)?;
    let host = host_of(&found, request.headers, version)?;
    rewrite::request(&layout, &found, method, target_start..target_start + target.len(), host, hop, pieces)?;
    let head = RequestHead {
        bytes,
        method: kind,
        version,
        framing,
        keep_alive: wants_keep_alive(&found, version),
        upgrade: found.upgrade.is_some(),
    };
    // A proxy speaks its own version (RFC 9112 2.3); both have eight bytes.
    buffer[version_start + 7] = b'1';
    Ok(Parse::Done(head))
}

/// Parses a response's head at the start of `buffer` and fills `pieces` with what to forward of it.
///
/// # Errors
/// Why the response is refused: the upstream's fault.
pub fn parse_response(
    buffer: &mut [u8],
    exchanged: Exchanged<'_>,
    pieces: &mut Pieces,
) -> Result<Parse<ResponseHead>, Reject> {
    // httparse skips empty lines; an upstream that sends them has lost count of its messages.
    if buffer.first().is_some_and(|&byte| byte != b'H') {
        return Err(Reject::Malformed);
    }
    let mut storage = [MaybeUninit::uninit(); FIELDS_COUNT_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        buffer,
        &mut storage,
    );
    let bytes = match parsed.map_err(reject_of)? {
        httparse::Status::Complete(bytes) if bytes <= HEAD_BYTES_MAX => bytes,
        httparse::Status::Partial if buffer.len() < HEAD_BYTES_MAX => return Ok(Parse::NeedMore),
        _ => return Err(Reject::HeadTooLarge),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(Reject::Malformed);
    };
    let line_end = memchr::memchr(b'\n', buffer).map_or(0, |at| at + 1);
    let version = version_of(minor);
    let layout = Layout { buffer, fields: response.headers, fields_start: line_end, bytes, version };
    if !(100..600).contains(&status) {
        return Err(Reject::Malformed);
    }
    layout.check_line_ends()?;
    let found = Fields::parse(response.headers)?;
    let framing = framing::response_framing(response.headers, &found, version, status, exchanged.to_head)?;
    // 101 without a request for it, or before its end, would turn requests into tunnel bytes (CVE-2026-2833).
    let is_tunnel = status == 101;
    if is_tunnel && !(exchanged.upgrade && found.upgrade.is_some()) {
        return Err(Reject::Malformed);
    }
    let head = ResponseHead {
        bytes,
        status,
        framing,
        upstream_keep_alive: wants_keep_alive(&found, version)
            && framing != Framing::UntilClose
            && !is_tunnel,
        client_keep_alive: exchanged.keep_alive && !ends_with_close(framing, exchanged.client) && !is_tunnel,
    };
    rewrite::response(&layout, &found, &head, exchanged, pieces)?;
    buffer[7] = b'1';
    Ok(Parse::Done(head))
}

/// Whether the body's end is the connection's: what has no length, or has chunks that the client cannot read.
fn ends_with_close(framing: Framing, client: Version) -> bool {
    framing == Framing::UntilClose || (framing == Framing::Chunked && client == Version::Http10)
}

fn too_large(target: Option<&str>) -> Reject {
    // Without a target the buffer is full of it.
    if target.is_none_or(|t| t.len() > TARGET_BYTES_MAX) {
        Reject::TargetTooLong
    } else {
        Reject::HeadTooLarge
    }
}

fn wants_keep_alive(found: &Fields, version: Version) -> bool {
    // RFC 9112 9.3: persistent unless told otherwise, and the reverse in HTTP/1.0.
    !found.close && (version == Version::Http11 || found.keep_alive)
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

fn method_of(method: &str) -> Result<Method, Reject> {
    Ok(match method {
        "GET" | "OPTIONS" => Method::Safe,
        "HEAD" => Method::Head,
        "PUT" | "DELETE" => Method::Idempotent,
        "CONNECT" => return Err(Reject::Connect),
        "TRACE" => return Err(Reject::Trace),
        _ => Method::Other,
    })
}

fn host_of<'a>(found: &Fields, fields: &[Field<'a>], version: Version) -> Result<Option<&'a [u8]>, Reject> {
    if found.host_repeated {
        return Err(Reject::HostRepeated);
    }
    match found.host.map(|index| fields[usize::from(index)].value) {
        Some(host) if is_authority(host) => Ok(Some(host)),
        Some(_) => Err(Reject::HostMalformed),
        None if version == Version::Http11 => Err(Reject::HostMissing),
        None => Ok(None),
    }
}

/// `host[:port]` of RFC 3986 3.2, without user information, and without the comma that lists are made of.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|&b| b == b':') {
        Some(colon) if !text.ends_with(b"]") => (&text[..colon], &text[colon + 1..]),
        _ => (text, &b""[..]),
    };
    let literal = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let well_formed = match literal {
        Some(ip) => !ip.is_empty() && ip.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b)),
        None => {
            !host.is_empty()
                && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(b))
        }
    };
    well_formed && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

fn reject_of(error: httparse::Error) -> Reject {
    match error {
        httparse::Error::HeaderName => Reject::FieldName,
        httparse::Error::HeaderValue => Reject::FieldValue,
        httparse::Error::NewLine => Reject::BareLineEnd,
        httparse::Error::TooManyHeaders => Reject::TooManyFields,
        httparse::Error::Version => Reject::Version,
        httparse::Error::Status | httparse::Error::Token => Reject::Malformed,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
