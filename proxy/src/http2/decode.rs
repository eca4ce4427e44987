//! A response of HTTP/1.1, as this proxy writes it, read for a client of HTTP/2.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    http1::{Fields, Framing, Version, fields::FieldSet, framing::response_framing},
    limits::{FIELDS_COUNT_MAX, TRAILER_BYTES_MAX},
};

/// Fields of a head: those of an upstream's, and what this proxy adds to them (Date, Via and others).
const PASSED_FIELDS_COUNT_MAX: usize = FieldSet::BITS as usize;

/// Bytes of a line that says how long a chunk is: more than a size has digits.
const SIZE_LINE_BYTES_MAX: usize = 20;

/// Bytes up to which small chunks that have come are one piece: each would become a frame, and a client may take small frames for a flood,
/// as one of `h2` does of which 128 come at once.
const JOINED_BYTES_MAX: usize = 4 * 1024;

/// Why a response cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It is no response.
    #[error("malformed response")]
    Malformed,
    /// It ended before it was whole.
    #[error("truncated response")]
    Truncated,
    /// A switch of protocols was asked for, and the answer is a success without one.
    #[error("success without a switch of protocols")]
    NotSwitched,
}

/// A part of a response.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    /// Another head comes (1xx).
    Interim(Head),
    /// The head.
    Head(Head),
    /// Bytes of the body.
    Data(Bytes),
    /// The end, perhaps with trailers.
    End(Option<HeaderMap>),
}

/// A head without what belongs to a connection of HTTP/1.
#[derive(Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    /// Nothing comes behind it.
    pub(crate) is_whole: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Head,
    /// So many bytes of a body of known length.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilEnd,
    Nothing,
}

impl Next {
    fn of_body(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Nothing,
            Framing::Length(left) => Self::Body(left),
            Framing::Chunked => Self::ChunkSize,
            Framing::UntilClose => Self::UntilEnd,
        }
    }
}

/// Reads one response, or the body of one request.
#[derive(Debug)]
pub(crate) struct Decoder {
    to_head: bool,
    /// A switch of protocols was asked for.
    is_tunnel: bool,
    has_switched: bool,
    next: Next,
}

impl Decoder {
    pub(crate) fn new(to_head: bool, is_tunnel: bool) -> Self {
        Self { to_head, is_tunnel, has_switched: false, next: Next::Head }
    }

    /// Reads a request's body, of which the head has been read.
    pub(crate) fn behind(framing: Framing) -> Self {
        Self { next: Next::of_body(framing), ..Self::new(false, false) }
    }

    /// All of it has been read.
    pub(crate) fn is_done(&self) -> bool {
        self.next == Next::Nothing
    }

    /// The other side has left HTTP, as it was asked to.
    pub(crate) fn is_switched(&self) -> bool {
        self.has_switched
    }

    /// Takes the next part from the front of what has come; none if there is too little.
    ///
    /// # Errors
    /// What has come is no response.
    pub(crate) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Part>, DecodeError> {
        loop {
            match self.next {
                Next::Head => return self.decode_head(bytes),
                Next::Body(0) => return Ok(Some(self.end(None))),
                Next::Body(left) => {
                    let Some(data) = take(bytes, left) else { return Ok(None) };
                    self.next = Next::Body(left - data.len() as u64);
                    return Ok(Some(Part::Data(data)));
                }
                Next::ChunkSize | Next::ChunkEnd => {
                    if !self.take_line(bytes)? {
                        return Ok(None);
                    }
                }
                Next::Chunk(left) => {
                    let Some(data) = self.take_chunk(bytes, left, u64::MAX) else { return Ok(None) };
                    return Ok(Some(Part::Data(self.join(data, bytes)?)));
                }
                Next::Trailers => return self.decode_trailers(bytes),
                Next::UntilEnd => return Ok(take(bytes, u64::MAX).map(Part::Data)),
                Next::Nothing if bytes.is_empty() => return Ok(None),
                Next::Nothing => return Err(DecodeError::Malformed),
            }
        }
    }

    /// What has come of a chunk, so many bytes at most.
    fn take_chunk(&mut self, bytes: &mut BytesMut, left: u64, most: u64) -> Option<Bytes> {
        let data = take(bytes, left.min(most))?;
        let left = left - data.len() as u64;
        self.next = if left == 0 { Next::ChunkEnd } else { Next::Chunk(left) };
        Some(data)
    }

    /// Takes a line between chunks; false if it is not whole.
    fn take_line(&mut self, bytes: &mut BytesMut) -> Result<bool, DecodeError> {
        let is_end = self.next == Next::ChunkEnd;
        let Some(line) = line(bytes, if is_end { 0 } else { SIZE_LINE_BYTES_MAX })? else { return Ok(false) };
        self.next = if is_end { Next::ChunkSize } else { chunk(&line)? };
        Ok(true)
    }

