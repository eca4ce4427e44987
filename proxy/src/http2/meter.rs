//! What a peer's frames cost and are worth, counted as their bytes pass: a client's, and an upstream's, by the same prices.
//!
//! `h2` answers pings and settings itself, and takes priorities, windows and what it does not know, without end. So each of these has a
//! price here, and what a client is answered pays for it: whoever asks and takes can afford more of them than any client needs.

use std::time::Instant;

use h2::Reason;

use super::{
    frames::{END_HEADERS, END_STREAM, Frame, Frames, PREFACE_BYTES, kind},
    goodbye,
    rooms::Rooms,
};
use crate::{
    flood::Flood,
    limits::{
        H2_CREDIT_A_SECOND, H2_CREDIT_MAX, H2_CRUMB_BYTES_MAX, H2_ROOM_BYTES_MIN, H2_UNGRANTED_BYTES_MAX,
    },
};

/// How much room a connection grants before it grants any (RFC 9113 6.9.2).
const WINDOW_BYTES: i64 = 65_535;

/// What streams that were reset cost: each had an exchange.
const RESET_PRICE: i32 = 2;

/// What an answer's head is worth: its stream may be granted room, ranked and reset, and have trailers.
const ANSWER_WORTH: i32 = 5;

/// What a piece of an answer is worth, each page of it: a client may ping for it, as gRPC does.
const PIECE_WORTH: i32 = 2;
const PAGE_BYTES: usize = 4096;

/// The shortest message of gRPC, and how often its client may grant its room anew: where each is read by itself, by stream and by connection.
const MESSAGE_BYTES_MIN: usize = 5;
const MESSAGE_GRANTS: usize = 2;

/// What it costs to grant a stream room for a crumb: more than the crumb is worth.
const CRUMB_PRICE: i32 = 4;

/// The account of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    from_peer: Frames,
    to_peer: Frames,
    /// The peer is asked, and does not ask.
    is_upstream: bool,
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
    rooms: Rooms,
    /// Bytes that it got, times [`MESSAGE_GRANTS`]: those whose room it has not granted anew.
    ungranted: usize,
    /// Of the client's streams the last that has begun.
    newest: u32,
    /// The stream that was reset last was one too many.
    has_refused: bool,
    told: Option<Flood>,
}

