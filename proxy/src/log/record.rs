//! What is kept of a request for its line in the log: of fixed size, so that a ring of them is all the memory there is.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    config::Address,
    error::Refusal,
    http1::{RequestId, Scheme, Trace, Version},
    limits::{LOG_HOST_BYTES_MAX, LOG_METHOD_BYTES_MAX, LOG_TARGET_BYTES_MAX},
};

/// One request and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// None: nobody knows.
    pub(crate) client: Option<SocketAddr>,
    /// By what it came.
    pub(crate) scheme: Scheme,
    /// In a stream of HTTP/2.
    pub(crate) is_http2: bool,
    /// Position of the role in the directory.
    pub(crate) role: usize,
    /// When its first byte was there.
    pub(crate) started: Instant,
    pub(crate) method: Text<LOG_METHOD_BYTES_MAX>,
    pub(crate) target: Text<LOG_TARGET_BYTES_MAX>,
    /// None where its first line names none that is spoken.
    pub(crate) version: Option<Version>,
    /// None where the client was told nothing.
    pub(crate) status: Option<u16>,
    /// Bytes of the request's body that came.
    pub(crate) bytes_in: u64,
    /// Bytes of the response's body.
    pub(crate) bytes_out: u64,
    /// The last that was tried.
    pub(crate) upstream: Option<Tried>,
    /// Attempts after the first.
    pub(crate) retries: u8,
    /// When its phases were over, from `started` on.
    pub(crate) phases: Phases,
    pub(crate) end: End,
    /// What it is called, where requests have ids.
    pub(crate) id: Option<RequestId>,
    /// The trace that it is a part of, where requests are traced.
    pub(crate) trace: Option<Trace>,
    /// Whom it asked, where there is a span of it.
    pub(crate) host: Text<LOG_HOST_BYTES_MAX>,
}

/// What the ring's length is measured by.
const _: () = assert!(size_of::<Record>() <= 704);

/// An upstream as it was when it was chosen.
#[derive(Debug, Clone)]
pub(crate) struct Tried {
    pub(crate) instance: u64,
    pub(crate) addr: Address,
}

/// The times from the first byte of a request to the end of each of its phases.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Phases {
    /// Its head was there.
    pub(crate) head: Option<Duration>,
    /// There was a connection to an upstream.
    pub(crate) upstream: Option<Duration>,
    /// The first byte of a response came.
    pub(crate) first_byte: Option<Duration>,
    /// The last was sent, or all was over.
    pub(crate) end: Duration,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has its whole answer.
    Done,
    /// It has one of ours.
    Refused(Refusal),
    /// It has a part, and a reset.
    Truncated,
    /// It went away before.
    ClientGone,
    /// The proxy stopped before.
    Stopped,
}

impl End {
    /// What the log calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused(refusal) => refusal.word(),
            Self::Truncated => "truncated",
            Self::ClientGone => "client-gone",
            Self::Stopped => "stopped",
        }
    }
}

/// The first bytes of something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<const BYTES_MAX: usize> {
    bytes: [u8; BYTES_MAX],
    length: u16,
    /// There were more.
    pub(crate) is_cut: bool,
}

impl<const BYTES_MAX: usize> Text<BYTES_MAX> {
    pub(crate) fn new(text: &[u8]) -> Self {
        let kept = &text[..text.len().min(BYTES_MAX)];
        let mut bytes = [0; BYTES_MAX];
        bytes[..kept.len()].copy_from_slice(kept);
        #[expect(clippy::cast_possible_truncation, reason = "at most BYTES_MAX")]
        let length = kept.len() as u16;
        Self { bytes, length, is_cut: text.len() > BYTES_MAX }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Record {
    pub(crate) fn new(client: Option<SocketAddr>, role: usize, started: Instant) -> Self {
        Self {
            client,
            scheme: Scheme::Http,
            is_http2: false,
            role,
            started,
            method: Text::new(b""),
            target: Text::new(b""),
            version: None,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            upstream: None,
            retries: 0,
            phases: Phases::default(),
            end: End::Done,
            id: None,
            trace: None,
            host: Text::new(b""),
        }
    }

    /// Takes method, target and version from what came, be it good, half of a head or no HTTP at all.
    pub(crate) fn note_line(&mut self, received: &[u8]) {
        let end = received.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(received.len());
        let line = &received[..end];
        let mut words = line.split(|&byte| byte == b' ');
        self.method = Text::new(words.next().unwrap_or_default());
        self.target = Text::new(words.next().unwrap_or_default());
        // A target with blanks is refused, and the version is behind them.
        self.version = match line.rsplit(|&byte| byte == b' ').next() {
            Some(b"HTTP/1.0") => Some(Version::Http10),
            Some(b"HTTP/1.1") => Some(Version::Http11),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_target_and_version_are_found_in_whatever_came() {
        let (old, new) = (Some(Version::Http10), Some(Version::Http11));
        for (received, method, target, version) in [
            ("GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/a?b", new),
            ("GET /a HTTP/1.1\nHost: a", "GET", "/a", new),
            ("GET /a b HTTP/1.0\r\n", "GET", "/a", old),
            ("GET /a HTTP/2.0\r\n", "GET", "/a", None),
            ("GET /a HTTP/1.10\r\n", "GET", "/a", None),
            ("GET /half", "GET", "/half", None),
            ("GET", "GET", "", None),
            (" /", "", "/", None),
            ("", "", "", None),
        ] {
            let mut record = Record::new(None, 0, Instant::now());
            record.note_line(received.as_bytes());
            let found = (record.method.bytes(), record.target.bytes(), record.version);
            assert_eq!(found, (method.as_bytes(), target.as_bytes(), version), "{received}");
        }
    }

    #[test]
    fn a_text_at_the_limit_is_whole_and_one_over_it_is_cut() {
        let text = |length: usize| Text::<LOG_TARGET_BYTES_MAX>::new(&vec![b'x'; length]);
        let (whole, cut) = (text(LOG_TARGET_BYTES_MAX), text(LOG_TARGET_BYTES_MAX + 1));
        assert_eq!((whole.bytes().len(), whole.is_cut), (LOG_TARGET_BYTES_MAX, false));
        assert_eq!((cut.bytes().len(), cut.is_cut), (LOG_TARGET_BYTES_MAX, true));
    }
}
