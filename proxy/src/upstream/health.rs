//! What all workers know of an instance: its load, and whether to spare it.
//!
//! There are two kinds of bad news. A *refused* connection says that nobody is there: nothing is lost by going elsewhere, and
//! it is always believed. A connection that was not accepted in time, or errors in a row, may as well say that there is too
//! much to do: such an upstream is *ejected*, which a role puts up with only to a degree.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// First pause; doubles with each further failure up to [`PAUSE_MAX_MS`]. A refused connection is tried again soon: the
/// usual cause is a process that is just starting or restarting.
const PAUSE_MIN_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 10_000;

/// The counters of an instance; they outlive a change of its state or weight.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Health {
    pub(crate) in_flight: AtomicU32,
    /// Pauses in a row.
    failures: AtomicU32,
    /// 5xx responses in a row, if those are counted.
    errors: AtomicU32,
    /// Until when it is a last resort, on the workers' clock: because nobody is there,
    refused_until_ms: AtomicU64,
    /// or because it does badly.
    ejected_until_ms: AtomicU64,
    /// The newest table has it as a suspect, or not at all.
    lost: AtomicBool,
}

impl Health {
    pub(crate) fn is_refusing(&self, now_ms: u64) -> bool {
        self.refused_until_ms.load(Ordering::Relaxed) > now_ms
    }

    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// Counts a lease; false if there are `in_flight_max` already.
    pub(crate) fn begin(&self, in_flight_max: u32) -> bool {
        if in_flight_max == u32::MAX {
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            return true;
        }
        // Never one too many, not even for a moment: whoever saw that would wait for an end that nobody announces.
        let one_more = |in_flight| (in_flight < in_flight_max).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// A connection was refused.
    pub(crate) fn apply_refused(&self, now_ms: u64) {
        self.refused_until_ms.store(now_ms + self.next_pause_ms(), Ordering::Relaxed);
    }

    /// A connection was not accepted in time, or errors were too many.
    pub(crate) fn eject(&self, now_ms: u64) {
        self.ejected_until_ms.store(now_ms + self.next_pause_ms(), Ordering::Relaxed);
    }

    /// An error came; true if it is the last of `errors_max` in a row. The count begins anew then.
    pub(crate) fn apply_error(&self, errors_max: u32) -> bool {
        let is_last = self.errors.fetch_add(1, Ordering::Relaxed) + 1 >= errors_max;
        if is_last {
            self.errors.store(0, Ordering::Relaxed);
        }
        is_last
    }

    /// A response came that is no error, or a connection that is not asked for more.
    pub(crate) fn apply_success(&self) {
        // Loads first: a store by every request would make the line travel between cores.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.refused_until_ms.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
        if self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
        }
    }

    /// What the newest table says of it.
    pub(crate) fn set_lost(&self, is_lost: bool) {
        self.lost.store(is_lost, Ordering::Release);
    }

    /// Whether requests may wait there in vain. Workers may choose by the table before for a moment.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(crate) fn is_in_use(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    fn next_pause_ms(&self) -> u64 {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(8);
        (PAUSE_MIN_MS << failures).min(PAUSE_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_and_end_with_a_success() {
        let health = Health::default();
        assert!(!health.is_ejected(0) && !health.is_refusing(0));
        health.eject(1000);
        assert!(health.is_ejected(1000 + PAUSE_MIN_MS - 1));
        assert!(!health.is_ejected(1000 + PAUSE_MIN_MS) && !health.is_refusing(1000));
        health.apply_refused(2000);
        assert!(health.is_refusing(2000 + PAUSE_MIN_MS) && !health.is_ejected(2000));
        for _ in 0..40 {
            health.eject(3000);
        }
        assert!(!health.is_ejected(3000 + PAUSE_MAX_MS));
        health.eject(4000);
        health.apply_refused(4000);
        health.apply_success();
        assert!(!health.is_ejected(4000) && !health.is_refusing(4000));
    }

    #[test]
    fn errors_count_only_in_a_row() {
        let health = Health::default();
        assert!(!health.apply_error(3) && !health.apply_error(3));
        health.apply_success();
        assert!(!health.apply_error(3) && !health.apply_error(3) && health.apply_error(3));
        assert!(!health.apply_error(3), "and from the beginning");
        assert!(health.apply_error(1));
    }
}
