//! What all workers know of an endpoint: its load, and whether to spare it.
//!
//! There are two kinds of bad news. A *refused* connection says that nobody is there: nothing is lost by going elsewhere, and
//! it is always believed. A connection that was not accepted in time, or failures in a row, may as well say that there is too
//! much to do: such an upstream is *ejected*, which a role puts up with only to a degree.
//!
//! Either way a pause begins, and what was begun before it has nothing more to say: neither that the endpoint is well, since that
//! was known when it failed, nor that it is ill, since a hundred requests that fail together are one failure.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// First pause; doubles with each further failure up to [`PAUSE_MAX_MS`]. A refused connection is tried again soon: the
/// usual cause is a process that is just starting or restarting.
const PAUSE_MIN_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 10_000;

/// The counters of an endpoint; they outlive a change of its state or weight.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Health {
    pub(crate) in_flight: AtomicU32,
    pub(crate) tally: Tally,
    /// Pauses ever.
    pauses: AtomicU32,
    /// Pauses in a row.
    pauses_in_row: AtomicU32,
    /// Failures in a row since the last pause.
    failures: AtomicU32,
    /// Until when it is a last resort, on the workers' clock: because nobody is there,
    refused_until_ms: AtomicU64,
    /// or because it does badly.
    ejected_until_ms: AtomicU64,
    /// The newest table has it as a suspect, or not at all.
    lost: AtomicBool,
    /// It has drained, or has waited for that as long as it does, and has left.
    released: AtomicBool,
}

/// What has come of it so far. Beside the count of what is under way, whose cache line every lease has at hand.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Leases ever.
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Answers whose beginning was timed,
    pub(crate) timed: AtomicU64,
    /// and the sum of that.
    pub(crate) timed_us: AtomicU64,
}