    /// Joins a small chunk with what has come of those behind it.
    fn join(&mut self, data: Bytes, bytes: &mut BytesMut) -> Result<Bytes, DecodeError> {
        let mut joined = BytesMut::new();
        loop {
            let room = JOINED_BYTES_MAX.saturating_sub(data.len().max(joined.len()));
            let more = match self.next {
                _ if room == 0 => None,
                Next::Chunk(left) => self.take_chunk(bytes, left, room as u64),
                Next::ChunkSize | Next::ChunkEnd => {
                    if self.take_line(bytes)? {
                        continue;
                    }
                    None
                }
                _ => None,
            };
            match more {
                Some(more) => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&data);
                    }
                    joined.extend_from_slice(&more);
                }
                None if joined.is_empty() => return Ok(data),
                None => return Ok(joined.freeze()),
            }
        }
    }

    /// Takes the end of the body, if that is what comes next and there are no trailers.
    pub(crate) fn take_end(&mut self, bytes: &mut BytesMut) -> bool {
        let end: &[u8] = match self.next {
            Next::Body(0) => b"",
            Next::ChunkEnd => b"\r\n0\r\n\r\n",
            Next::Trailers => b"\r\n",
            _ => return false,
        };
        let is_end = bytes.starts_with(end);
        if is_end {
            bytes.advance(end.len());
            self.next = Next::Nothing;
        }
        is_end
    }

    /// The connection has ended in order.
    ///
    /// # Errors
    /// The response has not.
    pub(crate) fn decode_end(&mut self) -> Result<Part, DecodeError> {
        if self.next == Next::UntilEnd { Ok(self.end(None)) } else { Err(DecodeError::Truncated) }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Part {
        self.next = Next::Nothing;
        Part::End(trailers)
    }

    fn decode_head(&mut self, bytes: &mut BytesMut) -> Result<Option<Part>, DecodeError> {
        let mut storage = [MaybeUninit::uninit(); PASSED_FIELDS_COUNT_MAX];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut storage);
        let length = match parsed.map_err(|_| DecodeError::Malformed)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        let status = response.code.ok_or(DecodeError::Malformed)?;
        let found = Fields::parse(response.headers).map_err(|_| DecodeError::Malformed)?;
        let framing = response_framing(response.headers, &found, Version::Http11, status, self.to_head);
        let framing = framing.map_err(|_| DecodeError::Malformed)?;
        let is_switch = status == 101;
        if is_switch && !self.is_tunnel {
            return Err(DecodeError::Malformed);
        }
        // RFC 8441 5: to the client of a stream every success says that its WebSocket is open.
        if self.is_tunnel && (200..300).contains(&status) {
            return Err(DecodeError::NotSwitched);
        }
        let mut fields = HeaderMap::with_capacity(response.headers.len());
        for (position, field) in response.headers.iter().enumerate() {
            let is_of_hop = found.hop_by_hop & 1 << position != 0
                || found.transfer_encoding.is_some_and(|index| usize::from(index) == position);
            // RFC 8441 5: nobody has asked with a key.
            let is_of_hop = is_of_hop || is_switch && field.name.eq_ignore_ascii_case("sec-websocket-accept");
            if !is_of_hop {
                append(&mut fields, field)?;
            }
        }
        bytes.advance(length);
        self.has_switched = is_switch;
        let is_interim = (100..200).contains(&status) && !is_switch;
        self.next = match framing {
            _ if is_interim => Next::Head,
            _ if is_switch => Next::UntilEnd,
            framing => Next::of_body(framing),
        };
        // RFC 8441 5: what HTTP/1 calls a switch is a success.
        let status = if is_switch {
            StatusCode::OK
        } else {
            StatusCode::from_u16(status).map_err(|_| DecodeError::Malformed)?
        };
        let head = Head { status, fields, is_whole: self.next == Next::Nothing };
        Ok(Some(if is_interim { Part::Interim(head) } else { Part::Head(head) }))
    }

    fn decode_trailers(&mut self, bytes: &mut BytesMut) -> Result<Option<Part>, DecodeError> {
        let mut storage = [httparse::EMPTY_HEADER; FIELDS_COUNT_MAX];
        let (length, parsed) = match httparse::parse_headers(bytes, &mut storage) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) if bytes.len() <= TRAILER_BYTES_MAX => return Ok(None),
            _ => return Err(DecodeError::Malformed),
        };
        let mut fields = HeaderMap::new();
        parsed.iter().try_for_each(|field| append(&mut fields, field))?;
        bytes.advance(length);
        Ok(Some(self.end(Some(fields).filter(|fields| !fields.is_empty()))))
    }
}

