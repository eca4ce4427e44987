//! Translations: a message of HTTP/2 that is written as HTTP/1.1 is exactly that one message to whoever reads it, and read back it is the
//! same.
//!
//! The first byte says what it is. 0 ends each part of the head: method, path, authority, or the status; then names and values. 1 begins
//! each piece of the body, 2 the trailers.

#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use libfuzzer_sys::fuzz_target;
use proxy::{
    fuzzing::{Written, read_request, read_response, write_request, write_response},
    http1::{
        Body, Framing, Parse, Pieces, Version,
        head::{Exchanged, Hop, parse_request, parse_response},
    },
    limits::TRAILER_NAME_BYTES_MAX,
};
use proxy_fuzz::{
    gather,
    strict::{self, End, Extensions},
};

/// What is changed, or looked at, on the way: the rest is passed as it is.
const OF_HOPS: [&str; 6] = ["host", "cookie", "te", "expect", "content-length", "max-forwards"];

/// Names and values as HPACK's decoder of `h2` lets them through.
fn fields<'a>(mut parts: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let name = HeaderName::from_lowercase(name);
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) else { continue };
        if name != "te" || value == "trailers" {
            fields.append(name, value);
        }
    }
    fields
}

struct Message<'a> {
    /// Two or three, and the fields.
    head: Vec<&'a [u8]>,
    data: Vec<&'a [u8]>,
    trailers: Option<HeaderMap>,
}

fn message(input: &[u8]) -> Message<'_> {
    let mut sections = input.splitn(2, |&byte| byte == 2);
    let mut parts = sections.next().unwrap_or_default().split(|&byte| byte == 1);
    let head = parts.next().unwrap_or_default().split(|&byte| byte == 0).collect();
    let trailers = sections.next().map(|section| fields(section.split(|&byte| byte == 0)));
    Message { head, data: parts.collect(), trailers }
}

/// The head of a request as `h2` makes it of pseudo-fields.
fn request(head: &[&[u8]]) -> Option<request::Parts> {
    let [method, path, authority, rest @ ..] = head else { return None };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    let mut uri = Uri::builder().path_and_query(*path);
    if !authority.is_empty() {
        uri = uri.scheme("https").authority(*authority);
    }
    if path.is_empty() {
        return None;
    }
    *request.uri_mut() = uri.build().ok()?;
    *request.headers_mut() = fields(rest.iter().copied());
    Some(request.into_parts().0)
}

/// Whether `h2` would let a body of this length come to its end: it counts, but looks at the first length only.
fn is_counted(fields: &HeaderMap, bytes: usize) -> bool {
    fields.get("content-length").is_none_or(|length| {
        let length = length.to_str().ok().and_then(|text| text.parse::<usize>().ok());
        length == Some(bytes)
    })
}

/// What goes on of a body; none if it is refused.
fn passed(framing: Framing, body: &[u8]) -> Option<Vec<u8>> {
    let (mut scanner, mut at, mut passed) = (Body::new(framing, true), 0, Vec::new());
    while at < body.len() && !scanner.is_done() {
        let mut pieces = Pieces::default();
        at = scanner.scan(body, at, &mut pieces).ok()?;
        passed.extend(gather(&pieces, body));
    }
    assert!(scanner.is_done() && at == body.len(), "{at} of {body:?}");
    Some(passed)
}

fn same_fields(before: &HeaderMap, after: &HeaderMap) {
    for name in before.keys().filter(|name| !OF_HOPS.contains(&name.as_str())) {
        let (before, after) = (before.get_all(name).iter(), after.get_all(name).iter());
        assert!(before.eq(after), "{name}");
    }
}

