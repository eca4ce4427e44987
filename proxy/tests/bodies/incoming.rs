//! What comes on a connection, read at a pace: heads, and bodies of which every byte is compared.

use std::{io, ops::ControlFlow};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{sleep, timeout},
};

use crate::{PATIENCE, outgoing::TRAILERS, pace::Pace, pattern::Pattern, scene::Framing};

/// More than any head has that was sent, with what a proxy may add.
const HEAD_BYTES_MAX: usize = 8 * 1024;

const SHOWN_BYTES: usize = 120;

/// Why reading cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The other side closed in order.
    Closed,
    Broken(io::Error),
    /// Nothing has come for [`PATIENCE`].
    Silent,
    /// What came must not have come.
    Wrong(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed"),
            Self::Broken(error) => write!(f, "the connection broke ({error})"),
            Self::Silent => write!(f, "nothing came for {PATIENCE:?}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

pub(crate) struct Incoming<R> {
    from: R,
    /// What a read goes to: one that is given up leaves nothing in the buffer.
    piece: Vec<u8>,
    buffer: Vec<u8>,
    start: usize,
    pace: Pace,
    moved: usize,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, piece: Vec::new(), buffer: Vec::new(), start: 0, pace: Pace::fast(), moved: 0 }
    }

    /// From here on it is read at this pace.
    pub(crate) fn set_pace(&mut self, pace: &Pace) {
        (self.pace, self.moved) = (pace.clone(), 0);
    }

    /// What was read and not used.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The same; it is used then.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.start);
        self.buffer.clear();
        self.start = 0;
        rest
    }

    /// Waits for a first byte, however long it takes.
    pub(crate) async fn wait(&mut self) -> Result<(), Stop> {
        if self.rest().is_empty() { self.read().await } else { Ok(()) }
    }

    pub(crate) async fn fill(&mut self) -> Result<(), Stop> {
        timeout(PATIENCE, self.read()).await.unwrap_or(Err(Stop::Silent))
    }

    async fn read(&mut self) -> Result<(), Stop> {
        self.buffer.drain(..std::mem::take(&mut self.start));
        self.piece.resize(self.pace.piece_bytes(self.moved), 0);
        let count = self.from.read(&mut self.piece).await.map_err(Stop::Broken)?;
        if count == 0 {
            return Err(Stop::Closed);
        }
        self.buffer.extend_from_slice(&self.piece[..count]);
        let pause = self.pace.pause(self.moved, self.moved + count);
        self.moved += count;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok(())
    }

    /// The next head.
    pub(crate) async fn head(&mut self) -> Result<Head, Stop> {
        loop {
            let rest = self.rest();
            if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = Head::parse(&rest[..end])
                    .ok_or_else(|| Stop::Wrong(format!("no head: {}", text(rest))))?;
                self.start += end + 4;
                return Ok(head);
            }
            if rest.len() > HEAD_BYTES_MAX {
                return Err(Stop::Wrong(format!("no head: {}", text(rest))));
            }
            match self.fill().await {
                Err(stop) if !self.rest().is_empty() => {
                    return Err(Stop::Wrong(format!(
                        "no whole head, but {}; then {stop}",
                        text(self.rest())
                    )));
                }
                filled => filled?,
            }
        }
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<String, Stop> {
        loop {
            let rest = self.rest();
            if let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.start += end + 2;
                return Ok(line);
            }
            if rest.len() > HEAD_BYTES_MAX {
                return Err(Stop::Wrong(format!("no line of chunks: {}", text(rest))));
            }
            self.fill().await?;
        }
    }

    /// Nothing may come any more: the other side closes. A reset is an end, too.
    pub(crate) async fn end(&mut self) -> Result<(), Stop> {
        match self.wait_patiently().await {
            Err(Stop::Closed | Stop::Broken(_)) => Ok(()),
            Ok(()) => Err(Stop::Wrong(format!("more than was to come: {}", text(self.rest())))),
            Err(stop) => Err(stop),
        }
    }

    async fn wait_patiently(&mut self) -> Result<(), Stop> {
        if self.rest().is_empty() { self.fill().await } else { Ok(()) }
    }
}

/// A request's or a response's.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) line: String,
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split("\r\n");
        let line = lines.next()?.to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Some(Self { line, fields: lines.map(field).collect::<Option<_>>()? })
    }

    /// The only field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(other, _)| other == name);
        all.next().filter(|_| all.next().is_none()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn says_close(&self) -> bool {
        self.fields.iter().any(|(name, value)| name == "connection" && value.eq_ignore_ascii_case("close"))
    }
}

/// Where in a body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Length(usize),
    UntilClose,
    Size,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    Done,
}

/// A body that is being read.
#[derive(Debug)]
pub(crate) struct Body {
    pattern: Pattern,
    at: At,
    pub(crate) bytes: usize,
    trailers: Vec<String>,
}

