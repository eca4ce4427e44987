//! Whom to ask next: the same node, until it does not answer; then one of those that its last state has told of. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use feed::{
    Name,
    frame::{Member, MemberState},
};

use super::{look::State, source::At};

/// How many others are asked before the pause. Each may take [`PATIENCE`](super::source::PATIENCE), and the first of them mostly answers.
const OTHERS_MAX: usize = 8;
/// How long nobody is asked after nobody has answered: at first,
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// and at most. Each pause is twice as long as the one before.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// How long a move is told of.
const NOTE_TIME: Duration = Duration::from_secs(10);

/// A node that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// None: it has not answered yet.
    name: Option<Name>,
    at: At,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Whom {
    /// What the user has named, perhaps through a tunnel: asked again with the others.
    named: At,
    asked: Place,
    /// Who is asked if the one that is asked does not answer, in this order.
    queue: VecDeque<Place>,
    /// The one that answered last, its cluster, and when it did not any more.
    told_by: Option<(Place, String)>,
    failing_since: Option<Instant>,
    failures: usize,
    pause: Duration,
    left: Option<(Name, Instant)>,
}

impl Whom {
    pub(super) fn new(named: At) -> Self {
        let asked = Place { name: None, at: named.clone() };
        Self {
            named,
            queue: VecDeque::from([asked.clone()]),
            asked,
            told_by: None,
            failing_since: None,
            failures: 0,
            pause: PAUSE_MIN,
            left: None,
        }
    }

    pub(super) fn at(&self) -> &At {
        &self.asked.at
    }

    /// Takes an answer. Err: it is another cluster's, since somebody else has the address by now.
    pub(super) fn handle_answer(&mut self, state: &State, now: Instant) -> Result<(), String> {
        let place = Place { name: Some(state.node.clone()), at: self.asked.at.clone() };
        if let Some((before, cluster)) = &self.told_by {
            if *cluster != state.cluster && place.at != self.named {
                return Err(format!("at {} is a node of another cluster, {}", place.at, state.cluster));
            }
            if before.name != place.name {
                self.left = before.name.clone().map(|name| (name, now));
            }
        }
        self.queue = others(state).chain([place.clone()]).collect();
        if place.at != self.named {
            self.queue.push_back(Place { name: None, at: self.named.clone() });
        }
        self.told_by = Some((place.clone(), state.cluster.clone()));
        self.asked = place;
        (self.failing_since, self.failures, self.pause) = (None, 0, PAUSE_MIN);
        Ok(())
    }

    /// Goes on to the next after no answer, which began to be waited for at this time. What is to be said, and how long to wait before.
    pub(super) fn handle_failure(&mut self, why: &str, begun: Instant, now: Instant) -> (String, Duration) {
        let since = *self.failing_since.get_or_insert(begun);
        self.failures += 1;
        if let Some(next) = self.queue.pop_front() {
            self.queue.push_back(next.clone());
            self.asked = next;
        }
        let mut pause = Duration::ZERO;
        if self.failures.is_multiple_of(self.queue.len()) {
            pause = self.pause;
            self.pause = (pause * 2).min(PAUSE_MAX);
        }
        let next = match &self.asked.name {
            _ if self.queue.len() == 1 => "trying again".to_owned(),
            Some(name) => format!("asking {name}"),
            None => format!("asking {}", self.asked.at),
        };
        (format!("{why}, for {} s; {next}", now.duration_since(since).as_secs()), pause)
    }

    /// What there is to say about a move, while it is new.
    pub(super) fn note(&self, state: &State, now: Instant) -> Option<String> {
        let (left, at) = self.left.as_ref()?;
        if now.duration_since(*at) >= NOTE_TIME {
            return None;
        }
        let is_there = |member: &&Member| member.name == *left && is_up(member);
        let how = match state.members.iter().find(is_there) {
            Some(_) => "does not answer",
            None => "is gone",
        };
        Some(format!("{left} {how}; asking {}", state.node))
    }
}

fn is_up(member: &Member) -> bool {
    !matches!(member.state, MemberState::Left | MemberState::Failed)
}

