//! What of a head passes: the original lines without those that end here, and the few that a proxy must add.

use std::ops::Range;

use super::{
    Fields, PathChange, Pieces, Reject, RequestId, Scheme, Version,
    fields::{Field, FieldSet, set_of},
    forwarded::push_host,
    framing::{merged_length, misleading},
    layout::{Asked, Exchanged, Hop, Layout, ResponseHead, is_authority, offset},
    pieces::Full,
};
use crate::limits::TARGET_BYTES_MAX;

/// How much of an absolute target is its scheme; none where that is not known here.
fn scheme_bytes(target: &[u8]) -> Option<(Scheme, usize)> {
    let is_of = |scheme: &&[u8]| target.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme));
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(is_of)?;
    Some((if scheme.len() == 7 { Scheme::Http } else { Scheme::Https }, scheme.len()))
}

impl From<Full> for Reject {
    fn from(full: Full) -> Self {
        match full {
            Full::Pieces => Self::TooManyCuts,
            // There is room for the longest of everything that can be added: see the tests of `forwarded.rs`.
            Full::Added => Self::HeadTooLarge,
        }
    }
}

/// What a request is for, whatever the form of its target (RFC 9112 3.3). Whether that is well-formed, is looked at as it is rewritten.
pub(super) fn asked<'a>(target: &'a [u8], host: Option<&'a [u8]>, fields: &'a [Field<'a>]) -> Asked<'a> {
    let host = host.unwrap_or_default();
    if target.starts_with(b"/") || target == b"*" {
        return Asked { host, target, fields };
    }
    let rest = scheme_bytes(target).map_or(&b""[..], |(_, bytes)| &target[bytes..]);
    let (authority, after) = rest.split_at(rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len()));
    Asked { host: authority, target: if after.starts_with(b"/") { after } else { b"/" }, fields }
}

/// Fills `pieces` with the request's head as an upstream is to see it.
pub(super) fn request(
    layout: &Layout<'_>,
    found: &Fields,
    method: &str,
    target: Range<usize>,
    host: Option<&[u8]>,
    hop: Hop<'_>,
    pieces: &mut Pieces,
) -> Result<(), Reject> {
    pieces.clear();
    let text = &layout.buffer[target.clone()];
    if text.len() > TARGET_BYTES_MAX {
        return Err(Reject::TargetTooLong);
    }
    // Fragments never leave a client (RFC 9112 3.2), and what is not visible ASCII is read differently by everyone.
    if !text.iter().all(|&b| b.is_ascii_graphic() && b != b'#') {
        return Err(Reject::Target);
    }
    let mut authority = None;
    match text.first() {
        Some(b'/') => {
            pieces.push(0..target.start)?;
            push_path(layout, target.start..target.end, hop.path, pieces)?;
        }
        Some(b'*') if text.len() == 1 && method == "OPTIONS" => pieces.push(0..layout.fields_start)?,
        _ => authority = Some(push_absolute(layout, method, target, (hop.scheme, hop.path), pieces)?),
    }
    // RFC 9112 3.2.2: the target says whose it is, and a Host that says otherwise is ignored.
    let other = authority.filter(|authority| host.is_none_or(|host| !authority.eq_ignore_ascii_case(host)));
    let told = hop.forwarding.map(|forwarding| forwarding.read(layout.fields, found.hop_by_hop));
    let forwards_left = if method == "OPTIONS" { forwards_left(layout, found)? } else { None };
    let mut dropped = found.hop_by_hop & !set_of(found.upgrade) | told.map_or(0, |told| told.dropped);
    if other.is_some() {
        dropped |= set_of(found.host);
    }
    if forwards_left.is_some() {
        dropped |= set_of(found.max_forwards);
    }
    if let Some(changes) = hop.fields {
        dropped |= changes.dropped(layout.fields);
    }
    if hop.request_id.is_some() {
        dropped |= RequestId::replaced(layout.fields);
    }
    if let Some(trace) = hop.trace {
        dropped |= trace.replaced(layout.fields);
    }
    push_kept(layout, dropped, pieces)?;
    let asked = other.or(host).ok_or(hop.host);
    if other.is_some() || host.is_none() {
        pieces.add(b"Host: ")?;
        push_host(layout, asked, pieces)?;
        pieces.add(b"\r\n")?;
    }
    if let Some(left) = forwards_left {
        pieces.add_fmt(format_args!("Max-Forwards: {left}\r\n"))?;
    }
    // RFC 9110 10.1.4: trailers pass here, but not to HTTP/1.0, which has none.
    let wants_trailers = found.wants_trailers && layout.version == Version::Http11;
    match (found.upgrade.is_some(), wants_trailers) {
        (false, false) => {}
        (true, false) => pieces.add(b"Connection: Upgrade\r\n")?,
        (false, true) => pieces.add(b"Connection: TE\r\nTE: trailers\r\n")?,
        (true, true) => pieces.add(b"Connection: Upgrade, TE\r\nTE: trailers\r\n")?,
    }
    if let (Some(forwarding), Some(told)) = (hop.forwarding, told) {
        forwarding.push(layout, told, asked, &hop, pieces)?;
    }
    push_via(hop.via, (layout.version, hop.is_http2), pieces)?;
    if let Some(changes) = hop.fields {
        pieces.add(changes.added())?;
    }
    if let Some(id) = hop.request_id {
        id.push(pieces)?;
    }
    if let Some(trace) = hop.trace {
        trace.push(pieces)?;
    }
    pieces.push(layout.bytes - 2..layout.bytes)?;
    Ok(())
}

