//! Events: what every live member is to hear once.
//!
//! They travel as foca broadcasts while there are few, and in the exchanges of states for a minute, so that whoever missed all datagrams
//! hears them all the same: each side says what it has heard, as a window of numbers for each origin, and the other tells the rest.
//! How old an event is goes with it, so that no clock decides who is to hear it: only what was sent before a node started is
//! not for it. A node takes no more events than can be kept and told apart for that minute.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use feed::{Name, event::PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::{
    cluster::member_id::MemberId,
    wire::{fnv::Fnv, window::Window},
};

/// How long events are kept for whoever has not heard them: several of the longest pauses between exchanges of states.
pub(crate) const KEEP_PERIOD: Duration = Duration::from_secs(60);

/// Most events that one node sends within that time: its window at the others is twice as wide, so that none of them counts as too
/// old while it is under way.
pub(crate) const OWN_MAX: usize = 1024;

/// Most events kept: at most six megabytes. From half of it on no node takes another, because others may be taking some at the
/// same moment; if there are more all the same, the oldest is dropped.
pub(crate) const KEPT_MAX: usize = 8192;

/// How often it is looked for events to forget.
const FORGET_PERIOD: Duration = Duration::from_secs(1);

/// What was heard of one origin, number by number.
type Numbers = Window<32>;

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

/// An event out of another's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) event: Event,
    /// How long ago it was sent, as far as those who passed it on have seen.
    pub(crate) age_ms: u64,
}

/// What one side has heard of one origin lately, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeardOf {
    #[serde(with = "postcard::fixint::le")]
    origin: u32,
    newest: u64,
    come: Vec<u64>,
}

#[derive(Debug)]
struct Heard {
    numbers: Numbers,
    /// When it last said something, in events heard here.
    at: u64,
    /// When it last said something new.
    news_at: Duration,
}

#[derive(Debug)]
struct Kept {
    event: Event,
    /// When it came here, and how old it was.
    since: Duration,
    age: Duration,
}

impl Kept {
    fn age(&self, now: Duration) -> Duration {
        self.age + now.saturating_sub(self.since)
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
    kept: BTreeMap<(Origin, u64), Kept>,
    /// When the own events that are kept were sent.
    own: VecDeque<Duration>,
    /// Heard and not yet told.
    fresh: Vec<Event>,
    /// The time, for what comes next.
    now: Duration,
    forget_at: Duration,
}

impl Events {
    /// What comes from now on comes at this time.
    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// The next event of this node, if it can take one; not heard yet, not even here.
    pub(crate) fn next_own(
        &mut self,
        origin: Origin,
        node: Name,
        sent_ms: u64,
        what: What,
    ) -> Result<Event, String> {
        let period_s = KEEP_PERIOD.as_secs();
        if self.own.len() >= OWN_MAX {
            return Err(format!("{OWN_MAX} events were sent from here within {period_s} s; try again later"));
        }
        if self.kept.len() >= KEPT_MAX / 2 {
            let taken = self.kept.len();
            return Err(format!(
                "{taken} events were sent in the cluster within {period_s} s; try again later"
            ));
        }
        self.sequence += 1;
        self.own.push_back(self.now);
        let time = self.clock.saturating_add(1);
        Ok(Event { origin, node, sequence: self.sequence, time, sent_ms, what })
    }

    /// Takes an event; true if it is news.
    pub(crate) fn apply(&mut self, event: Event) -> bool {
        self.note(&event, Duration::ZERO) && {
            self.fresh.push(event);
            true
        }
    }

    /// The same for one out of another's memory: what was sent before this node started is known from now on, and not for it.
    pub(crate) fn apply_told(&mut self, told: Told) -> bool {
        let age = Duration::from_millis(told.age_ms);
        let is_news = self.note(&told.event, age);
        if is_news && age <= self.now {
            self.fresh.push(told.event);
        }
        is_news
    }

    fn note(&mut self, event: &Event, age: Duration) -> bool {
        if !event.is_bounded() {
            return false;
        }
        self.count += 1;
        let now = self.now;
        let new = || Heard { numbers: Numbers::starting_with(0), at: 0, news_at: now };
        let heard = self.heard.entry(event.origin).or_insert_with(new);
        heard.at = self.count;
        let is_news = heard.numbers.take(event.sequence);
        if is_news {
            heard.news_at = now;
            self.clock = self.clock.max(event.time);
            self.keep(event.clone(), age);
        }
        if self.heard.len() > ORIGINS_MAX {
            let silent = self.heard.iter().min_by_key(|(_, heard)| heard.at).map(|(origin, _)| *origin);
            silent.map(|origin| self.heard.remove(&origin));
        }
        is_news
    }

