//! A response of HTTP/2, written as the HTTP/1.1 that an exchange reads from any upstream.
//!
//! Nothing is repaired: what is written here, the parser of `http1` reads before anybody acts on it.

use http::{HeaderMap, StatusCode, header, response::Parts};

use super::encode::{Coding, encode_fields};
use crate::http1::Reject;

/// Writes an interim head (1xx).
///
/// # Errors
/// It cannot be said in HTTP/1.1, or it switches protocols.
pub(super) fn encode_interim(
    status: StatusCode,
    fields: &HeaderMap,
    into: &mut Vec<u8>,
) -> Result<(), Reject> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Reject::Malformed);
    }
    encode_status(status, into);
    encode_fields(fields, into)?;
    into.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a head; `is_whole` if nothing follows, and `to_head` if it answers HEAD.
///
/// # Errors
/// It cannot be said in HTTP/1.1.
pub(super) fn encode_head(
    response: &Parts,
    is_whole: bool,
    to_head: bool,
    into: &mut Vec<u8>,
) -> Result<Coding, Reject> {
    let (status, fields) = (response.status, &response.headers);
    let has_no_body = to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let has_length = fields.contains_key(header::CONTENT_LENGTH);
    let coding = match (is_whole || has_no_body, has_length) {
        (true, _) => Coding::Empty,
        (false, true) => Coding::Plain,
        (false, false) => Coding::Chunked,
    };
    encode_status(status, into);
    encode_fields(fields, into)?;
    into.extend_from_slice(match coding {
        Coding::Chunked => b"Transfer-Encoding: chunked\r\n",
        // Without it, the end of the connection would be the end of the body.
        Coding::Empty if !has_no_body && !has_length => b"Content-Length: 0\r\n",
        Coding::Empty | Coding::Plain | Coding::Tunnel => b"",
    });
    into.extend_from_slice(b"\r\n");
    Ok(coding)
}

fn encode_status(status: StatusCode, into: &mut Vec<u8>) {
    let phrase = status.canonical_reason().unwrap_or_default();
    into.extend_from_slice(format!("HTTP/1.1 {} {phrase}\r\n", status.as_u16()).as_bytes());
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn encoded(response: Response<()>, is_whole: bool, to_head: bool) -> Result<(String, Coding), Reject> {
        let mut head = Vec::new();
        let coding = encode_head(&response.into_parts().0, is_whole, to_head, &mut head)?;
        Ok((String::from_utf8(head).unwrap(), coding))
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    #[test]
    fn every_body_has_an_end_that_is_not_that_of_the_connection() {
        for (of, is_whole, to_head, head, coding) in [
            (
                response(200, &[("grpc-status", "12")]),
                true,
                false,
                "HTTP/1.1 200 OK\r\ngrpc-status: 12\r\nContent-Length: 0\r\n\r\n",
                Coding::Empty,
            ),
            (
                response(200, &[]),
                false,
                false,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Coding::Chunked,
            ),
            (
                response(200, &[("content-length", "5")]),
                false,
                false,
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Coding::Plain,
            ),
            (
                response(200, &[("content-length", "5")]),
                true,
                true,
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Coding::Empty,
            ),
            (response(204, &[]), true, false, "HTTP/1.1 204 No Content\r\n\r\n", Coding::Empty),
            (response(200, &[]), true, true, "HTTP/1.1 200 OK\r\n\r\n", Coding::Empty),
        ] {
            assert_eq!(encoded(of, is_whole, to_head), Ok((head.to_owned(), coding)));
        }
    }

    #[test]
    fn what_belongs_to_a_connection_of_http_1_is_refused() {
        for field in
            [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "x"), ("x", "a ")]
        {
            assert!(encoded(response(200, &[field]), false, false).is_err(), "{field:?}");
        }
        let switch = encode_interim(StatusCode::SWITCHING_PROTOCOLS, &HeaderMap::new(), &mut Vec::new());
        assert!(switch.is_err());
    }
}
