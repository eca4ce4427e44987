//! A worker's end of its ring: it never waits.

use std::{
    cell::{Cell, RefCell},
    thread::Thread,
};

use super::Record;

/// Where a worker puts its records.
#[derive(Debug)]
pub(crate) struct Tap {
    ring: RefCell<rtrb::Producer<Record>>,
    writer: Thread,
    pushed: Cell<usize>,
}

impl Tap {
    pub(super) fn new(ring: rtrb::Producer<Record>, writer: Thread) -> Self {
        Self { ring: RefCell::new(ring), writer, pushed: Cell::new(0) }
    }

    /// Puts a record in; false if there was no room, and it is lost.
    pub(crate) fn push(&self, record: Record) -> bool {
        let mut ring = self.ring.borrow_mut();
        if ring.push(record).is_err() {
            return false;
        }
        let pushed = self.pushed.get() + 1;
        // The writer looks by itself ten times a second. Woken once in half a ring, it is never late, and nobody has to read
        // how far it is, which is in a line of the other core's cache.
        let is_due = pushed >= ring.buffer().capacity().div_ceil(2);
        self.pushed.set(if is_due { 0 } else { pushed });
        if is_due {
            self.writer.unpark();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_full_ring_takes_nothing_more_until_there_is_room() {
        let (producer, mut consumer) = rtrb::RingBuffer::new(3);
        let tap = Tap::new(producer, std::thread::current());
        let push = || tap.push(Record::new("127.0.0.1:1".parse().ok(), 0, Instant::now()));
        assert!(push() && push() && push());
        assert!(!push() && !push());
        assert!(consumer.pop().is_ok());
        assert!(push() && !push());
    }
}
