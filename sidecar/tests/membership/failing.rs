//! Nodes that end without a word, or seem to.

use super::*;

/// By SWIM alone: the simulation's streams do not end, so that no lifeline helps.
#[test]
fn a_killed_node_is_noticed_and_counts_as_failed() {
    let noticed_after = |seed| {
        let mut sim = cluster(seed, 20);
        sim.kill(5);
        let took = sim.run_until(10 * SECOND, |sim| all_see(sim, 19));
        sim.run_until(SECOND, |sim| last_state(sim, 2, "app5") == Some(MemberState::Failed));
        took
    };
    let mut times: Vec<Duration> = (40..49).map(noticed_after).collect();
    times.sort();
    // 1.58 periods until somebody probes it, one to evaluate the probe, the suspicion of log10(21), and the gossip.
    assert!(times[times.len() / 2] < 4 * SECOND, "{times:?}");
}

/// Streams help; here there are none. `SIM_SEEDS` makes more of the clusters.
#[test]
fn nobody_is_declared_dead_on_a_network_that_loses_a_third_of_its_datagrams() {
    let seeds = std::env::var("SIM_SEEDS").map_or(2, |seeds| seeds.parse().unwrap());
    for seed in 21..21 + seeds {
        let mut sim = cluster(seed, 31);
        (sim.loss, sim.streams_fail) = (0.33, true);
        sim.run(60 * SECOND);
        let changes = sim.nodes.values().flat_map(|node| &node.changes);
        let failed: Vec<_> = changes.filter(|member| member.state == MemberState::Failed).collect();
        assert!(failed.is_empty(), "seed {seed}: {failed:?}");
    }
}

#[test]
fn a_frozen_node_comes_back_without_a_restart() {
    let mut sim = cluster(22, 6);
    sim.freeze(4, true);
    sim.run_until(10 * SECOND, |sim| sim.node(1).ready("app").len() == 5);
    sim.run(5 * SECOND);
    sim.freeze(4, false);
    sim.run_until(30 * SECOND, |sim| all_see(sim, 6));
}

#[test]
fn a_machine_that_sleeps_wakes_without_accusations() {
    for seed in 60..80 {
        let mut sim = cluster(seed, 10);
        sim.loss = 0.2;
        sim.run(2 * SECOND);
        for _ in 0..5 {
            (1..12).for_each(|n| sim.freeze(n, true));
            sim.run(10 * SECOND);
            (1..12).for_each(|n| sim.freeze(n, false));
            sim.run(SECOND);
        }
        let mut changes = sim.nodes.values().flat_map(|n| &n.changes);
        assert!(changes.all(|m| m.state != MemberState::Failed), "seed {seed}");
    }
}

#[test]
fn the_wrongly_accused_are_suspects_until_they_have_objected() {
    let mut accused = 0;
    for seed in 80..90 {
        let mut sim = cluster(seed, 2);
        let before = sim.node(1).tables["app"].clone();
        for endpoint in before.endpoints() {
            let addr = (endpoint.addr.ip(), endpoint.gossip_port).into();
            sim.input(1, Input::Dead(Peer { addr, instance: endpoint.instance }));
        }
        let lists_both = |node: &sim::Node| node.tables["app"].endpoints().len() == 2;
        // Some have objected before the tables are made.
        sim.run(Duration::from_millis(10));
        accused += usize::from(sim.node(1).ready("app").is_empty());
        while !all_see(&sim, 2) {
            sim.run(Duration::from_millis(1));
            assert!(sim.nodes.values().all(lists_both), "at {:?}", sim.now);
        }
        assert_eq!(sim.node(1).tables["app"].endpoints(), before.endpoints(), "the same instances");
    }
    assert!(accused > 5, "{accused} of 10");
}

#[test]
fn a_partition_heals() {
    let mut sim = cluster(23, 7);
    let halves = |a: u16, b: u16| (addr(a), addr(b));
    sim.cut = (1..5).flat_map(|a| (5..9).map(move |b| halves(a, b))).collect();
    sim.run_until(20 * SECOND, |sim| {
        sim.node(1).ready("app").len() == 3 && sim.node(8).ready("app").len() == 4
    });
    sim.cut.clear();
    let took = sim.run_until(120 * SECOND, |sim| all_see(sim, 7));
    assert!(took < 5 * SECOND, "{took:?}");
}

#[test]
fn a_node_that_hears_nothing_takes_nobody_along() {
    for seed in 140..144 {
        let mut sim = cluster(seed, 19);
        sim.deaf.insert(addr(5));
        sim.run(30 * SECOND);
        let changes = sim.nodes.values().filter(|node| node.at != 5).flat_map(|node| &node.changes);
        let others: Vec<_> =
            changes.filter(|m| m.state == MemberState::Failed && m.name.as_str() != "app5").collect();
        assert!(others.is_empty(), "seed {seed}: {others:?}");
        sim.deaf.clear();
        sim.run_until(30 * SECOND, |sim| all_see(sim, 19));
    }
}

#[test]
fn a_node_that_hardly_gets_to_run_accuses_nobody() {
    for seed in 150..153 {
        let mut sim = cluster(seed, 19);
        for _ in 0..150 {
            sim.freeze(5, true);
            sim.run(Duration::from_millis(150));
            sim.freeze(5, false);
            sim.run(Duration::from_millis(50));
        }
        let changes = sim.nodes.values().flat_map(|node| &node.changes);
        let others: Vec<_> =
            changes.filter(|m| m.state == MemberState::Failed && m.name.as_str() != "app5").collect();
        assert!(others.is_empty(), "seed {seed}: {others:?}");
    }
}