impl Meter {
    /// Of a client's connection.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            from_peer: Frames::new(PREFACE_BYTES),
            to_peer: Frames::new(0),
            is_upstream: false,
            credit: H2_CREDIT_MAX,
            paid: now,
            kind: kind::DATA,
            is_within_block: false,
            has_settings: false,
            count: 0,
            room_bytes: WINDOW_BYTES,
            rooms: Rooms::new(),
            ungranted: 0,
            newest: 0,
            has_refused: false,
            told: None,
        }
    }

    /// Of a connection to an upstream: what it is asked, and is sent, pays for what it says. No answer needs more.
    pub(super) fn of_upstream(now: Instant) -> Self {
        let (from_peer, to_peer) = (Frames::new(0), Frames::new(PREFACE_BYTES));
        Self { from_peer, to_peer, is_upstream: true, ..Self::new(now) }
    }

    /// What it has left.
    pub(super) fn credit(&self) -> i32 {
        self.credit
    }

    /// Takes what has come from the peer. The time is asked for only where its credit is spent.
    ///
    /// # Errors
    /// It has had enough: what of.
    pub(crate) fn take(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        self.take_and_tell(bytes, now, |_| ())
    }

    /// The same, and tells of each frame.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub(super) fn take_and_tell(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
        mut tell: impl FnMut(Frame),
    ) -> Result<(), Flood> {
        while let Some((frame, rest)) = self.from_peer.next(bytes) {
            bytes = rest;
            tell(frame);
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

    /// Takes what was sent to the peer, and tells of which streams there are heads in it.
    pub(crate) fn give(&mut self, mut bytes: &[u8], mut tell_head: impl FnMut(u32)) {
        while let Some((frame, rest)) = self.to_peer.next(bytes) {
            bytes = rest;
            let worth = match frame.kind {
                kind::HEADERS => {
                    if self.is_upstream {
                        self.note_head(frame.stream);
                    }
                    tell_head(frame.stream);
                    ANSWER_WORTH
                }
                kind::DATA => self.worth_of_piece(frame),
                kind::RST_STREAM => {
                    self.rooms.end(frame.stream);
                    self.has_refused = self.to_peer.number(frame) == u32::from(Reason::REFUSED_STREAM);
                    0
                }
                kind::GOAWAY => {
                    let word = goodbye::word(self.to_peer.said(frame));
                    self.told = word.map(|flood| match flood {
                        Flood::ForcedResets if self.has_refused => Flood::Streams,
                        flood => flood,
                    });
                    0
                }
                _ => 0,
            };
            if matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & END_STREAM != 0 {
                self.rooms.end(frame.stream);
            }
            self.credit = self.credit.saturating_add(worth).min(H2_CREDIT_MAX);
        }
    }

    /// What the client was told that it has had enough of, by `h2`.
    pub(crate) fn told(&self) -> Option<Flood> {
        self.told
    }

    /// Which frame has not ended, or which head in several frames, if it is one that nothing else has a time for: bodies have.
    pub(crate) fn unfinished(&self) -> Option<u64> {
        let is_within = self.from_peer.is_within() && self.kind != kind::DATA;
        (is_within || self.from_peer.has_begun() || self.is_within_block).then_some(
            // A head goes on for as long as its block does, however many frames that takes.
            if self.is_within_block { u64::MAX } else { self.count },
        )
    }

    /// Notes a head of whoever asks; whether a stream begins with it.
    fn note_head(&mut self, stream: u32) -> bool {
        let is_new = stream > self.newest;
        if is_new {
            self.newest = stream;
            self.rooms.begin(stream);
        }
        is_new
    }

    /// Crumbs are what a client gets that has left no room for more. Who says little, as gRPC does, is not stopped by a window.
    fn worth_of_piece(&mut self, frame: Frame) -> i32 {
        let bytes = i64::try_from(frame.bytes).unwrap_or(i64::MAX);
        self.room_bytes -= bytes;
        let room_bytes = self.rooms.change(frame.stream, -bytes).unwrap_or(0).min(self.room_bytes);
        let ungranted = self.ungranted + MESSAGE_GRANTS * frame.bytes;
        self.ungranted = ungranted.min(MESSAGE_GRANTS * H2_UNGRANTED_BYTES_MAX);
        if frame.bytes <= H2_CRUMB_BYTES_MAX && room_bytes < H2_ROOM_BYTES_MIN {
            return 0;
        }
        PIECE_WORTH.saturating_mul(1 + i32::try_from(frame.bytes / PAGE_BYTES).unwrap_or(i32::MAX - 1))
    }

    /// A crumb where there is room makes no answer small: like any other grant, it may be of what was read.
    fn price_of_grant(&mut self, frame: Frame) -> Option<(Flood, i32)> {
        let granted = self.from_peer.number(frame);
        let (room_bytes, price) = if frame.stream == 0 {
            self.room_bytes = self.room_bytes.saturating_add(granted.into());
            (self.room_bytes, 1)
        } else {
            (self.rooms.change(frame.stream, granted.into()).unwrap_or(0), CRUMB_PRICE)
        };
        if granted as usize <= H2_CRUMB_BYTES_MAX && room_bytes < H2_ROOM_BYTES_MIN {
            return Some((Flood::Windows, price));
        }
        let left = self.ungranted.checked_sub(MESSAGE_BYTES_MIN);
        self.ungranted = left.unwrap_or(self.ungranted);
        left.is_none().then_some((Flood::Windows, 1))
    }

    fn price(&mut self, frame: Frame) -> Option<(Flood, i32)> {
        match frame.kind {
            // Of an upstream each may be an interim answer (1xx), of which there may be many.
            kind::HEADERS if self.is_upstream => Some((Flood::Heads, 1)),
            // `h2` bounds those that begin.
            kind::HEADERS => (!self.note_head(frame.stream)).then_some((Flood::Heads, 1)),
            kind::GOAWAY => Some((Flood::Goodbyes, 1)),
            // An end is none: each stream has one.
            kind::DATA => (frame.bytes == 0 && frame.flags & END_STREAM == 0).then_some((Flood::Data, 1)),
            kind::CONTINUATION => Some((Flood::Continuations, 1)),
            kind::PRIORITY => Some((Flood::Priorities, 1)),
            kind::RST_STREAM => {
                self.rooms.end(frame.stream);
                Some((Flood::Resets, RESET_PRICE))
            }
            kind::SETTINGS => {
                let said = self.from_peer.said(frame);
                self.rooms.apply_settings(said, said.len() == frame.bytes);
                let is_first = !std::mem::replace(&mut self.has_settings, true);
                (!is_first).then_some((Flood::Settings, 1))
            }
            kind::PING => Some((Flood::Pings, 1)),
            kind::WINDOW_UPDATE => self.price_of_grant(frame),
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

    /// Beyond its preface, and the head of a request.
    fn begun(at: Instant) -> Meter {
        let mut meter = Meter::new(at);
        meter.take(PREFACE, || at).unwrap();
        meter.take(&frame(kind::SETTINGS, 0, 6), || at).unwrap();
        meter.take(&frame(kind::HEADERS, END_HEADERS, 3), || at).unwrap();
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
            (kind::WINDOW_UPDATE, 4, Flood::Windows, 1),
            (kind::CONTINUATION, 0, Flood::Continuations, 1),
            (kind::HEADERS, 40, Flood::Heads, 1),
            (kind::GOAWAY, 8, Flood::Goodbyes, 1),
            (0x10, 700, Flood::Unknown, 1),
        ] {
            for piece in [1, 2, 9, 10, 10_000] {
                assert_eq!(taken(&frame(kind, 0, payload), piece), (H2_CREDIT_MAX / price, flood), "{kind}");
            }
        }
    }

    #[test]
    fn requests_and_their_bodies_cost_nothing_and_trailers_nothing_that_an_answer_does_not_pay() {
        let at = Instant::now();
        let mut meter = begun(at);
        for stream in 1..=u32::try_from(H2_CREDIT_MAX).unwrap() + 1 {
            let mut head = frame(kind::HEADERS, END_HEADERS, 40);
            head[5..9].copy_from_slice(&(2 * stream + 1).to_be_bytes());
            for bytes in [&head, &frame(kind::DATA, 0, 1), &frame(kind::DATA, END_STREAM, 0)] {
                meter.take(bytes, || at).unwrap();
            }
        }
        for _ in 0..=H2_CREDIT_MAX {
            meter.take(&frame(kind::HEADERS, END_HEADERS, 40), || at).unwrap();
            meter.give(&frame(kind::HEADERS, END_HEADERS, 40), |_| ());
        }
    }

    #[test]
    fn what_a_client_is_told_has_a_word_in_any_pieces() {
        let goodbye = |reason: u32, word: &[u8]| {
            let payload = [&[0; 4], &reason.to_be_bytes()[..], word].concat();
            let mut bytes = frame(kind::GOAWAY, 0, payload.len());
            bytes[9..].copy_from_slice(&payload);
            bytes
        };
        let reset = |reason: u8| [&frame(kind::RST_STREAM, 0, 4)[..12], &[reason]].concat();
        let internal = goodbye(11, b"too_many_internal_resets");
        for (bytes, told) in [
            (goodbye(11, b"too_many_resets"), Some(Flood::RapidResets)),
            (internal.clone(), Some(Flood::ForcedResets)),
            ([reset(7), internal.clone()].concat(), Some(Flood::Streams)),
            ([reset(7), reset(3), internal].concat(), Some(Flood::ForcedResets)),
            (goodbye(11, b"header_list_way_too_large"), Some(Flood::Fields)),
            (goodbye(11, &[b'x'; 100]), Some(Flood::Library)),
            (goodbye(0, b""), None),
        ] {
            for piece in [1, 3, 9, 1000] {
                let mut meter = begun(Instant::now());
                // Another frame behind it is read as well.
                for part in [&bytes[..], &frame(kind::PING, 1, 8)].concat().chunks(piece) {
                    meter.give(part, |_| ());
                }
                assert_eq!(meter.told(), told, "{bytes:?} in pieces of {piece}");
            }
        }
    }

    fn initial_window(bytes: u32) -> Vec<u8> {
        let mut settings = frame(kind::SETTINGS, 0, 6);
        settings.splice(9.., [&[0, 4][..], &bytes.to_be_bytes()].concat());
        settings
    }

    fn grant(stream: u32, bytes: u32) -> Vec<u8> {
        let head = [0, 0, 4, kind::WINDOW_UPDATE, 0];
        [&head[..], &stream.to_be_bytes(), &bytes.to_be_bytes()].concat()
    }

    /// Whether a client of pieces of this size, which grants room so after each, is borne for long.
    fn is_borne(meter: &mut Meter, piece: usize, granted: &[u8]) -> bool {
        let at = meter.paid;
        (0..3 * H2_CREDIT_MAX).all(|_| {
            meter.give(&frame(kind::DATA, 0, piece), |_| ());
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
        // Each message granted anew by stream and by connection as it is read, whether it came by itself or with others.
        assert!(is_borne(&mut begun(at), 7, &both(7)));
        assert!(is_borne(&mut begun(at), 20 * 5, &both(5).repeat(20)));
        assert!(!is_borne(&mut begun(at), 20 * 5 - 6, &both(5).repeat(20)));
        // What small windows make small, of a stream or of the connection.
        let mut meter = begun(at);
        meter.take(&initial_window(15), || at).unwrap();
        assert!(!is_borne(&mut meter, crumb, &grant(1, 15)));
        let mut meter = begun(at);
        (0..3).for_each(|_| meter.give(&frame(kind::DATA, 0, 16_384), |_| ()));
        meter.give(&frame(kind::DATA, 0, 16_000), |_| ());
        meter.take(&grant(0, 1 << 20), || at).unwrap();
        assert!(!is_borne(&mut meter, 1, &grant(1, 1)));
        let mut meter = begun(at);
        (0..4).for_each(|_| meter.give(&frame(kind::DATA, 0, 16_384), |_| ()));
        assert!(!is_borne(&mut meter, 1, &grant(0, 1)));
        // Neither do the answers to what costs.
        let mut meter = begun(at);
        for _ in 0..H2_CREDIT_MAX {
            meter.take(&frame(kind::PING, 0, 8), || at).unwrap();
            meter.give(&frame(kind::PING, 1, 8), |_| ());
        }
        assert_eq!(meter.take(&frame(kind::PING, 0, 8), || at), Err(Flood::Pings));
    }

    #[test]
    fn grants_are_free_for_so_much_that_was_sent_and_no_more() {
        let at = Instant::now();
        // So many frames are sent before anything is granted; how many grants cost nothing.
        let free = |frames: usize| {
            let mut meter = begun(at);
            meter.take(&grant(0, 1 << 30), || at).unwrap();
            meter.take(&grant(1, 1 << 30), || at).unwrap();
            (0..frames).for_each(|_| meter.give(&frame(kind::DATA, 0, 16_384), |_| ()));
            let before = meter.credit;
            (0..).take_while(|_| meter.take(&grant(0, 1), || at).is_ok() && meter.credit == before).count()
        };
        let most = H2_UNGRANTED_BYTES_MAX / 16_384;
        let grants = |frames: usize| MESSAGE_GRANTS * frames * 16_384 / MESSAGE_BYTES_MIN;
        assert_eq!(free(most - 1), grants(most - 1));
        assert_eq!([free(most), free(most + 1)], [grants(most); 2]);
    }

    #[test]
    fn as_many_settings_as_are_looked_at_say_what_room_there_is_and_of_one_more_nothing_is_known() {
        let at = Instant::now();
        for (count, is_known) in [(12, true), (13, false)] {
            let mut settings = frame(kind::SETTINGS, 0, 6 * count);
            settings[9..15].copy_from_slice(&[0, 4, 0, 1, 0, 0]);
            let mut meter = Meter::new(at);
            meter.take(&[PREFACE, &settings, &frame(kind::HEADERS, END_HEADERS, 3)].concat(), || at).unwrap();
            assert_eq!(meter.rooms.change(1, 0), Some(if is_known { 1 << 16 } else { 0 }), "{count}");
        }
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

    #[test]
    fn an_upstream_may_say_so_much_that_is_no_answer_and_what_it_is_asked_pays_for_more() {
        let at = Instant::now();
        let begun = || {
            let mut meter = Meter::of_upstream(at);
            meter.give(PREFACE, |_| ());
            meter.take(&frame(kind::SETTINGS, 0, 6), || at).unwrap();
            meter
        };
        let head = frame(kind::HEADERS, END_HEADERS, 3);
        for (said, flood) in [
            (head.clone(), Flood::Heads),
            (frame(kind::PING, 0, 8), Flood::Pings),
            (frame(kind::SETTINGS, 0, 6), Flood::Settings),
            (frame(kind::DATA, 0, 0), Flood::Data),
        ] {
            let mut meter = begun();
            let taken = (0..).find_map(|count| Some((count, meter.take(&said, || at).err()?)));
            assert_eq!(taken, Some((H2_CREDIT_MAX, flood)));
        }
        let mut meter = begun();
        for _ in 0..=H2_CREDIT_MAX {
            meter.give(&head, |_| ());
            for _ in 0..ANSWER_WORTH {
                meter.take(&head, || at).unwrap();
            }
        }
    }
}
