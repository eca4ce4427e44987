//! Queries: questions that go straight to members, repeated until they answer, and the answers.
//!
//! Unlike an event, a query is not gossiped: the asker knows whom it asks, and so how many answers there can be.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use feed::{
    Name,
    event::{ANSWER_BYTES_MAX, Answer, Outcome, PAYLOAD_BYTES_MAX, Tally},
    frame::Wait,
};
use serde::{Deserialize, Serialize};

/// How often a query is repeated to members that have not answered. A lost datagram delays an answer by this much.
pub(crate) const REPEAT_PERIOD: Duration = Duration::from_millis(200);
/// Queries of others that are remembered, so that a repetition does not run anything twice.
const ANSWERING_MAX: usize = 256;
/// Own queries at a time. People and their scripts ask them.
pub(crate) const ASKING_MAX: usize = 64;
/// Wait for answers unless another is given, and the longest that can be given.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What a member is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Something that a built-in answer or a handler exists for.
    User {
        /// What.
        name: Name,
        /// And in more words.
        payload: String,
    },
    /// To answer once this wish has come true for the consumers beside it.
    Visible(Wait),
}

/// One query at the member that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueryId {
    /// Where the answer goes: the asker's gossip address.
    pub from: SocketAddr,
    /// The asker's number for it; random, so that answers cannot be made up by whoever does not see the query.
    pub number: u64,
}

/// The datagram that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Query {
    pub(crate) id: QueryId,
    pub(crate) asked: Asked,
}

/// The datagram that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) number: u64,
    /// Who answers.
    pub(crate) from: SocketAddr,
    pub(crate) outcome: Outcome,
}

impl Query {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("queries have no field that postcard cannot write")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let query: Self = parse_whole(bytes)?;
        let bounded = match &query.asked {
            Asked::User { payload, .. } => payload.len() <= PAYLOAD_BYTES_MAX,
            Asked::Visible(_) => true,
        };
        bounded.then_some(query)
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("replies have no field that postcard cannot write")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let reply: Self = parse_whole(bytes)?;
        let (Outcome::Payload(text) | Outcome::Error(text)) = &reply.outcome;
        (text.len() <= ANSWER_BYTES_MAX).then_some(reply)
    }
}

fn parse_whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// When a query with this wish is over.
pub(crate) fn timeout(wish_ms: Option<u64>) -> Duration {
    wish_ms.map_or(TIMEOUT_DEFAULT, Duration::from_millis).min(TIMEOUT_MAX)
}

/// A query of this node that is under way.
#[derive(Debug)]
struct Asking {
    /// The connection that waits for the answers.
    to: u64,
    asked: Asked,
    targets: BTreeMap<SocketAddr, Name>,
    heard: BTreeSet<SocketAddr>,
    answered: u32,
    since: Duration,
    /// None: it ends when everybody has answered, or the asker goes away.
    deadline: Option<Duration>,
    next_at: Duration,
}

impl Asking {
    fn is_complete(&self) -> bool {
        let all_heard = self.targets.keys().all(|target| self.heard.contains(target));
        // Nobody can confirm what has no consumer yet; a query without targets has all the answers there can be.
        all_heard && (self.deadline.is_some() || !self.targets.is_empty())
    }
}

/// What a connection is told about its query.
#[derive(Debug, PartialEq)]
pub(crate) enum News {
    /// An answer came.
    Answer(Answer),
    /// No more will come.
    Over(Tally),
    /// The wish has come true everywhere.
    Visible(Duration),
}

/// What is under way, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    asking: BTreeMap<u64, Asking>,
    /// Newest last; none: not answered yet.
    answering: VecDeque<(QueryId, Option<Outcome>)>,
}

impl Queries {
    /// Begins a query; false if there are too many.
    pub(crate) fn ask(
        &mut self,
        number: u64,
        to: u64,
        asked: Asked,
        targets: BTreeMap<SocketAddr, Name>,
        deadline: Option<Duration>,
        now: Duration,
    ) -> bool {
        let room = self.asking.len() < ASKING_MAX;
        if room {
            let (heard, answered, since, next_at) = (BTreeSet::new(), 0, now, now);
            let asking = Asking { to, asked, targets, heard, answered, since, deadline, next_at };
            self.asking.insert(number, asking);
        }
        room
    }

    /// The asker went away.
    pub(crate) fn withdraw(&mut self, to: u64) {
        self.asking.retain(|_, asking| asking.to != to);
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let of = |asking: &Asking| asking.deadline.map_or(asking.next_at, |end| end.min(asking.next_at));
        self.asking.values().map(of).min()
    }

