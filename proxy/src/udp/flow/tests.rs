//! Claims about tables of flows.

use proptest::prelude::*;

use super::*;

const IDLE_MS: u64 = 30_000;

fn key(number: u16) -> Key {
    Key { client: ([192, 0, 2, 1], number).into(), local: None }
}

fn with(numbers: std::ops::Range<u16>) -> Flows<u16> {
    let mut flows = Flows::new();
    for number in numbers {
        assert_eq!(flows.insert(key(number), number, usize::MAX, u64::from(number)), None);
    }
    flows
}

#[test]
fn at_its_limit_a_table_is_full_and_one_more_ends_the_one_that_was_silent_for_longest() {
    let mut flows = with(0..4);
    assert_eq!(flows.len(), 4);
    flows.apply_client(&key(0), 10);
    assert_eq!(flows.insert(key(4), 4, 4, 11), Some(Evicted::Living(1)));
    assert_eq!(flows.len(), 4);
    assert_eq!((flows.get(&key(1)), flows.get(&key(0)), flows.get(&key(4))), (None, Some(&0), Some(&4)));
}

#[test]
fn whoever_has_had_its_answer_goes_first_and_whoever_says_more_is_not_answered_any_more() {
    let mut flows = with(0..3);
    flows.apply_upstream(&key(2), 10);
    flows.apply_upstream(&key(1), 20);
    flows.apply_client(&key(1), 30);
    flows.apply_upstream(&key(1), 40);
    assert_eq!(flows.insert(key(3), 3, 3, 50), Some(Evicted::Answered(2)));
    assert_eq!(flows.insert(key(4), 4, 3, 50), Some(Evicted::Living(0)), "1 has said more and is newer");
}

#[test]
fn clients_are_told_apart_by_address_port_and_the_address_they_speak_to() {
    let client = "192.0.2.1:5".parse().unwrap();
    let local = |ip: &str| Key { client, local: Some(ip.parse().unwrap()) };
    let mut flows = Flows::new();
    for (number, key) in (0..).zip([local("10.0.0.1"), local("10.0.0.2"), key(5), key(6)]) {
        flows.insert(key, number, 9, 0);
    }
    assert_eq!(
        [local("10.0.0.1"), local("10.0.0.2"), key(5)].map(|key| *flows.get(&key).unwrap()),
        [0, 1, 2]
    );
}

#[test]
fn a_flow_ends_when_it_was_silent_for_as_long_as_it_may_be_and_not_before() {
    let mut flows = with(0..2);
    flows.apply_upstream(&key(0), 100);
    assert_eq!(flows.expire(IDLE_MS, IDLE_MS), None);
    assert_eq!(flows.expire(IDLE_MS, IDLE_MS + 1), Some(1));
    assert_eq!(flows.expire(IDLE_MS, IDLE_MS + 99), None);
    assert_eq!(flows.expire(IDLE_MS, IDLE_MS + 100), Some(0));
    assert_eq!((flows.expire(IDLE_MS, u64::MAX), flows.len()), (None, 0));
}

#[test]
fn a_drain_ends_what_has_had_its_answer_for_a_while_and_nothing_that_lives() {
    let mut flows = with(0..5);
    (0..3).for_each(|number| flows.apply_upstream(&key(number), 100));
    flows.apply_client(&key(2), 100);
    let is_leaving = |number: &u16| *number != 1;
    assert_eq!(flows.end_answered(99 + ANSWERED_QUIET_MS, is_leaving), 0);
    assert_eq!(flows.end_answered(100 + ANSWERED_QUIET_MS, is_leaving), 1);
    let left: Vec<_> = (0..5).filter(|number| flows.get(&key(*number)).is_some()).collect();
    assert_eq!(left, [1, 2, 3, 4], "1 is elsewhere, 2 has said more, 3 and 4 wait");
}

#[test]
fn a_draining_upstream_keeps_its_flows_and_a_lost_one_those_that_it_answers() {
    let fate = |is_released, is_lost, silent_ms| Standing { is_released, is_lost, silent_ms }.is_to_be_left();
    assert!(!fate(false, false, u64::MAX), "silence alone proves nothing");
    assert!(!fate(false, true, LOST_SILENCE_MS - 1));
    assert!(fate(false, true, LOST_SILENCE_MS));
    assert!(fate(true, false, 0), "its process ends");
}

