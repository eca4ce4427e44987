//! Slow start: the share of an endpoint that is new here grows over its first ten seconds.
//!
//! Its age is counted by the worker's clock from when the worker first had it as ready, never by the endpoint's own clock or by that
//! of its sidecar: one that is an hour ahead would keep its node at a fifth of its weight for an hour. Shares are relative, as in
//! Envoy: where all are of one age, as after the first table or where all are started together, each has all of its weight.

/// How long a new endpoint's share grows from [`PERCENT_MIN`] to all of its weight.
const RAMP_MS: u64 = 10_000;

/// The share that a new endpoint begins with, in percent.
const PERCENT_MIN: u64 = 20;

/// Since when the endpoints of a listing are ready, by position.
#[derive(Debug, Default)]
pub(crate) struct Ramp {
    since_ms: Box<[Option<u64>]>,
    oldest_ms: u64,
    /// From then on nobody is new.
    until_ms: u64,
}

impl Ramp {
    /// Of endpoints that are ready since then; none: not ready.
    pub(crate) fn new(since_ms: impl Iterator<Item = Option<u64>>) -> Self {
        let since_ms: Box<[_]> = since_ms.collect();
        let ready = || since_ms.iter().copied().flatten();
        let (oldest, newest) = (ready().min().unwrap_or(0), ready().max().unwrap_or(0));
        let until_ms = if oldest == newest { 0 } else { newest + RAMP_MS };
        Self { oldest_ms: oldest, until_ms, since_ms }
    }

    /// Since when this one is ready, if it is.
    pub(crate) fn since_ms(&self, position: usize) -> Option<u64> {
        self.since_ms.get(position).copied().flatten()
    }

    /// How much of its weight this one has, in percent, and what the most is that any has. Those that are not ready have all.
    #[inline]
    pub(crate) fn grown(&self, position: usize, now_ms: u64) -> Grown {
        if now_ms >= self.until_ms {
            return Grown { percent: 100, of: 100 };
        }
        let percent = |since_ms: u64| {
            let age_ms = now_ms.saturating_sub(since_ms).min(RAMP_MS);
            PERCENT_MIN + (100 - PERCENT_MIN) * age_ms / RAMP_MS
        };
        let of = percent(self.oldest_ms);
        Grown { percent: self.since_ms(position).map_or(of, percent), of }
    }
}

/// How much of its weight an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grown {
    /// In percent.
    pub(crate) percent: u64,
    /// The percent that the oldest has.
    pub(crate) of: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_endpoint_grows_beside_older_ones() {
        let ramp = Ramp::new([Some(0), Some(100_000), None].into_iter());
        let percent = |position, now_ms| ramp.grown(position, now_ms).percent;
        assert_eq!([percent(0, 100_000), percent(1, 100_000), percent(2, 100_000)], [100, 20, 100]);
        assert_eq!([percent(1, 105_000), percent(1, 109_999), percent(1, 110_000)], [60, 99, 100]);
        assert_eq!(percent(1, 0), 20, "a clock that went back makes nobody older");
    }

    #[test]
    fn where_all_are_of_one_age_nobody_is_new() {
        let together = Ramp::new([Some(7), Some(7), None].into_iter());
        assert_eq!(together.grown(0, 7), Grown { percent: 100, of: 100 });
        let nearly = Ramp::new([Some(0), Some(100)].into_iter());
        assert_eq!([nearly.grown(0, 100).percent, nearly.grown(1, 100).percent], [20, 20]);
        assert_eq!(nearly.grown(0, 100).of, 20, "and what one has is measured by what the oldest has");
        assert_eq!(Ramp::default().grown(0, 0).percent, 100);
    }
}
