//! Adverts: what a member says of itself that may change while it lives.
//!
//! They travel as foca broadcasts for speed and in the state sync for certainty. A member is the only author of its own
//! advert; the newest version replaces the others.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use feed::{Name, Routes, explain::Evidence, frame::MemberState};
use serde::{Deserialize, Serialize};

use crate::cluster::{labels::Labels, trouble::Trouble};

/// Most roles that one node follows: with names of usual length they fit in a broadcast.
pub const FOLLOWED_ROLES_MAX: usize = 6;

/// Most adverts kept. A stranger with the cluster's key could otherwise invent members without end.
pub const ADVERTS_MAX: usize = 50_000;

/// How long an advert is kept whose process is no member (any more): longer than any broadcast is under way. Forgotten too early,
/// the same advert would be news again, and be passed on for ever.
const STRANGER_PERIOD: Duration = Duration::from_secs(60);

/// The roles whose tables somebody beside a sidecar consumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follows {
    /// All of them.
    All,
    /// These.
    Roles(Vec<Name>),
}

impl Follows {
    /// Whether the role is among them.
    pub fn includes(&self, role: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Roles(roles) => roles.contains(role),
        }
    }
}

/// A member's word about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// The member's gossip address.
    pub addr: SocketAddr,
    /// The member's start, which tells it from another at the same address.
    pub instance: u64,
    /// Grows with each change.
    pub version: u32,
    /// Its state.
    pub state: MemberState,
    /// Where its role's process listens, 0 for nowhere.
    pub port: u16,
    /// Where its sidecar is asked by HTTP at its gossip address, 0 for nowhere.
    pub admin_port: u16,
    /// Its share of the work.
    pub weight: u16,
    /// When it became ready, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When its state or tags last changed, in milliseconds since the Unix epoch.
    pub changed_ms: u64,
    /// Whose drains wait for it.
    pub follows: Follows,
    /// What its operator says of it: tags, and the protocol that it claims.
    pub labels: Labels,
    /// Which requests it claims for its role.
    pub routes: Routes,
    /// Why its role's process does not pass its check.
    pub check: Option<Trouble>,
}

/// How an advert came, and who passed it on.
pub type Via = (Evidence, Option<SocketAddr>);

/// The newest advert of every process. That of a later one at the same address does not replace it: a clock that was put back
/// makes a later process look like an earlier one.
#[derive(Debug, Default)]
pub struct Adverts {
    by_process: BTreeMap<(SocketAddr, u64), Known>,
    /// The time, for what comes next.
    now: Duration,
    changed: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Known {
    advert: Advert,
    via: Via,
    since: Duration,
}

impl Adverts {
    /// What comes from now on comes at this time.
    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Takes an advert if it is news.
    pub fn apply(&mut self, advert: Advert, via: Via) -> bool {
        let process = (advert.addr, advert.instance);
        let known = self.by_process.get(&process);
        let news = known.is_none_or(|known| advert.version > known.advert.version);
        let room = known.is_some() || self.by_process.len() < ADVERTS_MAX;
        if news && room {
            self.changed.push(advert.addr);
            self.by_process.insert(process, Known { advert, via, since: self.now });
        }
        news && room
    }

    /// The newest advert of the process that started at `instance` and gossips at `addr`.
    pub fn of(&self, addr: SocketAddr, instance: u64) -> Option<&Advert> {
        self.by_process.get(&(addr, instance)).map(|known| &known.advert)
    }

    /// How it came.
    pub fn via(&self, addr: SocketAddr, instance: u64) -> Via {
        self.by_process.get(&(addr, instance)).map_or((Evidence::Gossip, None), |known| known.via)
    }

    /// Whose adverts changed since the last call.
    pub fn take_changed(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.changed)
    }

    /// How many changes there are to take.
    pub fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.by_process.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.by_process.is_empty()
    }

    /// Forgets the strangers of long ago.
    pub fn forget_strangers(&mut self, is_member: impl Fn(&(SocketAddr, u64)) -> bool) {
        let now = self.now;
        self.by_process.retain(|process, known| now < known.since + STRANGER_PERIOD || is_member(process));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn advert(addr: &str, instance: u64, version: u32) -> Advert {
        Advert {
            addr: addr.parse().unwrap(),
            instance,
            version,
            state: MemberState::Ready,
            port: 8080,
            admin_port: 0,
            weight: 100,
            since_ms: 7,
            changed_ms: 7,
            follows: Follows::Roles(vec!["app".parse().unwrap()]),
            labels: Labels::default(),
            routes: Routes::default(),
            check: None,
        }
    }

    #[test]
    fn the_newest_version_of_each_process_stays() {
        let mut adverts = Adverts::default();
        let mut apply = |instance, version| {
            adverts.apply(advert("10.0.0.1:7946", instance, version), (Evidence::Sync, None))
        };
        assert!(apply(5, 2));
        assert!(!apply(5, 2), "known");
        assert!(!apply(5, 1), "older version");
        assert!(apply(6, 0), "newer process");
        assert!(apply(4, 1), "a process whose clock was put back");
        let version = |instance| adverts.of("10.0.0.1:7946".parse().unwrap(), instance).unwrap().version;
        assert_eq!([version(4), version(5), version(6)], [1, 2, 0]);
    }

    #[test]
    fn a_stranger_is_forgotten_after_its_time_and_not_before() {
        let mut adverts = Adverts::default();
        for instance in [1, 2] {
            adverts.apply(advert("10.0.0.1:7946", instance, 1), (Evidence::Sync, None));
        }
        let is_member = |process: &(SocketAddr, u64)| process.1 == 2;
        adverts.set_now(STRANGER_PERIOD - Duration::from_millis(1));
        adverts.forget_strangers(is_member);
        assert_eq!(adverts.len(), 2);
        adverts.set_now(STRANGER_PERIOD);
        adverts.forget_strangers(is_member);
        assert_eq!(adverts.len(), 1);
    }

    #[test]
    fn adverts_are_kept_up_to_the_limit() {
        let mut adverts = Adverts::default();
        let mut apply = |n: usize, version| {
            adverts.apply(advert("10.0.0.1:7946", n as u64, version), (Evidence::Sync, None))
        };
        assert!((0..ADVERTS_MAX).all(|n| apply(n, 1)));
        assert!(!apply(ADVERTS_MAX, 1), "one more");
        assert!(apply(0, 2), "news of a known one");
    }
}
