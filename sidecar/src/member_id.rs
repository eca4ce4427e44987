//! Who a member is to the gossip protocol.

use std::{fmt, net::SocketAddr};

use feed::Name;
use serde::{Deserialize, Serialize};

use crate::lifeline::Peer;

/// What the first renewal adds to a claim.
const RENEWAL_LEAD_MS: u64 = 60_000;

/// The identity of a member: where it gossips, since when, and what it is called.
///
/// The address identifies it (foca's `Addr`): a newcomer knows nothing but the address of its seed. The rest is a
/// strict total order that decides between two claims to one address: the later start wins, since containers
/// reuse addresses, and a renewed claim counts as a later one; equal starts are decided by the remaining fields, since two claims neither of which wins would
/// replace each other for ever.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberId {
    /// The gossip address.
    pub addr: SocketAddr,
    /// When the node started, in milliseconds since the Unix epoch. Constant for the life of its process.
    pub instance: u64,
    /// Grows when the cluster wrongly declared the node down and it comes back.
    pub renewal: u32,
    /// The node's name.
    pub node: Name,
    /// The node's role.
    pub role: Name,
}

impl MemberId {
    /// An identity that stands for whoever is at `addr`: enough to announce oneself there, loses to every real one.
    pub fn unknown_at(addr: SocketAddr) -> Self {
        let unknown: Name = "_unknown".parse().expect("a constant name within the grammar");
        Self { addr, instance: 0, renewal: 0, node: unknown.clone(), role: unknown }
    }

    /// The process.
    pub fn peer(&self) -> Peer {
        Peer { addr: self.addr, instance: self.instance }
    }

    /// Each renewal doubles the time by which a claim counts as later than its start. One whose clock was put back is refused in favour
    /// of its predecessor, which nobody can tell from a later one, and is ahead of it after as many renewals as its lag in
    /// minutes has binary digits.
    fn claim_ms(&self) -> u64 {
        let doubled = 1_u64.checked_shl(self.renewal).unwrap_or(u64::MAX);
        self.instance.saturating_add((doubled - 1).saturating_mul(RENEWAL_LEAD_MS))
    }

    fn rank(&self) -> (u64, u32, u64, &Name, &Name) {
        (self.claim_ms(), self.renewal, self.instance, &self.node, &self.role)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}.{}", self.node, self.addr, self.instance, self.renewal)
    }
}

impl foca::Identity for MemberId {
    type Addr = SocketAddr;

    /// Always possible, and always wins against what it renews.
    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.rank() > adversary.rank()
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity;

    use super::*;

    fn id(instance: u64, renewal: u32, node: &str) -> MemberId {
        MemberId {
            addr: "127.0.0.1:7946".parse().unwrap(),
            instance,
            renewal,
            node: node.parse().unwrap(),
            role: "app".parse().unwrap(),
        }
    }

    #[test]
    fn exactly_one_of_two_different_claims_to_an_address_wins() {
        let other_role = MemberId { role: "front".parse().unwrap(), ..id(1, 0, "b") };
        let latest = [id(1, u32::MAX, "a"), id(2, u32::MAX, "a")];
        let claims = [
            &[id(1, 0, "a"), id(1, 0, "b"), other_role, id(2, 0, "a")][..],
            &[id(60_001, 0, "a"), id(1, 1, "a")],
            &latest,
        ]
        .concat();
        for (i, a) in claims.iter().enumerate() {
            for (j, b) in claims.iter().enumerate() {
                assert_eq!(a.win_addr_conflict(b), i > j, "{a:?} against {b:?}");
            }
        }
    }

    #[test]
    fn a_renewed_identity_wins_and_stays_the_same_instance() {
        let old = id(5, 0, "a");
        let new = old.renew().unwrap();
        assert!(new.win_addr_conflict(&old));
        assert_eq!(new.instance, old.instance);
        let last = MemberId { renewal: u32::MAX - 1, ..old };
        assert!(last.renew().unwrap().win_addr_conflict(&last), "at the limit");
        assert_eq!(last.renew().unwrap().renew(), None);
    }

    #[test]
    fn a_claim_whose_clock_is_a_year_behind_wins_after_twenty_renewals() {
        let year_ms = 365 * 24 * 3600 * 1000;
        let (before, mut behind) = (id(2 * year_ms, 0, "a"), id(year_ms, 0, "a"));
        while !behind.win_addr_conflict(&before) {
            behind = behind.renew().unwrap();
        }
        assert_eq!(behind.renewal, 20);
    }
}
