//! What foca spreads beside the membership: adverts and events.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use feed::explain::Evidence;
use foca::{BroadcastHandler, Invalidates};
use serde::{Deserialize, Serialize};

use crate::cluster::{
    advert::{Advert, Adverts},
    event::{Event, Events},
    member_id::MemberId,
};

/// Longest encoded broadcast in bytes. foca keeps one that does not fit beside a packet's header for ever and never sends
/// it, so what is accepted must fit with room to spare: the two identities in the header take up to 340.
pub(crate) const BROADCAST_BYTES_MAX: usize = 928;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Broadcast {
    Advert(Advert),
    Event(Event),
}

/// Why a broadcast is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BroadcastError {
    /// Longer than [`BROADCAST_BYTES_MAX`].
    #[error("a broadcast of {0} bytes, over {BROADCAST_BYTES_MAX}")]
    TooLong(usize),
    /// Neither advert nor event.
    #[error("malformed broadcast")]
    Malformed,
}

impl Broadcast {
    /// The bytes that travel.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("broadcasts have no field that postcard cannot write")
    }

    /// Reads a broadcast from bytes of a stranger.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BroadcastError> {
        if bytes.len() > BROADCAST_BYTES_MAX {
            return Err(BroadcastError::TooLong(bytes.len()));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((broadcast, [])) => Ok(broadcast),
            _ => Err(BroadcastError::Malformed),
        }
    }
}

/// What foca hands incoming broadcasts to. It shares what it fills with the membership, because foca owns the handler and
/// lends it to nobody.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) adverts: Rc<RefCell<Adverts>>,
    pub(crate) events: Rc<RefCell<Events>>,
    /// The own address: nobody else's word about it counts.
    pub(crate) own_addr: SocketAddr,
}

/// Which broadcast replaces which.
#[derive(Debug)]
pub(crate) enum Key {
    Advert { process: (SocketAddr, u64), version: u32 },
    Event,
}

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Advert { process, version }, Self::Advert { process: other, version: older }) => {
                process == other && version >= older
            }
            _ => false,
        }
    }
}

impl BroadcastHandler<MemberId> for Handler {
    type Key = Key;
    type Error = BroadcastError;

    /// News is passed on, known things are not: foca would otherwise disseminate them for ever.
    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&MemberId>,
    ) -> Result<Option<Key>, BroadcastError> {
        match Broadcast::parse(data)? {
            Broadcast::Advert(advert) => {
                if sender.is_some() && advert.addr == self.own_addr {
                    return Ok(None);
                }
                let key = Key::Advert { process: (advert.addr, advert.instance), version: advert.version };
                let via = match sender {
                    None => (Evidence::Itself, None),
                    Some(sender) if sender.addr == advert.addr => (Evidence::Announcement, None),
                    Some(sender) => (Evidence::Gossip, Some(sender.addr)),
                };
                Ok(self.adverts.borrow_mut().apply(advert, via).then_some(key))
            }
            Broadcast::Event(event) => Ok(self.events.borrow_mut().apply(event).then_some(Key::Event)),
        }
    }
}