    fn keep(&mut self, event: Event, age: Duration) {
        let now = self.now;
        if age < KEEP_PERIOD {
            let kept = Kept { since: now, age, event };
            self.kept.insert((kept.event.origin, kept.event.sequence), kept);
        }
        if self.kept.len() > KEPT_MAX {
            let oldest = self.kept.iter().max_by_key(|(_, kept)| kept.age(now)).map(|(key, _)| *key);
            oldest.map(|key| self.kept.remove(&key));
        }
    }

    /// Time in which this node did not run: nobody could ask it for what it keeps.
    pub(crate) fn put_off(&mut self, by: Duration) {
        self.kept.values_mut().for_each(|kept| kept.since += by);
        self.own.iter_mut().for_each(|sent| *sent += by);
    }

    /// Forgets what everybody has heard by now.
    pub(crate) fn forget(&mut self) {
        let now = self.now;
        if now >= self.forget_at {
            self.forget_at = now + FORGET_PERIOD;
            self.kept.retain(|_, kept| kept.age(now) < KEEP_PERIOD);
            while self.own.front().is_some_and(|sent| now.saturating_sub(*sent) >= KEEP_PERIOD) {
                self.own.pop_front();
            }
        }
    }

    /// What was heard here, of the origins that have said something lately. Twice as long as anything is kept: who forgot a little earlier
    /// is not told again.
    pub(crate) fn heard(&self, salt: u64) -> Vec<HeardOf> {
        let is_late = |heard: &&Heard| self.now.saturating_sub(heard.news_at) < 2 * KEEP_PERIOD;
        let of = |(origin, heard): (&Origin, &Heard)| HeardOf {
            origin: short(salt, *origin),
            newest: heard.numbers.newest(),
            come: heard.numbers.words().to_vec(),
        };
        self.heard.iter().filter(|(_, heard)| is_late(heard)).map(of).collect()
    }

    /// What is kept here and the other side has not heard.
    pub(crate) fn unheard(&self, salt: u64, heard: &[HeardOf]) -> Vec<Told> {
        let windows: BTreeMap<u32, Option<Numbers>> =
            heard.iter().map(|of| (of.origin, Numbers::from_words(of.newest, &of.come))).collect();
        let is_unheard = |kept: &&Kept| {
            let window = windows.get(&short(salt, kept.event.origin)).and_then(Option::as_ref);
            window.is_none_or(|window| !window.has(kept.event.sequence))
        };
        let told = |kept: &Kept| {
            let age_ms = u64::try_from(kept.age(self.now).as_millis()).unwrap_or(u64::MAX);
            Told { event: kept.event.clone(), age_ms }
        };
        self.kept.values().filter(is_unheard).map(told).collect()
    }

