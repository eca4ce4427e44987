//! What was dropped: counted by cause, and said once for each source and cause, so that neither a slip nor a flood goes
//! unnoticed or fills the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::wire::packet::PacketError;

/// Most pairs of source and cause that are said: whoever forges source addresses could otherwise take all memory.
pub const SAID_COUNT_MAX: usize = 1024;

impl PacketError {
    /// The word that counters and the log use.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Foreign => "foreign",
            Self::Version(_) => "other_version",
            Self::Cluster => "other_cluster",
            Self::Kind(_) => "unknown_kind",
            Self::Unsealed => "unsealed",
            Self::WrongKey => "wrong_key",
            Self::Tampered => "tampered",
            Self::Stale(_) => "stale",
            Self::Replayed => "replayed",
            Self::Oversized => "oversized",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::Implausible => "implausible",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Drops {
    counts: BTreeMap<&'static str, u64>,
    said: BTreeSet<(IpAddr, &'static str)>,
}

impl Drops {
    /// Counts one; true if it is to be said.
    pub fn add(&mut self, from: IpAddr, why: PacketError) -> bool {
        *self.counts.entry(why.cause()).or_default() += 1;
        self.said.len() < SAID_COUNT_MAX && self.said.insert((from.to_canonical(), why.cause()))
    }

    /// How many were dropped, by cause.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: usize) -> IpAddr {
        IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())
    }

    #[test]
    fn each_source_and_cause_is_said_once_and_counted_always() {
        let mut drops = Drops::default();
        assert!(drops.add(ip(1), PacketError::Stale(31)));
        assert!(!drops.add(ip(1), PacketError::Stale(99)));
        assert!(!drops.add("::ffff:0.0.0.1".parse().unwrap(), PacketError::Stale(1)), "the same in v6");
        assert!(drops.add(ip(1), PacketError::Replayed));
        assert!(drops.add(ip(2), PacketError::Stale(31)));
        assert_eq!(drops.counts(), &BTreeMap::from([("replayed", 1), ("stale", 4)]));
    }

    #[test]
    fn what_is_said_is_bounded_and_what_is_counted_is_not() {
        let mut drops = Drops::default();
        let said = (0..2 * SAID_COUNT_MAX).filter(|n| drops.add(ip(*n), PacketError::Foreign)).count();
        assert_eq!(said, SAID_COUNT_MAX);
        assert_eq!(drops.counts()["foreign"], 2 * SAID_COUNT_MAX as u64);
    }
}
