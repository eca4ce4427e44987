//! Events: what every live member is to hear once.
//!
//! They travel as foca broadcasts, and the newest of them in the state sync, so that whoever missed all datagrams hears them
//! with the next exchange. What was heard is remembered by origin and sequence, in bounded memory.

use std::{collections::BTreeMap, net::SocketAddr};

use feed::{Name, event::PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::member_id::MemberId;

/// Newest events that the state sync carries: at most 90 kB beside the members.
pub(crate) const EVENTS_KEPT_MAX: usize = 128;

/// Sequence numbers of one origin that are remembered one by one; what is older counts as heard.
const WINDOW: u64 = 128;

/// Most origins remembered; the one that has been silent for longest is forgotten first. A forgotten origin's event could be
/// heard twice, if it were still under way after those of so many others.
pub(crate) const ORIGINS_MAX: usize = 4096;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    pub(crate) instance: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// Somebody says something.
    User { name: Name, payload: String },
    /// An operator wants exactly this identity forgotten as left.
    ForceLeave(MemberId),
}

/// An event on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) origin: Origin,
    /// The origin's name.
    pub(crate) node: Name,
    /// Counts the origin's events, from 1.
    pub(crate) sequence: u64,
    /// Lamport time.
    pub(crate) time: u64,
    /// By the origin's clock.
    pub(crate) sent_ms: u64,
    pub(crate) what: What,
}

impl Event {
    /// Whether it keeps to the limits; a stranger's may not.
    pub(crate) fn is_bounded(&self) -> bool {
        match &self.what {
            What::User { payload, .. } => payload.len() <= PAYLOAD_BYTES_MAX,
            What::ForceLeave(_) => true,
        }
    }
}

/// What was heard of one origin.
#[derive(Debug)]
struct Heard {
    highest: u64,
    /// Bit n: `highest - n` was heard.
    window: u128,
    /// When it last said something, in events heard here.
    at: u64,
}

impl Heard {
    /// Notes a sequence number; true if it is news.
    fn note(&mut self, sequence: u64) -> bool {
        if let Some(ahead) = sequence.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            let shifted = u32::try_from(ahead).ok().and_then(|ahead| self.window.checked_shl(ahead));
            self.window = shifted.unwrap_or(0) | 1;
            self.highest = sequence;
            return true;
        }
        let bit = match self.highest - sequence {
            behind @ 0..WINDOW => 1_u128 << behind,
            _ => return false,
        };
        let news = self.window & bit == 0;
        self.window |= bit;
        news
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
pub(crate) struct Events {
    heard: BTreeMap<Origin, Heard>,
    count: u64,
    /// The greatest Lamport time heard.
    clock: u64,
    sequence: u64,
    kept: BTreeMap<(u64, Origin, u64), Event>,
    /// Heard and not yet told.
    fresh: Vec<Event>,
}

impl Events {
    /// The next event of this node; not heard yet, not even here.
    pub(crate) fn next_own(&mut self, origin: Origin, node: Name, sent_ms: u64, what: What) -> Event {
        self.sequence += 1;
        Event { origin, node, sequence: self.sequence, time: self.clock.saturating_add(1), sent_ms, what }
    }

    /// Takes an event; true if it is news.
    pub(crate) fn apply(&mut self, event: Event) -> bool {
        self.note(&event) && {
            self.fresh.push(event);
            true
        }
    }

    /// The same for one out of another's memory: what was sent before this node started is not for it.
    pub(crate) fn apply_remembered(&mut self, event: Event, started_ms: u64) {
        if self.note(&event) && event.sent_ms >= started_ms {
            self.fresh.push(event);
        }
    }

    fn note(&mut self, event: &Event) -> bool {
        if !event.is_bounded() {
            return false;
        }
        self.count += 1;
        let heard = self.heard.entry(event.origin).or_insert(Heard { highest: 0, window: 1, at: 0 });
        heard.at = self.count;
        let news = heard.note(event.sequence);
        if self.heard.len() > ORIGINS_MAX {
            let silent = self.heard.iter().min_by_key(|(_, heard)| heard.at).map(|(origin, _)| *origin);
            silent.map(|origin| self.heard.remove(&origin));
        }
        if news {
            self.clock = self.clock.max(event.time);
            // The same ones everywhere, in whatever order they came: else exchanges of states would find differences for ever.
            self.kept.insert((event.time, event.origin, event.sequence), event.clone());
            if self.kept.len() > EVENTS_KEPT_MAX {
                self.kept.pop_first();
            }
        }
        news
    }

