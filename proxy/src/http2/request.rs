//! The head of a request of HTTP/1.1, as this proxy writes it, read for an upstream of HTTP/2.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version as HttpVersion, header, uri::Scheme};

use super::decode::{DecodeError, append};
use crate::http1::{Fields, Framing, Version, fields::FieldSet, framing::request_framing};

/// Fields of a head that has passed: those that it may come with, and those that are added.
const PASSED_FIELDS_COUNT_MAX: usize = FieldSet::BITS as usize;

/// What is asked of an upstream.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request<()>,
    /// How its body comes.
    pub(super) framing: Framing,
    /// It asks for another protocol on its connection, of which a stream has none.
    pub(super) is_upgrade: bool,
}

/// Takes a head from the front of what has come, for a connection of this scheme; none if it is not whole.
///
/// # Errors
/// It cannot be said in HTTP/2.
pub(super) fn decode_request(bytes: &mut BytesMut, scheme: &Scheme) -> Result<Option<Asked>, DecodeError> {
    let mut storage = [MaybeUninit::uninit(); PASSED_FIELDS_COUNT_MAX];
    let mut head = httparse::Request::new(&mut []);
    let parsed = head.parse_with_uninit_headers(bytes, &mut storage).map_err(|_| DecodeError::Malformed)?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let found = Fields::parse(head.headers).map_err(|_| DecodeError::Malformed)?;
    let framing =
        request_framing(head.headers, &found, Version::Http11).map_err(|_| DecodeError::Malformed)?;
    let mut fields = HeaderMap::with_capacity(head.headers.len());
    for (position, field) in head.headers.iter().enumerate() {
        let is_of_hop = found.hop_by_hop & 1 << position != 0
            || [found.host, found.transfer_encoding]
                .contains(&Some(u8::try_from(position).unwrap_or(u8::MAX)));
        if !is_of_hop {
            append(&mut fields, field)?;
        }
    }
    if found.wants_trailers {
        // RFC 9113 8.2.2: the one thing of a hop that may be said; servers of gRPC ask for it.
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let host = found.host.and_then(|index| head.headers.get(usize::from(index))).map(|field| field.value);
    let uri = Uri::builder()
        .scheme(scheme.clone())
        .authority(host.ok_or(DecodeError::Malformed)?)
        .path_and_query(head.path.ok_or(DecodeError::Malformed)?);
    let mut request = Request::new(());
    *request.uri_mut() = uri.build().map_err(|_| DecodeError::Malformed)?;
    *request.method_mut() =
        Method::from_bytes(head.method.unwrap_or_default().as_bytes()).map_err(|_| DecodeError::Malformed)?;
    *request.version_mut() = HttpVersion::HTTP_2;
    *request.headers_mut() = fields;
    bytes.advance(length);
    Ok(Some(Asked { request, framing, is_upgrade: found.upgrade.is_some() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(head: &str) -> Result<Option<Asked>, DecodeError> {
        decode_request(&mut BytesMut::from(head), &Scheme::HTTP)
    }

    #[test]
    fn a_head_is_read_as_what_it_says_without_what_belongs_to_its_hop() {
        let head = "POST /a.B/C?d HTTP/1.1\r\nHost: a.example:81\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\
                    Connection: TE\r\nTE: trailers\r\nVia: 1.1 p\r\n\r\nrest";
        let mut bytes = BytesMut::from(head);
        let asked = decode_request(&mut bytes, &Scheme::HTTP).unwrap().unwrap();
        assert_eq!(bytes, "rest");
        assert_eq!(asked.request.uri(), "http://a.example:81/a.B/C?d");
        assert_eq!((asked.request.method(), asked.framing), (&Method::POST, Framing::Chunked));
        let fields: Vec<_> =
            asked.request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(fields, ["x-a: b", "via: 1.1 p", "te: trailers"]);
        let options = decoded("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert_eq!(options.request.uri().path(), "*");
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        let asked = decoded(upgrade).unwrap().unwrap();
        assert!(asked.is_upgrade && asked.request.headers().is_empty());
    }

    #[test]
    fn half_a_head_is_none_and_what_http_2_cannot_say_is_refused() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..head.len() {
            assert!(decoded(&head[..end]).unwrap().is_none(), "{end}");
        }
        for head in ["GET / HTTP/1.1\r\nX: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"] {
            assert_eq!(decoded(head).map(drop), Err(DecodeError::Malformed), "{head}");
        }
    }
}
