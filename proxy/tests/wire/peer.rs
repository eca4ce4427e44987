//! One end of a connection in a script's hands.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

/// How what is sent is cut into segments.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Split {
    Whole,
    /// One byte at a time, or some hundreds of segments of what is long.
    Single,
    /// At random places, by this seed.
    Random(u64),
}

/// Most segments of one message.
const SEGMENTS_COUNT_MAX: usize = 250;

/// Between two segments: time for the proxy to read the first. Nothing depends on it; the results must be the same anyway.
const PAUSE: Duration = Duration::from_micros(50);

impl Split {
    fn segments(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self {
            Self::Whole => vec![bytes],
            Self::Single => bytes.chunks(bytes.len().div_ceil(SEGMENTS_COUNT_MAX).max(1)).collect(),
            Self::Random(seed) => {
                let mut state = (seed.wrapping_add(bytes.len() as u64) << 1) | 1;
                let (mut segments, mut rest) = (Vec::new(), bytes);
                while !rest.is_empty() {
                    // xorshift64
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let longest = rest.len().min(bytes.len() / 3 + 1) as u64;
                    let (segment, after) = rest.split_at(1 + usize::try_from(state % longest).unwrap_or(0));
                    segments.push(segment);
                    rest = after;
                }
                segments
            }
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Broken,
}

/// What a peer makes of dates that it receives: the proxy dates what came without one, and no script knows what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dates {
    /// They are bytes like any others.
    Kept,
    /// Their lines are not there.
    Hidden,
    /// Each reads `now`.
    Shown,
}

/// The line of a date, and the CR LF before it.
const DATE_LINE: &[u8] = b"\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

/// How such a line begins.
const DATE_NAME: &[u8] = b"\r\nDate: ";

/// How it is shown.
const DATE_SHOWN: &[u8] = b"\r\nDate: now\r\n";

#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    dates: Dates,
    /// What was read and not received yet.
    read: Vec<u8>,
    /// How much of that was searched for dates.
    searched: usize,
}

impl Peer {
    /// `patience` bounds each read and write: whoever needs longer has failed.
    pub(crate) fn new(stream: TcpStream, patience: Duration, dates: Dates) -> Result<Self, String> {
        let setup = || {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))
        };
        setup().map_err(|error| format!("socket: {error}"))?;
        Ok(Self { stream, dates, read: Vec::new(), searched: 0 })
    }

    /// Sends. Whether it arrives is seen by what is answered: a refusal may come before the last byte.
    pub(crate) fn send(&mut self, bytes: &[u8], split: Split) {
        for segment in split.segments(bytes) {
            if self.stream.write_all(segment).is_err() {
                return;
            }
            if !matches!(split, Split::Whole) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Reads once; 0 at the end.
    fn fill(&mut self) -> std::io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.read.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// How much of what was read can be received: not the beginning of what may become a date.
    fn receivable(&mut self) -> usize {
        while self.dates != Dates::Kept {
            let rest = &self.read[self.searched..];
            let Some(at) = rest.windows(DATE_NAME.len()).position(|part| part == DATE_NAME) else {
                let begun = (3..DATE_NAME.len()).rfind(|length| rest.ends_with(&DATE_NAME[..*length]));
                self.searched = self.read.len() - begun.unwrap_or(rest.len().min(2));
                return self.read.len() - begun.unwrap_or(0);
            };
            let at = self.searched + at;
            let end = at + DATE_LINE.len();
            if end > self.read.len() {
                return at;
            }
            let shown: &[u8] = if self.dates == Dates::Shown { DATE_SHOWN } else { b"\r\n" };
            self.read.splice(at..end, shown.iter().copied());
            self.searched = at + shown.len() - 2;
        }
        self.read.len()
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.searched = self.searched.saturating_sub(count);
        self.read.drain(..count).collect()
    }

    /// Reads exactly what is expected.
    pub(crate) fn receive(&mut self, expected: &[u8]) -> Result<(), String> {
        loop {
            let count = self.receivable().min(expected.len());
            let seen = &self.read[..count];
            if seen != &expected[..count] {
                return Err(differs(expected, seen, ""));
            }
            if count == expected.len() {
                self.take(count);
                return Ok(());
            }
            match self.fill() {
                Ok(0) => return Err(differs(expected, &self.read, "then it was closed")),
                Ok(_) => {}
                Err(error) => return Err(differs(expected, &self.read, &reading(&error))),
            }
        }
    }

    /// Reads a response with a Content-Length and returns its status and the rest of it.
    pub(crate) fn receive_response(&mut self) -> Result<(u16, String), String> {
        let head = loop {
            let count = self.receivable();
            if let Some(end) = self.read[..count].windows(4).position(|part| part == b"\r\n\r\n") {
                break self.take(end + 4);
            }
            match self.fill() {
                Ok(0) => return Err(format!("closed after {:?}", text(&self.read))),
                Ok(_) => {}
                Err(error) => return Err(format!("{} after {:?}", reading(&error), text(&self.read))),
            }
        };
        let head = text(&head);
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let length = length.unwrap_or(0);
        while self.receivable() < length {
            match self.fill() {
                Ok(0) => return Err(format!("closed after {:?}", text(&self.read))),
                Ok(_) => {}
                Err(error) => return Err(format!("{}: {}", text(head.as_bytes()), reading(&error))),
            }
        }
        let body = self.take(length);
        Ok((status.ok_or_else(|| format!("no response: {head:?}"))?, head + &text(&body)))
    }

    /// Waits for the end of what the other side sends; returns what came before.
    pub(crate) fn receive_end(&mut self) -> Result<(End, Vec<u8>), String> {
        let end = loop {
            match self.fill() {
                Ok(0) => break End::Closed,
                Ok(_) => {}
                Err(error) if is_reset(&error) => break End::Broken,
                Err(error) => return Err(format!("no end: {error}, after {:?}", text(&self.read))),
            }
        };
        self.receivable();
        let rest = self.take(self.read.len());
        Ok((end, rest))
    }

    pub(crate) fn half_close(&mut self) -> Result<(), String> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| format!("shutdown: {error}"))
    }

    pub(crate) fn reset(self) -> Result<(), String> {
        let lingering = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        lingering.map_err(|error| format!("linger: {error}"))
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn reading(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

fn differs(expected: &[u8], seen: &[u8], why: &str) -> String {
    let same = expected.iter().zip(seen).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(60);
    let (expected, seen) = (text(&expected[from..]), text(&seen[from..]));
    format!("from byte {from} on, expected {expected:?}\n    but seen {seen:?} {why}")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 300;
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned()
}
