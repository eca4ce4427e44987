//! One end of a connection in a script's hands.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use crate::{
    normal::{END, Normal, Part},
    script::{Dates, End},
    streams::Streams,
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

/// The line of a date, and the CR LF before it.
const DATE_LINE: &[u8] = b"\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

/// How such a line begins.
const DATE_NAME: &[u8] = b"\r\nDate: ";

/// How it is shown.
const DATE_SHOWN: &[u8] = b"\r\nDate: now\r\n";

/// What carries what a peer says.
#[derive(Debug)]
enum Carrier {
    Bytes(TcpStream),
    Streams(Box<Streams>),
}

/// What is compared where HTTP/2 is in between: not bytes, but what they say.
#[derive(Debug)]
struct Normals {
    expected: Normal,
    /// What came, if it came as bytes.
    seen: Normal,
    raw: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    carrier: Carrier,
    dates: Dates,
    normals: Option<Normals>,
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
        Ok(Self { carrier: Carrier::Bytes(stream), dates, normals: None, read: Vec::new(), searched: 0 })
    }

    /// A client in streams of HTTP/2.
    pub(crate) fn in_streams(streams: Streams) -> Self {
        let normals =
            Normals { expected: Normal::of_responses(), seen: Normal::of_responses(), raw: Vec::new() };
        Self {
            carrier: Carrier::Streams(Box::new(streams)),
            dates: Dates::Kept,
            normals: Some(normals),
            read: Vec::new(),
            searched: 0,
        }
    }

    /// An upstream of such a client's.
    pub(crate) fn behind_streams(self) -> Self {
        let normals =
            Normals { expected: Normal::of_requests(), seen: Normal::of_requests(), raw: Vec::new() };
        Self { normals: Some(normals), ..self }
    }

    /// Sends. Whether it arrives is seen by what is answered: a refusal may come before the last byte.
    pub(crate) fn send(&mut self, bytes: &[u8], split: Split) {
        let stream = match &mut self.carrier {
            Carrier::Bytes(stream) => stream,
            Carrier::Streams(streams) => {
                let methods = streams.send(bytes);
                return self.normals.iter_mut().for_each(|it| it.expected.methods.extend(methods.clone()));
            }
        };
        for segment in split.segments(bytes) {
            if stream.write_all(segment).is_err() {
                return;
            }
            if !matches!(split, Split::Whole) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Reads once; 0 at the end.
    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = match &mut self.carrier {
            Carrier::Bytes(stream) => stream.read(&mut bytes)?,
            Carrier::Streams(streams) => {
                let text = streams.read()?;
                self.read.extend_from_slice(&text);
                return Ok(text.len());
            }
        };
        match &mut self.normals {
            None => self.read.extend_from_slice(&bytes[..count]),
            Some(normals) => {
                normals.raw.extend_from_slice(&bytes[..count]);
                let parts = normals.seen.push(&bytes[..count]).map_err(io::Error::other)?;
                self.read.extend(parts.iter().flat_map(Part::render));
            }
        }
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
        match &mut self.normals {
            None => self.receive_bytes(expected),
            Some(normals) => {
                let parts = normals.expected.push(expected).map_err(|why| format!("expected {why}"))?;
                self.receive_bytes(&parts.iter().flat_map(Part::render).collect::<Vec<_>>())
            }
        }
    }

    fn receive_bytes(&mut self, expected: &[u8]) -> Result<(), String> {
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
        if let Some(normals) = &mut self.normals {
            normals.expected.methods.pop_front();
            return self.receive_text();
        }
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

    /// The same of a response as text.
    fn receive_text(&mut self) -> Result<(u16, String), String> {
        let end = loop {
            if let Some(at) = self.read.windows(END.len()).position(|part| part == END) {
                break at + END.len();
            }
            match self.fill() {
                Ok(0) => return Err(format!("no whole answer, but {:?}", text(&self.read))),
                Ok(_) => {}
                Err(error) => return Err(format!("{} after {:?}", reading(&error), text(&self.read))),
            }
        };
        let response = text(&self.take(end));
        let status = response.get(..3).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| format!("no response: {response:?}"))?, response))
    }

    /// Waits for the end of what the other side sends; returns what came before.
    pub(crate) fn receive_end(&mut self) -> Result<(End, Vec<u8>), String> {
        let end = match &mut self.carrier {
            Carrier::Bytes(_) => self.fill_to_end()?,
            Carrier::Streams(streams) => {
                let ended = streams.read_end();
                let (end, rest) = ended.map_err(|error| format!("{} before an end", reading(&error)))?;
                self.read.extend(rest);
                end
            }
        };
        self.receivable();
        let rest = self.take(self.read.len());
        Ok((end, self.without_end(rest)))
    }

    /// The same once the proxy is gone: nothing that it has sent is still under way then.
    pub(crate) fn receive_rest(&mut self) -> Result<(End, Vec<u8>), String> {
        let Carrier::Streams(streams) = &mut self.carrier else { return self.receive_end() };
        let rest = streams.read_over().map_err(|error| format!("{} before the end", reading(&error)))?;
        self.read.extend(rest);
        let rest = self.take(self.read.len());
        Ok((End::Closed, self.without_end(rest)))
    }

    /// The end of a response that ends with its connection is expected, if that is what ends.
    fn without_end(&mut self, mut rest: Vec<u8>) -> Vec<u8> {
        let is_streams = matches!(self.carrier, Carrier::Streams(_));
        let is_open = self.normals.as_mut().is_some_and(|normals| normals.expected.end().is_some());
        if is_streams && is_open && rest.ends_with(END) {
            rest.truncate(rest.len() - END.len());
        }
        rest
    }

    fn fill_to_end(&mut self) -> Result<End, String> {
        loop {
            match self.fill() {
                Ok(0) => return Ok(End::Closed),
                Ok(_) => {}
                Err(error) if is_reset(&error) => return Ok(End::Broken),
                Err(error) => return Err(format!("no end: {error}, after {:?}", text(&self.read))),
            }
        }
    }

    /// Whether these bytes are in what came, as it came.
    pub(crate) fn has_seen(&self, bytes: &[u8], rest: &[u8]) -> bool {
        let seen = match (&self.carrier, &self.normals) {
            (Carrier::Bytes(_), Some(normals)) => &normals.raw,
            _ => rest,
        };
        seen.windows(bytes.len()).any(|window| window == bytes)
    }

    pub(crate) fn half_close(&mut self) -> Result<(), String> {
        match &self.carrier {
            Carrier::Bytes(stream) => {
                stream.shutdown(Shutdown::Write).map_err(|error| format!("shutdown: {error}"))
            }
            Carrier::Streams(streams) => {
                streams.half_close();
                Ok(())
            }
        }
    }

    /// Resets its connection, or its stream: then there is a connection left.
    pub(crate) fn reset(self) -> Result<Option<Self>, String> {
        match &self.carrier {
            Carrier::Bytes(stream) => {
                let lingering = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                lingering.map(|()| None).map_err(|error| format!("linger: {error}"))
            }
            Carrier::Streams(streams) => {
                streams.reset();
                Ok(Some(self))
            }
        }
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
