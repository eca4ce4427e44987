//! How long answers took to begin: one column of a worker for each role.

use feed::report::{TIMES_COUNT, bound_us, bucket};

use super::Counter;

/// The times of one role, at one worker.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Times([Counter; TIMES_COUNT]);

impl Default for Times {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Times {
    pub(crate) fn note(&self, us: u64) {
        self.0[bucket(us)].add(1);
    }

    /// The sums over workers: of each bound in microseconds that there was, how many.
    pub(crate) fn sums<'a>(
        workers: &(impl Iterator<Item = &'a Self> + Clone),
    ) -> impl Iterator<Item = (u64, u64)> {
        let sum = |n: usize| -> u64 { workers.clone().map(|times| times.0[n].read()).sum() };
        (0..TIMES_COUNT).map(move |n| (bound_us(n), sum(n))).filter(|(_, count)| *count > 0)
    }
}
