//! Drains and goodbyes.

use super::*;

#[test]
fn a_node_without_consumers_is_gone_at_once_and_counts_as_left_everywhere() {
    for seed in 1000..1050 {
        let mut sim = cluster(seed, 30);
        sim.input(5, Input::Leave);
        let took = sim.run_until(SECOND, |sim| all_see(sim, 29));
        assert!(took < Duration::from_millis(300), "{took:?}");
        sim.run(SECOND);
        assert!(sim.node(5).left);
        for n in (1..32).filter(|n| *n != 5) {
            let told = sim.node(n).changes.iter().filter(|m| m.name.as_str() == "app5" && is_gone(m));
            let told: Vec<_> = told.map(|m| m.state).collect();
            assert_eq!(told, [MemberState::Left], "at node {n}");
        }
    }
}

#[test]
fn a_node_that_left_does_not_come_back_and_is_not_talked_to() {
    let mut sim = cluster(11, 10);
    sim.input(5, Input::Leave);
    sim.run_until(SECOND, |sim| sim.node(5).left);
    sim.run(SECOND);
    let offered = sim.node(5).offered;
    sim.run(20 * SECOND);
    assert_eq!(sim.node(5).offered, offered);
    sim.run(40 * SECOND);
    assert!(all_see(&sim, 9));
}

#[test]
fn a_leave_on_a_network_that_loses_a_third_is_no_failure() {
    for seed in 1100..1120 {
        let mut sim = cluster(seed, 30);
        sim.loss = 0.33;
        sim.input(5, Input::Leave);
        let took = sim.run_until(5 * SECOND, |sim| all_see(sim, 29));
        assert!(took < 2 * SECOND, "{took:?}");
        sim.run(SECOND);
        for node in sim.nodes.values().filter(|node| node.at != 5) {
            let told = node.changes.iter().filter(|m| m.name.as_str() == "app5" && is_gone(m));
            let told: Vec<_> = told.map(|m| m.state).collect();
            assert_eq!(told, [MemberState::Left], "seed {seed}, node {}", node.at);
        }
    }
}

/// Which endpoint the node at this position is.
fn id(sim: &Sim, at: u16) -> EndpointId {
    let process = (addr(at).ip(), sim.node(at).instance);
    let endpoints = sim.node(1).tables["app"].endpoints().iter();
    endpoints.map(Endpoint::id).find(|id| (id.addr.ip(), id.instance) == process).unwrap()
}

/// A drain of node 2 that the front at node 10 holds up; the endpoint that drains.
fn held_up(seed: u64) -> (Sim, EndpointId) {
    let mut sim = cluster(seed, 2);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    let id = id(&sim, 2);
    sim.input(2, Input::Leave);
    sim.run(Duration::from_millis(500));
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 3)])));
    sim.run(Duration::from_millis(500));
    assert!(sim.node(2).drained.is_none());
    (sim, id)
}

#[test]
fn a_sidecar_that_restarts_during_a_drain_has_to_let_go_anew() {
    let (mut sim, id) = held_up(17);
    sim.kill(10);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    assert!(sim.node(2).drained.is_none(), "the restarted sidecar has said nothing");
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run(SECOND);
    let (_, held_up_by) = sim.node(2).drained.clone().unwrap();
    assert!(held_up_by.is_empty(), "{held_up_by:?}");
}

#[test]
fn a_consumer_that_restarts_during_a_drain_has_to_let_go_anew() {
    let (mut sim, id) = held_up(18);
    // It is gone from the feed for a moment, and with it what it had reported.
    sim.input(10, Input::InFlight(BTreeMap::new()));
    sim.run(SECOND);
    assert!(sim.node(2).drained.is_none());
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run(SECOND);
    let (_, held_up_by) = sim.node(2).drained.clone().unwrap();
    assert!(held_up_by.is_empty(), "{held_up_by:?}");
}

