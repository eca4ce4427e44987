//! Events by the thousand: whoever was told `sent` is heard once by every live member.

use std::collections::BTreeMap;

use feed::FromSidecar;

use super::*;

/// What was taken.
#[derive(Default)]
struct Sent(Vec<String>);

impl Sent {
    /// Sends so many from this node at one moment.
    fn burst(&mut self, sim: &mut Sim, at: u16, count: usize) {
        for n in 0..count {
            let payload = format!("{at} {n} {}", "x".repeat(400));
            let name = "burst".parse().unwrap();
            let question = ToSidecar::Event { name, payload: payload.clone() };
            sim.input(at, Input::Question { to: 1, question });
            match sim.node(at).replies.last() {
                Some(FromSidecar::Sent { .. }) => self.0.push(payload),
                Some(FromSidecar::Refused { why }) => assert!(why.contains("try again later"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until this node has heard everything, and nothing twice.
    fn is_heard_by(&self, node: &sim::Node) -> bool {
        let mut heard = BTreeMap::new();
        node.events.iter().for_each(|event| *heard.entry(event.payload.as_str()).or_insert(0) += 1);
        assert!(heard.values().all(|times| *times == 1), "{} heard something twice", node.name);
        self.0.iter().all(|payload| heard.contains_key(payload.as_str()))
    }

    #[track_caller]
    fn is_heard_by_all(&self, sim: &mut Sim, limit: Duration) {
        let start = sim.now;
        while !sim.nodes.values().all(|node| self.is_heard_by(node)) {
            let heard: Vec<_> = sim.nodes.values().map(|node| node.events.len()).collect();
            assert!(sim.now - start < limit, "{} sent, heard: {heard:?}", self.0.len());
            sim.run(Duration::from_millis(50));
        }
        println!("{} events were heard by all after {:?}", self.0.len(), sim.now - start);
        sim.run(20 * SECOND);
        assert!(sim.nodes.values().all(|node| node.events.len() == self.0.len() && self.is_heard_by(node)));
    }
}

#[test]
fn a_thousand_of_one_node_are_heard_by_all() {
    for seed in 210..213 {
        let (mut sim, mut sent) = (cluster(seed, 9), Sent::default());
        sim.run(SECOND);
        sent.burst(&mut sim, 3, 1000);
        assert_eq!(sent.0.len(), 1000);
        sent.is_heard_by_all(&mut sim, 5 * SECOND);
    }
}

#[test]
fn a_thousand_of_ten_nodes_are_heard_by_all_on_a_network_that_loses_a_third() {
    let (mut sim, mut sent) = (cluster(220, 9), Sent::default());
    sim.run(SECOND);
    (sim.loss, sim.duplication) = (0.33, 0.1);
    (1..=10).for_each(|at| sent.burst(&mut sim, at, 100));
    assert_eq!(sent.0.len(), 1000);
    sent.is_heard_by_all(&mut sim, 10 * SECOND);
}

#[test]
fn more_than_a_node_can_take_are_refused_and_taken_a_minute_later() {
    let (mut sim, mut sent) = (cluster(221, 4), Sent::default());
    sim.run(SECOND);
    sent.burst(&mut sim, 2, 1100);
    assert_eq!(sent.0.len(), 1024);
    sent.is_heard_by_all(&mut sim, 5 * SECOND);
    sim.run(60 * SECOND);
    let mut more = Sent::default();
    more.burst(&mut sim, 2, 10);
    assert_eq!(more.0.len(), 10);
}

#[test]
fn who_is_frozen_meanwhile_hears_all_of_them() {
    for (seed, frozen_for) in [(230, 2), (231, 10), (232, 30)] {
        let (mut sim, mut sent) = (cluster(seed, 9), Sent::default());
        sim.run(SECOND);
        sim.freeze(4, true);
        sent.burst(&mut sim, 3, 1000);
        sim.run(frozen_for * SECOND);
        sim.freeze(4, false);
        sent.is_heard_by_all(&mut sim, 30 * SECOND);
    }
}

#[test]
fn who_is_frozen_with_all_of_them_tells_them_when_it_thaws() {
    let (mut sim, mut sent) = (cluster(240, 9), Sent::default());
    sim.run(SECOND);
    sent.burst(&mut sim, 3, 1000);
    sim.freeze(3, true);
    sim.run(90 * SECOND);
    sim.freeze(3, false);
    sent.is_heard_by_all(&mut sim, 30 * SECOND);
}

#[test]
fn clocks_that_are_wrong_or_jump_keep_nobody_from_hearing() {
    let hour = 3600 * SECOND;
    let (mut sim, mut sent) = (cluster(250, 6), Sent::default());
    sim.start_behind(hour, 20, "behind", "app");
    sim.run(10 * SECOND);
    assert!(all_see(&sim, 7));
    sent.burst(&mut sim, 20, 500);
    sent.burst(&mut sim, 3, 400);
    sim.run(Duration::from_millis(20));
    (1..6).for_each(|at| sim.jump(at, 10 * SECOND));
    sent.burst(&mut sim, 4, 100);
    sent.is_heard_by_all(&mut sim, 20 * SECOND);
}
