//! What changes while a node lives.

use super::*;

#[test]
fn a_change_that_no_table_shows_is_not_the_newest_one() {
    let mut sim = cluster(55, 3);
    let before = sim.node(1).changed_ms("app");
    sim.run(SECOND);
    sim.follow(2, &["front"]);
    sim.run(SECOND);
    assert_eq!(sim.node(1).changed_ms("app"), before);
    sim.input(2, Input::Labels(Tags::new(["zone=a".parse().unwrap()]).unwrap().into()));
    sim.run(SECOND);
    assert!(sim.node(1).changed_ms("app") >= before.map(|ms| ms + 2000));
}

#[test]
fn whoever_is_forced_to_leave_is_no_suspect_any_more() {
    let mut sim = cluster(56, 4);
    for n in [3, 4, 5] {
        sim.kill(n);
    }
    sim.run(15 * SECOND);
    let listed = |sim: &Sim| sim.node(1).tables["app"].endpoints().len();
    assert_eq!(listed(&sim), 4, "three of four went at once, and are a last resort");
    sim.input(
        2,
        Input::Question { to: 1, question: ToSidecar::ForceLeave { name: "app4".parse().unwrap() } },
    );
    sim.run(SECOND);
    assert_eq!(listed(&sim), 3);
}

#[test]
fn changed_tags_are_in_the_members_and_tables_of_all_and_late_joiners_learn_them() {
    let mut sim = cluster(50, 10);
    let tags = Tags::new(["zone=a".parse().unwrap()]).unwrap();
    sim.input(5, Input::Labels(tags.clone().into()));
    let knows = |node: &sim::Node| node.tables["app"].endpoints().iter().any(|e| e.tags.include(&tags));
    let took = sim.run_until(SECOND, |sim| sim.nodes.values().all(knows));
    assert!(took < Duration::from_millis(250), "{took:?}");
    sim.start(50, "late", "front");
    sim.run_until(SECOND, |sim| sim.nodes.values().all(|n| n.tables.contains_key("app") && knows(n)));
    assert_eq!(sim.node(50).changes.iter().filter(|m| m.tags == tags).count(), 1);
}

#[test]
fn a_claimed_protocol_is_in_the_members_and_tables_of_all_and_no_tag_there() {
    let mut sim = cluster(58, 4);
    let labels = Labels::new(Tags::default(), Some(EndpointProtocol::H2c)).unwrap();
    sim.input(3, Input::Labels(labels));
    let claims =
        |node: &sim::Node| node.tables["app"].endpoints().iter().filter(|e| e.protocol.is_some()).count();
    sim.run_until(SECOND, |sim| sim.nodes.values().all(|node| claims(node) == 1));
    sim.start(50, "late", "front");
    sim.run_until(SECOND, |sim| sim.nodes.values().all(|n| n.tables.contains_key("app") && claims(n) == 1));
    let endpoints = sim.nodes.values().flat_map(|node| node.tables["app"].endpoints());
    assert!(endpoints.clone().all(|e| e.tags.is_empty()));
    assert!(endpoints.filter_map(|e| e.protocol).all(|protocol| protocol == EndpointProtocol::H2c));
    assert!(
        sim.node(50).changes.iter().any(|m| m.protocol == Some(EndpointProtocol::H2c) && m.tags.is_empty())
    );
}

#[test]
fn a_node_whose_check_fails_is_in_no_table_until_it_serves_again_and_has_not_failed() {
    let mut sim = cluster(57, 4);
    let before = sim.node(3).instance;
    sim.input(3, Input::Serving(false));
    sim.run_until(SECOND, |sim| all_see(sim, 3));
    sim.input(3, Input::Serving(true));
    sim.run_until(SECOND, |sim| all_see(sim, 4));
    assert!(sim.node(1).tables["app"].ready().any(|e| e.instance == before && e.node.as_str() == "app3"));
    let mut changes = sim.nodes.values().flat_map(|node| &node.changes);
    assert!(changes.all(|m| !is_gone(m)));
}

#[test]
fn why_a_check_fails_is_known_everywhere_and_forgotten_when_it_passes() {
    let mut sim = cluster(58, 4);
    let told = |sim: &Sim, state: MemberState, check: Option<&str>| {
        let last = |node: &sim::Node| node.changes.iter().rev().find(|m| m.name.as_str() == "app3").cloned();
        sim.nodes.values().filter_map(last).all(|m| m.state == state && m.check.as_deref() == check)
    };
    sim.input(3, Input::CheckFails(Trouble::Http(404)));
    sim.run_until(SECOND, |sim| told(sim, MemberState::Unhealthy, Some("HTTP 404")) && all_see(sim, 3));
    sim.input(3, Input::CheckFails(Trouble::Refused));
    sim.run_until(SECOND, |sim| told(sim, MemberState::Unhealthy, Some("connection refused")));
    sim.input(3, Input::Serving(true));
    sim.run_until(SECOND, |sim| told(sim, MemberState::Ready, None) && all_see(sim, 4));
}