#[test]
fn the_drain_waits_for_the_zero_of_every_consumer() {
    let mut sim = cluster(12, 2);
    sim.start(10, "front1", "front");
    sim.start(11, "front2", "front");
    sim.follow(10, &["app"]);
    sim.follow(11, &["app"]);
    sim.run(SECOND);
    let id = id(&sim, 2);
    sim.input(2, Input::Leave);
    sim.run(SECOND);
    assert!(sim.node(2).drained.is_none(), "nobody let go yet");
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.input(11, Input::InFlight(BTreeMap::from([(id, 3)])));
    sim.run(SECOND);
    assert!(sim.node(2).drained.is_none(), "three are in flight");
    sim.input(11, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run(Duration::from_millis(100));
    let (after, held_up_by) = sim.node(2).drained.clone().unwrap();
    assert!(after >= 2 * SECOND && held_up_by.is_empty(), "{after:?} {held_up_by:?}");
}

#[test]
fn of_two_that_started_in_the_same_millisecond_each_waits_for_its_own_requests() {
    let mut sim = cluster(19, 2);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    let [busy, idle] = [id(&sim, 2), id(&sim, 3)];
    assert_eq!(busy.instance, idle.instance);
    for leaving in [2, 3] {
        sim.input(leaving, Input::Leave);
    }
    sim.run(Duration::from_millis(500));
    sim.input(10, Input::InFlight(BTreeMap::from([(busy, 3), (idle, 0)])));
    sim.run(SECOND);
    assert!(sim.node(2).drained.is_none() && sim.node(3).drained.is_some());
}

#[test]
fn a_consumer_that_never_lets_go_is_named_at_the_deadline() {
    let mut sim = cluster(13, 2);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    sim.input(2, Input::Leave);
    sim.run(7 * SECOND);
    let (after, held_up_by) = sim.node(2).drained.clone().unwrap();
    assert_eq!(after, 6 * SECOND);
    assert_eq!(held_up_by.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["front1"]);
}

#[test]
fn a_consumer_that_dies_does_not_hold_up_a_drain() {
    let mut sim = cluster(14, 2);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    sim.kill(10);
    sim.input(2, Input::Leave);
    sim.run_until(5 * SECOND, |sim| sim.node(2).left);
}

#[test]
fn reports_survive_a_lossy_network() {
    let mut sim = cluster(15, 2);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    let id = id(&sim, 2);
    sim.loss = 0.4;
    sim.input(2, Input::Leave);
    sim.run(Duration::from_millis(500));
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run_until(3 * SECOND, |sim| sim.node(2).drained.is_some());
}

#[test]
fn a_dead_role_process_takes_its_node_out_at_once() {
    let mut sim = cluster(16, 10);
    sim.input(5, Input::RoleDied);
    let took = sim.run_until(SECOND, |sim| all_see(sim, 9));
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert_eq!(last_state(&sim, 2, "app5"), Some(MemberState::Failed));
}

/// A drain without leaving of node 2, which the front at node 10 follows; the endpoint that drains.
fn drain_to_stay(seed: u64) -> (Sim, EndpointId) {
    let mut sim = cluster(seed, 2);
    sim.start(10, "front1", "front");
    sim.follow(10, &["app"]);
    sim.run(SECOND);
    let id = id(&sim, 2);
    sim.input(2, Input::Drain);
    sim.run(Duration::from_millis(500));
    assert!(sim.node(2).drained.is_none() && sim.node(2).membership.drain_held_up_by().is_some());
    (sim, id)
}

#[test]
fn a_node_that_drains_to_stay_stays_a_member_and_has_nothing_to_wait_for_when_it_leaves() {
    let (mut sim, id) = drain_to_stay(19);
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run_until(SECOND, |sim| sim.node(2).drained.is_some());
    assert_eq!(sim.node(2).membership.drain_held_up_by(), None);
    sim.run(60 * SECOND);
    assert!(!sim.node(2).left);
    assert_eq!(last_state(&sim, 1, "app2"), Some(MemberState::Draining));
    assert_eq!(sim.node(2).membership.own_health().state, MemberState::Draining);
    sim.input(2, Input::Drain);
    sim.input(2, Input::Serving(true));
    sim.run(SECOND);
    assert_eq!(last_state(&sim, 1, "app2"), Some(MemberState::Draining), "it does not come back");
    sim.input(2, Input::Leave);
    let took = sim.run_until(SECOND, |sim| sim.node(2).left);
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert_eq!(last_state(&sim, 1, "app2"), Some(MemberState::Left));
}

#[test]
fn a_node_that_drained_to_stay_takes_part_in_the_exchanges_of_states() {
    let (mut sim, id) = drain_to_stay(20);
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run_until(SECOND, |sim| sim.node(2).drained.is_some());
    // Gossip does not reach it, streams do.
    sim.deaf.insert(addr(2));
    sim.start(11, "app11", "app");
    sim.run_until(40 * SECOND, |sim| sim.node(2).ready("app").contains("app11"));
}

#[test]
fn a_drain_to_stay_that_timed_out_is_not_waited_for_twice_and_a_consumer_that_came_since_is() {
    let (mut sim, _) = drain_to_stay(21);
    sim.run(7 * SECOND);
    let (after, held_up_by) = sim.node(2).drained.clone().unwrap();
    assert_eq!((after, held_up_by.len()), (6 * SECOND, 1));
    sim.input(2, Input::Leave);
    assert!(sim.run_until(SECOND, |sim| sim.node(2).left) < Duration::from_millis(300));

    let (mut sim, id) = drain_to_stay(22);
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run_until(SECOND, |sim| sim.node(2).drained.is_some());
    sim.start(11, "front2", "front");
    sim.follow(11, &["app"]);
    sim.run(SECOND);
    sim.input(2, Input::Leave);
    sim.run(2 * SECOND);
    assert!(!sim.node(2).left, "the newcomer has not let go");
    sim.input(11, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run_until(SECOND, |sim| sim.node(2).left);
}

#[test]
fn who_is_asked_to_leave_during_a_drain_to_stay_leaves_at_its_end() {
    let (mut sim, id) = drain_to_stay(23);
    sim.input(2, Input::Leave);
    sim.run(SECOND);
    assert!(!sim.node(2).left);
    sim.input(10, Input::InFlight(BTreeMap::from([(id, 0)])));
    sim.run_until(SECOND, |sim| sim.node(2).left);
}
