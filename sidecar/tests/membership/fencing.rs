//! Names, addresses and clocks that are used again.

use super::*;

#[test]
fn a_quick_restart_replaces_the_instance() {
    let mut sim = cluster(30, 4);
    let before = sim.node(1).tables["app"].endpoints()[0].instance;
    sim.kill(2);
    sim.run(Duration::from_millis(50));
    sim.start(2, "app2", "app");
    sim.run_until(2 * SECOND, |sim| {
        all_see(sim, 4) && sim.nodes.values().all(|n| n.tables["app"].endpoints()[0].instance != before)
    });
}

#[test]
fn the_late_word_of_a_death_is_not_about_the_next_process() {
    let mut sim = cluster(33, 4);
    let before = Peer { addr: addr(2), instance: sim.node(2).instance };
    sim.kill(2);
    sim.run(Duration::from_millis(50));
    sim.start(2, "app2", "app");
    sim.run_until(2 * SECOND, |sim| {
        let is_listed = |node: &sim::Node| {
            node.tables["app"].ready().any(|e| e.node.as_str() == "app2" && e.instance != before.instance)
        };
        sim.nodes.values().all(is_listed)
    });
    let told = sim.node(4).changes.len();
    sim.input(3, Input::Dead(before));
    sim.run(5 * SECOND);
    assert!(all_see(&sim, 4));
    assert_eq!(sim.node(4).changes[told..], []);
}

#[test]
fn of_two_living_twins_the_later_has_the_name_until_it_leaves() {
    let mut sim = cluster(34, 4);
    let address = |node: &sim::Node| {
        let twins = node.tables["app"].ready().filter(|e| e.node.as_str() == "app2");
        twins.map(|e| e.addr.ip()).collect::<Vec<_>>()
    };
    let all_have = |sim: &Sim, n| sim.nodes.values().all(|node| node.left || address(node) == [addr(n).ip()]);
    sim.run(SECOND);
    sim.start(60, "app2", "app");
    sim.run_until(SECOND, |sim| all_have(sim, 60));
    sim.run(10 * SECOND);
    assert!(all_have(&sim, 60));
    let twins = [("app2".to_owned(), vec![addr(2), addr(60)])];
    assert!(sim.nodes.values().all(|node| node.twins == twins), "everybody tells of them, once");
    sim.input(60, Input::Leave);
    sim.run_until(2 * SECOND, |sim| all_have(sim, 2));
    let mut changes = sim.nodes.values().flat_map(|node| &node.changes);
    assert!(changes.all(|m| m.state != MemberState::Failed));
}

#[test]
fn the_same_name_at_another_address_belongs_to_the_later_start() {
    let mut sim = cluster(31, 4);
    sim.kill(2);
    sim.run(Duration::from_millis(50));
    sim.start(60, "app2", "app");
    let moved = |sim: &Sim| {
        let listed =
            |n: &sim::Node| n.tables["app"].endpoints().iter().map(|e| e.addr.ip()).collect::<Vec<_>>();
        sim.nodes.values().all(|n| !listed(n).contains(&addr(2).ip()) && listed(n).contains(&addr(60).ip()))
    };
    let took = sim.run_until(2 * SECOND, moved);
    assert!(took < Duration::from_millis(500), "before anybody noticed the death: {took:?}");
    sim.run(10 * SECOND);
    assert!(sim.nodes.values().all(|node| node.twins.is_empty()), "a successor is no twin");
}

#[test]
fn a_reused_address_belongs_to_its_new_holder_in_the_same_step() {
    let mut sim = cluster(32, 4);
    sim.kill(2);
    sim.run(Duration::from_millis(50));
    sim.start(2, "billing", "billing");
    sim.run_until(2 * SECOND, |sim| sim.nodes.values().all(|n| n.ready("billing").len() == 1));
    assert!(sim.nodes.values().all(|n| !n.ready("app").contains("app2")), "one address, one holder");
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_node_that_restarts_with_its_clock_put_back_has_its_name_and_address_again() {
    for (seed, address) in [(70, 2), (71, 2), (72, 60), (73, 60)] {
        let mut sim = cluster(seed, 6);
        sim.kill(2);
        sim.run(Duration::from_millis(50));
        sim.start_behind(HOUR, address, "app2", "app");
        let is_back = |node: &sim::Node| {
            let at = |e: &feed::Endpoint| {
                e.addr.ip() == addr(address).ip() && u128::from(e.instance) < sim::WALL.as_millis()
            };
            node.tables["app"].ready().any(at) && node.ready("app").len() == 6
        };
        let took = sim.run_until(60 * SECOND, |sim| sim.nodes.values().all(is_back));
        println!("{address}: {took:?}");
        assert!(took < 5 * SECOND, "{took:?}");
    }
}
