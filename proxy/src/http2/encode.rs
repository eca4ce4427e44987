//! A request of HTTP/2, written as the HTTP/1.1 that every request in this house is.
//!
//! What is odd is refused and never repaired (RFC 9113 8.2, 8.3): whatever is written here, the parser of `http1` reads before anybody
//! acts on it, so that there is one opinion on where a request ends.

use bytes::BufMut;
use http::{HeaderMap, Method, header, request::Parts};

use crate::http1::{Reject, head::is_authority};

/// How the body behind a head is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// There is none.
    Empty,
    /// As it comes: its length is in the head.
    Plain,
    /// In chunks, and trailers behind them.
    Chunked,
    /// As it comes, until both sides have ended: a WebSocket (RFC 8441).
    Tunnel,
}

/// Writes a head; `is_whole` if no body follows. `protocol` is that of an extended CONNECT, `key` the Sec-WebSocket-Key that an upstream is
/// asked with.
///
/// # Errors
/// Why the request is refused.
pub(crate) fn encode_head(
    request: &Parts,
    protocol: Option<&str>,
    is_whole: bool,
    key: &str,
    into: &mut impl BufMut,
) -> Result<Coding, Reject> {
    let is_tunnel = request.method == Method::CONNECT && protocol == Some("websocket");
    if request.method == Method::CONNECT && !is_tunnel || protocol.is_some() != is_tunnel {
        return Err(Reject::Connect);
    }
    let has_length = request.headers.contains_key(header::CONTENT_LENGTH);
    // RFC 9110 9.3.6: a CONNECT has no content. Of the upgrade that it becomes, a length would say that it has, and what the client
    // sends through its tunnel would be read as that, or as another request.
    if is_tunnel && has_length {
        return Err(Reject::LengthMalformed);
    }
    let coding = match (is_tunnel, is_whole, has_length) {
        (true, ..) => Coding::Tunnel,
        (false, true, _) => Coding::Empty,
        (false, false, true) => Coding::Plain,
        (false, false, false) => Coding::Chunked,
    };
    // Others could be translated (RFC 9113 8.3.1), and are not. Of a request that has a Host alone, `h2` does not tell it.
    if request.uri.scheme_str().is_some_and(|scheme| !["http", "https"].contains(&scheme)) {
        return Err(Reject::Target);
    }
    // Beside a Host alone, `h2` takes a request without any path for one of `/`.
    if request.uri.path().is_empty() {
        return Err(Reject::Target);
    }
    let target = request.uri.path_and_query().ok_or(Reject::Target)?.as_str();
    let is_asterisk = target == "*" && request.method == Method::OPTIONS;
    if !target.starts_with('/') && !is_asterisk
        || target.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#')
    {
        return Err(Reject::Target);
    }
    let method = if is_tunnel { "GET" } else { request.method.as_str() };
    for part in [method, " ", target, " HTTP/1.1\r\nHost: "] {
        into.put_slice(part.as_bytes());
    }
    into.put_slice(host(request)?);
    into.put_slice(b"\r\n");
    encode_fields(&request.headers, into)?;
    into.put_slice(match coding {
        Coding::Chunked => b"Transfer-Encoding: chunked\r\n",
        // RFC 9110 8.6: of these methods a body is expected, and its absence said.
        Coding::Empty
            if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) && !has_length =>
        {
            b"Content-Length: 0\r\n"
        }
        Coding::Tunnel => b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ",
        Coding::Empty | Coding::Plain => b"",
    });
    if is_tunnel {
        into.put_slice(key.as_bytes());
        into.put_slice(b"\r\n");
    }
    into.put_slice(b"\r\n");
    Ok(coding)
}

/// Whose the request is: two opinions are one too many.
fn host(request: &Parts) -> Result<&[u8], Reject> {
    let mut named = request.headers.get_all(header::HOST).iter();
    let (first, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(Reject::HostRepeated);
    }
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, first.map(http::HeaderValue::as_bytes)) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Reject::HostMalformed);
        }
        (authority, host) => authority.or(host).ok_or(Reject::HostMissing)?,
    };
    if is_authority(host) { Ok(host) } else { Err(Reject::HostMalformed) }
}

