//! Bodies: which of the bytes at hand belong to one, and whether it is over.
//!
//! Chunks are read strictly and passed on as they were read: digits, CR LF, data, CR LF, and no extension. Nothing that
//! was not understood reaches the other side.

use super::{Framing, Pieces, Reject};
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX};

/// How much of the rest of a message is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    kind: BodyKind,
    /// Whether the bytes between the chunks pass too, or only the data.
    keep_framing: bool,
    extension_bytes: u16,
    trailer_bytes: u16,
    data_bytes: u64,
    data_bytes_max: u64,
}

/// Where in a body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Past its end.
    Done,
    /// In front of so many bytes.
    Length(u64),
    /// In front of whatever comes until the end of the connection.
    UntilClose,
    /// Somewhere between chunks.
    Chunked(Chunk),
}

/// Where in a chunked body the next byte is (RFC 9112 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// In a size, of which so much is known.
    Size {
        /// Its value so far.
        value: u64,
        /// Its digits so far.
        digits: u8,
    },
    /// In an extension of the chunk of this size.
    Extension {
        /// The size.
        value: u64,
        /// Inside a quoted string, and behind its backslash.
        quote: Quote,
    },
    /// In front of the LF of a size line.
    SizeLf(u64),
    /// In front of so many bytes of data.
    Data(u64),
    /// In front of the CR after the data.
    DataCr,
    /// In front of the LF after the data.
    DataLf,
    /// At the start of a trailer line or of the last empty line.
    TrailerStart,
    /// In the name of a trailer.
    TrailerName(TrailerName),
    /// In the value of a trailer.
    TrailerValue,
    /// In front of the LF of a trailer line.
    TrailerLf,
    /// In front of the last LF.
    LastLf,
}

/// Where a byte of an extension is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quote {
    /// Outside quotes.
    None,
    /// Inside.
    Open,
    /// Behind a backslash inside.
    Escaped,
}

/// As much of a trailer's name as is needed to recognise those that are forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrailerName {
    text: [u8; LONGEST_FORBIDDEN],
    length: u8,
}

const LONGEST_FORBIDDEN: usize = 17;

/// Trailers that would change framing, routing or authority after the fact (RFC 9110 6.5.1).
const FORBIDDEN_TRAILERS: [&[u8]; 13] = [
    b"transfer-encoding",
    b"content-length",
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"host",
    b"connection",
    b"trailer",
    b"te",
    b"upgrade",
    b"authorization",
    b"cookie",
    b"set-cookie",
];

impl Default for Body {
    fn default() -> Self {
        Self::new(Framing::Empty, true)
    }
}

impl Body {
    /// The body of a message with this framing. `keep_framing` is false where chunks are undone.
    pub fn new(framing: Framing, keep_framing: bool) -> Self {
        let kind = match framing {
            Framing::Empty => BodyKind::Done,
            Framing::Length(bytes) => BodyKind::Length(bytes),
            Framing::UntilClose => BodyKind::UntilClose,
            Framing::Chunked => BodyKind::Chunked(Chunk::Size { value: 0, digits: 0 }),
        };
        Self {
            kind,
            keep_framing,
            extension_bytes: 0,
            trailer_bytes: 0,
            data_bytes: 0,
            data_bytes_max: u64::MAX,
        }
    }

    /// The same body, refused if it has more than so many bytes of data: now if it says so, else by the first chunk that would
    /// make it too long, before any of that chunk has passed.
    ///
    /// # Errors
    /// It says so.
    pub fn limited(self, data_bytes_max: u64) -> Result<Self, Reject> {
        match self.kind {
            BodyKind::Length(bytes) if bytes > data_bytes_max => Err(Reject::BodyTooLarge),
            _ => Ok(Self { data_bytes_max, ..self }),
        }
    }

    /// Bytes of the data that went past; chunk sizes and trailers are not among them.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The connection on which it came has ended, and with it a body that has no other end.
    pub fn end(&mut self) {
        self.kind = BodyKind::Done;
    }

    /// Whether the whole body was seen.
    pub fn is_done(&self) -> bool {
        self.kind == BodyKind::Done
    }

    /// Where the next byte is.
    pub fn kind(&self) -> BodyKind {
        self.kind
    }

    /// Takes note that so many bytes of the data went past without being scanned.
    pub fn skip(&mut self, bytes: u64) {
        self.data_bytes += bytes;
        if let BodyKind::Length(left) = self.kind {
            debug_assert!(bytes <= left, "more than the body has");
            self.kind = match left.saturating_sub(bytes) {
                0 => BodyKind::Done,
                left => BodyKind::Length(left),
            };
        }
    }

    /// Scans `buffer[from..]`, pushes what passes, and returns where it stopped: at the end of the bytes, of the body, or of
    /// the room for pieces.
    ///
    /// # Errors
    /// Why the message is refused.
    pub fn scan(&mut self, buffer: &[u8], from: usize, pieces: &mut Pieces) -> Result<usize, Reject> {
        let available = buffer.len() - from;
        match self.kind {
            BodyKind::Done => Ok(from),
            BodyKind::UntilClose => {
                pieces.push(from..buffer.len())?;
                self.skip(available as u64);
                Ok(buffer.len())
            }
            BodyKind::Length(left) => {
                let taken = usize::try_from(left).map_or(available, |left| left.min(available));
                pieces.push(from..from + taken)?;
                self.skip(taken as u64);
                Ok(from + taken)
            }
            BodyKind::Chunked(_) => self.scan_chunks(buffer, from, pieces),
        }
    }

