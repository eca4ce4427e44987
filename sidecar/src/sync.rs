//! The whole state of one sidecar in one message, exchanged by stream: what gossip alone would take minutes to tell
//! a newcomer.

use foca::Member;
use serde::{Deserialize, Serialize};

use crate::{advert::Advert, event::Event, member_id::MemberId};

/// Longest state message in bytes: 10,000 members with long names and adverts take about 4 MB.
pub(crate) const SYNC_BYTES_MAX: usize = 16 << 20;

/// Members, down ones included, and adverts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Whether the sender knows the cluster itself: another newcomer's state completes nothing.
    pub(crate) in_touch: bool,
    pub(crate) members: Vec<Member<MemberId>>,
    pub(crate) adverts: Vec<Advert>,
    /// The newest events.
    pub(crate) events: Vec<Event>,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("the state has no field that postcard cannot write")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((state, [])) => Some(state),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{advert::tests::advert, event::tests::event};

    #[test]
    fn a_state_arrives_as_it_was_sent_and_not_with_surplus() {
        let id = MemberId::unknown_at("10.0.0.1:1".parse().unwrap());
        let state = State {
            in_touch: true,
            members: vec![Member::alive(id)],
            adverts: vec![advert("10.0.0.1:1", 1, 1)],
            events: vec![event(1, 1)],
        };
        let mut bytes = state.encode();
        let parsed = State::parse(&bytes).unwrap();
        assert_eq!(
            (parsed.members, parsed.adverts, parsed.events),
            (state.members, state.adverts, state.events)
        );
        bytes.push(0);
        assert!(State::parse(&bytes).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = State::parse(&bytes);
        }
    }
}
