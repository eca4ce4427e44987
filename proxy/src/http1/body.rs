//! Bodies: which of the bytes at hand belong to one, and whether it is over.
//!
//! Chunks are read strictly and passed on as they were read: digits, CR LF, data, CR LF, and no extension. Nothing that
//! was not understood reaches the other side. A trailer passes as a line, or not at all: its name is held until it is whole.

use super::{
    Framing, Pieces, Reject,
    fields::is_token,
    quoted::Quote,
    trailers::{TrailerName, Trailers},
};
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX};

/// How much of the rest of a message is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    kind: BodyKind,
    /// Whether the bytes between the chunks pass too, or only the data.
    keep_framing: bool,
    /// Blanks may stand behind the size of a chunk.
    is_padded: bool,
    /// Of extensions and padding.
    extension_bytes: u16,
    trailer_bytes: u16,
    trailers: Trailers,
    trailer_name: TrailerName,
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
    /// In the blanks behind a size.
    Padding(u64),
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
    TrailerName,
    /// In the value of a trailer.
    TrailerValue {
        /// Its line does.
        passes: bool,
    },
    /// In front of the LF of a trailer line.
    TrailerLf {
        /// The line does.
        passes: bool,
    },
    /// In front of the last LF.
    LastLf,
}

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
            is_padded: false,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailers: Trailers::default(),
            trailer_name: TrailerName::default(),
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

    /// The same body, with what its head says of its trailers.
    #[must_use]
    pub fn with_trailers(self, trailers: Trailers) -> Self {
        Self { trailers, ..self }
    }

    /// The same body, in which blanks may stand behind the size of a chunk: servers that write sizes into a fixed width send them. They
    /// mean one thing to everybody, and do not pass. A client's stay refused: there, whatever is odd is an attempt.
    #[must_use]
    pub fn padded(self) -> Self {
        Self { is_padded: true, ..self }
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
        // Where the name of the trailer under way begins, if that is among these bytes.
        let mut name_start = None;
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
            // The end of a chunk at once: most come whole.
            if chunk == Chunk::DataCr && buffer[at..].starts_with(b"\r\n") {
                if self.keep_framing {
                    pieces.push(at..at + 2)?;
                }
                at += 2;
                self.kind = BodyKind::Chunked(Chunk::Size { value: 0, digits: 0 });
                continue;
            }
            let byte = buffer[at];
            let next = self.step(chunk, byte)?;
            if chunk == Chunk::TrailerStart && next == Some(Chunk::TrailerName) {
                name_start = Some(at);
            }
            match passing(chunk, byte, next) {
                _ if !self.keep_framing => {}
                Passing::Nothing => {}
                Passing::Byte => pieces.push(at..at + 1)?,
                Passing::Name => {
                    // What of the name came before these bytes is no longer among them.
                    let held = self.trailer_name.passing(&self.trailers).filter(|_| name_start.is_none());
                    pieces.add(held.unwrap_or_default())?;
                    pieces.push(name_start.unwrap_or(at)..at + 1)?;
                }
            }
            at += 1;
            self.kind = next.map_or(BodyKind::Done, BodyKind::Chunked);
        }
        Ok(at)
    }

    /// The state after one byte that is not data; none after the last.
    fn step(&mut self, chunk: Chunk, byte: u8) -> Result<Option<Chunk>, Reject> {
        Ok(Some(match (chunk, byte) {
            (Chunk::Size { value, digits }, b' ' | b'\t') if self.is_padded && digits > 0 => {
                Chunk::Padding(value)
            }
            (Chunk::Size { value, digits }, _) => return step_size(value, digits, byte).map(Some),
            (Chunk::Padding(value), b' ' | b'\t') => {
                self.count_extension()?;
                Chunk::Padding(value)
            }
            (Chunk::Padding(value), b'\r') => Chunk::SizeLf(value),
            (Chunk::Padding(value), b';') => Chunk::Extension { value, quote: Quote::None },
            (Chunk::Padding(_), _) => return Err(Reject::ChunkSize),
            (Chunk::Extension { value, quote }, _) => {
                self.count_extension()?;
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
            (trailer, _) => return self.step_trailer(trailer, byte).map(Some),
        }))
    }

    fn count_extension(&mut self) -> Result<(), Reject> {
        self.extension_bytes += 1;
        if usize::from(self.extension_bytes) > CHUNK_EXTENSION_BYTES_MAX {
            return Err(Reject::ChunkExtension);
        }
        Ok(())
    }

    fn step_trailer(&mut self, chunk: Chunk, byte: u8) -> Result<Chunk, Reject> {
        self.trailer_bytes += 1;
        if usize::from(self.trailer_bytes) > TRAILER_BYTES_MAX {
            return Err(Reject::Trailer);
        }
        match (chunk, byte) {
            (Chunk::TrailerStart | Chunk::TrailerName, _) if is_token(byte) => {
                if chunk == Chunk::TrailerStart {
                    self.trailer_name.clear();
                }
                self.trailer_name.push(byte);
                Ok(Chunk::TrailerName)
            }
            (Chunk::TrailerName, b':') => {
                let passes = self.trailer_name.passing(&self.trailers).is_some();
                Ok(Chunk::TrailerValue { passes })
            }
            (Chunk::TrailerValue { passes }, b'\r') => Ok(Chunk::TrailerLf { passes }),
            (Chunk::TrailerValue { .. }, _) if byte == b'\t' || !byte.is_ascii_control() => Ok(chunk),
            (Chunk::TrailerLf { .. }, b'\n') => Ok(Chunk::TrailerStart),
            _ => Err(Reject::Trailer),
        }
    }
}

/// What passes at one byte between the chunks.
enum Passing {
    Nothing,
    Byte,
    /// The name of the trailer, and the byte.
    Name,
}

fn passing(chunk: Chunk, byte: u8, next: Option<Chunk>) -> Passing {
    let is_passing = match (chunk, next) {
        (Chunk::TrailerName, Some(Chunk::TrailerValue { passes: true })) => return Passing::Name,
        (_, Some(Chunk::TrailerName | Chunk::Padding(_) | Chunk::Extension { .. }))
        | (Chunk::TrailerName, _) => false,
        (Chunk::Padding(_) | Chunk::Extension { .. }, _) => byte == b'\r',
        (Chunk::TrailerValue { passes } | Chunk::TrailerLf { passes }, _) => passes,
        _ => true,
    };
    if is_passing { Passing::Byte } else { Passing::Nothing }
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
    match (quote, byte) {
        (Quote::None, b'\r') => Ok(Chunk::SizeLf(value)),
        (_, byte) if byte.is_ascii_control() && byte != b'\t' => Err(Reject::ChunkExtension),
        _ => Ok(Chunk::Extension { value, quote: quote.next(byte) }),
    }
}

#[cfg(test)]
mod tests;