/// A path and its query, what its route changes of it, and the rest of the line.
fn push_path(
    layout: &Layout<'_>,
    path: Range<usize>,
    change: Option<&PathChange>,
    pieces: &mut Pieces,
) -> Result<(), Full> {
    let Some(change) = change else { return pieces.push(path.start..layout.fields_start) };
    let start = path.start + change.stripped_bytes(&layout.buffer[path.clone()]);
    pieces.add(change.prefix.as_bytes())?;
    if layout.buffer[start..path.end].first() != Some(&b'/') {
        pieces.add(b"/")?;
    }
    pieces.push(start..layout.fields_start)
}

/// How many proxies behind this one the request may still pass, if it says so.
///
/// # Errors
/// It may pass none: who gets it answers (RFC 9110 7.6.2).
fn forwards_left(layout: &Layout<'_>, found: &Fields) -> Result<Option<u32>, Reject> {
    let value = found.max_forwards.map(|index| layout.fields[usize::from(index)].value);
    // What is no number is nobody's to count down.
    let Some(digits) = value.filter(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit)) else {
        return Ok(None);
    };
    let add = |number: u32, digit: &u8| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    digits.iter().fold(0, add).checked_sub(1).map(Some).ok_or(Reject::LastForward)
}

/// RFC 9110 7.6.3: the version is that of the message that came, the name ours. A line of its own continues the list.
fn push_via(
    name: Option<&str>,
    (version, is_http2): (Version, bool),
    pieces: &mut Pieces,
) -> Result<(), Full> {
    let Some(name) = name else { return Ok(()) };
    let version = match version {
        // RFC 9110 2.5: a version without minor ones has the minor 0.
        _ if is_http2 => "2.0",
        Version::Http11 => "1.1",
        Version::Http10 => "1.0",
    };
    pieces.add_fmt(format_args!("Via: {version} {name}\r\n"))
}

/// An absolute target becomes what an origin server reads (RFC 9112 3.2.1, 3.2.4); returns its authority.
fn push_absolute<'a>(
    layout: &Layout<'a>,
    method: &str,
    target: Range<usize>,
    (scheme, change): (Scheme, Option<&PathChange>),
    pieces: &mut Pieces,
) -> Result<&'a [u8], Reject> {
    let text = &layout.buffer[target.clone()];
    // Whoever asks in the clear for what is to be sealed has come to the wrong port; the reverse is what a proxy in front makes of it.
    let (_, scheme_bytes) = scheme_bytes(text)
        .filter(|(asked, _)| *asked == Scheme::Http || scheme == Scheme::Https)
        .ok_or(Reject::Target)?;
    let rest = &text[scheme_bytes..];
    let path = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(path);
    if !is_authority(authority) {
        return Err(Reject::Target);
    }
    pieces.push(0..target.start)?;
    let rest = target.start + scheme_bytes + path;
    match after.first() {
        Some(b'/') => push_path(layout, rest..target.end, change, pieces)?,
        None if method == "OPTIONS" => {
            pieces.add(b"*")?;
            pieces.push(rest..layout.fields_start)?;
        }
        _ => {
            if let Some(change) = change {
                pieces.add(change.prefix.as_bytes())?;
            }
            pieces.add(b"/")?;
            pieces.push(rest..layout.fields_start)?;
        }
    }
    Ok(authority)
}

