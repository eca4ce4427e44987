//! Both translations between HTTP/2 and HTTP/1.1 without streams, for the fuzz targets.

use bytes::BytesMut;
use http::{HeaderMap, Request, StatusCode, request, response::Parts};

use super::{
    decode::{Decoder, Part},
    encode::{Coding, encode_data, encode_end, encode_head},
    request::decode_request,
    response,
};
use crate::http1::{Framing, Reject};

/// A message of HTTP/2 as HTTP/1.1.
#[derive(Debug)]
pub struct Written {
    /// All of it.
    pub bytes: Vec<u8>,
    /// How many of them are its head.
    pub head_bytes: usize,
    /// Bytes follow that are none of HTTP.
    pub is_tunnel: bool,
}

/// A message of HTTP/1.1 as HTTP/2.
#[derive(Debug)]
pub struct Read<T> {
    /// What is in front of the body.
    pub head: T,
    /// Without chunks.
    pub body: Vec<u8>,
    /// What is behind it.
    pub trailers: Option<HeaderMap>,
}

fn written(
    mut bytes: Vec<u8>,
    coding: Coding,
    data: &[&[u8]],
    trailers: Option<&HeaderMap>,
) -> Result<Written, Reject> {
    let head_bytes = bytes.len();
    if coding != Coding::Empty {
        data.iter()
            .filter(|piece| !piece.is_empty())
            .for_each(|piece| encode_data(piece, coding, &mut bytes));
        encode_end(trailers, coding, &mut bytes)?;
    }
    Ok(Written { bytes, head_bytes, is_tunnel: coding == Coding::Tunnel })
}

/// Writes a request as an exchange reads it.
///
/// # Errors
/// Why it is refused.
pub fn write_request(
    request: &request::Parts,
    protocol: Option<&str>,
    data: &[&[u8]],
    trailers: Option<&HeaderMap>,
) -> Result<Written, Reject> {
    let mut bytes = Vec::new();
    let is_whole = data.is_empty() && trailers.is_none();
    let coding = encode_head(request, protocol, is_whole, "a2V5", &mut bytes)?;
    written(bytes, coding, data, trailers)
}

/// Writes a response as an exchange reads it.
///
/// # Errors
/// It cannot be said in HTTP/1.1.
pub fn write_response(
    response: &Parts,
    to_head: bool,
    data: &[&[u8]],
    trailers: Option<&HeaderMap>,
) -> Result<Written, Reject> {
    let mut bytes = Vec::new();
    let is_whole = data.is_empty() && trailers.is_none();
    let coding = response::encode_head(response, is_whole, to_head, &mut bytes)?;
    written(bytes, coding, data, trailers)
}

/// Reads a request as an upstream of HTTP/2 is sent it; none if that cannot be, or it is not whole.
pub fn read_request(bytes: &[u8]) -> Option<Read<Request<()>>> {
    let mut bytes = BytesMut::from(bytes);
    let asked = decode_request(&mut bytes, &http::uri::Scheme::HTTP).ok().flatten()?;
    let mut read = Read { head: asked.request, body: Vec::new(), trailers: None };
    if asked.framing == Framing::Empty {
        return bytes.is_empty().then_some(read);
    }
    let mut decoder = Decoder::behind(asked.framing);
    while !decoder.is_done() {
        match decoder.decode(&mut bytes).ok()?? {
            Part::Data(data) => read.body.extend_from_slice(&data),
            Part::End(trailers) => read.trailers = trailers,
            Part::Head(_) | Part::Interim(_) => return None,
        }
    }
    bytes.is_empty().then_some(read)
}

/// Reads a response as a client of HTTP/2 is sent it, in pieces of at most `longest` bytes; none if that cannot be, or it is not whole.
pub fn read_response(bytes: &[u8], to_head: bool, longest: usize) -> Option<Read<(StatusCode, HeaderMap)>> {
    let (mut decoder, mut waiting) = (Decoder::new(to_head, false), BytesMut::new());
    let (mut head, mut body, mut trailers) = (None, Vec::new(), None);
    let mut take = |part| match part {
        Part::Interim(_) => {}
        Part::Head(found) => head = Some((found.status, found.fields)),
        Part::Data(data) => body.extend_from_slice(&data),
        Part::End(found) => trailers = found,
    };
    for piece in bytes.chunks(longest) {
        waiting.extend_from_slice(piece);
        while let Some(part) = decoder.decode(&mut waiting).ok()? {
            take(part);
        }
    }
    if !decoder.is_done() {
        take(decoder.decode_end().ok()?);
    }
    Some(Read { head: head?, body, trailers })
}
