//! Read buffers, and the shelves that they are taken from: an idle connection holds none.

use std::cell::RefCell;

/// A fixed piece of memory that is filled at its end and consumed at its start.
///
/// Invariant: `start <= end <= bytes.len()`.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// What was read and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room for more behind what is filled.
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.end < self.bytes.len()
    }

    /// Takes note that so many bytes were read into the spare room.
    pub(crate) fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len());
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves what is filled to the front, so that a whole head fits behind its first byte.
    pub(crate) fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

/// Buffers not in use, the most recent on top: it is the one still in the cache.
#[derive(Debug)]
pub(crate) struct Shelf {
    capacity: usize,
    count_max: usize,
    buffers: RefCell<Vec<Buffer>>,
}

impl Shelf {
    /// A shelf of buffers of this capacity, which keeps at most `count_max` of them.
    pub(crate) fn new(capacity: usize, count_max: usize) -> Self {
        Self { capacity, count_max, buffers: RefCell::default() }
    }

    pub(crate) fn take(&self) -> Buffer {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Buffer::new(self.capacity))
    }

    pub(crate) fn put(&self, mut buffer: Buffer) {
        buffer.clear();
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < self.count_max {
            buffers.push(buffer);
        }
    }
}
