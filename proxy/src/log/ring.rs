//! A worker's end of its ring: it never waits.

use std::{
    cell::{Cell, RefCell},
    thread::Thread,
};

use super::Record;
use crate::stats::Stats;

/// Where a worker puts its records.
#[derive(Debug)]
pub(crate) struct Tap {
    ring: RefCell<rtrb::Producer<Record>>,
    writer: Thread,
    pushed: Cell<usize>,
    /// Every request has a line; else those alone are of interest that have a span.
    has_lines: bool,
}

impl Tap {
    pub(super) fn new(ring: rtrb::Producer<Record>, writer: Thread, has_lines: bool) -> Self {
        Self { ring: RefCell::new(ring), writer, pushed: Cell::new(0), has_lines }
    }

    /// Puts a record in, if anybody is interested in it; `stats` counts what is lost with it where there is no room.
    pub(crate) fn note(&self, record: Record, stats: &Stats) {
        let has_span = record.trace.is_some_and(|trace| trace.is_recorded);
        if !(self.has_lines || has_span) || self.push(record) {
            return;
        }
        if self.has_lines {
            stats.log_dropped.add(1);
        }
        if has_span {
            stats.spans_dropped.add(1);
        }
    }

    /// Puts a record in; false if there was no room, and it is lost.
    fn push(&self, record: Record) -> bool {
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
    use crate::http1::{SpanId, Trace, TraceId};

    #[test]
    fn a_full_ring_takes_nothing_more_until_there_is_room() {
        let (producer, mut consumer) = rtrb::RingBuffer::new(3);
        let tap = Tap::new(producer, std::thread::current(), true);
        let push = || tap.push(Record::new("127.0.0.1:1".parse().ok(), 0, Instant::now()));
        assert!(push() && push() && push());
        assert!(!push() && !push());
        assert!(consumer.pop().is_ok());
        assert!(push() && !push());
    }

    #[test]
    fn what_is_lost_is_counted_by_what_it_would_have_been() {
        let (trace, span) = (TraceId::of_bits(0, 1).unwrap(), SpanId::of_bits(1).unwrap());
        for (has_lines, has_span) in [(true, true), (true, false), (false, true), (false, false)] {
            let (producer, mut consumer) = rtrb::RingBuffer::new(1);
            let (tap, stats) = (Tap::new(producer, std::thread::current(), has_lines), Stats::default());
            for _ in 0..2 {
                let trace = Some(Trace::begun(trace, span, has_span, true));
                tap.note(Record { trace, ..Record::new(None, 0, Instant::now()) }, &stats);
            }
            assert_eq!(consumer.pop().is_ok(), has_lines || has_span);
            let lost = (stats.log_dropped.read() == 1, stats.spans_dropped.read() == 1);
            assert_eq!(lost, (has_lines, has_span));
        }
    }
}