pub(super) fn encode_fields(fields: &HeaderMap, into: &mut impl BufMut) -> Result<(), Reject> {
    let mut has_cookie = false;
    for (name, value) in fields {
        if is_of_one_hop(name.as_str()) {
            return Err(Reject::FieldName);
        }
        match name.as_str() {
            "host" => {}
            // RFC 9113 8.2.3: its crumbs are one field.
            "cookie" if has_cookie => {}
            "cookie" => {
                has_cookie = true;
                into.put_slice(b"cookie: ");
                for (position, value) in fields.get_all(name).iter().enumerate() {
                    into.put_slice(if position == 0 { b"" } else { b"; " });
                    encode_value(value.as_bytes(), into)?;
                }
                into.put_slice(b"\r\n");
            }
            name => {
                into.put_slice(name.as_bytes());
                into.put_slice(b": ");
                encode_value(value.as_bytes(), into)?;
                into.put_slice(b"\r\n");
            }
        }
    }
    Ok(())
}

/// RFC 9113 8.2.2: these belong to a connection of HTTP/1, and smuggle where they get through. `te: trailers` has been looked at before.
fn is_of_one_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "sec-websocket-key"
    )
}

/// RFC 9113 8.2.1: no line may end within a value.
fn encode_value(value: &[u8], into: &mut impl BufMut) -> Result<(), Reject> {
    let is_padded = value.first().or(value.last()).is_some_and(|byte| b" \t".contains(byte))
        || value.last().is_some_and(|byte| b" \t".contains(byte));
    if is_padded || value.iter().any(|byte| b"\r\n\0".contains(byte)) {
        return Err(Reject::FieldValue);
    }
    into.put_slice(value);
    Ok(())
}

/// Writes a piece of a body, which is not empty.
pub(crate) fn encode_data(data: &[u8], coding: Coding, into: &mut Vec<u8>) {
    debug_assert!(!data.is_empty(), "an empty chunk ends a body");
    if coding == Coding::Chunked {
        into.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    }
    into.extend_from_slice(data);
    if coding == Coding::Chunked {
        into.extend_from_slice(b"\r\n");
    }
}

