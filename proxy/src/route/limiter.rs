//! How many requests are served: the generic cell rate algorithm (ITU-T I.371), which keeps one number for each who is counted.
//!
//! That number is when the counted would be at its rate again if it asked no more. A request puts it off by the interval between two, and
//! is one too many where that is further away than a burst takes. All workers share it, and all proxies of a role divide the rate.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::config::{Rate, RateKey};

/// Parts of the table, each under a lock of its own: workers hardly ever meet.
const SHARDS_COUNT: usize = 16;

/// Who is counted at a time in one part. Beyond that, newcomers are served and not counted: who floods from a million addresses must not
/// lock out all others.
const COUNTED_MAX: usize = 4096;

/// How often a full part is looked through for those who are at their rate again.
const CLEANING_PERIOD: Duration = Duration::from_millis(100);

/// The state of one limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    interval: Duration,
    burst: Duration,
    by: RateKey,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS_COUNT],
}

#[derive(Debug, Default)]
struct Shard {
    /// When each is at its rate again, on the clock of whoever asks.
    free_at: HashMap<u64, Duration>,
    cleaned_at: Duration,
}

impl Limiter {
    pub(crate) fn new(rate: &Rate) -> Self {
        let interval = rate.period / rate.count.get();
        Self {
            interval,
            burst: interval * rate.burst.get(),
            by: rate.by.clone(),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Who is counted: a client's address, or the first value of a field. Those without an address are counted as one.
    pub(crate) fn key<'a>(
        &self,
        client: Option<IpAddr>,
        value_of: impl FnOnce(&str) -> Option<&'a [u8]>,
    ) -> u64 {
        match &self.by {
            RateKey::Field(name) => self.hasher.hash_one(value_of(name)),
            RateKey::Client => match client.map(|ip| ip.to_canonical()) {
                None => self.hasher.hash_one(()),
                Some(IpAddr::V4(ip)) => self.hasher.hash_one(ip),
                // One customer has a network of them (RFC 6177).
                Some(IpAddr::V6(ip)) => self.hasher.hash_one(u128::from(ip) >> 64),
            },
        }
    }

    /// Whether another request of the counted is served now, by one of so many proxies.
    pub(crate) fn admit(&self, key: u64, now: Duration, proxies: u32) -> bool {
        let interval = self.interval.saturating_mul(proxies.max(1));
        // One at a time always, or a share of less than one would be none.
        let patience = self.burst.max(interval);
        let shard = &self.shards[usize::try_from(key % SHARDS_COUNT as u64).unwrap_or_default()];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if !shard.has_room(key, now) {
            return true;
        }
        let free_at = shard.free_at.entry(key).or_default();
        let next = (*free_at).max(now).saturating_add(interval);
        if next > now.saturating_add(patience) {
            return false;
        }
        *free_at = next;
        true
    }
}

impl Shard {
    fn has_room(&mut self, key: u64, now: Duration) -> bool {
        if self.free_at.len() < COUNTED_MAX || self.free_at.contains_key(&key) {
            return true;
        }
        if now.saturating_sub(self.cleaned_at) >= CLEANING_PERIOD {
            self.cleaned_at = now;
            self.free_at.retain(|_, free_at| *free_at > now);
        }
        self.free_at.len() < COUNTED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(count: u32, burst: u32) -> Limiter {
        Limiter::new(&Rate {
            count: count.try_into().unwrap(),
            period: Duration::from_secs(1),
            burst: burst.try_into().unwrap(),
            by: RateKey::Client,
        })
    }

    /// How many of a request each millisecond are served in so many seconds.
    fn served(limiter: &Limiter, secs: u64, proxies: u32) -> usize {
        let times = (0..secs * 1000).map(Duration::from_millis);
        times.filter(|now| limiter.admit(7, Duration::from_secs(100) + *now, proxies)).count()
    }

    #[test]
    fn who_asks_all_the_time_is_served_at_its_rate_after_a_burst_and_proxies_divide_it() {
        assert_eq!(served(&limiter(10, 5), 10, 1), 5 + 99);
        assert_eq!(served(&limiter(10, 1), 10, 1), 100);
        let shares: usize = (0..4).map(|_| served(&limiter(100, 20), 10, 4)).sum();
        assert!((1000..=1020).contains(&shares), "{shares}");
        assert_eq!(served(&limiter(1, 1), 20, 2), 10, "a share of less than one at a time");
    }

    #[test]
    fn each_is_counted_by_itself_and_a_network_of_version_6_as_one() {
        let limiter = limiter(1, 1);
        let key = |ip: &str| limiter.key(Some(ip.parse().unwrap()), |_| None);
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        let now = Duration::from_secs(1);
        assert!(limiter.admit(1, now, 1) && !limiter.admit(1, now, 1) && limiter.admit(2, now, 1));
    }

    #[test]
    fn so_many_are_counted_and_who_comes_then_is_served() {
        let limiter = limiter(1, 1);
        let now = Duration::from_secs(1);
        let in_one_shard = |i: usize| (i * SHARDS_COUNT) as u64;
        for i in 0..COUNTED_MAX {
            assert!(limiter.admit(in_one_shard(i), now, 1));
        }
        let new = in_one_shard(COUNTED_MAX);
        assert!(limiter.admit(new, now, 1) && limiter.admit(new, now, 1), "not counted");
        assert!(!limiter.admit(0, now, 1), "counted still");
        let later = now + Duration::from_secs(2);
        assert!(
            limiter.admit(new, later, 1) && !limiter.admit(new, later, 1),
            "others are at their rate again"
        );
    }
}
