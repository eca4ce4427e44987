//! Adverts: what a member says of itself that may change while it lives.
//!
//! They travel as foca broadcasts for speed and in the state sync for certainty. A member is the only author of its own
//! advert; the newest version replaces the others.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc};

use feed::{Name, Tags, frame::MemberState};
use foca::{BroadcastHandler, Invalidates};
use serde::{Deserialize, Serialize};

use crate::member_id::MemberId;

/// Longest encoded advert in bytes. foca keeps a broadcast that does not fit beside a packet's header for ever and
/// never sends it, so what is accepted must fit with room to spare: the two identities in the header take up to 340.
pub const ADVERT_BYTES_MAX: usize = 768;

/// Most roles that one node follows: with names of usual length they fit in [`ADVERT_BYTES_MAX`].
pub const FOLLOWED_ROLES_MAX: usize = 6;

/// Most adverts kept. A stranger with the cluster's key could otherwise invent members without end.
pub const ADVERTS_MAX: usize = 50_000;

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
    /// Its share of the work.
    pub weight: u16,
    /// When it became ready, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Whose drains wait for it.
    pub follows: Follows,
    /// What its operator says of it.
    pub tags: Tags,
}

/// Why a broadcast is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// Longer than [`ADVERT_BYTES_MAX`].
    #[error("an advert of {0} bytes, over {ADVERT_BYTES_MAX}")]
    TooLong(usize),
    /// Not an advert.
    #[error("malformed advert")]
    Malformed,
}

impl Advert {
    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("adverts have no field that postcard cannot write")
    }

    /// Reads an advert from bytes of a stranger.
    ///
    /// # Errors
    /// Too long, or not an advert.
    pub fn parse(bytes: &[u8]) -> Result<Self, AdvertError> {
        if bytes.len() > ADVERT_BYTES_MAX {
            return Err(AdvertError::TooLong(bytes.len()));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((advert, [])) => Ok(advert),
            _ => Err(AdvertError::Malformed),
        }
    }

    fn rank(&self) -> (u64, u32) {
        (self.instance, self.version)
    }
}

/// The newest advert of every member.
#[derive(Debug, Default)]
pub struct Adverts {
    by_addr: BTreeMap<SocketAddr, Advert>,
    changed: bool,
}

impl Adverts {
    /// Takes an advert if it is news.
    pub fn apply(&mut self, advert: Advert) -> bool {
        let known = self.by_addr.get(&advert.addr);
        let news = known.is_none_or(|known| advert.rank() > known.rank());
        let room = known.is_some() || self.by_addr.len() < ADVERTS_MAX;
        if news && room {
            self.by_addr.insert(advert.addr, advert);
            self.changed = true;
        }
        news && room
    }

    /// The newest advert of the process that started at `instance` and gossips at `addr`.
    pub fn of(&self, addr: SocketAddr, instance: u64) -> Option<&Advert> {
        self.by_addr.get(&addr).filter(|advert| advert.instance == instance)
    }

    /// Whether anything changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.by_addr.is_empty()
    }

    /// Forgets whoever is not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&SocketAddr) -> bool) {
        self.by_addr.retain(|addr, _| keep(addr));
    }
}

/// What foca hands incoming broadcasts to.
#[derive(Debug)]
pub struct AdvertHandler {
    /// Shared with the membership, because foca owns the handler and lends it to nobody.
    pub adverts: Rc<RefCell<Adverts>>,
    /// The own address: nobody else's word about it counts.
    pub own_addr: SocketAddr,
}

/// Which broadcast replaces which.
#[derive(Debug)]
pub struct AdvertKey {
    addr: SocketAddr,
    rank: (u64, u32),
}

impl Invalidates for AdvertKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.addr == other.addr && self.rank >= other.rank
    }
}

impl BroadcastHandler<MemberId> for AdvertHandler {
    type Key = AdvertKey;
    type Error = AdvertError;