#[test]
fn a_client_is_asking_until_it_is_answered_or_has_waited_long_enough() {
    let mut flows = with(0..2);
    assert!(flows.is_any_asking(ANSWER_PATIENCE_MS));
    flows.apply_upstream(&key(1), 1);
    assert!(flows.is_any_asking(ANSWER_PATIENCE_MS - 1) && !flows.is_any_asking(ANSWER_PATIENCE_MS));
    flows.apply_client(&key(1), 1000);
    assert!(flows.is_any_asking(1000));
    flows.clear();
    assert!(!flows.is_any_asking(1000) && flows.len() == 0);
}

/// What may happen to a table.
#[derive(Debug, Clone, Copy)]
enum Event {
    Client(u16),
    Upstream(u16),
    Remove(u16),
    Drain(u16),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let number = || 0..24_u16;
    prop_oneof![
        6 => number().prop_map(Event::Client),
        4 => number().prop_map(Event::Upstream),
        1 => number().prop_map(Event::Remove),
        1 => number().prop_map(Event::Drain),
        2 => (0..IDLE_MS / 2).prop_map(Event::Wait),
    ]
}

/// The same, the slow way: in the order of last use.
#[derive(Debug, Default)]
struct Naive(Vec<(u16, Stage, u64)>);

impl Naive {
    fn take(&mut self, number: u16) -> Option<(u16, Stage, u64)> {
        self.0.iter().position(|flow| flow.0 == number).map(|at| self.0.remove(at))
    }

    fn evict(&mut self) -> u16 {
        let answered = self.0.iter().position(|flow| flow.1 == Stage::Answered);
        self.0.remove(answered.unwrap_or(0)).0
    }
}

proptest! {
    #[test]
    fn a_table_does_what_a_naive_one_does(
        count_max in 1..16_usize,
        events in proptest::collection::vec(event(), 1..400),
    ) {
        let (mut flows, mut naive, mut now_ms) = (Flows::new(), Naive::default(), 0);
        for event in events {
            match event {
                Event::Client(number) => {
                    let evicted = if flows.get(&key(number)).is_some() {
                        flows.apply_client(&key(number), now_ms);
                        None
                    } else {
                        flows.insert(key(number), number, count_max, now_ms)
                    };
                    let evicted = evicted.map(|(Evicted::Answered(flow) | Evicted::Living(flow))| flow);
                    let stage = naive.take(number).map_or(Stage::Asked, |_| Stage::Open);
                    let expected = (naive.0.len() >= count_max).then(|| naive.evict());
                    naive.0.push((number, stage, now_ms));
                    prop_assert_eq!(evicted, expected);
                }
                Event::Upstream(number) => {
                    flows.apply_upstream(&key(number), now_ms);
                    if let Some((_, stage, _)) = naive.take(number) {
                        let stage = if stage == Stage::Asked { Stage::Answered } else { stage };
                        naive.0.push((number, stage, now_ms));
                    }
                }
                Event::Remove(number) => {
                    prop_assert_eq!(flows.remove(&key(number)), naive.take(number).map(|flow| flow.0));
                }
                Event::Drain(below) => {
                    flows.end_answered(now_ms, |number| *number < below);
                    naive.0.retain(|(number, stage, used_ms)| {
                        *number >= below || *stage != Stage::Answered || now_ms - used_ms < ANSWERED_QUIET_MS
                    });
                }
                Event::Wait(ms) => {
                    now_ms += ms;
                    while flows.expire(IDLE_MS, now_ms).is_some() {}
                    naive.0.retain(|(_, _, used_ms)| now_ms - used_ms < IDLE_MS);
                }
            }
            prop_assert!(flows.len() <= count_max && flows.len() == naive.0.len());
            let known = naive.0.iter().all(|(number, ..)| flows.get(&key(*number)) == Some(number));
            prop_assert!(known);
        }
    }
}
