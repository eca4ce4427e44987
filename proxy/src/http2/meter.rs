//! What a client's frames cost and are worth, counted as their bytes pass.
//!
//! `h2` answers pings and settings itself, and takes priorities, windows and what it does not know, without end. So each of these has a
//! price here, and what a client is answered pays for it: whoever asks and takes can afford more of them than any client needs.

use std::time::Instant;

use crate::{
    flood::Flood,
    limits::{H2_CREDIT_A_SECOND, H2_CREDIT_MAX, H2_CRUMB_BYTES_MAX, H2_ROOM_BYTES_MIN},
};

/// What a client says first (RFC 9113 3.4).
const PREFACE_BYTES: usize = 24;

/// Bytes of the head of a frame (RFC 9113 4.1).
const FRAME_HEAD_BYTES: usize = 9;

/// Bytes of what a grant of room says behind its head (RFC 9113 6.9), and how much a connection grants before any (6.9.2).
const GRANT_BYTES: usize = 4;
const WINDOW_BYTES: i64 = 65_535;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Types of frames (RFC 9113 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// What streams that were reset cost: each had an exchange.
const RESET_PRICE: i32 = 2;

/// What an answer's head is worth: its stream may be granted room, ranked and reset.
const ANSWER_WORTH: i32 = 4;

/// What a piece of an answer is worth: clients grant room for it twice, by stream and by connection. Some do so each time they have read
/// a page of it (Go), so that longer pieces are worth more.
const PIECE_WORTH: i32 = 2;
const PAGE_BYTES: usize = 4096;

/// What it costs to grant a stream room for a crumb: more than the crumb is worth.
const CRUMB_PRICE: i32 = 4;

/// The head of a frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    bytes: usize,
    kind: u8,
    flags: u8,
    is_of_connection: bool,
    /// How much room it grants.
    granted: u32,
}

/// Finds the heads of frames in bytes that come in any pieces.
#[derive(Debug)]
struct Frames {
    /// With what a grant says.
    head: [u8; FRAME_HEAD_BYTES + GRANT_BYTES],
    filled: usize,
    /// Bytes before the next head.
    skipped: usize,
}

impl Frames {
    fn new(skipped: usize) -> Self {
        Self { head: [0; FRAME_HEAD_BYTES + GRANT_BYTES], filled: 0, skipped }
    }

    /// The next head, and what is behind it.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<(Frame, &'a [u8])> {
        let passed = self.skipped.min(bytes.len());
        self.skipped -= passed;
        let rest = self.fill(&bytes[passed..], FRAME_HEAD_BYTES)?;
        let [high, middle, low, kind, flags, a, b, c, d, ..] = self.head;
        let bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_grant = kind == kind::WINDOW_UPDATE && bytes == GRANT_BYTES;
        let rest = if is_grant { self.fill(rest, FRAME_HEAD_BYTES + GRANT_BYTES)? } else { rest };
        let [.., e, f, g, h] = self.head;
        // The first bit of both numbers is reserved.
        let granted = if is_grant { u32::from_be_bytes([e & 0x7f, f, g, h]) } else { 0 };
        (self.filled, self.skipped) = (0, if is_grant { 0 } else { bytes });
        let is_of_connection = [a & 0x7f, b, c, d] == [0; 4];
        Some((Frame { bytes, kind, flags, is_of_connection, granted }, rest))
    }

    /// Takes what is missing of so many bytes; what is behind them, once all are there.
    fn fill<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at(wanted.saturating_sub(self.filled).min(bytes.len()));
        self.head[self.filled..][..taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        (self.filled >= wanted).then_some(rest)
    }
}

