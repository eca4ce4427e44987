//! The frames of HTTP/2 (RFC 9113 4.1) in bytes that come in any pieces: their heads, and what some of them say in a few bytes.

/// What a client says first (RFC 9113 3.4).
pub(super) const PREFACE_BYTES: usize = 24;

/// Bytes of the head of a frame.
const FRAME_HEAD_BYTES: usize = 9;

/// Bytes of a number: how much room is granted (RFC 9113 6.9), and why a stream is reset (6.4).
const NUMBER_BYTES: usize = 4;

/// Bytes of a goodbye that are looked at (RFC 9113 6.8): the last stream, the reason, and a word that is longer than any of `h2`.
const GOODBYE_BYTES_MAX: usize = 8 + 32;

/// Bytes of settings that are looked at (RFC 9113 6.5.1): more of them than anybody has use for.
const SETTINGS_BYTES_MAX: usize = 12 * 6;

/// The longest of these.
const SAID_BYTES_MAX: usize = SETTINGS_BYTES_MAX;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

/// Types of frames (RFC 9113 6).
pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0;
    pub(in crate::http2) const HEADERS: u8 = 1;
    pub(in crate::http2) const PRIORITY: u8 = 2;
    pub(in crate::http2) const RST_STREAM: u8 = 3;
    pub(in crate::http2) const SETTINGS: u8 = 4;
    pub(in crate::http2) const PING: u8 = 6;
    pub(in crate::http2) const GOAWAY: u8 = 7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::http2) const CONTINUATION: u8 = 9;
}

/// The head of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) bytes: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 0 if it is of the connection.
    pub(super) stream: u32,
}

impl Frame {
    /// How much of what is behind the head is looked at.
    fn said_bytes(&self) -> usize {
        match self.kind {
            kind::WINDOW_UPDATE | kind::RST_STREAM => self.bytes.min(NUMBER_BYTES),
            kind::GOAWAY => self.bytes.min(GOODBYE_BYTES_MAX),
            kind::SETTINGS => self.bytes.min(SETTINGS_BYTES_MAX),
            _ => 0,
        }
    }
}

/// Finds the heads of frames in bytes that come in any pieces.
#[derive(Debug)]
pub(super) struct Frames {
    /// With what is looked at behind it.
    head: [u8; FRAME_HEAD_BYTES + SAID_BYTES_MAX],
    filled: usize,
    /// Bytes before the next head.
    skipped: usize,
}

impl Frames {
    pub(super) fn new(skipped: usize) -> Self {
        Self { head: [0; FRAME_HEAD_BYTES + SAID_BYTES_MAX], filled: 0, skipped }
    }

    /// The next head, and what is behind it.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<(Frame, &'a [u8])> {
        let passed = self.skipped.min(bytes.len());
        self.skipped -= passed;
        let rest = self.fill(&bytes[passed..], FRAME_HEAD_BYTES)?;
        let [high, middle, low, kind, flags, a, b, c, d, ..] = self.head;
        let bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        // The first bit is reserved.
        let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
        let frame = Frame { bytes, kind, flags, stream };
        let rest = self.fill(rest, FRAME_HEAD_BYTES + frame.said_bytes())?;
        (self.filled, self.skipped) = (0, bytes - frame.said_bytes());
        Some((frame, rest))
    }

    /// What this frame, which came last, says.
    pub(super) fn said(&self, frame: Frame) -> &[u8] {
        &self.head[FRAME_HEAD_BYTES..][..frame.said_bytes()]
    }

    /// The number that it says; 0 if it says none. The first bit is reserved.
    pub(super) fn number(&self, frame: Frame) -> u32 {
        self.said(frame).first_chunk().map_or(0, |number| u32::from_be_bytes(*number) & 0x7fff_ffff)
    }

    /// The rest of a frame is still to come.
    pub(super) fn is_within(&self) -> bool {
        self.skipped > 0
    }

    /// A part of a head is there.
    pub(super) fn has_begun(&self) -> bool {
        self.filled > 0
    }

    /// Takes what is missing of so many bytes; what is behind them, once all are there.
    fn fill<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at(wanted.saturating_sub(self.filled).min(bytes.len()));
        self.head[self.filled..][..taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        (self.filled >= wanted).then_some(rest)
    }
}