impl Tally {
    pub(crate) fn note_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_time(&self, us: u64) {
        self.timed.fetch_add(1, Ordering::Relaxed);
        self.timed_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// The time between two pauses of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

impl Health {
    pub(crate) fn is_refusing(&self, now_ms: u64) -> bool {
        self.refused_until_ms.load(Ordering::Relaxed) > now_ms
    }

    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// Counts a lease; none if there are `in_flight_max` already. What comes of it counts only within the epoch.
    pub(crate) fn begin(&self, in_flight_max: u32) -> Option<Epoch> {
        if in_flight_max == u32::MAX {
            self.in_flight.fetch_add(1, Ordering::AcqRel);
        } else {
            // Never one too many, not even for a moment: whoever saw that would wait for an end that nobody announces.
            let one_more = |in_flight| (in_flight < in_flight_max).then_some(in_flight + 1);
            self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        }
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        Some(Epoch(self.pauses.load(Ordering::Relaxed)))
    }

    /// A connection was refused.
    pub(crate) fn apply_refused(&self, epoch: Epoch, now_ms: u64) {
        if let Some(pause_ms) = self.begin_pause(epoch) {
            self.refused_until_ms.store(now_ms + pause_ms, Ordering::Relaxed);
        }
    }

    /// A connection was not accepted in time, or failures were too many.
    pub(crate) fn eject(&self, epoch: Epoch, now_ms: u64) {
        if let Some(pause_ms) = self.begin_pause(epoch) {
            self.ejected_until_ms.store(now_ms + pause_ms, Ordering::Relaxed);
        }
    }

    /// Something failed; true if it is the last of `failures_max` in a row. The count begins anew then.
    pub(crate) fn apply_failure(&self, epoch: Epoch, failures_max: u32) -> bool {
        let is_last = self.is_now(epoch) && self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= failures_max;
        if is_last {
            self.failures.store(0, Ordering::Relaxed);
        }
        is_last
    }

    /// A whole response came that is no error, or a connection that is not asked for more. True if a pause ends by it.
    pub(crate) fn apply_success(&self, epoch: Epoch) -> bool {
        // Loads first: a store by every request would make the line travel between cores.
        if !self.is_now(epoch) {
            return false;
        }
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        let was_paused = self.pauses_in_row.load(Ordering::Relaxed) != 0;
        if was_paused {
            self.pauses_in_row.store(0, Ordering::Relaxed);
            self.refused_until_ms.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
        was_paused
    }

    /// How often a pause began: because nobody was there, or because it did badly.
    pub(crate) fn pauses(&self) -> u32 {
        self.pauses.load(Ordering::Relaxed)
    }

    /// Whether it has not served since the last pause began.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.pauses_in_row.load(Ordering::Relaxed) != 0
    }

    /// What the newest table says of it.
    pub(crate) fn set_lost(&self, is_lost: bool) {
        self.lost.store(is_lost, Ordering::Release);
    }

    /// What the newest table says of one that was draining.
    pub(crate) fn set_released(&self, is_released: bool) {
        self.released.store(is_released, Ordering::Release);
    }

    /// Whether it has left after its drain: what is still under way there keeps its process from ending.
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// Whether requests may wait there in vain. Workers may choose by the table before for a moment.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(crate) fn is_in_use(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    fn is_now(&self, epoch: Epoch) -> bool {
        self.pauses.load(Ordering::Relaxed) == epoch.0
    }

    /// Ends the epoch; the length of the pause, unless somebody has ended it already.
    fn begin_pause(&self, Epoch(pauses): Epoch) -> Option<u64> {
        let following = pauses.wrapping_add(1);
        self.pauses.compare_exchange(pauses, following, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.failures.store(0, Ordering::Relaxed);
        let doublings = self.pauses_in_row.fetch_add(1, Ordering::Relaxed).min(8);
        Some((PAUSE_MIN_MS << doublings).min(PAUSE_MAX_MS))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Health {
        /// As of a request that has just begun.
        pub(crate) fn epoch(&self) -> Epoch {
            Epoch(self.pauses.load(Ordering::Relaxed))
        }

        pub(crate) fn eject_now(&self, now_ms: u64) {
            self.eject(self.epoch(), now_ms);
        }

        pub(crate) fn refuse_now(&self, now_ms: u64) {
            self.apply_refused(self.epoch(), now_ms);
        }
    }

    #[test]
    fn pauses_grow_with_failures_and_end_with_a_success() {
        let health = Health::default();
        assert!(!health.is_ejected(0) && !health.is_refusing(0));
        health.eject_now(1000);
        assert!(health.is_ejected(1000 + PAUSE_MIN_MS - 1));
        assert!(!health.is_ejected(1000 + PAUSE_MIN_MS) && !health.is_refusing(1000));
        health.refuse_now(2000);
        assert!(health.is_refusing(2000 + PAUSE_MIN_MS) && !health.is_ejected(2000));
        for _ in 0..40 {
            health.eject_now(3000);
        }
        assert!(!health.is_ejected(3000 + PAUSE_MAX_MS));
        health.eject_now(4000);
        health.refuse_now(4000);
        assert!(health.apply_success(health.epoch()));
        assert!(!health.is_ejected(4000) && !health.is_refusing(4000));
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let health = Health::default();
        let epoch = health.epoch();
        assert!(!health.apply_failure(epoch, 3) && !health.apply_failure(epoch, 3));
        assert!(!health.apply_success(epoch));
        assert!(!health.apply_failure(epoch, 3) && !health.apply_failure(epoch, 3));
        assert!(health.apply_failure(epoch, 3));
        assert!(!health.apply_failure(epoch, 3), "and from the beginning");
        assert!(health.apply_failure(epoch, 1));
    }

    #[test]
    fn what_was_begun_before_a_pause_has_nothing_to_say_of_it() {
        type Pause = fn(&Health, Epoch, u64);
        for pause in [Health::apply_refused as Pause, Health::eject] {
            let is_paused = |health: &Health, now_ms| health.is_refusing(now_ms) || health.is_ejected(now_ms);
            let health = Health::default();
            let before = health.begin(u32::MAX).unwrap();
            pause(&health, before, 1000);
            assert!(!health.apply_success(before) && is_paused(&health, 1000), "a success");
            (0..99).for_each(|_| pause(&health, before, 1000));
            assert!(!is_paused(&health, 1000 + PAUSE_MIN_MS), "a hundred at once are one");
            assert!(!health.apply_failure(before, 1));
            let after = health.begin(u32::MAX).unwrap();
            assert!(health.apply_success(after) && !is_paused(&health, 1000), "it was asked and is well");
        }
    }
}