/// The account of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    from_client: Frames,
    to_client: Frames,
    credit: i32,
    /// Until when time has been paid for.
    paid: Instant,
    /// What came last.
    kind: u8,
    is_within_block: bool,
    has_settings: bool,
    /// Frames from the client.
    count: u64,
    /// What the client still takes by the connection's window; what `h2` does not bear ends there.
    room_bytes: i64,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            from_client: Frames::new(PREFACE_BYTES),
            to_client: Frames::new(0),
            credit: H2_CREDIT_MAX,
            paid: now,
            kind: kind::DATA,
            is_within_block: false,
            has_settings: false,
            count: 0,
            room_bytes: WINDOW_BYTES,
        }
    }

    /// Takes what has come from the client. The time is asked for only where its credit is spent.
    ///
    /// # Errors
    /// It has had enough: what of.
    pub(crate) fn take(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        while let Some((frame, rest)) = self.from_client.next(bytes) {
            bytes = rest;
            self.count += 1;
            self.kind = frame.kind;
            if matches!(frame.kind, kind::HEADERS | kind::CONTINUATION) {
                self.is_within_block = frame.flags & END_HEADERS == 0;
            }
            if let Some((flood, price)) = self.price(frame) {
                self.credit -= price;
                if self.credit < 0 {
                    self.refill(now());
                }
                if self.credit < 0 {
                    return Err(flood);
                }
            }
        }
        Ok(())
    }

    /// Takes what was sent to the client.
    pub(crate) fn give(&mut self, mut bytes: &[u8]) {
        while let Some((frame, rest)) = self.to_client.next(bytes) {
            bytes = rest;
            let worth = match frame.kind {
                kind::HEADERS => ANSWER_WORTH,
                kind::DATA => {
                    self.room_bytes -= i64::try_from(frame.bytes).unwrap_or(i64::MAX);
                    self.worth_of_piece(frame.bytes)
                }
                _ => 0,
            };
            self.credit = self.credit.saturating_add(worth).min(H2_CREDIT_MAX);
        }
    }

    /// Which frame has not ended, or which head in several frames, if it is one that nothing else has a time for: bodies have.
    pub(crate) fn unfinished(&self) -> Option<u64> {
        let is_within = self.from_client.skipped > 0 && self.kind != kind::DATA;
        (is_within || self.from_client.filled > 0 || self.is_within_block).then_some(
            // A head goes on for as long as its block does, however many frames that takes.
            if self.is_within_block { u64::MAX } else { self.count },
        )
    }

    /// Crumbs are what a client gets that grants no more. Who says little, as gRPC does, is not stopped by a window.
    fn worth_of_piece(&self, bytes: usize) -> i32 {
        if bytes <= H2_CRUMB_BYTES_MAX && self.room_bytes < H2_ROOM_BYTES_MIN {
            return 0;
        }
        PIECE_WORTH.saturating_mul(1 + i32::try_from(bytes / PAGE_BYTES).unwrap_or(i32::MAX - 1))
    }

    fn price(&mut self, frame: Frame) -> Option<(Flood, i32)> {
        match frame.kind {
            kind::HEADERS | kind::GOAWAY => None,
            // An end is none: each stream has one.
            kind::DATA => (frame.bytes == 0 && frame.flags & END_STREAM == 0).then_some((Flood::Data, 1)),
            kind::CONTINUATION => Some((Flood::Continuations, 1)),
            kind::PRIORITY => Some((Flood::Priorities, 1)),
            kind::RST_STREAM => Some((Flood::Resets, RESET_PRICE)),
            kind::SETTINGS => {
                let is_first = !std::mem::replace(&mut self.has_settings, true);
                (!is_first).then_some((Flood::Settings, 1))
            }
            kind::PING => Some((Flood::Pings, 1)),
            kind::WINDOW_UPDATE if frame.is_of_connection => {
                self.room_bytes = self.room_bytes.saturating_add(frame.granted.into());
                Some((Flood::Windows, 1))
            }
            kind::WINDOW_UPDATE if frame.granted as usize <= H2_CRUMB_BYTES_MAX => {
                Some((Flood::Windows, CRUMB_PRICE))
            }
            kind::WINDOW_UPDATE => Some((Flood::Windows, 1)),
            _ => Some((Flood::Unknown, 1)),
        }
    }

    /// Time pays, too: a connection that lives for days may ping all the while.
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.paid);
        let worth = i32::try_from(passed.as_millis() * H2_CREDIT_A_SECOND / 1000).unwrap_or(i32::MAX);
        // What is too short to be worth anything is not lost.
        if worth > 0 {
            self.paid = now;
            self.credit = self.credit.saturating_add(worth).min(H2_CREDIT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0; payload]].concat()
    }

    /// Beyond its preface.
    fn begun(at: Instant) -> Meter {
        let mut meter = Meter::new(at);
        meter.take(PREFACE, || at).unwrap();
        meter.take(&frame(kind::SETTINGS, 0, 6), || at).unwrap();
        meter
    }

    /// How many of these are taken at once, whatever pieces they come in.
    fn taken(frame: &[u8], piece: usize) -> (i32, Flood) {
        let at = Instant::now();
        let (mut meter, mut count) = (begun(at), 0);
        loop {
            for part in frame.chunks(piece) {
                if let Err(flood) = meter.take(part, || at) {
                    return (count, flood);
                }
            }
            count += 1;
        }
    }

    #[test]
    fn each_frame_that_costs_may_come_so_often_and_no_more() {
        for (kind, payload, flood, price) in [
            (kind::DATA, 0, Flood::Data, 1),
            (kind::PRIORITY, 5, Flood::Priorities, 1),
            (kind::RST_STREAM, 4, Flood::Resets, RESET_PRICE),
            (kind::SETTINGS, 0, Flood::Settings, 1),
            (kind::PING, 8, Flood::Pings, 1),
            (kind::WINDOW_UPDATE, 4, Flood::Windows, CRUMB_PRICE),
            (kind::CONTINUATION, 0, Flood::Continuations, 1),
            (0x10, 700, Flood::Unknown, 1),
        ] {
            for piece in [1, 2, 9, 10, 10_000] {
                assert_eq!(taken(&frame(kind, 0, payload), piece), (H2_CREDIT_MAX / price, flood), "{kind}");
            }
        }
    }

    #[test]
    fn requests_and_their_bodies_cost_nothing() {
        let at = Instant::now();
        let mut meter = begun(at);
        for (kind, flags, payload) in
            [(kind::HEADERS, END_HEADERS, 40), (kind::DATA, 0, 1), (kind::DATA, END_STREAM, 0)]
        {
            for _ in 0..=H2_CREDIT_MAX {
                meter.take(&frame(kind, flags, payload), || at).unwrap();
            }
        }
    }

    fn grant(stream: u32, bytes: u32) -> Vec<u8> {
        let head = [0, 0, 4, kind::WINDOW_UPDATE, 0];
        [&head[..], &stream.to_be_bytes(), &bytes.to_be_bytes()].concat()
    }

    /// Whether a client of pieces of this size, which grants room so after each, is borne for long.
    fn is_borne(meter: &mut Meter, piece: usize, granted: &[u8]) -> bool {
        let at = meter.paid;
        (0..3 * H2_CREDIT_MAX).all(|_| {
            meter.give(&frame(kind::DATA, 0, piece));
            meter.take(granted, || at).is_ok()
        })
    }

    #[test]
    fn what_is_answered_pays_and_crumbs_do_not() {
        let at = Instant::now();
        let crumb = H2_CRUMB_BYTES_MAX;
        let both = |bytes: u32| [grant(0, bytes), grant(1, bytes)].concat();
        assert!(is_borne(&mut begun(at), crumb + 1, &both(16)));
        // A page at a time, as Go reads.
        assert!(is_borne(&mut begun(at), 16_384, &both(4096).repeat(4)));
        // A grant and a ping for each message, as gRPC does it where messages are small.
        let ping = frame(kind::PING, 0, 8);
        assert!(is_borne(&mut begun(at), crumb, &[grant(0, 15), ping].concat()));
        // What small windows make small, of a stream or of the connection.
        assert!(!is_borne(&mut begun(at), crumb, &grant(1, 15)));
        let mut meter = begun(at);
        (0..4).for_each(|_| meter.give(&frame(kind::DATA, 0, 16_384)));
        assert!(!is_borne(&mut meter, 1, &grant(0, 1)));
        // Neither do the answers to what costs.
        let mut meter = begun(at);
        for _ in 0..H2_CREDIT_MAX {
            meter.take(&frame(kind::PING, 0, 8), || at).unwrap();
            meter.give(&frame(kind::PING, 1, 8));
        }
        assert_eq!(meter.take(&frame(kind::PING, 0, 8), || at), Err(Flood::Pings));
    }

    #[test]
    fn time_pays_for_whoever_pings_for_days() {
        let mut at = Instant::now();
        let (mut meter, ping) = (begun(at), frame(kind::PING, 0, 8));
        for _ in 0..5 * H2_CREDIT_MAX {
            at += Duration::from_millis(10);
            meter.take(&ping, || at).unwrap();
        }
        // Not more than there was at first, however long it was quiet.
        at += Duration::from_secs(1_000_000);
        let taken = (0..).find(|_| meter.take(&ping, || at).is_err()).unwrap();
        assert!((H2_CREDIT_MAX..=2 * H2_CREDIT_MAX).contains(&taken), "{taken}");
    }

    #[test]
    fn a_part_of_anything_but_a_body_is_unfinished() {
        let at = Instant::now();
        let after = |bytes: &[u8]| {
            let mut meter = begun(at);
            meter.take(bytes, || at).unwrap();
            meter.unfinished()
        };
        let block = frame(kind::HEADERS, 0, 3);
        assert_eq!(after(&[]), None);
        assert_eq!(after(&frame(kind::DATA, 0, 10)[..15]), None);
        assert_eq!(after(&frame(kind::HEADERS, END_HEADERS, 3)), None);
        assert!(after(&[0]).is_some());
        assert!(after(&frame(kind::PING, 0, 8)[..12]).is_some());
        assert!(after(&frame(kind::HEADERS, END_HEADERS, 3)[..10]).is_some());
        // One block, however many frames it has, and another frame.
        let longer = [&block[..], &frame(kind::CONTINUATION, 0, 1)].concat();
        assert_eq!(after(&block), after(&longer));
        let whole = [&block[..], &frame(kind::CONTINUATION, END_HEADERS, 1)].concat();
        assert_eq!(after(&whole), None);
        assert_ne!(after(&[&whole[..], &[0]].concat()), after(&[0]));
    }
}
