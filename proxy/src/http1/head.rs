//! Heads: the first lines and fields of a message, parsed in place and turned into the pieces to forward.
//!
//! `httparse` finds the lines; what it tolerates and a proxy must not (bare LF, odd targets, contradictory fields) is
//! refused here. A head that came in one read is parsed once, any other at most twice: see [`is_complete`].

use std::mem::MaybeUninit;

pub(crate) use super::layout::is_authority;
pub use super::layout::{Asked, Exchanged, Hop, Method, RequestHead, ResponseHead};
use super::{
    Fields, Framing, Parse, Pieces, Reject, Version,
    fields::Field,
    framing,
    layout::{Layout, offset},
    rewrite,
    verb::Verb,
};
use crate::limits::{FIELDS_COUNT_MAX, HEAD_BYTES_MAX, TARGET_BYTES_MAX};

/// Whether the bytes from `scanned` on complete a head that was incomplete before, if only by a bare LF that is to be
/// refused. Call it instead of parsing again: a head that arrives byte by byte is then searched once and parsed twice.
pub fn is_complete(buffer: &[u8], scanned: usize) -> bool {
    let new = &buffer[scanned.saturating_sub(2)..];
    memchr::memchr_iter(b'\n', new).any(|at| matches!(new[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// Whether a head that was refused asked with HEAD: then its answer has no body. Only a whole request line says so; whoever
/// sends something else and takes a body for its answer would wait for it in vain.
pub fn is_head_line(bytes: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return false };
    let mut parts = bytes[..end].trim_ascii_end().split(|&byte| byte == b' ');
    let is_version = |text: &[u8]| text.starts_with(b"HTTP/") && text[5..].iter().any(u8::is_ascii_digit);
    parts.next() == Some(b"HEAD")
        && parts.next().is_some_and(|target| !target.is_empty())
        && parts.next().is_some_and(is_version)
        && parts.next().is_none()
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
    parse_routed(buffer, pieces, |_| Ok(hop))
}

/// The same, where what the hop is depends on what is asked for.
///
/// # Errors
/// Why the request is refused: by its form, or by whoever was asked for the hop.
pub fn parse_routed<'h>(
    buffer: &mut [u8],
    pieces: &mut Pieces,
    route: impl FnOnce(Asked<'_>) -> Result<Hop<'h>, Reject>,
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
    let hop = route(rewrite::asked(target.as_bytes(), host, request.headers))?;
    rewrite::request(&layout, &found, method, target_start..target_start + target.len(), host, hop, pieces)?;
    let head = RequestHead {
        bytes,
        method: kind,
        verb: Verb::of(method),
        version,
        framing,
        keep_alive: wants_keep_alive(&found, version),
        upgrade: found.upgrade.is_some(),
        // RFC 9110 10.1.1: ignored in HTTP/1.0, and where no body follows.
        expects_continue: found.expects_continue && version == Version::Http11 && framing != Framing::Empty,
        is_connection_bound: found.is_connection_bound,
        trailers: found.trailers.without_way(hop.forwarding.is_some()).unless_changed(hop.fields),
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
    // RFC 9110 15: a client takes one of 600 to 999 for a 5xx. It is passed on as it is, for it means something to somebody.
    if !(100..1000).contains(&status) {
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
    let upstream_keep_alive = wants_keep_alive(&found, version)
        && framing != Framing::UntilClose
        && !is_tunnel
        && !framing::announces_body(response.headers, &found, status);
    let head = ResponseHead {
        bytes,
        status,
        framing,
        upstream_keep_alive,
        client_keep_alive: exchanged.keep_alive
            && !framing.ends_with_close(exchanged.client)
            && !is_tunnel
            && (upstream_keep_alive || !exchanged.is_rest_long),
        is_connection_bound: found.is_connection_bound,
        trailers: found.trailers.unless_changed(exchanged.fields),
    };
    rewrite::response(&layout, &found, &head, exchanged, pieces)?;
    buffer[7] = b'1';
    Ok(Parse::Done(head))
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
