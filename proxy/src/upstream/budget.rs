//! How many retries a role may be given: a share of its recent requests.
//!
//! Without a bound, a role that fails because it is overloaded gets up to three times the load for it, and stays so. The bucket is
//! that of finagle and linkerd: each request pays in a share of a retry, each retry takes out a whole one,
//! and what was paid in is forgotten after nine to ten seconds. A reserve keeps roles with few requests from having no retries.
//!
//! A kill of an upstream is not to use it up. With `r` requests a second of `d` seconds each on three upstreams, `r * d / 3`
//! are lost at once; the budget is at least `100 + 1.8 * r`. That suffices for requests of up to five seconds at any rate, and for
//! up to 300 at a time of any length. A refused connection costs nothing: it is no load for anybody. Neither does a pooled connection that
//! the upstream closed just then: the retry goes to one that closes what is idle, and is as well as before.

use std::cell::{Cell, RefCell};

/// Length of a slot, in which payments are forgotten together.
const SLOT_MS: u64 = 1000;

/// Slots that are remembered: ten seconds, as in finagle and linkerd. Much longer, and the quiet hour before a failure would pay
/// for a storm; much shorter, and a moment's pause would leave nothing for a kill.
const SLOTS_COUNT: usize = 10;

/// Retries a second that are granted without any requests. Ten of them a second overload nobody.
const RESERVE_PER_SECOND: i64 = 10;

/// A retry costs a hundred, so that a request pays in its percentage.
const RETRY_COST: i64 = 100;

/// The budget of one role at one worker.
#[derive(Debug)]
pub(crate) struct Budget {
    percent: Cell<i64>,
    /// Paid in less taken out, by slot.
    slots: RefCell<[i64; SLOTS_COUNT]>,
    /// The newest slot, counted from the clock's beginning.
    newest: Cell<u64>,
}

impl Budget {
    /// `percent` of the requests may be retried.
    pub(crate) fn new(percent: u8) -> Self {
        Self { percent: Cell::new(percent.into()), slots: RefCell::default(), newest: Cell::new(0) }
    }

    /// From now on so much of the requests.
    pub(crate) fn set_percent(&self, percent: u8) {
        self.percent.set(percent.into());
    }

    /// A request came.
    pub(crate) fn apply_request(&self, now_ms: u64) {
        self.add(self.percent.get(), now_ms);
    }

    /// Takes a retry out; false if there is none.
    pub(crate) fn take(&self, now_ms: u64) -> bool {
        self.add(0, now_ms);
        let reserve = RESERVE_PER_SECOND * RETRY_COST * SLOTS_COUNT as i64;
        let is_granted = reserve + self.slots.borrow().iter().sum::<i64>() >= RETRY_COST;
        if is_granted {
            self.add(-RETRY_COST, now_ms);
        }
        is_granted
    }

    fn add(&self, amount: i64, now_ms: u64) {
        let slot = now_ms / SLOT_MS;
        let mut slots = self.slots.borrow_mut();
        for passed in (self.newest.get() + 1..=slot).take(SLOTS_COUNT) {
            slots[Self::position(passed)] = 0;
        }
        self.newest.set(self.newest.get().max(slot));
        slots[Self::position(self.newest.get())] += amount;
    }

    fn position(slot: u64) -> usize {
        usize::try_from(slot % SLOTS_COUNT as u64).expect("less than the count")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: usize = RESERVE_PER_SECOND as usize * SLOTS_COUNT;

    fn take_all(budget: &Budget, now_ms: u64) -> usize {
        std::iter::repeat_with(|| budget.take(now_ms))
            .take_while(|is_granted| *is_granted)
            .take(10_000)
            .count()
    }

    #[test]
    fn without_requests_the_reserve_is_granted_and_no_more() {
        let budget = Budget::new(20);
        assert_eq!(take_all(&budget, 5000), RESERVE);
        assert_eq!(take_all(&budget, 14_999), 0);
        assert_eq!(take_all(&budget, 15_000), RESERVE, "what was taken is forgotten, too");
    }

    #[test]
    fn a_share_of_the_requests_is_granted_for_ten_seconds() {
        for (percent, granted) in [(0, 0), (20, 200), (100, 1000)] {
            let budget = Budget::new(percent);
            (0..1000).for_each(|_| budget.apply_request(0));
            assert_eq!(take_all(&budget, 9999), RESERVE + granted, "{percent} percent");
        }
        let budget = Budget::new(20);
        (0..1000).for_each(|_| budget.apply_request(0));
        assert_eq!(take_all(&budget, 10_000), RESERVE);
    }

    #[test]
    fn a_long_silence_and_a_clock_that_stands_still_are_the_same_to_it() {
        let budget = Budget::new(20);
        (0..1000).for_each(|_| budget.apply_request(0));
        assert_eq!(take_all(&budget, u64::MAX), RESERVE);
        assert_eq!(take_all(&budget, 0), 0, "a clock that went back changes nothing");
    }

    /// One of three upstreams is killed: what it had under way is lost at once, and until its refusal is known, and each time that its
    /// pause is over, some requests are refused.
    #[test]
    fn a_kill_of_one_of_three_does_not_use_it_up() {
        for (rate, duration_ms) in [(10, 6000), (500, 1), (2000, 100), (10_000, 5000), (30, 10_000)] {
            let budget = Budget::new(20);
            let kill_ms = 20_000;
            let mut denied = 0;
            for now_ms in 0..40_000 {
                let requests = (now_ms + 1) * rate / 1000 - now_ms * rate / 1000;
                (0..requests).for_each(|_| budget.apply_request(now_ms));
                let is_tried_again = now_ms > kill_ms && (now_ms - kill_ms) % 500 == 1;
                let lost = match now_ms == kill_ms {
                    true => (rate * duration_ms / 1000).div_ceil(3),
                    // All that come within a millisecond: a refusal takes a round trip.
                    false => {
                        if is_tried_again {
                            requests
                        } else {
                            0
                        }
                    }
                };
                denied += (0..lost).filter(|_| !budget.take(now_ms)).count();
            }
            assert_eq!(denied, 0, "{rate} requests a second of {duration_ms} ms");
        }
    }

    #[test]
    fn a_role_that_fails_for_long_gets_little_more_than_its_share() {
        let (budget, rate) = (Budget::new(20), 1000);
        let mut retries = 0;
        for now_ms in 0..60_000 {
            budget.apply_request(now_ms);
            retries += usize::from(budget.take(now_ms)) + usize::from(budget.take(now_ms));
        }
        let share = 60 * rate * 20 / 100;
        assert!((share..share + 60 * RESERVE_PER_SECOND as usize + RESERVE).contains(&retries), "{retries}");
    }
}