/// Whom else a state tells of: those that are ready first, and of each role one before the second of any.
fn others(state: &State) -> impl Iterator<Item = Place> {
    let mut counts: BTreeMap<(bool, &Name), usize> = BTreeMap::new();
    let mut ranked = Vec::new();
    for member in &state.members {
        if member.name != state.node && member.admin_port != 0 && is_up(member) {
            let is_later = member.state != MemberState::Ready;
            let nth = counts.entry((is_later, &member.role)).or_default();
            *nth += 1;
            ranked.push(((is_later, *nth), member));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let place = |(_, member): (_, &Member)| Place {
        name: Some(member.name.clone()),
        at: At::of(member.addr.ip(), member.admin_port),
    };
    ranked.into_iter().take(OTHERS_MAX).map(place).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn member(name: &str, role: &str, n: usize, state: &str) -> Value {
        json!({"name": name, "role": role, "addr": format!("10.0.0.{n}:7946"), "port": 8080,
            "admin_port": 9790, "state": state, "instance": n})
    }

    fn state(node: &str, members: &[Value]) -> State {
        serde_json::from_value(json!({"node": node, "cluster": "shop", "members": members})).unwrap()
    }

    fn members() -> Vec<Value> {
        vec![
            member("web1", "web", 1, "ready"),
            member("web2", "web", 2, "draining"),
            member("web3", "web", 3, "ready"),
            member("web4", "web", 4, "failed"),
            member("db1", "db", 5, "ready"),
            member("db2", "db", 6, "left"),
        ]
    }

    const NAMED: &str = "127.0.0.1:1234";

    fn whom() -> Whom {
        Whom::new(NAMED.parse().unwrap())
    }

    /// So many failures, each at once: who is asked after each, and the pause before.
    fn fail(whom: &mut Whom, times: usize, now: Instant) -> Vec<(String, u128)> {
        let mut fail = || {
            let (_, pause) = whom.handle_failure("no answer", now, now);
            (whom.at().to_string(), pause.as_millis())
        };
        (0..times).map(|_| fail()).collect()
    }

    #[test]
    fn a_node_that_does_not_answer_is_followed_by_those_it_told_of_and_then_asked_again_after_a_pause() {
        let (mut whom, now) = (whom(), Instant::now());
        whom.handle_answer(&state("web1", &members()), now).unwrap();
        assert_eq!(whom.at().to_string(), NAMED, "who answers is asked again");
        let expected = [
            ("10.0.0.3:9790", 0),
            ("10.0.0.5:9790", 0),
            // Who drains may be asked, and is asked last.
            ("10.0.0.2:9790", 0),
            (NAMED, 500),
            ("10.0.0.3:9790", 0),
        ];
        let expected = expected.map(|(at, pause)| (at.to_owned(), pause));
        assert_eq!(fail(&mut whom, 5, now), expected);
    }

    #[test]
    fn who_answers_instead_is_asked_from_then_on_and_that_is_said_for_a_while() {
        let (mut whom, now) = (whom(), Instant::now());
        let mut members = members();
        whom.handle_answer(&state("web1", &members), now).unwrap();
        assert_eq!(whom.note(&state("web1", &members), now), None);
        let (said, _) = whom.handle_failure("no answer from 127.0.0.1:1234", now, now + NOTE_TIME);
        assert_eq!(said, "no answer from 127.0.0.1:1234, for 10 s; asking web3");
        let seen = state("web3", &members);
        whom.handle_answer(&seen, now).unwrap();
        assert_eq!(whom.note(&seen, now).unwrap(), "web1 does not answer; asking web3");
        members[0]["state"] = json!("left");
        let seen = state("web3", &members);
        whom.handle_answer(&seen, now + NOTE_TIME / 2).unwrap();
        let almost = now + NOTE_TIME - Duration::from_millis(1);
        assert_eq!(whom.note(&seen, almost).unwrap(), "web1 is gone; asking web3");
        assert_eq!(whom.note(&seen, now + NOTE_TIME), None);
        // What the user has named is not forgotten.
        let asked: Vec<String> = fail(&mut whom, 4, now).into_iter().map(|(at, _)| at).collect();
        assert_eq!(asked, ["10.0.0.5:9790", "10.0.0.2:9790", "10.0.0.3:9790", NAMED]);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_an_answer_ends_that() {
        let (mut whom, now) = (whom(), Instant::now());
        let pauses = |whom: &mut Whom, times| fail(whom, times, now).into_iter().map(|(_, pause)| pause);
        assert_eq!(pauses(&mut whom, 5).collect::<Vec<_>>(), [500, 1000, 2000, 4000, 4000]);
        let (said, _) = whom.handle_failure("no answer", now, now);
        assert_eq!(said, "no answer, for 0 s; trying again");
        whom.handle_answer(&state("web1", &[]), now).unwrap();
        assert_eq!(pauses(&mut whom, 1).collect::<Vec<_>>(), [500]);
    }

    #[test]
    fn others_are_asked_up_to_a_limit_and_one_of_each_role_before_the_second() {
        for (count, asked) in [(OTHERS_MAX, OTHERS_MAX), (OTHERS_MAX + 1, OTHERS_MAX)] {
            let members: Vec<Value> =
                (1..=count).map(|n| member(&format!("web{n}"), "web", n, "ready")).collect();
            assert_eq!(others(&state("db1", &members)).count(), asked);
        }
        let mut members: Vec<Value> =
            (1..=20).map(|n| member(&format!("web{n}"), "web", n, "ready")).collect();
        members.push(member("db1", "db", 21, "ready"));
        members[0]["admin_port"] = json!(0);
        let names: Vec<Name> =
            others(&state("web2", &members)).filter_map(|place| place.name).take(3).collect();
        assert_eq!(names.iter().map(Name::as_str).collect::<Vec<_>>(), ["web3", "db1", "web4"]);
    }

    #[test]
    fn an_address_that_another_cluster_has_by_now_is_no_answer_unless_the_user_named_it() {
        let (mut whom, now) = (whom(), Instant::now());
        whom.handle_answer(&state("web1", &members()), now).unwrap();
        let mut foreign = state("web3", &members());
        foreign.cluster = "other".into();
        fail(&mut whom, 1, now);
        let why = whom.handle_answer(&foreign, now).unwrap_err();
        assert_eq!(why, "at 10.0.0.3:9790 is a node of another cluster, other");
        fail(&mut whom, 3, now);
        assert_eq!(whom.at().to_string(), NAMED);
        whom.handle_answer(&foreign, now).unwrap();
    }
}