    /// The newest events, for whoever may have missed them.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Event> {
        self.kept.values()
    }

    /// What was heard since the last call, in Lamport order.
    pub(crate) fn take_fresh(&mut self) -> Vec<Event> {
        self.fresh.sort_by_key(|event| (event.time, event.origin));
        std::mem::take(&mut self.fresh)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn event(origin: u64, sequence: u64) -> Event {
        Event {
            origin: Origin { addr: "10.0.0.1:7946".parse().unwrap(), instance: origin },
            node: "n".parse().unwrap(),
            sequence,
            time: sequence,
            sent_ms: 1000,
            what: What::User { name: "deploy".parse().unwrap(), payload: "v2".into() },
        }
    }

    #[test]
    fn the_first_of_an_origin_is_news_and_zero_is_no_sequence() {
        let mut events = Events::default();
        assert!(events.apply(event(1, 1)) && !events.apply(event(1, 1)));
        assert!(events.apply(event(2, 1)), "another process");
        assert!(!events.apply(event(1, 0)));
    }

    #[test]
    fn sequences_are_remembered_up_to_the_window() {
        let mut events = Events::default();
        assert!(events.apply(event(1, 1000)));
        assert!(events.apply(event(1, 1000 - (WINDOW - 1))), "missed, and comes late");
        assert!(!events.apply(event(1, 1000 - WINDOW)), "nobody could tell whether that is a repetition");
        assert!(events.apply(event(1, u64::MAX)) && !events.apply(event(1, 1000)));
    }

    #[test]
    fn origins_are_remembered_up_to_the_limit() {
        let last = ORIGINS_MAX as u64;
        let mut events = Events::default();
        (1..=last).for_each(|origin| assert!(events.apply(event(origin, 1))));
        assert!(!events.apply(event(1, 1)), "still known, and the last to have spoken now");
        assert!(events.apply(event(last + 1, 1)));
        assert!(!events.apply(event(1, 1)));
        assert_eq!(events.heard.len(), ORIGINS_MAX);
        assert!(events.apply(event(2, 1)), "the one that was silent for longest is forgotten");
        assert_eq!(events.kept().count(), EVENTS_KEPT_MAX);
    }

    #[test]
    fn the_same_events_are_kept_in_whatever_order_they_came() {
        let (mut forth, mut back) = (Events::default(), Events::default());
        let count = EVENTS_KEPT_MAX as u64 + 3;
        assert!((1..=count).all(|n| forth.apply(event(n, n))));
        assert!((1..=count).rev().all(|n| back.apply(event(n, n))));
        let kept = |events: &Events| events.kept().cloned().collect::<Vec<_>>();
        assert_eq!(kept(&forth), kept(&back));
        assert_eq!(kept(&forth).len(), EVENTS_KEPT_MAX);
    }

    #[test]
    fn a_payload_at_the_limit_is_taken_and_a_longer_one_is_not() {
        let long = |n: usize| Event {
            what: What::User { name: "x".parse().unwrap(), payload: "p".repeat(n) },
            ..event(1, 1)
        };
        assert!(!Events::default().apply(long(PAYLOAD_BYTES_MAX + 1)));
        assert!(Events::default().apply(long(PAYLOAD_BYTES_MAX)));
    }

    #[test]
    fn what_was_sent_before_the_start_is_known_but_not_told() {
        let mut events = Events::default();
        events.apply_remembered(event(1, 1), 1001);
        events.apply_remembered(event(1, 2), 1000);
        assert_eq!(events.take_fresh(), [event(1, 2)]);
        assert!(!events.apply(event(1, 1)));
        let own = events.next_own(event(9, 1).origin, "n".parse().unwrap(), 0, event(9, 1).what);
        assert_eq!((own.sequence, own.time), (1, 3), "after everything heard");
    }

    proptest! {
        #[test]
        fn whatever_the_order_nothing_is_news_twice(order in prop::collection::vec(1..200_u64, 1..400)) {
            let mut events = Events::default();
            let mut told = std::collections::BTreeSet::new();
            for sequence in order {
                if events.apply(event(1, sequence)) {
                    prop_assert!(told.insert(sequence), "{sequence} twice");
                }
            }
        }
    }
}