#[cfg(test)]
mod tests {
    use feed::{
        EndpointProtocol, Name, Routes, Tags,
        event::PAYLOAD_BYTES_MAX,
        route::{ROUTES_BYTES_MAX, ROUTES_MAX},
        tag::{TAGS_BYTES_MAX, TAGS_MAX},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{
        advert::{FOLLOWED_ROLES_MAX, Follows, tests::advert},
        event::{Origin, What, tests::event},
        labels::Labels,
    };

    fn handler(own_addr: &str) -> Handler {
        Handler { adverts: Rc::default(), events: Rc::default(), own_addr: own_addr.parse().unwrap() }
    }

    fn sender() -> MemberId {
        MemberId::unknown_at("10.0.0.2:7946".parse().unwrap())
    }

    #[test]
    fn known_broadcasts_are_not_passed_on_again() {
        let mut handler = handler("10.0.0.9:7946");
        for broadcast in [Broadcast::Advert(advert("10.0.0.1:7946", 5, 2)), Broadcast::Event(event(1, 1))] {
            let bytes = broadcast.encode();
            assert!(handler.receive_item(&bytes, Some(&sender())).unwrap().is_some());
            assert!(handler.receive_item(&bytes, Some(&sender())).unwrap().is_none());
        }
    }

    #[test]
    fn nobody_else_speaks_for_this_node() {
        let mut handler = handler("10.0.0.1:7946");
        let bytes = Broadcast::Advert(advert("10.0.0.1:7946", 5, 2)).encode();
        assert!(handler.receive_item(&bytes, Some(&sender())).unwrap().is_none());
        assert!(handler.receive_item(&bytes, None).unwrap().is_some());
    }

    #[test]
    fn newer_adverts_replace_older_ones_and_no_event_replaces_another() {
        let key = |version| Key::Advert { process: ("10.0.0.1:1".parse().unwrap(), 5), version };
        assert!(key(2).invalidates(&key(1)) && !key(1).invalidates(&key(2)));
        assert!(!Key::Event.invalidates(&Key::Event) && !key(2).invalidates(&Key::Event));
    }

    #[test]
    fn the_longest_advert_and_event_fit_and_a_longer_text_is_refused() {
        let longest: Name = "x".repeat(63).parse().unwrap();
        let addr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let mut advert = advert(addr, u64::MAX, u32::MAX);
        advert.follows = Follows::Roles(vec![longest.clone(); FOLLOWED_ROLES_MAX]);
        // Many short ones have the most lengths to write.
        let tags = (0..TAGS_MAX).map(|i| format!("k{i:02}={}", "v".repeat(11)).parse().unwrap());
        advert.labels = Labels::from(Tags::new(tags).unwrap());
        assert!(advert.labels.tags().to_string().len() > TAGS_BYTES_MAX - TAGS_MAX);
        let routes = (0..ROUTES_MAX)
            .map(|i| format!("/{i}{}", "r".repeat(ROUTES_BYTES_MAX / ROUTES_MAX - 3)).parse().unwrap());
        advert.routes = Routes::new(routes).unwrap();
        assert!(advert.routes.to_string().len() > ROUTES_BYTES_MAX - ROUTES_MAX);
        let event = Event {
            origin: Origin { addr: addr.parse().unwrap(), instance: u64::MAX },
            node: longest.clone(),
            sequence: u64::MAX,
            time: u64::MAX,
            sent_ms: u64::MAX,
            what: What::User { name: longest, payload: "p".repeat(PAYLOAD_BYTES_MAX) },
        };
        for broadcast in [Broadcast::Advert(advert), Broadcast::Event(event)] {
            let bytes = broadcast.encode();
            assert!(bytes.len() <= BROADCAST_BYTES_MAX, "{}", bytes.len());
            assert_eq!(Broadcast::parse(&bytes), Ok(broadcast));
        }
        assert_eq!(
            Broadcast::parse(&[0; BROADCAST_BYTES_MAX + 1]),
            Err(BroadcastError::TooLong(BROADCAST_BYTES_MAX + 1))
        );
    }

    /// What a node of before has read since adverts have routes: every byte of this stays as it is.
    #[test]
    fn adverts_are_the_bytes_that_nodes_of_before_know_with_a_claim_and_without() {
        let mut told = advert("10.0.0.1:7946", 5, 2);
        let tags = |text: &str| Tags::new([text.parse().unwrap()]).unwrap();
        told.labels = Labels::new(tags("a=b"), None).unwrap();
        let without = Broadcast::Advert(told.clone()).encode();
        let [front, tags_of_it, behind] = [
            &b"\0\0\x0a\0\0\x01\x8a\x3e\x05\x02\x04\x90\x3f\0\x64\x07\x07\x01\x01\x03app"[..],
            b"\x01\x01a\x01b",
            b"\0\0",
        ];
        assert_eq!(without, [front, tags_of_it, behind].concat());
        told.labels = Labels::new(tags("a=b"), Some(EndpointProtocol::H2c)).unwrap();
        let claim = b"\x02\x01a\x01b\x13concertina.protocol\x03h2c";
        let with = Broadcast::Advert(told.clone()).encode();
        assert_eq!(with, [front, claim, behind].concat());
        assert_eq!(Broadcast::parse(&with), Ok(Broadcast::Advert(told)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
            let _ = Broadcast::parse(&bytes);
        }
    }
}
