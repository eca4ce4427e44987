//! The keys of TLS session tickets. Each is derived from a key of the cluster and the number of an epoch, so that all proxies have the same
//! and none ever travels.
//!
//! ```text
//! key of the cluster ──HMAC-SHA-256──▶ key and name of epoch n (here: now), of n - 1 and n + 1 (clocks differ)
//! ```
//!
//! The number comes of the clock here. Whose clock is wrong by less than an epoch has a key in common with everybody; whose is wrong by
//! more than two resumes its own sessions alone.

use std::{str::FromStr, time::Duration};

use data_encoding::HEXLOWER;
use feed::ticket::{TicketKey, TicketKeys};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::wire::keyring::{Key, Keyring};

/// What is derived is nothing else's, whatever comes to be derived of these keys.
const KEY_LABEL: &[u8] = b"concertina session ticket key 1";
const NAME_LABEL: &[u8] = b"concertina session ticket name 1";

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

    fn length_ms(self) -> u64 {
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

/// The keys that hold at this moment: of the key that seals the gossip, then of those that open it.
pub fn ticket_keys(ring: Option<&Keyring>, cluster: &str, epoch: TicketEpoch, now_ms: u64) -> TicketKeys {
    let now = epoch.number(now_ms);
    // The one that seals first.
    let numbers = [Some(now), now.checked_add(1), now.checked_sub(1)];
    let of_key = |key| {
        let numbers = numbers.into_iter().flatten();
        numbers.map(move |number| ticket_key(key, cluster, epoch, number))
    };
    let keys = ring.map(Keyring::keys).unwrap_or_default().iter().flat_map(of_key).collect();
    TicketKeys { lifetime_s: u32::try_from(epoch.0.as_secs()).unwrap_or(u32::MAX), keys }
}

fn ticket_key(key: &Key, cluster: &str, epoch: TicketEpoch, number: u64) -> TicketKey {
    let derive = |label: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.to_bytes()).expect("HMAC takes keys of any length");
        // No label is the beginning of the other, and what follows has a fixed length but for the last.
        for part in [label, &epoch.length_ms().to_be_bytes(), &number.to_be_bytes(), cluster.as_bytes()] {
            mac.update(part);
        }
        mac.finalize().into_bytes()
    };
    TicketKey {
        name: HEXLOWER.encode(&derive(NAME_LABEL)[..NAME_BYTES]),
        key: HEXLOWER.encode(&derive(KEY_LABEL)[..]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::keyring::tests::key;

    const HOUR_MS: u64 = 3_600_000;
    const NOW: u64 = 1_763_820_000_000 / (8 * HOUR_MS) * 8 * HOUR_MS + HOUR_MS;

    fn epoch() -> TicketEpoch {
        "8h".parse().unwrap()
    }

    fn keys_at(ring: &Keyring, now_ms: u64) -> Vec<TicketKey> {
        ticket_keys(Some(ring), "default", epoch(), now_ms).keys
    }

    #[test]
    fn what_one_seals_all_open_whose_clocks_are_less_than_an_epoch_apart() {
        let ring = Keyring::new(key(1));
        for (behind, is_opened) in [(0, true), (9, true), (10, false), (-14, true), (-15, false)] {
            let at = NOW.checked_add_signed(-behind * 3_600_000).unwrap();
            let sealing = &keys_at(&ring, at)[0];
            assert_eq!(keys_at(&ring, NOW).contains(sealing), is_opened, "{behind} hours behind");
        }
    }

    #[test]
    fn a_ticket_is_opened_for_an_epoch_at_least_and_its_key_forgotten_after_two() {
        let ring = Keyring::new(key(1));
        let last = NOW / (8 * HOUR_MS) * 8 * HOUR_MS + 8 * HOUR_MS - 1;
        let sealing = keys_at(&ring, last)[0].clone();
        assert!(keys_at(&ring, last + 8 * HOUR_MS).contains(&sealing));
        assert!(!keys_at(&ring, last + 8 * HOUR_MS + 1).contains(&sealing), "the second epoch is over");
        assert_eq!(epoch().left(last), Duration::from_millis(1));
        assert_eq!(epoch().left(last + 1), Duration::from_secs(8 * 60 * 60));
    }

    #[test]
    fn through_a_rotation_each_member_opens_what_any_other_seals() {
        let (old, mut new) = (Keyring::new(key(1)), Keyring::new(key(1)));
        new.install(key(2)).unwrap();
        assert_eq!(keys_at(&old, NOW)[0], keys_at(&new, NOW)[0]);
        let both = new.clone();
        new.make_primary(key(2).fingerprint()).unwrap();
        assert!(keys_at(&both, NOW).contains(&keys_at(&new, NOW)[0]));
        assert!(keys_at(&new, NOW).contains(&keys_at(&both, NOW)[0]));
        new.remove(key(1).fingerprint()).unwrap();
        assert!(!keys_at(&new, NOW).contains(&keys_at(&both, NOW)[0]), "gone with its key");
    }

    #[test]
    fn no_two_keys_are_alike_but_of_one_key_cluster_length_and_epoch() {
        let mut all: Vec<TicketKey> = Vec::new();
        for ring in [1, 2].map(|byte| Keyring::new(key(byte))) {
            for (cluster, length, at) in
                [("default", "8h", NOW), ("other", "8h", NOW), ("default", "7h", NOW), ("default", "8h", 0)]
            {
                all.extend(ticket_keys(Some(&ring), cluster, length.parse().unwrap(), at).keys);
            }
        }
        assert_eq!(all.len(), 2 * (3 * 3 + 2), "before the first epoch there is none");
        let distinct = |of: fn(&TicketKey) -> &str| all.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!((distinct(|key| &key.name), distinct(|key| &key.key)), (all.len(), all.len()));
        assert!(all.iter().all(|key| key.key.len() == 64 && key.name.len() == 32));
        assert!(!format!("{all:?}").contains(&all[0].key), "a secret is not shown");
    }

    #[test]
    fn without_keys_there_are_none() {
        let none = ticket_keys(None, "default", epoch(), NOW);
        assert_eq!(none, TicketKeys { lifetime_s: 28_800, keys: Vec::new() });
        assert_eq!(ticket_keys(Some(&Keyring::new(key(1))), "", epoch(), u64::MAX).keys.len(), 3);
    }

    #[test]
    fn an_epoch_has_a_second_to_a_week() {
        for (text, is_right) in [("1s", true), ("999ms", false), ("168h", true), ("10081m", false)] {
            assert_eq!(text.parse::<TicketEpoch>().is_ok(), is_right, "{text}");
        }
    }
}
