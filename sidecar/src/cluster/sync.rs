//! The exchange of states between two sidecars, by stream: what gossip alone would take minutes to tell a newcomer.
//!
//! ```text
//! dialler ── what I have, as digests, and myself in full ──▶ other
//!         ◀── what you lack or have otherwise, and what I want ──
//!         ── what you want ──▶
//! ```
//!
//! A digest is eight bytes a member, so that two who know the same tell each other so in 80 KB even if they are ten thousand.
//! Digests are salted anew in each exchange: two states that have one digest by chance differ in the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use foca::Member;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{
        advert::Advert,
        event::{Events, HeardOf, ORIGINS_MAX, Told},
        member_id::MemberId,
    },
    wire::fnv::Fnv,
};

/// Longest message in bytes: 10,000 members with long names and adverts take about 4 MB.
pub(crate) const SYNC_BYTES_MAX: usize = 16 << 20;

/// What of one thing is compared: which it is, and how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Digest {
    #[serde(with = "postcard::fixint::le")]
    key: u32,
    #[serde(with = "postcard::fixint::le")]
    value: u32,
}

/// One message of an exchange.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The dialler's first.
    Summary(Summary),
    /// The answer to it.
    Answer(Answer),
    /// What was wanted.
    Rest(Records),
}

/// Everything that a node has, in short.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) salt: u64,
    /// Active members.
    pub(crate) known: Vec<Digest>,
    /// Members that are down: news only for whoever has them as active.
    pub(crate) down: Vec<Digest>,
    /// The events that were heard.
    pub(crate) heard: Vec<HeardOf>,
    /// The node itself.
    pub(crate) own: Records,
}

/// What came of the comparison.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) salt: u64,
    /// Whether the dialler knew the cluster when it wrote the summary: what is wanted is what it had then, and completes nothing if
    /// that was little.
    pub(crate) was_in_touch: bool,
    pub(crate) records: Records,
    /// The keys of what the answering side wants.
    pub(crate) wants: Vec<u32>,
    /// The events that it has heard: it wants those that it has not.
    pub(crate) heard: Vec<HeardOf>,
}

/// Members with their adverts, and events.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Records {
    /// Whether the sender knows the cluster itself: another newcomer's state completes nothing.
    pub(crate) in_touch: bool,
    pub(crate) members: Vec<Member<MemberId>>,
    pub(crate) adverts: Vec<Advert>,
    pub(crate) events: Vec<Told>,
}

/// Most members, adverts or events in one message: twice the largest cluster that anybody thought of. foca looks for each among
/// all, so a stranger's million would take it minutes.
const RECORDS_MAX: usize = 20_000;

impl Records {
    fn is_bounded(&self, max: usize) -> bool {
        [self.members.len(), self.adverts.len(), self.events.len()].iter().all(|count| *count <= max)
    }
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("the messages have no field that postcard cannot write")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Some(message).filter(Self::is_bounded),
            _ => None,
        }
    }

    fn is_bounded(&self) -> bool {
        match self {
            // The dialler itself, and nobody else.
            Self::Summary(summary) => summary.own.is_bounded(1) && summary.heard.len() <= ORIGINS_MAX,
            Self::Answer(answer) => {
                answer.records.is_bounded(RECORDS_MAX) && answer.heard.len() <= ORIGINS_MAX
            }
            Self::Rest(records) => records.is_bounded(RECORDS_MAX),
        }
    }
}

/// A thing that one side may have and the other not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item<'a> {
    Active(&'a Member<MemberId>, Option<&'a Advert>),
    Down(&'a Member<MemberId>, Option<&'a Advert>),
}

impl Item<'_> {
    fn digest(&self, salt: u64) -> Digest {
        match self {
            Self::Active(member, advert) => member_digest(salt, member, *advert),
            Self::Down(member, _) => member_digest(salt, member, None),
        }
    }
}

fn member_digest(salt: u64, member: &Member<MemberId>, advert: Option<&Advert>) -> Digest {
    let id = member.id();
    let identity = Fnv::new(salt).u64(id.instance).u64(id.renewal.into());
    let identity = identity.bytes(id.node.as_str().as_bytes()).bytes(b" ").bytes(id.role.as_str().as_bytes());
    let state = identity.bytes(&[member.state() as u8]).u64(member.incarnation().into());
    let value = advert.map_or(state, |advert| state.u64(advert.instance).u64(advert.version.into()));
    Digest { key: key(salt, id.addr), value: short(value) }
}

fn key(salt: u64, addr: SocketAddr) -> u32 {
    short(Fnv::new(salt).addr(addr))
}

fn short(hash: Fnv) -> u32 {
    (hash.finish() >> 32) as u32
}

