//! A secret that all sidecars of a cluster share, and that forgets: each epoch has one, from which that of the next follows and none before.
//!
//! ```text
//! S(n) ──HMAC──▶ S(n + 1) ──HMAC──▶ S(n + 2)        once the epoch is over, S(n) is overwritten
//!   └──HMAC──▶ E(n)  └──HMAC──▶ E(n + 1)            what the ticket keys of an epoch are derived from
//! ```

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of a secret: of HMAC-SHA-256, whose output is the next one.
pub(crate) const SECRET_BYTES: usize = 32;

const NUMBER_BYTES: usize = 16;

/// What is derived is nothing else's.
const NEXT_LABEL: &[u8] = b"concertina lineage next 1";
const EPOCH_LABEL: &[u8] = b"concertina lineage epoch 1";

/// Most epochs that a lineage is led on at once: eleven months of eight hours, and two milliseconds of work. Whose machine slept for longer
/// asks the others anew.
pub(crate) const STEPS_MAX: u64 = 1024;

/// A secret, overwritten as it is let go of.
pub(crate) type Secret = Zeroizing<[u8; SECRET_BYTES]>;

/// HMAC-SHA-256 of these parts, one after the other.
pub(crate) fn derive(secret: &[u8; SECRET_BYTES], parts: &[&[u8]]) -> Secret {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// Which lineage. Where two meet, the lesser stays: the one that was born first, so that a newcomer's never replaces a cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LineageId {
    /// In milliseconds since the Unix epoch, by the clock of whoever drew it.
    pub(crate) born_ms: u64,
    pub(crate) number: [u8; NUMBER_BYTES],
}

/// One lineage, where it stands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Lineage {
    id: LineageId,
    epoch: u64,
    secret: Secret,
    /// E of the epoch before.
    before: Secret,
}

/// What the ticket keys of one epoch are derived from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EpochSecret {
    pub(crate) epoch: u64,
    pub(crate) secret: Secret,
}

impl Lineage {
    /// A new one.
    pub(crate) fn draw(random: &mut impl CryptoRng, born_ms: u64, epoch: u64) -> Self {
        let mut id = LineageId { born_ms, number: [0; NUMBER_BYTES] };
        random.fill_bytes(&mut id.number);
        let (mut secret, mut before) = (Secret::default(), Secret::default());
        random.fill_bytes(&mut *secret);
        random.fill_bytes(&mut *before);
        Self { id, epoch, secret, before }
    }

    pub(crate) fn id(&self) -> LineageId {
        self.id
    }

    /// The earliest epoch that it can be led on from.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Leads it on to this epoch, unless it is there, and forgets those before but for the last one's E; false if that is too far.
    #[must_use]
    pub(crate) fn advance(&mut self, epoch: u64) -> bool {
        if epoch.saturating_sub(self.epoch) > STEPS_MAX {
            return false;
        }
        while self.epoch < epoch {
            self.before = self.of_epoch();
            self.secret = self.next();
            self.epoch += 1;
        }
        true
    }

    /// What there is of the epochs before, now and next, as it stands.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = EpochSecret> {
        let all = [
            (self.epoch.checked_sub(1), self.before.clone()),
            (Some(self.epoch), self.of_epoch()),
            (self.epoch.checked_add(1), derive(&self.next(), &[EPOCH_LABEL])),
        ];
        all.into_iter().filter_map(|(epoch, secret)| Some(EpochSecret { epoch: epoch?, secret }))
    }

    fn next(&self) -> Secret {
        derive(&self.secret, &[NEXT_LABEL])
    }

    fn of_epoch(&self) -> Secret {
        derive(&self.secret, &[EPOCH_LABEL])
    }
}

