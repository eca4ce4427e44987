//! Timers in the order of their deadlines.
//!
//! foca needs every timer delivered, late ones in order: a probe that is evaluated before its indirect half was
//! sent counts as failed. So there is one heap, and equal deadlines go by foca's own order of timers.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<T> {
    deadline: Duration,
    timer: T,
    /// Tells equal entries apart and keeps them in the order of their making.
    sequence: u64,
}

/// A heap of timers.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    sequence: u64,
}

impl<T: Ord> Timers<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }

    pub(crate) fn insert(&mut self, deadline: Duration, timer: T) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { deadline, timer, sequence: self.sequence }));
    }

    /// All of them come later by so much, in the same order.
    pub(crate) fn postpone(&mut self, by: Duration) {
        let entries = std::mem::take(&mut self.heap).into_iter();
        self.heap = entries.map(|Reverse(e)| Reverse(Entry { deadline: e.deadline + by, ..e })).collect();
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| entry.deadline)
    }

    /// The earliest timer that is due.
    pub(crate) fn poll_due(&mut self, now: Duration) -> Option<T> {
        let due = self.next_deadline().is_some_and(|deadline| deadline <= now);
        due.then(|| self.heap.pop()).flatten().map(|Reverse(entry)| entry.timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_by_deadline_then_by_their_own_order() {
        let mut timers = Timers::new();
        let ms = Duration::from_millis;
        for (deadline, timer) in [(20, 'a'), (10, 'z'), (10, 'b'), (30, 'c')] {
            timers.insert(ms(deadline), timer);
        }
        assert_eq!(timers.next_deadline(), Some(ms(10)));
        timers.postpone(ms(100));
        assert_eq!(timers.poll_due(ms(109)), None);
        let due: Vec<char> = std::iter::from_fn(|| timers.poll_due(ms(125))).collect();
        assert_eq!(due, ['b', 'z', 'a']);
    }
}