    /// What was heard since the last call, in Lamport order.
    pub(crate) fn take_fresh(&mut self) -> Vec<Event> {
        self.fresh.sort_by_key(|event| (event.time, event.origin));
        std::mem::take(&mut self.fresh)
    }
}

fn short(salt: u64, origin: Origin) -> u32 {
    (Fnv::new(salt).addr(origin.addr).u64(origin.instance).finish() >> 32) as u32
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: u64 = 7;

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

    fn own(events: &mut Events) -> Result<Event, String> {
        let Event { origin, node, sent_ms, what, .. } = event(9, 1);
        events.next_own(origin, node, sent_ms, what)
    }

    /// Tells one side what the other keeps and it has not heard; how many.
    fn tell(from: &Events, to: &mut Events) -> usize {
        let told = from.unheard(SALT, &to.heard(SALT));
        let count = told.len();
        told.into_iter().for_each(|told| assert!(to.apply_told(told), "it had not been heard"));
        count
    }

    #[test]
    fn the_first_of_an_origin_is_news_and_zero_is_no_sequence() {
        let mut events = Events::default();
        assert!(events.apply(event(1, 1)) && !events.apply(event(1, 1)));
        assert!(events.apply(event(2, 1)), "another process");
        assert!(!events.apply(event(1, 0)));
    }

    #[test]
    fn all_that_one_node_may_send_at_a_time_is_told_apart_in_whatever_order_it_comes() {
        assert!(Numbers::WIDTH >= 2 * OWN_MAX as u64);
        let mut events = Events::default();
        assert!((1..=OWN_MAX as u64).rev().all(|sequence| events.apply(event(1, sequence))));
        assert_eq!(events.take_fresh().len(), OWN_MAX);
    }

    #[test]
    fn own_events_are_taken_up_to_the_limit_and_again_when_they_are_old() {
        let mut events = Events::default();
        for _ in 0..OWN_MAX {
            let event = own(&mut events).unwrap();
            events.apply(event);
        }
        assert!(own(&mut events).unwrap_err().contains("1024 events were sent from here within 60 s"));
        events.set_now(KEEP_PERIOD - Duration::from_millis(1));
        events.forget();
        assert!(own(&mut events).is_err());
        events.set_now(KEEP_PERIOD + FORGET_PERIOD);
        events.forget();
        assert!(own(&mut events).is_ok() && events.kept.is_empty());
    }

    #[test]
    fn no_event_is_taken_while_the_cluster_has_sent_half_of_what_is_kept() {
        let mut events = Events::default();
        let half = KEPT_MAX as u64 / 2;
        (1..half).for_each(|origin| assert!(events.apply(event(origin, 1))));
        assert!(own(&mut events).is_ok());
        events.apply(event(half, 1));
        assert!(own(&mut events).unwrap_err().starts_with("4096 events were sent in the cluster"));
    }

    #[test]
    fn events_are_kept_up_to_the_limit_and_the_oldest_gives_way() {
        let mut events = Events::default();
        for n in 0..=KEPT_MAX as u64 {
            events.set_now(Duration::from_millis(n / 1000));
            events.apply(event(1 + n / 1000, 1 + n % 1000));
        }
        assert_eq!(events.kept.len(), KEPT_MAX);
        assert_eq!(events.kept.keys().filter(|(origin, _)| origin.instance == 1).count(), 999);
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
    fn each_side_is_told_what_it_has_not_heard_and_nothing_twice() {
        let (mut a, mut b) = (Events::default(), Events::default());
        (1..=500).for_each(|sequence| assert!(a.apply(event(1, sequence))));
        (400..=600).for_each(|sequence| assert!(b.apply(event(1, sequence))));
        b.apply(event(2, 1));
        assert_eq!((tell(&a, &mut b), tell(&b, &mut a)), (399, 101));
        assert_eq!((tell(&a, &mut b), tell(&b, &mut a)), (0, 0));
        // Who forgets a little earlier is not told again.
        a.set_now(KEEP_PERIOD);
        a.forget();
        assert!(a.kept.is_empty() && tell(&b, &mut a) == 0);
    }

    #[test]
    fn what_was_sent_before_the_start_is_known_but_not_told_whatever_the_clocks_say() {
        let (mut old, mut young) = (Events::default(), Events::default());
        old.set_now(Duration::from_secs(100));
        old.apply(Event { sent_ms: u64::MAX, ..event(1, 1) });
        old.set_now(Duration::from_secs(110));
        old.apply(Event { sent_ms: 0, ..event(1, 2) });
        old.set_now(Duration::from_secs(115));
        young.set_now(Duration::from_secs(5));
        assert_eq!(tell(&old, &mut young), 2);
        assert_eq!(young.take_fresh().iter().map(|event| event.sequence).collect::<Vec<_>>(), [2]);
        assert!(!young.apply(event(1, 1)));
        assert_eq!(own(&mut young).unwrap().time, 3, "after everything heard");
        // It is as old to the next one.
        let mut next = Events::default();
        next.set_now(Duration::from_secs(14));
        assert_eq!((tell(&young, &mut next), next.take_fresh().len()), (2, 1));
    }

    #[test]
    fn a_node_that_stood_still_keeps_its_events_for_as_long_as_any_other() {
        let mut events = Events::default();
        events.apply(event(1, 1));
        events.set_now(2 * KEEP_PERIOD);
        events.put_off(2 * KEEP_PERIOD);
        events.forget();
        assert_eq!(tell(&events, &mut Events::default()), 1);
    }

    proptest! {
        #[test]
        fn whatever_the_order_nothing_is_news_twice(order in prop::collection::vec(1..200_u64, 1..400)) {
            let mut events = Events::default();
            let mut told = std::collections::BTreeSet::new();
            for sequence in order {
                prop_assert_eq!(events.apply(event(1, sequence)), told.insert(sequence));
            }
        }
    }
}
