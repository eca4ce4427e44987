//! How many of something there were, and how long they took: counted by one thread, read by any. No lock, no allocation, no clock.
//!
//! Times are kept log-linear: each decade is cut by doublings, and these into quarters. So a bucket is at most a quarter as wide as its
//! times are long, and the bounds that people ask for are bounds of buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Samples;

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A load and a store, not a locked addition: there is one writer.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is shorter than ten microseconds is not told apart,
const SHORTEST_NANOS: u64 = 10_000;
const SHORTEST_EXPONENT: u32 = 4;
/// nor what is longer than a hundred seconds, seven decades later.
const DECADES: usize = 7;
/// Buckets of a decade: up to 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8 and 10 times its begin.
const STEPS: usize = 13;
/// Those of the decades, one for what is shorter and one for what is longer.
const BUCKETS: usize = 1 + DECADES * STEPS + 1;

/// A quarter of the begin of each decade, in nanoseconds.
const WIDTHS: [u64; DECADES] = [2_500, 25_000, 250_000, 2_500_000, 25_000_000, 250_000_000, 2_500_000_000];

/// The bounds that are served, in nanoseconds and in seconds. Each is the upper bound of a bucket.
const BOUNDS: [(u64, &str); 16] = [
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5.0"),
    (10_000_000_000, "10.0"),
];

/// By bucket: the first bound that is not below it, or how many bounds there are, where none is.
const BOUND_OF: [usize; BUCKETS] = {
    let mut of = [0; BUCKETS];
    let (mut bucket, mut bound) = (0, 0);
    while bucket < BUCKETS {
        while bound < BOUNDS.len() && upper(bucket) > BOUNDS[bound].0 {
            bound += 1;
        }
        of[bucket] = bound;
        bucket += 1;
    }
    of
};

/// How long things took: less than a KiB.
#[derive(Debug)]
pub struct Times {
    /// All together. Microseconds last for half a million years.
    sum_micros: Counter,
    buckets: [Counter; BUCKETS],
}

impl Default for Times {
    fn default() -> Self {
        Self { sum_micros: Counter::default(), buckets: std::array::from_fn(|_| Counter::default()) }
    }
}

impl Times {
    /// Adds one.
    pub fn note(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_micros.add(nanos.saturating_add(500) / 1000);
        self.buckets[bucket(nanos)].add(1);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::read).sum()
    }

    /// What several threads have noted, by the upper bounds of buckets in microseconds: those in which there is something. What is
    /// longer than the last bound counts as that long.
    pub fn counts_us<'a>(
        threads: impl Iterator<Item = &'a Self> + Clone,
    ) -> impl Iterator<Item = (u64, u64)> {
        let count = move |at: usize| -> u64 { threads.clone().map(|times| times.buckets[at].read()).sum() };
        // The last two have one bound.
        let counts = (0..BUCKETS - 1).map(move |at| {
            let longer = if at == BUCKETS - 2 { count(BUCKETS - 1) } else { 0 };
            (upper(at).div_ceil(1000), count(at) + longer)
        });
        counts.filter(|(_, count)| *count > 0)
    }
}

impl Samples<'_> {
    /// Adds the histogram of what several threads have noted, unless there was nothing.
    pub fn add_times(&mut self, labels: &[&str], threads: &[&Times]) {
        // What is over the last bound stands behind the others.
        let mut served = [0; BOUNDS.len() + 1];
        for (at, bound) in BOUND_OF.into_iter().enumerate() {
            served[bound] += threads.iter().map(|times| times.buckets[at].read()).sum::<u64>();
        }
        let [buckets @ .., over] = served;
        if served == [0; BOUNDS.len() + 1] {
            return;
        }
        let sum: u64 = threads.iter().map(|times| times.sum_micros.read()).fold(0, u64::wrapping_add);
        let buckets = BOUNDS.iter().zip(buckets).map(|((_, bound), count)| (*bound, count));
        self.push_histogram(labels, buckets, over, Duration::from_micros(sum).as_secs_f64());
    }
}

