//! Frames of HTTP/2 as bytes, written and read one by one.

use std::io::Read;

#[path = "../../../tests/floods/frames.rs"]
#[expect(dead_code, reason = "some are for floods alone")]
mod written;

pub(super) use written::{
    BEGIN, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, WINDOW_UPDATE, frame, get,
};

/// Of a PING or SETTINGS: it answers one.
pub(super) const ACK: u8 = 1;

/// One that was read.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// The next one; none at the end of the connection.
pub(super) fn next(from: &mut impl Read) -> Option<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head).ok()?;
    let [high, middle, low, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    from.read_exact(&mut payload).ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}

/// The next one that is neither settings nor room: of this kind.
pub(super) fn expect(from: &mut impl Read, kind: u8) -> Frame {
    let told = loop {
        let told = next(from).expect("a frame");
        if ![SETTINGS, WINDOW_UPDATE].contains(&told.kind) {
            break told;
        }
    };
    assert_eq!(told.kind, kind, "{told:?}");
    told
}
