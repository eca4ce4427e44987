//! What must be true of what was played.

use std::collections::HashMap;

use proxy_fuzz::{
    peer::Side,
    strict::{End, Read, read_request},
};

use crate::Played;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Longest payload that a client takes which has said nothing else (RFC 9113 6.5.2); the longest that any takes.
const PAYLOAD_BYTES_MAX: usize = (1 << 24) - 1;

/// Checks it.
///
/// # Panics
/// Something is not true.
pub fn check(played: &Played) {
    played.upstreams.iter().for_each(check_upstream);
    check_client(&played.client.received);
}

/// Requests, one after the other, of which the last may be incomplete.
fn check_upstream(upstream: &Side) {
    let mut received = &upstream.received[..];
    loop {
        match read_request(received) {
            Read::Message(request) => match request.end {
                End::Whole(length) if !request.wants_upgrade => received = &received[length..],
                _ => return,
            },
            Read::Partial => return,
            Read::Malformed(why) => panic!("the upstream received: {why}"),
        }
    }
}

/// How far the answer on a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Begun,
    /// All of it.
    Ended,
    /// Nothing more is said of it.
    Reset,
}

fn check_client(mut bytes: &[u8]) {
    let mut streams: HashMap<u32, Answer> = HashMap::new();
    let mut block = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let &[a, b, c, kind, flags, stream @ ..] = head;
        let (length, stream) = (u32::from_be_bytes([0, a, b, c]) as usize, u32::from_be_bytes(stream));
        assert!(length <= PAYLOAD_BYTES_MAX && kind <= CONTINUATION, "{head:?}");
        assert_eq!(block.is_some(), kind == CONTINUATION, "{head:?} within {block:?}");
        let said = streams.get(&stream).copied();
        match kind {
            HEADERS | DATA => {
                assert!(
                    stream % 2 == 1 && matches!(said, None | Some(Answer::Begun)),
                    "{head:?} behind {said:?}"
                );
                assert!(kind == HEADERS || said.is_some(), "data without a head: {head:?}");
                streams.insert(stream, if flags & END_STREAM == 0 { Answer::Begun } else { Answer::Ended });
                block = (kind == HEADERS && flags & END_HEADERS == 0).then_some(stream);
            }
            CONTINUATION => {
                assert_eq!(block, Some(stream));
                block = block.filter(|_| flags & END_HEADERS == 0);
            }
            RST_STREAM => {
                assert!(length == 4 && said != Some(Answer::Reset), "{head:?} behind {said:?}");
                streams.insert(stream, Answer::Reset);
            }
            _ => {}
        }
        let Some(rest) = rest.get(length..) else { return };
        bytes = rest;
    }
}