/// Writes the end of a body, with its trailers where there is room for such.
///
/// # Errors
/// A trailer that is none.
pub(crate) fn encode_end(
    trailers: Option<&HeaderMap>,
    coding: Coding,
    into: &mut Vec<u8>,
) -> Result<(), Reject> {
    if coding == Coding::Chunked {
        into.extend_from_slice(b"0\r\n");
        if let Some(trailers) = trailers {
            encode_fields(trailers, into).map_err(|_| Reject::Trailer)?;
        }
        into.extend_from_slice(b"\r\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::http1::{
        Framing, Parse, Pieces,
        head::{Hop, parse_request},
    };

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn encoded(parts: &Parts, is_whole: bool) -> Result<(String, Coding), Reject> {
        let mut head = Vec::new();
        let coding = encode_head(parts, None, is_whole, "", &mut head)?;
        Ok((String::from_utf8(head).unwrap(), coding))
    }

    #[test]
    fn a_request_is_written_as_one_that_is_read_the_same() {
        let get =
            parts("GET", "https://a.example/x?y", &[("accept", "*/*"), ("cookie", "a=b"), ("cookie", "c=d")]);
        let (head, coding) = encoded(&get, true).unwrap();
        assert_eq!(head, "GET /x?y HTTP/1.1\r\nHost: a.example\r\naccept: */*\r\ncookie: a=b; c=d\r\n\r\n");
        assert_eq!(coding, Coding::Empty);
        for (fields, is_whole, framing) in [
            (&[][..], false, Framing::Chunked),
            (&[("content-length", "5")], false, Framing::Length(5)),
            (&[], true, Framing::Empty),
        ] {
            let post = parts("POST", "https://a.example/", fields);
            let mut head = encoded(&post, is_whole).unwrap().0.into_bytes();
            let parsed = parse_request(&mut head, Hop::plain("a"), &mut Pieces::default()).unwrap();
            let Parse::Done(parsed) = parsed else { panic!("not whole") };
            assert_eq!((parsed.bytes, parsed.framing), (head.len(), framing));
        }
    }

    #[test]
    fn what_is_odd_is_refused() {
        for (parts, why) in [
            (parts("CONNECT", "a.example:443", &[]), Reject::Connect),
            (parts("GET", "/x", &[]), Reject::HostMissing),
            (parts("GET", "https://a.example/", &[("host", "b.example")]), Reject::HostMalformed),
            (parts("GET", "https://a@b/", &[]), Reject::HostMalformed),
            (parts("GET", "/", &[("host", "a"), ("host", "a")]), Reject::HostRepeated),
            (parts("GET", "https://a/", &[("transfer-encoding", "chunked")]), Reject::FieldName),
            (parts("GET", "https://a/", &[("connection", "close")]), Reject::FieldName),
            (parts("GET", "https://a/", &[("upgrade", "h2c")]), Reject::FieldName),
            (parts("GET", "https://a/", &[("x", "a ")]), Reject::FieldValue),
            (parts("GET", "https://a/", &[("x", "\ta")]), Reject::FieldValue),
            (parts("GET", "*", &[("host", "a")]), Reject::Target),
            (parts("GET", "ftp://a/", &[]), Reject::Target),
        ] {
            assert_eq!(encoded(&parts, true).map(drop), Err(why), "{parts:?}");
        }
        assert!(encoded(&parts("OPTIONS", "*", &[("host", "a")]), true).is_ok());
        let mut without_path = parts("GET", "/", &[("host", "a")]);
        without_path.uri = http::Uri::from_parts(http::uri::Parts::default()).unwrap();
        assert_eq!(encoded(&without_path, true).map(drop), Err(Reject::Target));
    }

    #[test]
    fn bodies_are_chunks_where_their_length_is_not_known() {
        let mut body = Vec::new();
        encode_data(b"hello", Coding::Chunked, &mut body);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        encode_end(Some(&trailers), Coding::Chunked, &mut body).unwrap();
        assert_eq!(body, b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
        let mut body = Vec::new();
        encode_data(b"hello", Coding::Plain, &mut body);
        encode_end(Some(&trailers), Coding::Plain, &mut body).unwrap();
        assert_eq!(body, b"hello");
        trailers.insert("transfer-encoding", "chunked".parse().unwrap());
        assert_eq!(encode_end(Some(&trailers), Coding::Chunked, &mut Vec::new()), Err(Reject::Trailer));
    }

    #[test]
    fn a_web_socket_is_an_upgrade() {
        let connect = parts("CONNECT", "https://a.example/chat", &[("sec-websocket-version", "13")]);
        let mut head = Vec::new();
        assert_eq!(encode_head(&connect, Some("websocket"), false, "a2V5", &mut head), Ok(Coding::Tunnel));
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.starts_with("GET /chat HTTP/1.1\r\nHost: a.example\r\nsec-websocket-version: 13\r\n"),
            "{head}"
        );
        assert!(
            head.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a2V5\r\n\r\n"),
            "{head}"
        );
        assert_eq!(encode_head(&connect, Some("other"), false, "", &mut Vec::new()), Err(Reject::Connect));
        for length in ["0", "5"] {
            let connect = parts("CONNECT", "https://a.example/chat", &[("content-length", length)]);
            let encoded = encode_head(&connect, Some("websocket"), false, "a2V5", &mut Vec::new());
            assert_eq!(encoded, Err(Reject::LengthMalformed), "{length}");
        }
        let get = parts("GET", "https://a.example/chat", &[]);
        assert_eq!(encode_head(&get, Some("websocket"), false, "", &mut Vec::new()), Err(Reject::Connect));
    }
}