    /// News is passed on, known things are not: foca would otherwise disseminate them for ever.
    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&MemberId>,
    ) -> Result<Option<AdvertKey>, AdvertError> {
        let advert = Advert::parse(data)?;
        let from_elsewhere = sender.is_some();
        if from_elsewhere && advert.addr == self.own_addr {
            return Ok(None);
        }
        let key = AdvertKey { addr: advert.addr, rank: advert.rank() };
        Ok(self.adverts.borrow_mut().apply(advert).then_some(key))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use feed::tag::{TAGS_BYTES_MAX, TAGS_MAX};
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn advert(addr: &str, instance: u64, version: u32) -> Advert {
        Advert {
            addr: addr.parse().unwrap(),
            instance,
            version,
            state: MemberState::Ready,
            port: 8080,
            weight: 100,
            since_ms: 7,
            follows: Follows::Roles(vec!["app".parse().unwrap()]),
            tags: Tags::default(),
        }
    }

    #[test]
    fn the_newest_start_and_then_the_newest_version_stays() {
        let mut adverts = Adverts::default();
        assert!(adverts.apply(advert("10.0.0.1:7946", 5, 2)));
        assert!(!adverts.apply(advert("10.0.0.1:7946", 5, 2)), "known");
        assert!(!adverts.apply(advert("10.0.0.1:7946", 5, 1)), "older version");
        assert!(!adverts.apply(advert("10.0.0.1:7946", 4, 9)), "older process");
        assert!(adverts.apply(advert("10.0.0.1:7946", 6, 0)), "newer process");
    }

    #[test]
    fn known_adverts_are_not_passed_on_again() {
        let adverts = Rc::new(RefCell::new(Adverts::default()));
        let mut handler = AdvertHandler { adverts, own_addr: "10.0.0.9:7946".parse().unwrap() };
        let sender = MemberId::unknown_at("10.0.0.2:7946".parse().unwrap());
        let bytes = advert("10.0.0.1:7946", 5, 2).encode();
        assert!(handler.receive_item(&bytes, Some(&sender)).unwrap().is_some());
        assert!(handler.receive_item(&bytes, Some(&sender)).unwrap().is_none());
    }

    #[test]
    fn nobody_else_speaks_for_this_node() {
        let adverts = Rc::new(RefCell::new(Adverts::default()));
        let mut handler = AdvertHandler { adverts, own_addr: "10.0.0.1:7946".parse().unwrap() };
        let sender = MemberId::unknown_at("10.0.0.2:7946".parse().unwrap());
        let bytes = advert("10.0.0.1:7946", 5, 2).encode();
        assert!(handler.receive_item(&bytes, Some(&sender)).unwrap().is_none());
        assert!(handler.receive_item(&bytes, None).unwrap().is_some());
    }

    #[test]
    fn an_advert_of_the_longest_names_and_tags_fits_and_a_longer_text_is_refused() {
        let longest: Name = "x".repeat(63).parse().unwrap();
        let mut big = advert("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", u64::MAX, u32::MAX);
        big.follows = Follows::Roles(vec![longest; FOLLOWED_ROLES_MAX]);
        // Many short ones have the most lengths to write.
        let tags = (0..TAGS_MAX).map(|i| format!("k{i:02}={}", "v".repeat(11)).parse().unwrap());
        big.tags = Tags::new(tags).unwrap();
        assert!(big.tags.to_string().len() > TAGS_BYTES_MAX - TAGS_MAX);
        let bytes = big.encode();
        assert!(bytes.len() <= ADVERT_BYTES_MAX, "{}", bytes.len());
        assert_eq!(Advert::parse(&bytes), Ok(big));
        assert_eq!(
            Advert::parse(&[0; ADVERT_BYTES_MAX + 1]),
            Err(AdvertError::TooLong(ADVERT_BYTES_MAX + 1))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Advert::parse(&bytes);
        }
    }
}