    /// Takes a member's answer to a query of this node.
    pub(crate) fn handle_reply(&mut self, reply: Reply, now: Duration) -> Option<(u64, News)> {
        let asking = self.asking.get_mut(&reply.number)?;
        let node = asking.targets.get(&reply.from)?.clone();
        if !asking.heard.insert(reply.from) {
            return None;
        }
        asking.answered += u32::from(matches!(reply.outcome, Outcome::Payload(_)));
        let after_ms = u64::try_from((now - asking.since).as_millis()).unwrap_or(u64::MAX);
        let answer = Answer { node, after_ms, outcome: reply.outcome };
        // Who waits for consumers wants to know about all of them at once.
        matches!(asking.asked, Asked::User { .. }).then_some((asking.to, News::Answer(answer)))
    }

    /// Ends what is complete or late. `targets` says who has to confirm a wish as things are now.
    pub(crate) fn poll_over(
        &mut self,
        now: Duration,
        targets: impl Fn(&Wait) -> BTreeMap<SocketAddr, Name>,
    ) -> Option<(u64, News)> {
        for asking in self.asking.values_mut() {
            if let Asked::Visible(wish) = &asking.asked {
                asking.targets = targets(wish);
            }
        }
        let over = |asking: &Asking| asking.is_complete() || asking.deadline.is_some_and(|end| end <= now);
        let number = *self.asking.iter().find(|(_, asking)| over(asking))?.0;
        let asking = self.asking.remove(&number)?;
        let asked = u32::try_from(asking.targets.len()).unwrap_or(u32::MAX);
        let news = match asking.asked {
            Asked::User { .. } => News::Over(Tally { answered: asking.answered, asked }),
            Asked::Visible(_) => News::Visible(now - asking.since),
        };
        Some((asking.to, news))
    }

    /// Whom to ask what, when it is time to.
    pub(crate) fn poll_due(&mut self, now: Duration, own: SocketAddr) -> Vec<(SocketAddr, Query)> {
        let mut due = Vec::new();
        for (&number, asking) in self.asking.iter_mut().filter(|(_, asking)| asking.next_at <= now) {
            asking.next_at = now + REPEAT_PERIOD;
            let silent = asking.targets.keys().filter(|target| !asking.heard.contains(target));
            let query = Query { id: QueryId { from: own, number }, asked: asking.asked.clone() };
            due.extend(silent.map(|target| (*target, query.clone())));
        }
        due
    }

    /// Takes another's query: what is to be answered at once, and whether it is to be worked on.
    pub(crate) fn handle_query(&mut self, id: QueryId) -> (Option<Outcome>, bool) {
        if let Some((_, outcome)) = self.answering.iter().find(|(known, _)| *known == id) {
            return (outcome.clone(), false);
        }
        if self.answering.len() == ANSWERING_MAX {
            self.answering.pop_front();
        }
        self.answering.push_back((id, None));
        (None, true)
    }

