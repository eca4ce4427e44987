//! What to write: slices of a buffer, and a few bytes of our own between them.

use std::{fmt, io::IoSlice, ops::Range};

use crate::limits::{CHANGED_BYTES_MAX, PIECES_COUNT_MAX, REQUEST_ID_BYTES_MAX, TRACEPARENT_BYTES};

/// Bytes of our own in one message: every field that can be set, with the longest names and addresses; what a route adds; a cookie.
const ADDED_BYTES_MAX: usize = 768
    + (REQUEST_ID_BYTES_MAX + 16)
    + (TRACEPARENT_BYTES + 15)
    + CHANGED_BYTES_MAX
    + COOKIE_BYTES_MAX
    + feed::route::ROUTE_BYTES_MAX;

/// Bytes of a Set-Cookie.
const COOKIE_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Piece {
    start: u32,
    end: u32,
    added: bool,
}

/// An ordered list of slices with a cursor: what was written is skipped, and [`Pieces::rewind`] begins anew.
///
/// Invariant: everything before the cursor has been written, nothing after it.
#[derive(Debug)]
pub struct Pieces {
    list: [Piece; PIECES_COUNT_MAX],
    count: usize,
    added: [u8; ADDED_BYTES_MAX],
    added_bytes: usize,
    /// The first piece that is not wholly written, and how much of it is.
    at: usize,
    offset: u32,
}

/// What there is no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Another piece.
    Pieces,
    /// More bytes of our own.
    Added,
}

impl Default for Pieces {
    fn default() -> Self {
        Self {
            list: [Piece::default(); PIECES_COUNT_MAX],
            count: 0,
            added: [0; ADDED_BYTES_MAX],
            added_bytes: 0,
            at: 0,
            offset: 0,
        }
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Pieces {
    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.count, self.added_bytes, self.at, self.offset) = (0, 0, 0, 0);
    }

    /// Appends a range of the buffer; one that continues the last makes it longer.
    ///
    /// # Errors
    /// No room.
    pub fn push(&mut self, range: Range<usize>) -> Result<(), Full> {
        let (Ok(start), Ok(end)) = (u32::try_from(range.start), u32::try_from(range.end)) else {
            return Err(Full::Pieces);
        };
        self.append(Piece { start, end, added: false })
    }

