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

#[derive(Debug)]
pub(crate) struct Peer(TcpStream);

impl Peer {
    /// `patience` bounds each read and write: whoever needs longer has failed.
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Result<Self, String> {
        let setup = || {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))
        };
        setup().map_err(|error| format!("socket: {error}"))?;
        Ok(Self(stream))
    }

    /// Sends. Whether it arrives is seen by what is answered: a refusal may come before the last byte.
    pub(crate) fn send(&mut self, bytes: &[u8], split: Split) {
        for segment in split.segments(bytes) {
            if self.0.write_all(segment).is_err() {
                return;
            }
            if !matches!(split, Split::Whole) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Reads exactly what is expected.
    pub(crate) fn receive(&mut self, expected: &[u8]) -> Result<(), String> {
        let mut seen = vec![0; expected.len()];
        let mut count = 0;
        while count < expected.len() {
            match self.0.read(&mut seen[count..]) {
                Ok(0) => return Err(differs(expected, &seen[..count], "then it was closed")),
                Ok(more) => count += more,
                Err(error) => return Err(differs(expected, &seen[..count], &reading(&error))),
            }
            if seen[..count] != expected[..count] {
                return Err(differs(expected, &seen[..count], ""));
            }
        }
        Ok(())
    }

    /// Reads a response with a Content-Length and returns its status and the rest of it.
    pub(crate) fn receive_response(&mut self) -> Result<(u16, String), String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(0) => return Err(format!("closed after {:?}", text(&head))),
                Ok(_) => head.push(byte[0]),
                Err(error) => return Err(format!("{} after {:?}", reading(&error), text(&head))),
            }
        }
        let head = text(&head);
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0
            .read_exact(&mut body)
            .map_err(|error| format!("{}: {}", text(head.as_bytes()), reading(&error)))?;
        Ok((status.ok_or_else(|| format!("no response: {head:?}"))?, head + &text(&body)))
    }

    /// Waits for the end of what the other side sends; returns what came before.
    pub(crate) fn receive_end(&mut self) -> Result<(End, Vec<u8>), String> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => Ok((End::Closed, rest)),
            Err(error) if is_reset(&error) => Ok((End::Broken, rest)),
            Err(error) => Err(format!("no end: {error}, after {:?}", text(&rest))),
        }
    }

    pub(crate) fn half_close(&mut self) -> Result<(), String> {
        self.0.shutdown(Shutdown::Write).map_err(|error| format!("shutdown: {error}"))
    }

    pub(crate) fn reset(self) -> Result<(), String> {
        let lingering = socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
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
