//! Timers in the order of their deadlines.
//!
//! foca needs every timer delivered, late ones in order: a probe that is evaluated before its indirect half was
//! sent counts as failed. So there is one heap, and equal deadlines go by foca's own order of timers.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// A node whose timers come later than this was not running: starved, frozen, or on a machine that slept. Twice the pause between
/// two rounds of gossip.
const STALL_MIN: Duration = Duration::from_millis(100);
/// How long it then listens before it goes on: the answers that came meanwhile are still in its socket.
const STALL_GRACE: Duration = Duration::from_millis(50);

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

    /// Time in which this node did not run does not count against others: their answers may lie unread. Puts everything off by as
    /// long, in the same order; returns how long, if it had to.
    pub(crate) fn forgive_stall(&mut self, now: Duration) -> Option<Duration> {
        let late = self.next_deadline().map_or(Duration::ZERO, |deadline| now.saturating_sub(deadline));
        let by = (late > STALL_MIN).then_some(late + STALL_GRACE)?;
        let entries = std::mem::take(&mut self.heap).into_iter();
        self.heap = entries.map(|Reverse(e)| Reverse(Entry { deadline: e.deadline + by, ..e })).collect();
        Some(by)
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
        assert_eq!(timers.poll_due(ms(9)), None);
        let due: Vec<char> = std::iter::from_fn(|| timers.poll_due(ms(25))).collect();
        assert_eq!(due, ['b', 'z', 'a']);
    }

    #[test]
    fn timers_that_come_late_beyond_the_limit_are_put_off_in_their_order() {
        let late = STALL_MIN + Duration::from_millis(10);
        let mut timers = Timers::new();
        timers.insert(Duration::from_millis(10), 'a');
        timers.insert(Duration::from_millis(20), 'b');
        assert_eq!(timers.forgive_stall(late), None);
        assert_eq!(timers.next_deadline(), Some(Duration::from_millis(10)), "at the limit");
        let now = late + Duration::from_millis(1);
        assert_eq!(timers.forgive_stall(now), Some(now - Duration::from_millis(10) + STALL_GRACE));
        assert_eq!(timers.next_deadline(), Some(now + STALL_GRACE));
        assert_eq!(timers.poll_due(now), None);
        let later = now + STALL_GRACE + Duration::from_millis(10);
        assert_eq!((timers.poll_due(later), timers.poll_due(later)), (Some('a'), Some('b')));
    }
}
