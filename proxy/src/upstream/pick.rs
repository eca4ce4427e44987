//! Which upstream a request goes to: the less busy of two random ones.
//!
//! Power of two choices needs no state beyond the in-flight counts and avoids the herd that "least of all" makes when
//! counts are a moment old.

use std::{cell::LazyCell, sync::atomic::Ordering};

use super::{directory::Endpoint, hash::score};

/// How long a new endpoint's share grows from [`SLOW_START_SHARE`] to all of its weight. Its age is gossiped, so a proxy that
/// starts later grants the same.
const SLOW_START_MS: u64 = 10_000;
/// The share that a new endpoint begins with, in percent.
const SLOW_START_SHARE: u64 = 20;

/// The clocks that a choice needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The workers' clock, for ejection.
    pub(crate) ms: u64,
    /// The wall clock, for the age of endpoints.
    pub(crate) unix_ms: u64,
}

/// A small, fast generator (xorshift64*): choices need to be even, not secret.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        (high * bound) >> 32
    }
}

/// What a choice goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Instances that failed this request before.
    pub(crate) avoid: &'a [u64],
    /// By which the choice is made instead of by load.
    pub(crate) key: Option<u64>,
    /// Most leases of one endpoint at a time.
    pub(crate) in_flight_max: u32,
    /// Where more than this share of the ready endpoints is ejected, ejection does not count.
    pub(crate) panic_percent: u8,
    pub(crate) now: Now,
}

/// Why nobody was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unpicked {
    /// There is nobody.
    Nobody,
    /// Those that would be chosen from are at their limit.
    Full,
}

/// Chooses among endpoints: ready ones that are neither avoided, refusing nor ejected, else those that are either, else suspects, else
/// avoided ones. That the better ones are at their limit is no reason to choose among worse. Returns a position.
pub(crate) fn pick<'a>(
    endpoints: impl Fn(usize) -> &'a Endpoint,
    count: usize,
    terms: &Terms<'_>,
    dice: &mut Dice,
) -> Result<usize, Unpicked> {
    let now_ms = terms.now.ms;
    let eligible = |i: usize| endpoints(i).is_eligible();
    let fresh = |i: usize| eligible(i) && !terms.avoid.contains(&endpoints(i).instance);
    let ready = |i: usize| fresh(i) && endpoints(i).is_ready();
    let is_ejected = |i: usize| endpoints(i).health.is_ejected(now_ms);
    // Only worked out where somebody is ejected.
    let is_panic = LazyCell::new(|| {
        let all = (0..count).filter(|&i| endpoints(i).is_ready());
        let ejected = all.clone().filter(|&i| is_ejected(i));
        ejected.count() * 100 > all.count() * usize::from(terms.panic_percent)
    });
    let healthy =
        |i: usize| ready(i) && !endpoints(i).health.is_refusing(now_ms) && (!is_ejected(i) || *is_panic);
    choose(&endpoints, count, healthy, terms, dice)
        .or_else(|| choose(&endpoints, count, ready, terms, dice))
        .or_else(|| choose(&endpoints, count, fresh, terms, dice))
        .or_else(|| choose(&endpoints, count, eligible, terms, dice))
        .unwrap_or(Err(Unpicked::Nobody))
}

/// Chooses among those of `tier` that are below their limit; None if the tier is empty.
fn choose<'a>(
    endpoints: &impl Fn(usize) -> &'a Endpoint,
    count: usize,
    tier: impl Fn(usize) -> bool,
    terms: &Terms<'_>,
    dice: &mut Dice,
) -> Option<Result<usize, Unpicked>> {
    let load = |i: usize| endpoints(i).health.in_flight.load(Ordering::Relaxed);
    let has_room = |i: usize| tier(i) && load(i) < terms.in_flight_max;
    let chosen = match terms.key {
        None => two_choices(endpoints, count, has_room, terms.now, dice),
        Some(key) => highest(endpoints, count, has_room, key),
    };
    chosen.map(Ok).or_else(|| (0..count).any(tier).then_some(Err(Unpicked::Full)))
}

/// The endpoint whose key it is. An endpoint's age does not count: keys that come late move twice.
fn highest<'a>(
    endpoints: &impl Fn(usize) -> &'a Endpoint,
    count: usize,
    eligible: impl Fn(usize) -> bool,
    key: u64,
) -> Option<usize> {
    let score = |i: usize| score(key, endpoints(i).node_hash, endpoints(i).weight);
    let scores = (0..count).filter(|&i| eligible(i)).map(|i| (score(i), i));
    scores.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i)| i)
}

