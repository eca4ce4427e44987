//! When another sidecar is asked for its lineage, and when one that nobody hands any draws its own.
//!
//! ```text
//! in touch ─▶ ask, ask … ─▶ handed one, or draw ─▶ ask ever more seldom whether somebody has a better one
//! ```

use std::time::Duration;

use rand::{Rng, RngExt};

/// The pause after an answer that was news, and the longest: half a minute after a cluster that was cut is whole, its parts agree.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a newcomer asks before it draws. Its proxy is told nothing before, so it is what a start waits for where nobody answers.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where nobody else is known: who has just come in touch is about to know others.
const PATIENCE_ALONE: Duration = Duration::from_millis(250);

/// Most lineages that are handed over within a second: each costs two multiplications on the curve, 0.1 ms. Who comes beyond that asks again.
pub(super) const HANDOVERS_COUNT_MAX: u32 = 64;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Ask,
    Draw,
    /// Nothing for so long.
    Wait(Duration),
}

/// When to ask.
#[derive(Debug)]
pub(super) struct Asking {
    /// Whether there is nobody whom one could wait for.
    founds: bool,
    lacking_since: Option<Duration>,
    pause: Duration,
    at: Duration,
}

impl Asking {
    pub(super) fn new(founds: bool) -> Self {
        Self { founds, lacking_since: None, pause: PAUSE_MIN, at: Duration::ZERO }
    }

    /// What to do now, for a sidecar that is in touch.
    pub(super) fn step(&mut self, has_lineage: bool, has_others: bool, now: Duration) -> Step {
        if has_lineage {
            self.lacking_since = None;
        }
        let lacking_since = (!has_lineage).then(|| *self.lacking_since.get_or_insert(now));
        let draw_at = lacking_since.map(|since| since + self.patience(has_others));
        if draw_at.is_some_and(|at| at <= now) {
            self.founds = false;
            self.hurry(now);
            return Step::Draw;
        }
        let ask_at = has_others.then_some(self.at);
        if ask_at.is_none() {
            // Whoever comes is asked at once.
            self.hurry(now);
        }
        match draw_at.into_iter().chain(ask_at).min() {
            Some(at) if at <= now => Step::Ask,
            Some(at) => Step::Wait(at - now),
            None => Step::Wait(PAUSE_MAX),
        }
    }

    fn patience(&self, has_others: bool) -> Duration {
        match (self.founds, has_others) {
            (true, _) => Duration::ZERO,
            (false, true) => PATIENCE,
            (false, false) => PATIENCE_ALONE,
        }
    }

    /// Somebody was asked, and this is over now.
    pub(super) fn note(&mut self, is_news: bool, now: Duration, random: &mut impl Rng) {
        self.pause = if is_news { PAUSE_MIN } else { PAUSE_MAX.min(2 * self.pause) };
        // Those that started together do not go on together.
        self.at = now + self.pause.mul_f64(random.random_range(0.5..=1.0));
    }

    /// There is something to ask for.
    pub(super) fn hurry(&mut self, now: Duration) {
        self.pause = PAUSE_MIN;
        self.at = self.at.min(now);
    }
}

/// How many lineages were handed over within the last second.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    since: Duration,
    count: u32,
}

impl Handovers {
    /// Whether there is room for one more.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= Duration::from_secs(1) {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        self.count <= HANDOVERS_COUNT_MAX
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn random() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    #[test]
    fn a_newcomer_asks_at_once_and_draws_when_its_patience_is_over() {
        for (has_others, patience) in [(true, PATIENCE), (false, PATIENCE_ALONE)] {
            let (mut asking, start) = (Asking::new(false), Duration::from_secs(9));
            let first = if has_others { Step::Ask } else { Step::Wait(patience) };
            assert_eq!(asking.step(false, has_others, start), first);
            asking.note(false, start, &mut random());
            assert_ne!(asking.step(false, has_others, start + patience - MS), Step::Draw);
            assert_eq!(asking.step(false, has_others, start + patience), Step::Draw);
        }
        assert_eq!(
            Asking::new(true).step(false, false, Duration::ZERO),
            Step::Draw,
            "who founds waits for nobody"
        );
    }

    #[test]
    fn who_has_drawn_asks_at_once_and_whose_lineage_is_given_up_waits_anew() {
        let mut asking = Asking::new(true);
        assert_eq!(asking.step(false, true, Duration::ZERO), Step::Draw);
        assert_eq!(asking.step(true, true, MS), Step::Ask);
        asking.note(false, MS, &mut random());
        assert!(matches!(asking.step(false, true, 2 * MS), Step::Wait(_)), "it founds once");
        assert_eq!(asking.step(false, true, 2 * MS + PATIENCE), Step::Draw);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_news_ends_them() {
        let (mut asking, mut random, mut now) = (Asking::new(true), random(), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            asking.note(false, now, &mut random);
            let Step::Wait(pause) = asking.step(true, true, now) else { panic!("at once") };
            assert_eq!(asking.step(true, true, now + pause), Step::Ask);
            now += pause;
            pauses.push(pause);
        }
        assert!(pauses[0] <= 2 * PAUSE_MIN && pauses[19] >= PAUSE_MAX / 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX), "{pauses:?}");
        asking.hurry(now);
        assert_eq!(asking.step(true, true, now), Step::Ask, "somebody has a better one");
        asking.note(true, now, &mut random);
        let Step::Wait(pause) = asking.step(true, true, now) else { panic!("at once") };
        assert!(pause <= PAUSE_MIN);
        asking.note(false, now, &mut random);
        assert!(matches!(asking.step(true, false, now), Step::Wait(_)));
        assert_eq!(asking.step(true, true, now), Step::Ask, "who comes after a while alone");
    }

    #[test]
    fn so_many_are_handed_over_within_a_second_and_not_one_more() {
        let mut handovers = Handovers::default();
        let count = |handovers: &mut Handovers, now| {
            (0..2 * HANDOVERS_COUNT_MAX).filter(|_| handovers.take(now)).count()
        };
        let max = HANDOVERS_COUNT_MAX as usize;
        let times = [0, 999, 1000, 1999, 5000];
        assert_eq!(times.map(|ms| count(&mut handovers, ms * MS)), [max, 0, max, 0, max]);
    }
}