/// Adds a field as it is.
pub(super) fn append(fields: &mut HeaderMap, field: &httparse::Header<'_>) -> Result<(), DecodeError> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| DecodeError::Malformed)?;
    let value = HeaderValue::from_bytes(field.value).map_err(|_| DecodeError::Malformed)?;
    // What is left of HTTP/1's hop, if anything.
    if name != header::CONNECTION && name != header::TRANSFER_ENCODING {
        fields.try_append(name, value).map_err(|_| DecodeError::Malformed)?;
    }
    Ok(())
}

/// At most so many bytes of what has come.
fn take(bytes: &mut BytesMut, most: u64) -> Option<Bytes> {
    let count = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    (count > 0).then(|| bytes.split_to(count).freeze())
}

/// A line without its end, if it is whole.
fn line(bytes: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, DecodeError> {
    match memchr::memchr(b'\n', bytes) {
        Some(end @ 1..) if end - 1 <= bytes_max && bytes[end - 1] == b'\r' => {
            let line = bytes.split_to(end - 1).freeze();
            bytes.advance(2);
            Ok(Some(line))
        }
        None if bytes.len() <= bytes_max + 1 => Ok(None),
        _ => Err(DecodeError::Malformed),
    }
}

fn chunk(line: &[u8]) -> Result<Next, DecodeError> {
    let digits =
        std::str::from_utf8(line).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let size =
        digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(DecodeError::Malformed)?;
    Ok(if size == 0 { Next::Trailers } else { Next::Chunk(size) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Everything that a response makes, fed in pieces of this size; data that follow each other are one.
    pub(in super::super) fn decoded(
        response: impl AsRef<[u8]>,
        size: usize,
        to_head: bool,
    ) -> Result<Vec<Part>, DecodeError> {
        let (mut decoder, mut bytes) = (Decoder::new(to_head, false), BytesMut::new());
        let mut parts: Vec<Part> = Vec::new();
        for piece in response.as_ref().chunks(size) {
            bytes.extend_from_slice(piece);
            while let Some(part) = decoder.decode(&mut bytes)? {
                match (parts.last_mut(), part) {
                    (Some(Part::Data(before)), Part::Data(data)) => {
                        *before = [&before[..], &data].concat().into();
                    }
                    (_, part) => parts.push(part),
                }
            }
        }
        if !decoder.is_done() {
            parts.push(decoder.decode_end()?);
        }
        Ok(parts)
    }

    fn head(status: u16, fields: &[(&'static str, &str)], is_whole: bool) -> Head {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Head { status: StatusCode::from_u16(status).unwrap(), fields: fields.collect(), is_whole }
    }

    #[test]
    fn an_end_that_has_come_is_taken_with_the_last_data_and_no_other() {
        let large = "x".repeat(JOINED_BYTES_MAX);
        let chunk = format!("{JOINED_BYTES_MAX:x}\r\n{large}\r\n");
        for (body, is_taken) in [
            ("Content-Length: 5\r\n\r\nhello", true),
            ("Content-Length: 6\r\n\r\nhello", false),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
            (&format!("Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"), true),
            (&format!("Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\nX: y\r\n\r\n"), false),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", false),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r", false),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello", false),
            ("Connection: close\r\n\r\nhello", false),
        ] {
            let mut bytes = BytesMut::from(format!("HTTP/1.1 200 OK\r\n{body}").as_bytes());
            let mut decoder = Decoder::new(false, false);
            assert!(matches!(decoder.decode(&mut bytes), Ok(Some(Part::Head(_)))));
            assert!(!decoder.take_end(&mut bytes), "before the body of {body}");
            assert!(matches!(decoder.decode(&mut bytes), Ok(Some(Part::Data(_)))));
            assert_eq!((decoder.take_end(&mut bytes), decoder.is_done()), (is_taken, is_taken), "{body}");
            assert!(!is_taken || bytes.is_empty(), "{body}");
        }
    }

    #[test]
    fn every_framing_is_read_the_same_in_whatever_pieces_it_comes() {
        let trailers: HeaderMap =
            [(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))].into_iter().collect();
        let data = || Part::Data(Bytes::from_static(b"hello"));
        for (response, parts) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: 1\r\n\r\nhello",
                vec![Part::Head(head(200, &[("content-length", "5")], false)), data(), Part::End(None)],
            ),
            (
                "HTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
                vec![
                    Part::Interim(head(103, &[("link", "y")], false)),
                    Part::Head(head(200, &[], false)),
                    data(),
                    Part::End(Some(trailers)),
                ],
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nX-Hop: y\r\n\r\nhello",
                vec![Part::Head(head(200, &[], false)), data(), Part::End(None)],
            ),
            ("HTTP/1.1 204 x\r\n\r\n", vec![Part::Head(head(204, &[], true))]),
            (
                "HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n",
                vec![Part::Head(head(200, &[("content-length", "0")], true))],
            ),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                assert_eq!(decoded(response, size, false).as_ref(), Ok(&parts), "{response} by {size}");
            }
        }
        let to_head = decoded("HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\n", 1000, true);
        assert_eq!(to_head, Ok(vec![Part::Head(head(200, &[("content-length", "5")], true))]));
    }

    #[test]
    fn small_chunks_that_have_come_are_one_piece() {
        let pieces = |chunks: &str| {
            let mut bytes = BytesMut::from(
                format!("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").as_bytes(),
            );
            let mut decoder = Decoder::new(false, false);
            let mut pieces = Vec::new();
            while let Some(part) = decoder.decode(&mut bytes).unwrap() {
                if let Part::Data(data) = part {
                    pieces.push(data.len());
                }
            }
            (pieces, decoder.is_done())
        };
        let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "a".repeat(size));
        assert_eq!(pieces(&(chunk(1).repeat(150) + "0\r\n\r\n")), (vec![150], true));
        // What has not come is not waited for, wherever it is cut.
        assert_eq!(pieces(&(chunk(1).repeat(3) + "2\r\na")), (vec![4], false));
        assert_eq!(pieces(&(chunk(1).repeat(3) + "2")), (vec![3], false));
        assert_eq!(pieces("3\r\nabc\r"), (vec![3], false));
        let most = JOINED_BYTES_MAX;
        assert_eq!(pieces(&(chunk(1) + &chunk(most - 1) + &chunk(1))), (vec![most, 1], false));
        assert_eq!(pieces(&(chunk(1) + &chunk(most))), (vec![most, 1], false));
        assert_eq!(pieces(&(chunk(most) + &chunk(most))), (vec![most, most], false));
    }

    #[test]
    fn a_response_that_breaks_off_is_never_whole() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nX: y\r\n\r\n";
        let plain = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for response in [chunked, plain] {
            for end in 0..response.len() {
                assert_eq!(
                    decoded(&response[..end], 1000, false),
                    Err(DecodeError::Truncated),
                    "{:?}",
                    &response[..end]
                );
            }
        }
    }

    #[test]
    fn as_many_fields_as_an_upstream_may_send_are_read_beside_those_that_are_added() {
        let fields = "X: y\r\n".repeat(FIELDS_COUNT_MAX);
        let response = format!("HTTP/1.1 204 x\r\n{fields}Date: z\r\nVia: 1.1 p\r\nSet-Cookie: a\r\n\r\n");
        let parts = decoded(&response, 1000, false).unwrap();
        let [Part::Head(head)] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(head.fields.len(), FIELDS_COUNT_MAX + 3);
    }

    #[test]
    fn no_success_but_a_switch_opens_a_tunnel() {
        let status = |status: u16| {
            let response =
                format!("HTTP/1.1 {status} x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
            match Decoder::new(false, true).decode(&mut BytesMut::from(response.as_bytes())) {
                Ok(Some(Part::Head(head) | Part::Interim(head))) => Ok(head.status.as_u16()),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        };
        for (seen, told) in [
            (101, Ok(200)),
            (103, Ok(103)),
            (200, Err(DecodeError::NotSwitched)),
            (204, Err(DecodeError::NotSwitched)),
            (299, Err(DecodeError::NotSwitched)),
            (300, Ok(300)),
            (403, Ok(403)),
            (426, Ok(426)),
        ] {
            assert_eq!(status(seen), told, "{seen}");
        }
    }

    #[test]
    fn what_this_proxy_never_writes_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "2;x\r\nhe",
            "+2\r\nhe",
            "2\nhe",
            "\r\n",
            "2\r\nhex\r\n",
            "fffffffffffffffff\r\n",
            "0\r\nX\r\n\r\n",
        ] {
            assert_eq!(
                decoded(format!("{chunked}{body}"), 1000, false),
                Err(DecodeError::Malformed),
                "{body}"
            );
        }
        for response in [
            "HTTP/1.1 101 x\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 204 x\r\n\r\nsurplus",
            "HTTP/1.1 200 x\r\nContent-Length: 1\r\n\r\nab",
        ] {
            assert_eq!(decoded(response, 1000, false), Err(DecodeError::Malformed), "{response}");
        }
    }
}
