//! Frames of HTTP/2 as bytes: no well-behaved client would send them so.

/// What a client begins with, and settings of nothing.
pub(crate) const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `GET http://a/`, and `POST`: all but the authority from HPACK's static table.
pub(crate) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
pub(crate) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'a'];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Room for so many bytes.
pub(crate) fn grant(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// The stream of a client with this number.
pub(crate) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// A head whose fields are a thousand times longer unpacked: one of 4,000 bytes that goes into the table, and the table's first one so often.
pub(crate) fn bomb(count: usize) -> Vec<u8> {
    // Literal with indexing, a new name of one byte, and a value whose length is 127 and 3873 in integers of seven bits.
    let length = [0x7f, 0xa1, 0x1e];
    let field = [&[0x40, 0x01, b'x'][..], &length, &[b'y'; 4000]].concat();
    let block = [GET, &field, &vec![0xbe; count]].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)
}

/// The beginning of a head that is longer than any may be, and of a field of it that has no end.
pub(crate) fn swollen() -> Vec<u8> {
    let long = bomb(9);
    let endless = [0, 0x01, b'x', 0x7f, 0xff, 0xff, 0x3f];
    frame(HEADERS, END_STREAM, 1, &[&long[9..], &endless].concat())
}

/// A request with a cookie in so many crumbs: the first goes into HPACK's table, the others name it.
pub(crate) fn crumbs(stream: u32, count: usize) -> Vec<u8> {
    // Literal with indexing, by the name of entry 32.
    let field = [0x60, 0x03, b'a', b'=', b'b'];
    let block = [GET, &field, &vec![0xbe; count - 1]].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// Types and payloads of the frames in these bytes, as far as they are whole.
pub(crate) fn read(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        frames.push((head[3], payload.to_vec()));
        bytes = rest;
    }
    frames
}