fn check_request(input: &[u8], protocol: Option<&str>) {
    let Message { head, data, trailers } = message(input);
    let Some(parts) = request(&head) else { return };
    let Ok(written) = write_request(&parts, protocol, &data, trailers.as_ref()) else { return };
    let body = data.concat();
    let Written { bytes, head_bytes, is_tunnel } = &written;
    let (mut buffer, mut pieces) = (bytes[..*head_bytes].to_vec(), Pieces::default());
    let parsed = match parse_request(&mut buffer, Hop::plain("role"), &mut pieces) {
        Ok(Parse::Done(parsed)) => parsed,
        Ok(Parse::NeedMore) => panic!("it has no end"),
        Err(_) => return,
    };
    assert_eq!((parsed.bytes, parsed.upgrade), (*head_bytes, *is_tunnel));
    if !is_tunnel && !is_counted(&parts.headers, body.len()) {
        return;
    }
    let message = if *is_tunnel { &bytes[..*head_bytes] } else { &bytes[..] };
    let framing = if *is_tunnel { Framing::Empty } else { parsed.framing };
    let Some(passed) = passed(framing, &message[*head_bytes..]) else { return };
    let forwarded = [gather(&pieces, &buffer), passed].concat();
    for message in [message, &forwarded] {
        let strict::Read::Message(read) = strict::read_request(message) else {
            panic!("{:?}", strict::read_request(message));
        };
        let method = if *is_tunnel { "GET" } else { parts.method.as_str() };
        assert_eq!((&*read.method, read.wants_upgrade), (method, *is_tunnel));
        assert_eq!(read.end, End::Whole(message.len()));
    }
    if *is_tunnel {
        return;
    }
    let Some(read) = read_request(&forwarded) else {
        // What HTTP/1.1 takes for a host, and no URI does.
        assert!(parts.uri.authority().is_none(), "{:?}", String::from_utf8_lossy(&forwarded));
        return;
    };
    assert_eq!(read.head.method(), parts.method);
    // `http` takes a fragment away, of which an empty path may be left.
    let path = |uri: &Uri| uri.path_and_query().map(|path| path.as_str().to_owned());
    assert_eq!(path(read.head.uri()), path(&parts.uri));
    if let Some(authority) = parts.uri.authority() {
        assert_eq!(read.head.uri().authority(), Some(authority));
    }
    same_fields(&parts.headers, read.head.headers());
    assert_eq!(read.body, body);
    same_trailers(trailers.as_ref(), read.trailers.as_ref(), &parts.headers);
}

/// Trailers have room behind chunks only; what belongs into a head, and whose name is too long, is taken out of them.
fn same_trailers(before: Option<&HeaderMap>, after: Option<&HeaderMap>, fields: &HeaderMap) {
    let empty = HeaderMap::new();
    let before = before.filter(|_| !fields.contains_key("content-length")).unwrap_or(&empty);
    let after = after.unwrap_or(&empty);
    let are_same = |name: &HeaderName| before.get_all(name).iter().eq(after.get_all(name).iter());
    assert!(after.keys().all(are_same), "{before:?}, and then {after:?}");
    let is_passed = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("x-") && name.len() <= TRAILER_NAME_BYTES_MAX
    };
    assert!(before.keys().filter(is_passed).all(are_same), "{before:?}, {after:?}");
}

fn check_response(input: &[u8], to_head: bool, longest: usize) {
    let Message { head, data, trailers } = message(input);
    let [status, rest @ ..] = &head[..] else { return };
    let Ok(status) = StatusCode::from_bytes(status) else { return };
    if status.is_informational()
        || !is_counted(&fields(rest.iter().copied()), data.concat().len()) && !to_head
    {
        return;
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = fields(rest.iter().copied());
    let parts = response.into_parts().0;
    let Ok(written) = write_response(&parts, to_head, &data, trailers.as_ref()) else { return };
    let exchanged = Exchanged {
        to_head,
        client: Version::Http11,
        upgrade: false,
        keep_alive: true,
        is_rest_long: false,
        is_http2: false,
        via: None,
        date: None,
        fields: None,
        cookie: None,
        request_id: None,
    };
    let (mut buffer, mut pieces) = (written.bytes[..written.head_bytes].to_vec(), Pieces::default());
    let parsed = match parse_response(&mut buffer, exchanged, &mut pieces) {
        Ok(Parse::Done(parsed)) => parsed,
        Ok(Parse::NeedMore) => panic!("it has no end"),
        Err(_) => return,
    };
    assert_eq!((parsed.bytes, parsed.status), (written.head_bytes, status.as_u16()));
    let Some(passed) = passed(parsed.framing, &written.bytes[written.head_bytes..]) else { return };
    let forwarded = [gather(&pieces, &buffer), passed].concat();
    let method = if to_head { "HEAD" } else { "GET" };
    let (_, seen) = strict::read_response(&forwarded, method, Extensions::Malformed);
    let strict::Read::Message(seen) = seen else { panic!("{seen:?}") };
    assert_eq!((seen.status, seen.end), (status.as_u16(), End::Whole(forwarded.len())));
    let read = read_response(&forwarded, to_head, longest);
    let Some(read) = read else {
        panic!("not read: {:?}", String::from_utf8_lossy(&forwarded));
    };
    assert_eq!((read.head.0, &read.body), (status, &seen.body));
    let has_no_body = to_head || matches!(status.as_u16(), 204 | 304);
    assert!(read.body == if has_no_body { Vec::new() } else { data.concat() });
    same_fields(&parts.headers, &read.head.1);
}

fuzz_target!(|input: &[u8]| {
    let [flags, rest @ ..] = input else { return };
    match flags & 3 {
        0 => check_request(rest, None),
        1 => check_request(rest, Some(if flags & 4 == 0 { "websocket" } else { "other" })),
        _ => check_response(rest, flags & 1 != 0, usize::from(flags >> 2) + 1),
    }
});