    /// Takes what came of another's query; none: nothing, and a repetition is to be worked on anew.
    pub(crate) fn apply_outcome(&mut self, id: QueryId, outcome: Option<&Outcome>) {
        match outcome {
            None => self.answering.retain(|(known, _)| *known != id),
            Some(outcome) => {
                let known = self.answering.iter_mut().find(|(known, _)| *known == id);
                known.into_iter().for_each(|(_, slot)| *slot = Some(outcome.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use feed::Tags;
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7946))
    }

    fn user() -> Asked {
        Asked::User { name: "ping".parse().unwrap(), payload: String::new() }
    }

    fn reply(from: u8, outcome: Outcome) -> Reply {
        Reply { number: 7, from: addr(from), outcome }
    }

    /// A query by the connection 1 to these members.
    fn asking(members: &[u8], asked: Asked, deadline: Option<Duration>) -> Queries {
        let mut queries = Queries::default();
        assert!(queries.ask(7, 1, asked, targets(members), deadline, MS(0)));
        queries
    }

    fn targets(members: &[u8]) -> BTreeMap<SocketAddr, Name> {
        members.iter().map(|n| (addr(*n), format!("n{n}").parse().unwrap())).collect()
    }

    fn asked(queries: &mut Queries, now: Duration) -> Vec<SocketAddr> {
        queries.poll_due(now, addr(1)).into_iter().map(|(to, _)| to).collect()
    }

    #[test]
    fn the_silent_are_asked_again_and_each_counts_once() {
        let mut queries = asking(&[2, 3, 4], user(), Some(MS(500)));
        assert_eq!(asked(&mut queries, MS(0)), [addr(2), addr(3), addr(4)]);
        assert_eq!(asked(&mut queries, MS(1)), []);
        let ok = || Outcome::Payload("ok".into());
        assert!(
            matches!(queries.handle_reply(reply(2, ok()), MS(5)), Some((1, News::Answer(a))) if a.after_ms == 5)
        );
        assert_eq!(queries.handle_reply(reply(2, ok()), MS(6)), None, "again");
        assert_eq!(queries.handle_reply(reply(9, ok()), MS(6)), None, "was not asked");
        assert!(queries.handle_reply(reply(3, Outcome::Error("no".into())), MS(6)).is_some());
        assert_eq!(asked(&mut queries, MS(200)), [addr(4)]);
        assert_eq!(queries.poll_over(MS(499), |_| BTreeMap::new()), None);
        let tally = Tally { answered: 1, asked: 3 };
        assert_eq!(queries.poll_over(MS(500), |_| BTreeMap::new()), Some((1, News::Over(tally))));
        assert_eq!(queries.next_deadline(), None);
    }

    #[test]
    fn a_query_that_everybody_answered_is_over_at_once_and_so_is_one_to_nobody() {
        let mut queries = asking(&[2], user(), Some(MS(500)));
        queries.handle_reply(reply(2, Outcome::Payload("ok".into())), MS(5));
        assert!(queries.poll_over(MS(5), |_| BTreeMap::new()).is_some());
        assert!(asking(&[], user(), Some(MS(500))).poll_over(MS(0), |_| BTreeMap::new()).is_some());
    }

    #[test]
    fn a_wish_is_visible_when_those_who_are_there_now_have_confirmed_it() {
        let role = "app".parse().unwrap();
        let wish = Wait { role, min: 1, max: None, visible: true, everywhere: false, tags: Tags::default() };
        let mut queries = asking(&[], Asked::Visible(wish), None);
        assert_eq!(queries.poll_over(MS(10), |_| BTreeMap::new()), None, "nobody consumes it yet");
        assert_eq!(queries.poll_over(MS(10), |_| targets(&[2, 3])), None);
        assert_eq!(queries.handle_reply(reply(2, Outcome::Payload(String::new())), MS(20)), None);
        assert_eq!(queries.poll_over(MS(20), |_| targets(&[2, 3])), None);
        // The third died; the second has confirmed.
        assert_eq!(queries.poll_over(MS(30), |_| targets(&[2])), Some((1, News::Visible(MS(30)))));
    }

    #[test]
    fn a_withdrawn_query_is_forgotten() {
        let mut queries = asking(&[2], user(), None);
        queries.withdraw(2);
        assert!(queries.next_deadline().is_some());
        queries.withdraw(1);
        assert_eq!(queries.next_deadline(), None);
    }

    #[test]
    fn own_queries_are_taken_up_to_the_limit() {
        let mut queries = Queries::default();
        let mut ask = |number| queries.ask(number, 1, user(), targets(&[2]), None, MS(0));
        assert!((0..ASKING_MAX as u64).all(&mut ask));
        assert!(!ask(ASKING_MAX as u64));
    }

    #[test]
    fn a_repeated_query_is_worked_on_once_and_answered_again() {
        let mut queries = Queries::default();
        let id = |number| QueryId { from: addr(2), number };
        assert_eq!(queries.handle_query(id(1)), (None, true));
        assert_eq!(queries.handle_query(id(1)), (None, false), "under way");
        let ok = Outcome::Payload("ok".into());
        queries.apply_outcome(id(1), Some(&ok));
        assert_eq!(queries.handle_query(id(1)), (Some(ok), false));
        queries.apply_outcome(id(1), None);
        assert_eq!(queries.handle_query(id(1)), (None, true), "forgotten");
        (2..=ANSWERING_MAX as u64).for_each(|n| assert!(queries.handle_query(id(n)).1));
        assert!(!queries.handle_query(id(1)).1, "as many as are remembered");
        assert!(queries.handle_query(id(0)).1);
        assert!(queries.handle_query(id(1)).1, "one more pushed out the oldest");
    }

    #[test]
    fn payloads_and_answers_are_taken_up_to_their_limits() {
        let query = |n: usize| Query {
            id: QueryId { from: addr(1), number: 1 },
            asked: Asked::User { name: "x".parse().unwrap(), payload: "p".repeat(n) },
        };
        let parsed = |n| Query::parse(&query(n).encode());
        assert_eq!(parsed(PAYLOAD_BYTES_MAX), Some(query(PAYLOAD_BYTES_MAX)));
        assert_eq!(parsed(PAYLOAD_BYTES_MAX + 1), None);
        let parsed = |n: usize| Reply::parse(&reply(1, Outcome::Payload("p".repeat(n))).encode());
        assert!(parsed(ANSWER_BYTES_MAX).is_some() && parsed(ANSWER_BYTES_MAX + 1).is_none());
        assert_eq!(timeout(None), TIMEOUT_DEFAULT);
        assert_eq!(timeout(Some(60_000)), TIMEOUT_MAX);
        assert_eq!(timeout(Some(60_001)), TIMEOUT_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = (Query::parse(&bytes), Reply::parse(&bytes));
        }
    }
}