fn two_choices<'a>(
    endpoints: &impl Fn(usize) -> &'a Endpoint,
    count: usize,
    eligible: impl Fn(usize) -> bool,
    now: Now,
    dice: &mut Dice,
) -> Option<usize> {
    let share = |i: usize| if eligible(i) { share(endpoints(i), now.unix_ms) } else { 0 };
    let total: u64 = (0..count).map(share).sum();
    let first = draw(count, total, share, dice)?;
    let rest = total - share(first);
    let Some(second) = draw(count, rest, |i| if i == first { 0 } else { share(i) }, dice) else {
        return Some(first);
    };
    let load = |i: usize| endpoints(i).health.in_flight.load(Ordering::Relaxed);
    Some(if load(second) < load(first) { second } else { first })
}

/// Draws a position with a probability proportional to its share.
fn draw(count: usize, total: u64, share: impl Fn(usize) -> u64, dice: &mut Dice) -> Option<usize> {
    if total == 0 {
        return None;
    }
    let mut point = dice.below(total);
    (0..count).find(|&i| {
        let share = share(i);
        let found = point < share;
        point = point.saturating_sub(share);
        found
    })
}

/// The weight, less while the endpoint is new.
fn share(endpoint: &Endpoint, unix_ms: u64) -> u64 {
    let age_ms = unix_ms.saturating_sub(endpoint.since_ms);
    let percent = match age_ms {
        SLOW_START_MS.. => 100,
        _ => SLOW_START_SHARE + (100 - SLOW_START_SHARE) * age_ms / SLOW_START_MS,
    };
    // Never zero: an only endpoint serves from its first moment.
    (u64::from(endpoint.weight) * percent).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use feed::EndpointState;

    use super::{super::hash::hash, *};

    fn pick_among(endpoints: &[Endpoint], terms: &Terms<'_>, dice: &mut Dice) -> Result<usize, Unpicked> {
        pick(|i| &endpoints[i], endpoints.len(), terms, dice)
    }

    fn terms(now: Now) -> Terms<'static> {
        Terms { avoid: &[], key: None, in_flight_max: u32::MAX, panic_percent: 50, now }
    }

    const LATER: Now = Now { ms: 1_000_000, unix_ms: 10_000_000 };

    fn endpoint(instance: u64, weight: u16) -> Endpoint {
        Endpoint {
            instance,
            node_hash: hash(&instance.to_be_bytes()),
            addr: "127.0.0.1:1".parse().unwrap(),
            state: EndpointState::Ready,
            weight,
            since_ms: 0,
            health: Arc::default(),
        }
    }

    fn counts(endpoints: &[Endpoint], now: Now) -> Vec<u32> {
        let mut dice = Dice::new(42);
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..10_000 {
            counts[pick_among(endpoints, &terms(now), &mut dice).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equal_endpoints_get_equal_shares() {
        let counts = counts(&[endpoint(1, 100), endpoint(2, 100), endpoint(3, 100), endpoint(4, 100)], LATER);
        assert!(counts.iter().all(|count| (2300..2700).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_less_busy_of_two_is_chosen() {
        let endpoints = [endpoint(1, 100), endpoint(2, 100)];
        endpoints[0].health.in_flight.store(1, Ordering::Relaxed);
        assert_eq!(counts(&endpoints, LATER), [0, 10_000]);
    }

    #[test]
    fn weights_and_age_set_the_share() {
        let counts_by_weight = counts(&[endpoint(1, 100), endpoint(2, 300)], LATER);
        assert!((2200..2800).contains(&counts_by_weight[0]), "{counts_by_weight:?}");
        let young = Endpoint { since_ms: LATER.unix_ms, ..endpoint(2, 100) };
        let by_age = counts(&[endpoint(1, 100), young], LATER);
        assert!((1500..1900).contains(&by_age[1]), "{by_age:?}");
    }

    #[test]
    fn draining_and_weightless_endpoints_are_never_chosen() {
        let draining = Endpoint { state: EndpointState::Draining, ..endpoint(1, 100) };
        let endpoints = [draining, endpoint(2, 0)];
        assert_eq!(pick_among(&endpoints, &terms(LATER), &mut Dice::new(1)), Err(Unpicked::Nobody));
    }

    #[test]
    fn ejected_and_avoided_endpoints_are_the_last_resort() {
        let endpoints = [endpoint(1, 100), endpoint(2, 100)];
        endpoints[0].health.eject(LATER.ms);
        assert_eq!(counts(&endpoints, LATER), [0, 10_000]);
        let mut dice = Dice::new(1);
        assert_eq!(pick_among(&endpoints, &Terms { avoid: &[2], ..terms(LATER) }, &mut dice), Ok(0));
        assert!(pick_among(&endpoints, &Terms { avoid: &[1, 2], ..terms(LATER) }, &mut dice).is_ok());
    }

    #[test]
    fn suspects_are_chosen_where_nobody_is_ready() {
        let suspect = |n| Endpoint { state: EndpointState::Suspect, ..endpoint(n, 100) };
        let endpoints = [suspect(1), endpoint(2, 100), suspect(3)];
        assert_eq!(counts(&endpoints, LATER), [0, 10_000, 0]);
        endpoints[1].health.apply_refused(LATER.ms);
        assert_eq!(counts(&endpoints, LATER), [0, 10_000, 0], "one that refuses is ready all the same");
        let mut dice = Dice::new(1);
        let retry = pick_among(&endpoints, &Terms { avoid: &[1, 2], ..terms(LATER) }, &mut dice);
        assert_eq!(retry, Ok(2), "before those that failed already");
    }

    #[test]
    fn suspects_do_not_count_for_the_panic_threshold() {
        let suspect = Endpoint { state: EndpointState::Suspect, ..endpoint(3, 100) };
        let endpoints = [endpoint(1, 100), endpoint(2, 100), suspect];
        endpoints[0].health.eject(LATER.ms);
        assert_eq!(counts(&endpoints, LATER), [0, 10_000, 0], "one of two, at the threshold");
        endpoints[1].health.eject(LATER.ms);
        assert!(counts(&endpoints, LATER)[..2].iter().all(|count| *count > 4500), "two of two");
    }

    #[test]
    fn more_ejections_than_the_panic_threshold_are_ignored() {
        let endpoints = [endpoint(1, 100), endpoint(2, 100), endpoint(3, 100), endpoint(4, 100)];
        endpoints[0].health.eject(LATER.ms);
        endpoints[1].health.eject(LATER.ms);
        assert_eq!(counts(&endpoints, LATER)[..2], [0, 0], "at the threshold");
        endpoints[2].health.eject(LATER.ms);
        let all = counts(&endpoints, LATER);
        assert!(all.iter().all(|count| (2300..2700).contains(count)), "one over it: {all:?}");
    }

    #[test]
    fn refusals_are_believed_however_many_there_are() {
        let endpoints = [endpoint(1, 100), endpoint(2, 100), endpoint(3, 100)];
        endpoints[0].health.apply_refused(LATER.ms);
        endpoints[1].health.apply_refused(LATER.ms);
        assert_eq!(counts(&endpoints, LATER), [0, 0, 10_000]);
    }

    #[test]
    fn nobody_gets_more_than_the_limit_and_a_better_one_is_waited_for() {
        let endpoints = [endpoint(1, 100), endpoint(2, 100), endpoint(3, 100)];
        let (limited, mut dice) = (Terms { in_flight_max: 2, ..terms(LATER) }, Dice::new(1));
        endpoints[2].health.eject(LATER.ms);
        endpoints[0].health.in_flight.store(1, Ordering::Relaxed);
        endpoints[1].health.in_flight.store(2, Ordering::Relaxed);
        assert!(
            (0..100).all(|_| pick_among(&endpoints, &limited, &mut dice) == Ok(0)),
            "one below the limit"
        );
        endpoints[0].health.in_flight.store(2, Ordering::Relaxed);
        assert_eq!(pick_among(&endpoints, &limited, &mut dice), Err(Unpicked::Full), "at the limit");
        let avoiding = Terms { avoid: &[1, 2], ..limited };
        assert_eq!(
            pick_among(&endpoints, &avoiding, &mut dice),
            Ok(2),
            "the ejected one is all that is left"
        );
    }

    #[test]
    fn a_key_stays_while_its_endpoint_can_be_chosen_and_goes_to_the_same_other_while_it_cannot() {
        let endpoints = [endpoint(1, 100), endpoint(2, 100), endpoint(3, 100)];
        let mut dice = Dice::new(1);
        for key in (0..1000_u64).map(|key| hash(&key.to_be_bytes())) {
            let keyed = Terms { key: Some(key), ..terms(LATER) };
            let mut choose = |terms: &Terms<'_>| pick_among(&endpoints, terms, &mut dice).unwrap();
            let owner = choose(&keyed);
            endpoints[owner].health.in_flight.store(100, Ordering::Relaxed);
            assert_eq!(choose(&keyed), owner, "however busy");
            let full = choose(&Terms { in_flight_max: 100, ..keyed });
            endpoints[owner].health.in_flight.store(0, Ordering::Relaxed);
            endpoints[owner].health.eject(LATER.ms);
            let ejected = choose(&keyed);
            endpoints[owner].health.apply_success();
            let avoided = choose(&Terms { avoid: &[endpoints[owner].instance], ..keyed });
            assert!(ejected != owner && ejected == avoided && ejected == full);
            assert_eq!(choose(&keyed), owner, "it is back");
        }
    }
}