/// As it travels, sealed.
impl Lineage {
    const BYTES: usize = 8 + NUMBER_BYTES + 8 + 2 * SECRET_BYTES;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let [born, epoch] = [self.id.born_ms, self.epoch].map(u64::to_be_bytes);
        // As long as it gets, with room for a seal: what grows leaves copies behind.
        let mut bytes = Vec::with_capacity(2 * Self::BYTES);
        for part in [&born[..], &self.id.number, &epoch, &*self.secret, &*self.before] {
            bytes.extend_from_slice(part);
        }
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (born, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (secret, before) = rest.split_first_chunk()?;
        let id = LineageId { born_ms: u64::from_be_bytes(*born), number: *number };
        let [secret, before] = [secret, before.try_into().ok()?].map(|bytes| Zeroizing::new(*bytes));
        Some(Self { id, epoch: u64::from_be_bytes(*epoch), secret, before })
    }
}

/// Without its secrets.
impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({:?} at {})", self.id, self.epoch)
    }
}

/// Without the secret.
impl fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochSecret({})", self.epoch)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    pub(crate) fn drawn(seed: u64, born_ms: u64, epoch: u64) -> Lineage {
        Lineage::draw(&mut StdRng::seed_from_u64(seed), born_ms, epoch)
    }

    fn at(lineage: &Lineage, epoch: u64) -> Option<Secret> {
        lineage.secrets().find(|of| of.epoch == epoch).map(|of| of.secret)
    }

    #[test]
    fn whoever_comes_to_an_epoch_by_whichever_steps_has_the_same_secrets() {
        let (mut steps, mut leap) = (drawn(1, 7, 100), drawn(1, 7, 100));
        for epoch in 101..=110 {
            let ahead = at(&steps, epoch);
            assert!(ahead.is_some());
            assert!(steps.advance(epoch));
            assert_eq!(at(&steps, epoch), ahead);
        }
        assert!(leap.advance(110));
        assert_eq!(steps, leap);
        assert!(leap.advance(3), "a clock that was put back");
        assert_eq!(leap, steps);
    }

    #[test]
    fn what_is_two_epochs_old_is_in_nothing_that_is_kept() {
        let mut lineage = drawn(1, 7, 100);
        let (first, secret) = (at(&lineage, 100).unwrap(), lineage.secret.clone());
        assert!(lineage.advance(101));
        assert_eq!(at(&lineage, 100), Some(first.clone()));
        assert!(!lineage.encode().windows(SECRET_BYTES).any(|part| part == *secret), "it cannot be led back");
        assert!(lineage.advance(102));
        assert_eq!(at(&lineage, 100), None);
        assert!(!lineage.encode().windows(SECRET_BYTES).any(|part| part == *first));
    }

    #[test]
    fn it_is_led_on_by_so_many_epochs_at_once_and_by_no_more() {
        let mut lineage = drawn(1, 7, 0);
        assert!(!lineage.advance(STEPS_MAX + 1));
        assert_eq!(lineage, drawn(1, 7, 0), "nothing was changed");
        assert!(lineage.advance(STEPS_MAX));
        assert!(!lineage.advance(u64::MAX));
    }

    #[test]
    fn it_arrives_as_it_was_sent_and_no_other_length_is_one() {
        let mut lineage = drawn(1, 7, 100);
        assert!(lineage.advance(101));
        let bytes = lineage.encode();
        assert_eq!((bytes.len(), Lineage::parse(&bytes)), (Lineage::BYTES, Some(lineage)));
        assert_eq!(Lineage::parse(&bytes[1..]), None);
        assert_eq!(Lineage::parse(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn the_first_and_the_last_epoch_are_epochs() {
        assert_eq!(drawn(1, 0, 0).secrets().map(|of| of.epoch).collect::<Vec<_>>(), [0, 1]);
        let last = drawn(1, 0, u64::MAX).secrets().map(|of| of.epoch).collect::<Vec<_>>();
        assert_eq!(last, [u64::MAX - 1, u64::MAX]);
    }

    #[test]
    fn no_secret_is_shown() {
        let lineage = drawn(1, 7, 100);
        let shown = format!("{lineage:?} {:?}", lineage.secrets().collect::<Vec<_>>());
        assert!(shown.starts_with("Lineage(LineageId { born_ms: 7, number: ["), "{shown}");
        assert!(shown.ends_with("at 100) [EpochSecret(99), EpochSecret(100), EpochSecret(101)]"), "{shown}");
    }
}