/// Fills `pieces` with the response's head as the client is to see it.
pub(super) fn response(
    layout: &Layout<'_>,
    found: &Fields,
    head: &ResponseHead,
    exchanged: Exchanged<'_>,
    pieces: &mut Pieces,
) -> Result<(), Reject> {
    pieces.push(0..layout.fields_start)?;
    // RFC 9110 7.8: it tells which protocol is spoken (101), or is to be (426); elsewhere it only advertises this hop.
    let upgrade = found.upgrade.filter(|_| matches!(head.status, 101 | 426));
    // RFC 9112 6.1: HTTP/1.0 is not told of transfer codings, not even where no body follows. Chunks are undone for it.
    let coding = found.transfer_encoding.filter(|_| exchanged.client == Version::Http10);
    let mut dropped = found.hop_by_hop & !set_of(upgrade) | set_of(coding) | misleading(found, head.status);
    let length = merged_length(layout.fields, found).filter(|_| dropped & found.content_length == 0);
    if length.is_some() {
        dropped |= found.content_length;
    }
    let changes = exchanged.fields.filter(|_| head.status >= 200);
    if let Some(changes) = changes {
        dropped |= changes.dropped(layout.fields);
    }
    let request_id = exchanged.request_id.filter(|_| head.status >= 200);
    if request_id.is_some() {
        dropped |= RequestId::replaced(layout.fields);
    }
    push_kept(layout, dropped, pieces)?;
    if let Some(length) = length {
        pieces.add(b"Content-Length: ")?;
        let start = offset(layout.buffer, length);
        pieces.push(start..start + length.len())?;
        pieces.add(b"\r\n")?;
    }
    // RFC 9110 6.6.1: who forwards a response without a date dates it.
    if let Some(date) = exchanged.date
        && head.status >= 200
        && found.date.is_none_or(|index| dropped & (1 << index) != 0)
    {
        pieces.add(b"Date: ")?;
        pieces.add(date.bytes())?;
        pieces.add(b"\r\n")?;
    }
    if upgrade.is_some() {
        pieces.add(b"Connection: Upgrade\r\n")?;
    }
    if head.status != 101 && !head.is_interim() {
        match (head.client_keep_alive, exchanged.client) {
            (false, _) => pieces.add(b"Connection: close\r\n")?,
            (true, Version::Http10) => pieces.add(b"Connection: keep-alive\r\n")?,
            (true, Version::Http11) => {}
        }
    }
    push_via(exchanged.via, (layout.version, exchanged.is_http2), pieces)?;
    if let Some(changes) = changes {
        pieces.add(changes.added())?;
    }
    if let Some(id) = request_id {
        id.push(pieces)?;
    }
    if let Some(cookie) = exchanged.cookie.filter(|_| head.status >= 200) {
        pieces.add(b"Set-Cookie: ")?;
        pieces.add(cookie)?;
        pieces.add(b"\r\n")?;
    }
    pieces.push(layout.bytes - 2..layout.bytes)?;
    Ok(())
}

fn push_kept(layout: &Layout<'_>, dropped: FieldSet, pieces: &mut Pieces) -> Result<(), Full> {
    let end = layout.bytes - 2;
    if dropped == 0 {
        return pieces.push(layout.fields_start..end);
    }
    for position in 0..layout.fields.len() {
        if dropped & (1 << position) == 0 {
            pieces.push(layout.line_start(position)..layout.line_start(position + 1))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