    /// Appends bytes of our own.
    ///
    /// # Errors
    /// No room.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.added_bytes + bytes.len();
        let room = self.added.get_mut(self.added_bytes..end).ok_or(Full::Added)?;
        room.copy_from_slice(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "bounded by ADDED_BYTES_MAX")]
        let piece = Piece { start: self.added_bytes as u32, end: end as u32, added: true };
        self.added_bytes = end;
        self.append(piece)
    }

    /// Appends text of our own, formatted in place.
    ///
    /// # Errors
    /// No room.
    pub fn add_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<(), Full> {
        fmt::Write::write_fmt(self, text).map_err(|_| self.lacking())
    }

    /// What formatted text had no room for.
    fn lacking(&self) -> Full {
        if self.has_room() { Full::Added } else { Full::Pieces }
    }

    fn append(&mut self, piece: Piece) -> Result<(), Full> {
        if piece.start == piece.end {
            return Ok(());
        }
        if let Some(last) = self.count.checked_sub(1).map(|last| &mut self.list[last])
            && last.added == piece.added
            && last.end == piece.start
        {
            last.end = piece.end;
            return Ok(());
        }
        *self.list.get_mut(self.count).ok_or(Full::Pieces)? = piece;
        self.count += 1;
        Ok(())
    }

    /// Whether another piece would still fit.
    pub fn has_room(&self) -> bool {
        self.count < PIECES_COUNT_MAX
    }

    /// Whether everything has been written.
    pub fn is_written(&self) -> bool {
        self.at == self.count
    }

    /// How much has not been written.
    pub fn unwritten_bytes(&self) -> usize {
        let rest = self.list[self.at..self.count].iter().map(|piece| (piece.end - piece.start) as usize);
        rest.sum::<usize>() - self.offset as usize
    }

    /// Whether something has been written, and not all.
    pub fn is_begun(&self) -> bool {
        !self.is_written() && (self.at > 0 || self.offset > 0)
    }

    /// Begins again from the first byte.
    pub fn rewind(&mut self) {
        (self.at, self.offset) = (0, 0);
    }

    /// The rest as slices of `buffer` and of our own bytes; returns how many.
    pub fn slices<'a>(&'a self, buffer: &'a [u8], slices: &mut [IoSlice<'a>; PIECES_COUNT_MAX]) -> usize {
        let rest = &self.list[self.at..self.count];
        for (i, (piece, slice)) in rest.iter().zip(slices.iter_mut()).enumerate() {
            let skip = if i == 0 { self.offset } else { 0 };
            let range = (piece.start + skip) as usize..piece.end as usize;
            *slice = IoSlice::new(if piece.added { &self.added[range] } else { &buffer[range] });
        }
        rest.len()
    }

    /// The rest, if it is one slice.
    pub fn single<'a>(&'a self, buffer: &'a [u8]) -> Option<&'a [u8]> {
        if self.count != self.at + 1 {
            return None;
        }
        let piece = self.list[self.at];
        let range = (piece.start + self.offset) as usize..piece.end as usize;
        Some(if piece.added { &self.added[range] } else { &buffer[range] })
    }

    /// Takes note that so many bytes have been written.
    pub fn advance(&mut self, mut written: usize) {
        while written > 0 && self.at < self.count {
            let piece = self.list[self.at];
            let rest = (piece.end - piece.start - self.offset) as usize;
            if written < rest {
                #[expect(clippy::cast_possible_truncation, reason = "less than the length of a piece")]
                let written = written as u32;
                self.offset += written;
                return;
            }
            written -= rest;
            self.at += 1;
            self.offset = 0;
        }
        debug_assert_eq!(written, 0, "more was written than there was");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &Pieces, buffer: &[u8]) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
        let count = pieces.slices(buffer, &mut slices);
        slices[..count].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn neighbours_are_one_piece_and_gaps_are_two() {
        let mut pieces = Pieces::default();
        pieces.push(0..2).unwrap();
        pieces.push(2..3).unwrap();
        assert_eq!(pieces.single(b"abcdef"), Some(&b"abc"[..]));
        pieces.push(5..6).unwrap();
        assert_eq!(pieces.single(b"abcdef"), None);
        pieces.add(b"--").unwrap();
        assert_eq!(text(&pieces, b"abcdef"), b"abcf--");
    }

    #[test]
    fn writing_byte_by_byte_writes_everything_once_and_again_after_rewind() {
        let buffer = b"0123456789";
        let mut pieces = Pieces::default();
        pieces.push(0..3).unwrap();
        pieces.add(b"xy").unwrap();
        pieces.push(7..9).unwrap();
        for _ in 0..2 {
            let mut seen = Vec::new();
            while !pieces.is_written() {
                seen.push(text(&pieces, buffer)[0]);
                pieces.advance(1);
            }
            assert_eq!(seen, b"012xy78");
            pieces.rewind();
        }
    }

    #[test]
    fn there_is_room_for_the_limit_and_no_more() {
        let mut pieces = Pieces::default();
        for i in 0..PIECES_COUNT_MAX {
            assert!(pieces.has_room());
            pieces.push(2 * i..2 * i + 1).unwrap();
        }
        assert!(!pieces.has_room());
        assert_eq!(pieces.push(1000..1001), Err(Full::Pieces));
        assert_eq!(pieces.add_fmt(format_args!("{}", 1)), Err(Full::Pieces));
        let mut pieces = Pieces::default();
        assert_eq!(pieces.add(&[0; ADDED_BYTES_MAX]), Ok(()));
        assert_eq!(pieces.add(b"x"), Err(Full::Added));
        assert_eq!(pieces.add_fmt(format_args!("{}", 1)), Err(Full::Added));
    }
}