impl Summary {
    /// What one side has, in short.
    pub(crate) fn of<'a>(
        items: impl Iterator<Item = Item<'a>>,
        events: &Events,
        salt: u64,
        own: Records,
    ) -> Self {
        let (mut known, mut down) = (Vec::new(), Vec::new());
        for item in items {
            let digests = if matches!(item, Item::Down(..)) { &mut down } else { &mut known };
            digests.push(item.digest(salt));
        }
        Self { salt, known, down, heard: events.heard(salt), own }
    }
}

impl Answer {
    /// Compares what this side has with the other's summary.
    pub(crate) fn to<'a>(
        summary: &Summary,
        items: impl Iterator<Item = Item<'a>>,
        events: &Events,
        in_touch: bool,
    ) -> Self {
        let salt = summary.salt;
        let mut theirs: BTreeMap<u32, u32> = summary.known.iter().map(|d| (d.key, d.value)).collect();
        let mut down: BTreeMap<u32, u32> = summary.down.iter().map(|d| (d.key, d.value)).collect();
        let unheard = events.unheard(salt, &summary.heard);
        let mut records = Records { in_touch, events: unheard, ..Records::default() };
        let mut wants = Vec::new();
        for item in items {
            let digest = item.digest(salt);
            let (known, dead) = (theirs.remove(&digest.key), down.remove(&digest.key));
            match item {
                Item::Active(..) if known == Some(digest.value) => continue,
                // Who has it as down and never heard of this state learns nothing by it, but this side does.
                Item::Active(..) => wants.extend(known.or(dead).map(|_| digest.key)),
                Item::Down(..) if known.is_none() => continue,
                Item::Down(..) => wants.push(digest.key),
            }
            records.push(item);
        }
        wants.extend(theirs.into_keys());
        let came: Vec<u32> = summary.own.members.iter().map(|member| key(salt, member.id().addr)).collect();
        wants.retain(|key| !came.contains(key));
        let heard = events.heard(salt);
        Self { salt, was_in_touch: summary.own.in_touch, records, wants, heard }
    }
}

impl Records {
    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.events.is_empty()
    }

    pub(crate) fn push(&mut self, item: Item<'_>) {
        match item {
            // The advert of one that is down says whether it left, which needs no second opinion.
            Item::Active(member, advert) | Item::Down(member, advert) => {
                self.members.push(member.clone());
                self.adverts.extend(advert.cloned());
            }
        }
    }

    /// What the other side wants of what this one has.
    pub(crate) fn wanted<'a>(
        answer: &Answer,
        items: impl Iterator<Item = Item<'a>>,
        events: &Events,
        in_touch: bool,
    ) -> Self {
        let wants: BTreeSet<u32> = answer.wants.iter().copied().collect();
        let unheard = events.unheard(answer.salt, &answer.heard);
        let mut records = Self { in_touch, events: unheard, ..Self::default() };
        items
            .filter(|item| wants.contains(&item.digest(answer.salt).key))
            .for_each(|item| records.push(item));
        records
    }
}

#[cfg(test)]
mod tests {
    use foca::State;
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{
        advert::tests::advert,
        event::{Event, tests::event},
    };

    /// What one side has.
    #[derive(Default)]
    struct Side {
        members: Vec<(Member<MemberId>, Option<Advert>)>,
        events: Events,
    }

    impl Side {
        fn with(mut self, n: u8, incarnation: u16, state: State, version: Option<u32>) -> Self {
            let addr = format!("10.0.0.{n}:7946");
            let id = MemberId { instance: 5, ..MemberId::unknown_at(addr.parse().unwrap()) };
            let advert = version.map(|version| advert(&addr, 5, version));
            self.members.push((Member::new(id, incarnation, state), advert));
            self
        }

        fn items(&self) -> impl Iterator<Item = Item<'_>> {
            self.members.iter().map(|(member, advert)| match member.state() {
                State::Down => Item::Down(member, advert.as_ref()),
                _ => Item::Active(member, advert.as_ref()),
            })
        }

