//! The keys of TLS session tickets: the same at all proxies, derived from a secret that the sidecars share and lead on from epoch to epoch,
//! and from the cluster's keys.
//!
//! ```text
//! lineage ──▶ secrets of epoch n (here: now), n - 1 and n + 1 (clocks differ) ──HMAC, with each key of the cluster──▶ keys and names
//! ```
//!
//! Neither the one nor the other is enough: who gets a key of the cluster later lacks the secret, which is forgotten; who got the secret
//! once lacks the next key of the cluster. `lineage` is the secret, `holding` which of two stays, `handover` how it travels.
//!
//! The number of an epoch comes of the clock. Whose clock is wrong by less than an epoch has a key in common with everybody; whose is wrong by
//! more than two resumes its own sessions alone.

pub(crate) mod handover;
pub(crate) mod holding;
pub(crate) mod lineage;

use std::{str::FromStr, time::Duration};

use self::lineage::{EpochSecret, derive};
use crate::wire::keyring::{Key, Keyring};
use data_encoding::HEXLOWER;
use feed::ticket::{TicketKey, TicketKeys};

/// What is derived is nothing else's, whatever comes to be derived of these keys.
const KEY_LABEL: &[u8] = b"concertina session ticket key 2";
const NAME_LABEL: &[u8] = b"concertina session ticket name 2";

/// Bytes of a name: no two keys meet by chance.
const NAME_BYTES: usize = 16;

/// The shortest epoch: proxies are told within a second.
const EPOCH_MIN: Duration = Duration::from_secs(1);
/// The longest: RFC 8446 4.6.1 lets no ticket live for longer than a week.
const EPOCH_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long a ticket key seals. It opens for one epoch more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketEpoch(Duration);

impl TicketEpoch {
    /// How the epochs are counted, and where this moment is.
    fn number(self, now_ms: u64) -> u64 {
        now_ms / self.length_ms()
    }

    /// The time until the next one.
    pub fn left(self, now_ms: u64) -> Duration {
        Duration::from_millis(self.length_ms() - now_ms % self.length_ms())
    }

    pub(crate) fn length_ms(self) -> u64 {
        // Within the bounds it is far from where it would not fit.
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for TicketEpoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let length = feed::time::parse_duration(text)?;
        if !(EPOCH_MIN..=EPOCH_MAX).contains(&length) {
            return Err(format!("{text}: expected a time from 1s to 168h, which is a week"));
        }
        Ok(Self(length))
    }
}

/// The keys that these secrets make: of the key that seals the gossip and the epoch that seals first, then of all that open.
pub(crate) fn ticket_keys(
    ring: Option<&Keyring>,
    cluster: &str,
    epoch: TicketEpoch,
    secrets: &[EpochSecret],
) -> TicketKeys {
    let of_key = |key| secrets.iter().map(move |of| ticket_key(key, cluster, of));
    let keys = ring.map(Keyring::keys).unwrap_or_default().iter().flat_map(of_key).collect();
    TicketKeys { lifetime_s: u32::try_from(epoch.0.as_secs()).unwrap_or(u32::MAX), keys }
}

fn ticket_key(key: &Key, cluster: &str, of: &EpochSecret) -> TicketKey {
    // No label is the beginning of the other, and what follows has a fixed length but for the last.
    let derive = |label: &[u8]| derive(&of.secret, &[label, &key.to_bytes(), cluster.as_bytes()]);
    TicketKey {
        name: HEXLOWER.encode(&derive(NAME_LABEL)[..NAME_BYTES]),
        key: HEXLOWER.encode(&derive(KEY_LABEL)[..]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        holding::tests::{NOW, holding},
        *,
    };
    use crate::wire::keyring::tests::key;

    fn epoch() -> TicketEpoch {
        "8h".parse().unwrap()
    }

    /// Those of the cluster's first lineage.
    fn keys_of(ring: &Keyring) -> Vec<TicketKey> {
        ticket_keys(Some(ring), "default", epoch(), &holding(1, NOW).secrets(NOW)).keys
    }

    #[test]
    fn through_a_rotation_each_member_opens_what_any_other_seals() {
        let (old, mut new) = (Keyring::new(key(1)), Keyring::new(key(1)));
        new.install(key(2)).unwrap();
        assert_eq!(keys_of(&old)[0], keys_of(&new)[0]);
        let both = new.clone();
        new.make_primary(key(2).fingerprint()).unwrap();
        assert!(keys_of(&both).contains(&keys_of(&new)[0]));
        assert!(keys_of(&new).contains(&keys_of(&both)[0]));
        new.remove(key(1).fingerprint()).unwrap();
        assert!(!keys_of(&new).contains(&keys_of(&both)[0]), "gone with its key");
    }

    #[test]
    fn no_two_keys_are_alike_but_of_one_key_cluster_lineage_and_epoch() {
        let mut all: Vec<TicketKey> = Vec::new();
        for ring in [1, 2].map(|byte| Keyring::new(key(byte))) {
            for (cluster, seed, at) in
                [("default", 1, NOW), ("other", 1, NOW), ("default", 2, NOW), ("default", 3, 0)]
            {
                all.extend(ticket_keys(Some(&ring), cluster, epoch(), &holding(seed, at).secrets(at)).keys);
            }
        }
        assert_eq!(all.len(), 2 * (3 * 3 + 2), "before the first epoch there is none");
        let distinct = |of: fn(&TicketKey) -> &str| all.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!((distinct(|key| &key.name), distinct(|key| &key.key)), (all.len(), all.len()));
        assert!(all.iter().all(|key| key.key.len() == 64 && key.name.len() == 32));
        assert!(!format!("{all:?}").contains(&all[0].key), "a secret is not shown");
    }

    #[test]
    fn without_keys_or_without_a_secret_there_are_none() {
        let none = TicketKeys { lifetime_s: 28_800, keys: Vec::new() };
        assert_eq!(ticket_keys(None, "default", epoch(), &holding(1, NOW).secrets(NOW)), none);
        assert_eq!(ticket_keys(Some(&Keyring::new(key(1))), "", epoch(), &[]), none);
    }

    #[test]
    fn an_epoch_ends_when_it_ends() {
        let end = NOW - NOW % epoch().length_ms() + epoch().length_ms();
        assert_eq!(epoch().left(end - 1), Duration::from_millis(1));
        assert_eq!(epoch().left(end), Duration::from_secs(8 * 60 * 60));
    }

    #[test]
    fn an_epoch_has_a_second_to_a_week() {
        for (text, is_right) in [("1s", true), ("999ms", false), ("168h", true), ("10081m", false)] {
            assert_eq!(text.parse::<TicketEpoch>().is_ok(), is_right, "{text}");
        }
    }
}