/// A time at a bound is below it, as the format has it.
fn bucket(nanos: u64) -> usize {
    let below = nanos.saturating_sub(1);
    if below < SHORTEST_NANOS {
        return 0;
    }
    let decade = (below.ilog10() - SHORTEST_EXPONENT) as usize;
    let Some(width) = WIDTHS.get(decade) else { return BUCKETS - 1 };
    // From four to 39. Of its bits the highest says which doubling it is, and the next two which quarter of that.
    let quarters = (below / width).clamp(4, 39);
    let doubling = quarters.ilog2() - 2;
    let quarter = (quarters >> doubling) as usize - 4;
    1 + decade * STEPS + doubling as usize * 4 + quarter.min(STEPS - 1)
}

/// The longest time in this bucket, in nanoseconds.
const fn upper(bucket: usize) -> u64 {
    let Some(at) = bucket.checked_sub(1) else { return SHORTEST_NANOS };
    let step = at % STEPS;
    // The last has what two others would have: a decade is three doublings and a quarter.
    let quarters = if step == STEPS - 1 { 40 } else { (5 + step % 4) << (step / 4) };
    if at / STEPS < DECADES { WIDTHS[at / STEPS] * quarters as u64 } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Exposition, Family};

    static TOOK: Family = Family::histogram("x_seconds", &["a"], "Times.");

    #[test]
    fn a_time_at_a_buckets_bound_is_in_it_and_one_more_is_in_the_next() {
        for at in 0..BUCKETS - 1 {
            assert_eq!((bucket(upper(at)), bucket(upper(at) + 1)), (at, at + 1), "{}", upper(at));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
        assert_eq!((upper(BUCKETS - 2), upper(BUCKETS - 1)), (100_000_000_000, u64::MAX));
    }

    #[test]
    fn every_bound_that_is_served_is_one_of_a_bucket_and_what_it_is_called() {
        for (at, (nanos, seconds)) in BOUNDS.into_iter().enumerate() {
            assert_eq!((upper(bucket(nanos)), BOUND_OF[bucket(nanos)]), (nanos, at));
            assert_eq!(BOUND_OF[bucket(nanos + 1)], at + 1, "one more is over it");
            let seconds: f64 = seconds.parse().unwrap();
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(nanos));
        }
        assert!(BOUNDS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn a_bucket_is_at_most_a_quarter_as_wide_as_its_times_are_long() {
        for at in 1..BUCKETS - 1 {
            let (from, to) = (upper(at - 1), upper(at));
            assert!(to > from && (to - from) * 4 <= from, "{from} to {to}");
        }
    }

    #[test]
    fn what_threads_have_noted_is_told_as_one_and_nothing_is_not_told() {
        let threads = [Times::default(), Times::default()];
        let mut document = Exposition::default();
        document.family(&TOOK).add_times(&["none"], &[&threads[0], &threads[1]]);
        for nanos in [0, 100_000, 100_001, 1_000_000, 3_000_000, 10_000_000_000, 10_000_000_001] {
            threads[usize::from(nanos > 1_000_000)].note(Duration::from_nanos(nanos));
        }
        document.family(&TOOK).add_times(&["some"], &threads.each_ref());
        let text = document.finish();
        assert!(!text.contains("none"), "{text}");
        for line in [
            "x_seconds_bucket{a=\"some\",le=\"0.0001\"} 2",
            "x_seconds_bucket{a=\"some\",le=\"0.00025\"} 3",
            "x_seconds_bucket{a=\"some\",le=\"0.001\"} 4",
            "x_seconds_bucket{a=\"some\",le=\"0.0025\"} 4",
            "x_seconds_bucket{a=\"some\",le=\"0.005\"} 5",
            "x_seconds_bucket{a=\"some\",le=\"10.0\"} 6",
            "x_seconds_bucket{a=\"some\",le=\"+Inf\"} 7",
            "x_seconds_sum{a=\"some\"} 20.0042",
            "x_seconds_count{a=\"some\"} 7",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        assert_eq!(threads[0].count() + threads[1].count(), 7);
    }

    #[test]
    fn the_same_times_are_told_by_microseconds_and_the_longest_by_the_last_bound() {
        let threads = [Times::default(), Times::default()];
        assert_eq!(Times::counts_us(threads.iter()).count(), 0);
        for nanos in [0, 10_001, 12_500, 447_000, 99_000_000_000, 100_000_000_001, u64::MAX] {
            threads[usize::from(nanos > 12_000)].note(Duration::from_nanos(nanos));
        }
        let told: Vec<_> = Times::counts_us(threads.iter()).collect();
        assert_eq!(told, [(10, 1), (13, 2), (500, 1), (100_000_000, 3)]);
    }
}