        fn summary(&self) -> Summary {
            Summary::of(self.items(), &self.events, 9, Records::default())
        }
    }

    /// One who has heard these.
    fn heard(events: impl IntoIterator<Item = Event>) -> Side {
        let mut side = Side::default();
        events.into_iter().for_each(|event| assert!(side.events.apply(event)));
        side
    }

    fn first() -> Told {
        Told { event: event(1, 1), age_ms: 0 }
    }

    /// Whom the answer tells of, and whom the other side is to tell of.
    fn exchange(dialler: &Side, other: &Side) -> (Vec<u8>, Vec<u8>) {
        let last = |records: &Records| {
            let last = |m: &Member<MemberId>| match m.id().addr.ip() {
                std::net::IpAddr::V4(ip) => ip.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            };
            records.members.iter().map(last).collect::<Vec<_>>()
        };
        let answer = Answer::to(&dialler.summary(), other.items(), &other.events, true);
        let rest = Records::wanted(&answer, dialler.items(), &dialler.events, true);
        (last(&answer.records), last(&rest))
    }

    #[test]
    fn who_knows_the_same_says_nothing() {
        let side = || heard([event(1, 1)]).with(1, 0, State::Alive, Some(3));
        let answer = Answer::to(&side().summary(), side().items(), &side().events, true);
        assert_eq!(
            (answer.records.members.len(), answer.records.events.len(), answer.wants.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn each_side_gets_what_it_lacks_and_both_what_is_different() {
        let common = || Side::default().with(1, 0, State::Alive, Some(1));
        let dialler = common().with(2, 0, State::Alive, Some(1)).with(4, 1, State::Alive, Some(1));
        let other = common().with(3, 0, State::Alive, Some(1)).with(4, 0, State::Suspect, Some(1));
        assert_eq!(exchange(&dialler, &other), (vec![3, 4], vec![2, 4]));
        let newer = |version| Side::default().with(1, 0, State::Alive, version);
        assert_eq!(exchange(&newer(Some(1)), &newer(Some(2))), (vec![1], vec![1]));
        assert_eq!(exchange(&newer(None), &newer(Some(2))), (vec![1], vec![1]));
    }

    #[test]
    fn a_death_is_told_to_whom_it_is_news_and_to_nobody_else() {
        let [alive, dead] = [State::Alive, State::Down].map(|state| Side::default().with(1, 0, state, None));
        assert_eq!(exchange(&alive, &dead), (vec![1], vec![1]));
        assert_eq!(exchange(&dead, &alive), (vec![1], vec![1]));
        assert_eq!(exchange(&dead, &Side::default()), (vec![], vec![]));
        assert_eq!(exchange(&Side::default(), &dead), (vec![], vec![]));
        assert_eq!(exchange(&dead, &dead), (vec![], vec![]));
    }

    #[test]
    fn a_death_comes_with_the_last_advert_which_says_whether_it_was_a_leave() {
        let [alive, dead] =
            [State::Alive, State::Down].map(|state| Side::default().with(1, 0, state, Some(7)));
        let answer = Answer::to(&alive.summary(), dead.items(), &dead.events, true);
        assert_eq!(answer.records.adverts.iter().map(|advert| advert.version).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_missed_event_is_told() {
        let told = heard([event(1, 1)]);
        let answer = Answer::to(&Side::default().summary(), told.items(), &told.events, true);
        assert_eq!(answer.records.events, [first()]);
        let answer = Answer::to(&told.summary(), Side::default().items(), &Events::default(), true);
        assert_eq!(Records::wanted(&answer, told.items(), &told.events, true).events, [first()]);
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_and_not_with_surplus() {
        let side = heard([event(1, 1)]).with(1, 0, State::Alive, Some(1));
        let records = Records::wanted(
            &Answer { wants: vec![key(0, "10.0.0.1:7946".parse().unwrap())], ..Answer::default() },
            side.items(),
            &side.events,
            true,
        );
        let mut bytes = Message::Rest(records.clone()).encode();
        let Some(Message::Rest(parsed)) = Message::parse(&bytes) else { panic!("another message") };
        assert_eq!((parsed.members.len(), parsed), (1, records));
        bytes.push(0);
        assert!(Message::parse(&bytes).is_none());
    }

    #[test]
    fn a_message_has_records_up_to_the_limit_and_a_summary_only_of_its_sender() {
        let records = |count| Records { events: vec![first(); count], ..Records::default() };
        let summary = |count| Message::Summary(Summary { own: records(count), ..Summary::default() });
        let answer = |count| Message::Answer(Answer { records: records(count), ..Answer::default() });
        let is_taken = |message: Message| Message::parse(&message.encode()).is_some();
        assert!(is_taken(summary(1)) && !is_taken(summary(2)));
        assert!(is_taken(answer(RECORDS_MAX)) && !is_taken(answer(RECORDS_MAX + 1)));
        let of = heard([event(1, 1)]).events.heard(0)[0].clone();
        let heard = |count| {
            let (summary, answer) = (Summary::default(), Answer::default());
            let heard = vec![of.clone(); count];
            [
                Message::Summary(Summary { heard: heard.clone(), ..summary }),
                Message::Answer(Answer { heard, ..answer }),
            ]
        };
        assert!(heard(ORIGINS_MAX).into_iter().all(is_taken));
        assert!(!heard(ORIGINS_MAX + 1).into_iter().any(is_taken));
        assert!(is_taken(Message::Rest(records(RECORDS_MAX))));
        assert!(!is_taken(Message::Rest(records(RECORDS_MAX + 1))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes);
        }
    }
}