impl Body {
    /// Of the message with this head, if it has a body.
    pub(crate) fn new(pattern: Pattern, head: &Head, without: Without) -> Result<Self, Stop> {
        let at = match (head.field("content-length"), head.field("transfer-encoding"), without) {
            (Some(_), Some(_), _) => return Err(Stop::Wrong(format!("two framings: {head:?}"))),
            (Some(length), None, _) => {
                At::Length(length.parse().map_err(|_| Stop::Wrong(format!("no length: {length:?}")))?)
            }
            (None, Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => At::Size,
            (None, Some(coding), _) => return Err(Stop::Wrong(format!("no coding: {coding:?}"))),
            (None, None, Without::Empty) => At::Done,
            (None, None, Without::UntilClose) => At::UntilClose,
        };
        Ok(Self { pattern, at, bytes: 0, trailers: Vec::new() })
    }

    /// Of a message that has none, whatever its head says.
    pub(crate) fn none() -> Self {
        Self { pattern: Pattern(0), at: At::Done, bytes: 0, trailers: Vec::new() }
    }

    pub(crate) fn ends_with_connection(&self) -> bool {
        self.at == At::UntilClose
    }

    /// Reads until there are so many bytes, or it has ended.
    pub(crate) async fn read<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut Incoming<R>,
        until: usize,
    ) -> Result<(), Stop> {
        while self.at != At::Done && self.bytes < until {
            if let ControlFlow::Break(()) = self.step(from).await? {
                break;
            }
        }
        Ok(())
    }

    /// To its end.
    pub(crate) async fn read_all<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut Incoming<R>,
    ) -> Result<(), Stop> {
        while self.at != At::Done {
            if let ControlFlow::Break(()) = self.step(from).await? {
                break;
            }
        }
        Ok(())
    }

    /// Those that were sent with this framing, and no others.
    pub(crate) fn check_trailers(&self, framing: Framing) -> Result<(), Stop> {
        let expected: &[&str] = match framing {
            Framing::Chunked(chunks) if chunks.trailers => &TRAILERS,
            _ => &[],
        };
        let is_same = |(seen, expected): (&String, &&str)| seen.eq_ignore_ascii_case(expected);
        if self.trailers.len() == expected.len() && self.trailers.iter().zip(expected).all(is_same) {
            return Ok(());
        }
        Err(Stop::Wrong(format!("trailers {:?} for {expected:?}", self.trailers)))
    }

    async fn step<R: AsyncRead + Unpin>(&mut self, from: &mut Incoming<R>) -> Result<ControlFlow<()>, Stop> {
        self.at = match self.at {
            At::Done => return Ok(ControlFlow::Break(())),
            At::Length(0) => At::Done,
            At::Chunk(0) => At::ChunkEnd,
            At::Length(left) => At::Length(left - self.take(from, left).await?),
            At::Chunk(left) => At::Chunk(left - self.take(from, left).await?),
            At::UntilClose => match self.take(from, usize::MAX).await {
                Err(Stop::Closed) => At::Done,
                taken => taken.map(|_| At::UntilClose)?,
            },
            At::Size => {
                let line = from.line().await?;
                let digits = line.split(';').next().unwrap_or_default();
                match usize::from_str_radix(digits, 16) {
                    Ok(0) => At::Trailers,
                    Ok(size) => At::Chunk(size),
                    Err(_) => return Err(Stop::Wrong(format!("no chunk size: {}", text(line.as_bytes())))),
                }
            }
            At::ChunkEnd => match from.line().await? {
                line if line.is_empty() => At::Size,
                line => return Err(Stop::Wrong(format!("behind a chunk: {}", text(line.as_bytes())))),
            },
            At::Trailers => match from.line().await? {
                line if line.is_empty() => At::Done,
                line => {
                    self.trailers.push(line);
                    At::Trailers
                }
            },
        };
        Ok(ControlFlow::Continue(()))
    }

    /// Compares up to so many bytes; how many there were.
    async fn take<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut Incoming<R>,
        left: usize,
    ) -> Result<usize, Stop> {
        from.wait_patiently().await?;
        let bytes = &from.rest()[..from.rest().len().min(left)];
        if let Some(at) = self.pattern.first_wrong(self.bytes, bytes) {
            return Err(Stop::Wrong(wrong(at, &bytes[at - self.bytes..])));
        }
        let count = bytes.len();
        self.bytes += count;
        from.start += count;
        Ok(count)
    }
}

/// How long a message is that does not say it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Without {
    Empty,
    UntilClose,
}

/// What is said of the wrong bytes from this position on.
fn wrong(at: usize, bytes: &[u8]) -> String {
    const REQUESTS: [&[u8]; 4] = [b"GET /bodies/", b"HEAD /bodies/", b"POST /bodies/", b"PUT /bodies/"];
    let begins = |start: &&[u8]| bytes.starts_with(&start[..start.len().min(bytes.len())]);
    let what = if REQUESTS.iter().any(begins) {
        "A REQUEST WAS READ INSIDE ANOTHER'S BODY"
    } else if begins(&&b"HTTP/1.1 "[..]) {
        "AN ANSWER WAS READ INSIDE ANOTHER"
    } else {
        "wrong bytes"
    };
    format!("{what}, from byte {at} of the body on: {}", text(bytes))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    format!("\"{}\" ({} bytes)", shown.escape_ascii(), bytes.len())
}

#[test]
fn the_worst_has_a_message_of_its_own() {
    let worst =
        "A REQUEST WAS READ INSIDE ANOTHER'S BODY, from byte 7 of the body on: \"GET /bodies/\" (12 bytes)";
    assert_eq!(wrong(7, b"GET /bodies/"), worst);
    assert!(wrong(7, b"GE").starts_with("A REQUEST") && wrong(7, b"HTTP/1.1 200").starts_with("AN ANSWER"));
    assert!(wrong(7, b"ABC").starts_with("wrong bytes"));
}
