//! Room for what is sealed, opened, or to be: lent while there is something in it.

use crate::{
    buffer::{Buffer, Shelf},
    limits::{RECORD_BYTES_MAX, SEALED_BUFFER_BYTES},
};

/// The longest record, by what TLS 1.2 allows (RFC 5246 6.2.3), or a ClientHello.
const PART_BYTES: usize = RECORD_BYTES_MAX + 2048 + 5;

/// What buffers of sealed connections are lent from.
#[derive(Debug)]
pub(crate) struct Shelves {
    /// For as much as is read, opened or sealed at a time.
    whole: Shelf,
    /// For a part of a record whose rest does not come yet: whoever sends it slowly holds no more than in the clear.
    pub(super) parts: Shelf,
}

impl Shelves {
    /// Each keeps so many at most.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { whole: Shelf::new(SEALED_BUFFER_BYTES, count_max), parts: Shelf::new(PART_BYTES, count_max) }
    }

    pub(super) fn take(&self) -> Buffer {
        self.whole.take()
    }

    pub(super) fn put(&self, buffer: Buffer) {
        let shelf = if buffer.capacity() == PART_BYTES { &self.parts } else { &self.whole };
        shelf.put(buffer);
    }

    /// The same bytes in a buffer for a part, where they fit.
    pub(super) fn shrink(&self, buffer: Buffer) -> Buffer {
        if buffer.capacity() == PART_BYTES || buffer.filled().len() >= PART_BYTES {
            return buffer;
        }
        self.copy(buffer, self.parts.take())
    }

    /// The same bytes where there is room for many more.
    pub(super) fn grow(&self, buffer: Buffer) -> Buffer {
        if buffer.capacity() == PART_BYTES { self.copy(buffer, self.whole.take()) } else { buffer }
    }

    fn copy(&self, from: Buffer, mut to: Buffer) -> Buffer {
        let count = from.filled().len();
        to.spare_mut()[..count].copy_from_slice(from.filled());
        to.fill(count);
        self.put(from);
        to
    }
}

/// An empty one is needed no more.
pub(super) fn give_back_if_empty(buffer: &mut Option<Buffer>, shelf: &Shelves) {
    if let Some(buffer) = buffer.take_if(|buffer| buffer.is_empty()) {
        shelf.put(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_its_rest_waits_in_little_room_and_has_it_all_when_more_comes() {
        let shelves = Shelves::new(2);
        for (bytes, capacity) in
            [(1, PART_BYTES), (PART_BYTES - 1, PART_BYTES), (PART_BYTES, SEALED_BUFFER_BYTES)]
        {
            let mut buffer = shelves.take();
            let filled: Vec<u8> = (0..bytes).map(|position| position.to_le_bytes()[0]).collect();
            buffer.spare_mut()[..bytes].copy_from_slice(&filled);
            buffer.fill(bytes);
            let waiting = shelves.shrink(buffer);
            assert_eq!((waiting.capacity(), waiting.filled()), (capacity, &filled[..]));
            let grown = shelves.grow(waiting);
            assert_eq!((grown.capacity(), grown.filled()), (SEALED_BUFFER_BYTES, &filled[..]));
            shelves.put(grown);
        }
    }
}
