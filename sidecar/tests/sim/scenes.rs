//! What happens to whole clusters, and the checks that stand outside of the code under test: all tables agree with who lives.

use std::{collections::BTreeMap, time::Duration};

use feed::frame::MemberState;
use sidecar::cluster::input::Input;

use super::{Node, Sim, addr};

const SECOND: Duration = Duration::from_secs(1);

/// How often it is looked whether all agree, which takes longer than to simulate it.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// A dnsserver, and all others within a second.
pub(crate) fn mass_start(sim: &mut Sim, nodes: u16) {
    sim.start(1, "dnsserver", "dnsserver");
    let pause = SECOND / u32::from(nodes);
    for n in 2..=nodes {
        sim.run(pause);
        sim.start(n, &format!("app{n}"), "app");
    }
}

/// All but these leave within a second.
pub(crate) fn mass_stop(sim: &mut Sim, nodes: u16, stays: impl Fn(u16) -> bool) {
    let leaving: Vec<u16> = (2..=nodes).filter(|n| !stays(*n)).collect();
    let pause = SECOND / u32::try_from(leaving.len()).unwrap();
    for n in leaving {
        sim.input(n, Input::Leave);
        sim.run(pause);
    }
}

/// How many of those who stay list exactly these as ready.
fn agreeing(sim: &Sim, apps: &BTreeMap<String, u64>) -> usize {
    let stays = |node: &&Node| node.at == 1 || apps.contains_key(&node.name);
    sim.nodes.values().filter(stays).filter(|node| node.has_ready("app", apps)).count()
}

/// Runs until all tables are right; how long that took.
pub(crate) fn agree(sim: &mut Sim, stays: impl Fn(u16) -> bool, limit: Duration) -> Duration {
    let staying = sim.nodes.values().filter(|n| n.at != 1 && stays(n.at));
    let (start, apps) = (sim.now, staying.map(|n| (n.name.clone(), n.instance)).collect::<BTreeMap<_, _>>());
    let all = apps.len() + 1;
    while agreeing(sim, &apps) < all {
        let late = sim.now - start;
        assert!(late < limit, "{} of {all} agree after {late:?}", agreeing(sim, &apps));
        sim.run(LOOK_PERIOD);
    }
    sim.now - start
}

/// How long it took until all tables were right, and what one that joins costs everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Churn {
    pub(crate) started: Duration,
    pub(crate) joined: Duration,
    /// Sent by each node until all knew the one that joined.
    pub(crate) joined_bytes: u64,
    pub(crate) stopped: Duration,
    /// Sent by each node in a second in which nothing happens.
    pub(crate) idle_bytes: u64,
}

/// All start within a second, one joins, half stop within a second.
pub(crate) fn churn(nodes: u16, seed: u64) -> Churn {
    let limit = 60 * SECOND;
    let mut sim = Sim::new(seed);
    mass_start(&mut sim, nodes);
    let started = agree(&mut sim, |_| true, limit);
    sim.run(5 * SECOND);
    let each = |sim: &Sim, before: u64| (sim.bytes_sent - before) / u64::from(nodes);
    let before = sim.bytes_sent;
    sim.run(SECOND);
    let (idle_bytes, before) = (each(&sim, before), sim.bytes_sent);
    sim.start(nodes + 1, "late", "app");
    let joined = agree(&mut sim, |_| true, limit);
    let joined_bytes = each(&sim, before);
    let stays = |at| at > nodes || at % 2 == 1;
    mass_stop(&mut sim, nodes, stays);
    let stopped = agree(&mut sim, stays, limit);
    Churn { started, joined, joined_bytes, stopped, idle_bytes }
}

/// Three quarters of a cluster leave within a second; what each of the others sends in a second when that is half a minute ago.
pub(crate) fn bytes_after_most_left(nodes: u16, seed: u64) -> u64 {
    let mut sim = Sim::new(seed);
    mass_start(&mut sim, nodes);
    agree(&mut sim, |_| true, 60 * SECOND);
    let stays = |at| at % 4 == 1;
    mass_stop(&mut sim, nodes, stays);
    agree(&mut sim, stays, 60 * SECOND);
    sim.run(30 * SECOND);
    let before = sim.bytes_sent;
    sim.run(SECOND);
    (sim.bytes_sent - before) / u64::from(nodes / 4)
}

/// Half of a cluster dies without a word within a second; how long it took until the tables of the others were right. Nobody
/// calls one of them failed.
pub(crate) fn mass_kill(nodes: u16, seed: u64) -> Duration {
    let mut sim = Sim::new(seed);
    mass_start(&mut sim, nodes);
    agree(&mut sim, |_| true, 60 * SECOND);
    let pause = SECOND / u32::from(nodes);
    for n in (2..=nodes).step_by(2) {
        sim.kill(n);
        sim.run(pause * 2);
    }
    let took = agree(&mut sim, |_| true, 60 * SECOND);
    let living: Vec<&str> = sim.nodes.values().map(|node| node.name.as_str()).collect();
    let mut changes = sim.nodes.values().flat_map(|node| &node.changes);
    let wrong = changes.find(|m| m.state == MemberState::Failed && living.contains(&m.name.as_str()));
    assert!(wrong.is_none(), "lives: {wrong:?}");
    took
}

/// A network that loses a third, repeats a tenth, reorders and is in two parts, while clocks jump and one node dies; how long
/// after its healing all tables are right.
pub(crate) fn heal(nodes: u16, seed: u64) -> Duration {
    let mut sim = Sim::new(seed);
    mass_start(&mut sim, nodes);
    agree(&mut sim, |_| true, 60 * SECOND);
    (sim.loss, sim.duplication) = (0.3, 0.1);
    let part = nodes / 5 + 2;
    sim.cut = (1..part).flat_map(|a| (part..=nodes).map(move |b| (addr(a), addr(b)))).collect();
    sim.run(10 * SECOND);
    sim.kill(nodes);
    for n in (1..nodes).step_by(7) {
        sim.jump(n, 10 * SECOND);
    }
    sim.run(10 * SECOND);
    sim.cut.clear();
    (sim.loss, sim.duplication) = (0.0, 0.0);
    agree(&mut sim, |_| true, 180 * SECOND)
}

/// Seconds that memberlist's simulator gives for 99.99 % of n nodes: fan-out 3 every 200 ms (Serf's documentation).
pub(crate) fn memberlist_seconds(nodes: u16) -> f64 {
    ((f64::from(nodes) + 1.0).ln() + (0.9999_f64 / 0.0001).ln()) / (0.5 * 3.0) * 0.2
}