    fn scan_chunks(&mut self, buffer: &[u8], from: usize, pieces: &mut Pieces) -> Result<usize, Reject> {
        let mut at = from;
        while let BodyKind::Chunked(chunk) = self.kind {
            if at == buffer.len() || !pieces.has_room() {
                break;
            }
            if let Chunk::Data(left) = chunk {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len() - at);
                pieces.push(at..at + taken)?;
                at += taken;
                self.skip(taken as u64);
                let left = left - taken as u64;
                self.kind = BodyKind::Chunked(if left == 0 { Chunk::DataCr } else { Chunk::Data(left) });
                continue;
            }
            let byte = buffer[at];
            let next = self.step(chunk, byte)?;
            let in_extension = matches!(chunk, Chunk::Extension { .. }) && byte != b'\r'
                || matches!(next, Some(Chunk::Extension { .. }));
            if self.keep_framing && !in_extension {
                pieces.push(at..at + 1)?;
            }
            at += 1;
            self.kind = next.map_or(BodyKind::Done, BodyKind::Chunked);
        }
        Ok(at)
    }

    /// The state after one byte that is not data; none after the last.
    fn step(&mut self, chunk: Chunk, byte: u8) -> Result<Option<Chunk>, Reject> {
        Ok(Some(match (chunk, byte) {
            (Chunk::Size { value, digits }, _) => return step_size(value, digits, byte).map(Some),
            (Chunk::Extension { value, quote }, _) => {
                self.extension_bytes += 1;
                if usize::from(self.extension_bytes) > CHUNK_EXTENSION_BYTES_MAX {
                    return Err(Reject::ChunkExtension);
                }
                return step_extension(value, quote, byte).map(Some);
            }
            (Chunk::SizeLf(0), b'\n') => Chunk::TrailerStart,
            // A size has at most 52 bits: the sum cannot overflow before it is refused.
            (Chunk::SizeLf(value), b'\n') if self.data_bytes + value > self.data_bytes_max => {
                return Err(Reject::BodyTooLarge);
            }
            (Chunk::SizeLf(value), b'\n') => Chunk::Data(value),
            (Chunk::SizeLf(_), _) => return Err(Reject::ChunkSize),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { value: 0, digits: 0 },
            (Chunk::DataCr | Chunk::DataLf, _) => return Err(Reject::ChunkEnd),
            (Chunk::TrailerStart, b'\r') => Chunk::LastLf,
            (Chunk::LastLf, b'\n') => return Ok(None),
            (Chunk::LastLf, _) => return Err(Reject::Trailer),
            (trailer, _) => {
                self.trailer_bytes += 1;
                if usize::from(self.trailer_bytes) > TRAILER_BYTES_MAX {
                    return Err(Reject::Trailer);
                }
                return step_trailer(trailer, byte).map(Some);
            }
        }))
    }
}

fn step_size(value: u64, digits: u8, byte: u8) -> Result<Chunk, Reject> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(Chunk::SizeLf(value)),
        b';' if digits > 0 => return Ok(Chunk::Extension { value, quote: Quote::None }),
        _ => return Err(Reject::ChunkSize),
    };
    if usize::from(digits) == CHUNK_SIZE_DIGITS_MAX {
        return Err(Reject::ChunkSize);
    }
    Ok(Chunk::Size { value: value << 4 | u64::from(digit), digits: digits + 1 })
}

/// Quotes are followed although the extension is dropped: a CR LF inside one would end the line for some parsers and not
/// for others.
fn step_extension(value: u64, quote: Quote, byte: u8) -> Result<Chunk, Reject> {
    let quote = match (quote, byte) {
        (Quote::None, b'\r') => return Ok(Chunk::SizeLf(value)),
        (_, byte) if byte.is_ascii_control() && byte != b'\t' => return Err(Reject::ChunkExtension),
        (Quote::None, b'"') | (Quote::Escaped, _) => Quote::Open,
        (Quote::Open, b'"') | (Quote::None, _) => Quote::None,
        (Quote::Open, b'\\') => Quote::Escaped,
        (Quote::Open, _) => Quote::Open,
    };
    Ok(Chunk::Extension { value, quote })
}

fn step_trailer(chunk: Chunk, byte: u8) -> Result<Chunk, Reject> {
    match (chunk, byte) {
        (Chunk::TrailerStart, _) if is_token(byte) => {
            Ok(Chunk::TrailerName(TrailerName::default().with(byte)))
        }
        (Chunk::TrailerName(name), b':') if name.is_forbidden() => Err(Reject::TrailerForbidden),
        (Chunk::TrailerName(_), b':') => Ok(Chunk::TrailerValue),
        (Chunk::TrailerName(name), _) if is_token(byte) => Ok(Chunk::TrailerName(name.with(byte))),
        (Chunk::TrailerValue, b'\r') => Ok(Chunk::TrailerLf),
        (Chunk::TrailerValue, _) if byte == b'\t' || !byte.is_ascii_control() => Ok(Chunk::TrailerValue),
        (Chunk::TrailerLf, b'\n') => Ok(Chunk::TrailerStart),
        _ => Err(Reject::Trailer),
    }
}

impl TrailerName {
    fn with(mut self, byte: u8) -> Self {
        if let Some(room) = self.text.get_mut(usize::from(self.length)) {
            *room = byte.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(1);
        self
    }

    fn is_forbidden(&self) -> bool {
        let name = self.text.get(..usize::from(self.length));
        name.is_some_and(|name| FORBIDDEN_TRAILERS.contains(&name))
    }
}

/// A character of a field name (RFC 9110 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
