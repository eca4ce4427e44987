//! Who a member is to the gossip protocol.

use std::{fmt, net::SocketAddr};

use feed::Name;
use serde::{Deserialize, Serialize};

use crate::cluster::peer::Peer;

/// What a renewal adds to a claim.
const RENEWAL_LEAD_MS: u64 = 1000;

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

    /// When the process would have started if its claim were none but a later start: each renewal makes it later by a second.
    pub(crate) fn claim_ms(&self) -> u64 {
        self.instance.saturating_add(u64::from(self.renewal) * RENEWAL_LEAD_MS)
    }

    /// The same process under a later claim: by `lead` renewals, or by as many more as it takes to win against `rival`. None: there is no
    /// such claim.
    pub(crate) fn renewed(&self, lead: u32, rival: Option<&Self>) -> Option<Self> {
        let behind_ms = rival.map(|rival| rival.claim_ms().saturating_sub(self.instance));
        let over_rival = behind_ms.map_or(0, |behind_ms| behind_ms / RENEWAL_LEAD_MS + 1);
        let renewal = u32::try_from((u64::from(self.renewal) + u64::from(lead)).max(over_rival)).ok()?;
        Some(Self { renewal, ..self.clone() })
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

    /// Never by foca itself, which would do it as often as it is contradicted: see `membership/renewing.rs`.
    fn renew(&self) -> Option<Self> {
        None
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
        let latest = [id(u64::MAX, 0, "a"), id(u64::MAX - 1, 1, "a"), id(u64::MAX, 2, "a")];
        let claims = [
            &[id(1, 0, "a"), id(1, 0, "b"), other_role, id(2, 0, "a")][..],
            &[id(1001, 0, "a"), id(1, 1, "a"), id(1002, 0, "a")],
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
        let new = old.renewed(1, None).unwrap();
        assert!(new.win_addr_conflict(&old));
        assert_eq!((new.instance, new.renewal), (old.instance, 1));
        let last = MemberId { renewal: u32::MAX - 1, ..old };
        assert!(last.renewed(1, None).unwrap().win_addr_conflict(&last), "at the limit");
        assert_eq!(last.renewed(2, None), None);
    }

    #[test]
    fn one_renewal_wins_against_any_rival_that_is_known_and_by_no_more_than_a_second() {
        let year_ms = 365 * 24 * 3600 * 1000;
        for rival in [id(5 + year_ms, 0, "a"), id(5, 77, "a"), id(6 + year_ms, 3, "a"), id(1, 0, "z")] {
            let renewed = id(5, 1, "a").renewed(1, Some(&rival)).unwrap();
            assert!(renewed.win_addr_conflict(&rival), "{renewed:?} against {rival:?}");
            let needed_ms = rival.claim_ms().max(id(5, 1, "a").claim_ms());
            assert!(renewed.claim_ms() <= needed_ms + RENEWAL_LEAD_MS, "{renewed:?} against {rival:?}");
        }
        assert_eq!(id(5, 0, "a").renewed(1, Some(&id(u64::MAX, 0, "a"))), None);
    }
}
