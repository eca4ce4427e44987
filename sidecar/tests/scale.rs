//! Large clusters on a virtual clock: mass start and mass stop, and a network that loses, repeats and reorders.
//!
//! What is checked stands outside of the code under test: after healing all tables agree with who lives, nobody lists an endpoint
//! that was never advertised, versions never go back, no live node stays failed. Everything follows from the seed, which is
//! printed. `SIM_NODES` (a list) and `SIM_SEEDS` choose other sizes and more seeds; in release mode,
//! `SIM_NODES=300 cargo test --release -p sidecar --test scale -- --nocapture` takes minutes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(dead_code, reason = "the simulator serves other tests, too")]

mod sim;

use std::{collections::BTreeSet, time::Duration};

use sidecar::input::Input;
use sim::{Sim, addr};

const SECOND: Duration = Duration::from_secs(1);

/// Sizes and seeds of this run.
fn sizes(usual: &[u16]) -> Vec<u16> {
    match std::env::var("SIM_NODES") {
        Ok(sizes) => sizes.split(',').map(|size| size.parse().unwrap()).collect(),
        Err(_) => usual.to_vec(),
    }
}

fn seeds() -> std::ops::Range<u64> {
    51..51 + std::env::var("SIM_SEEDS").map_or(2, |seeds| seeds.parse::<u64>().unwrap())
}

/// A dnsserver, and all others within a second.
fn mass_start(sim: &mut Sim, nodes: u16) {
    sim.start(1, "dnsserver", "dnsserver");
    let pause = SECOND / u32::from(nodes);
    for n in 2..=nodes {
        sim.run(pause);
        sim.start(n, &format!("app{n}"), "app");
    }
}

/// The names of the apps that run and stay.
fn staying(sim: &Sim, stays: impl Fn(u16) -> bool) -> BTreeSet<String> {
    sim.nodes.values().filter(|n| n.at != 1 && stays(n.at)).map(|n| n.name.clone()).collect()
}

/// How many of those who stay list exactly these as ready.
fn agreeing(sim: &Sim, apps: &BTreeSet<String>) -> usize {
    let stays = |node: &&sim::Node| node.at == 1 || apps.contains(&node.name);
    sim.nodes.values().filter(stays).filter(|node| node.ready("app") == *apps).count()
}

/// Runs until all tables are right; steps of 20 ms, since looking at all of them takes longer than the simulation.
fn agree(sim: &mut Sim, stays: impl Fn(u16) -> bool, limit: Duration) -> Duration {
    let (start, apps) = (sim.now, staying(sim, stays));
    let all = apps.len() + 1;
    while agreeing(sim, &apps) < all {
        let late = sim.now - start;
        assert!(late < limit, "{} of {all} agree after {late:?}", agreeing(sim, &apps));
        sim.run(Duration::from_millis(20));
    }
    sim.now - start
}

/// Seconds that memberlist's simulator gives for 99.99 % of n nodes: fan-out 3 every 200 ms (Serf's documentation).
fn memberlist_seconds(nodes: u16) -> f64 {
    ((f64::from(nodes) + 1.0).ln() + (0.9999_f64 / 0.0001).ln()) / (0.5 * 3.0) * 0.2
}

#[test]
fn a_cluster_that_starts_and_half_stops_within_a_second_agrees_soon_after() {
    for nodes in sizes(&[10, 60]) {
        for seed in seeds() {
            let mut sim = Sim::new(seed);
            mass_start(&mut sim, nodes);
            let started = agree(&mut sim, |_| true, 60 * SECOND);
            sim.run(2 * SECOND);

            let sent = sim.bytes_sent;
            sim.start(nodes + 1, "late", "app");
            let joined = agree(&mut sim, |_| true, 60 * SECOND);
            let bytes = (sim.bytes_sent - sent) / u64::from(nodes);

            let pause = SECOND / u32::from(nodes);
            for n in (2..=nodes).step_by(2) {
                sim.input(n, Input::Leave);
                sim.run(pause * 2);
            }
            let stopped = agree(&mut sim, |at| at > nodes || at % 2 == 1, 60 * SECOND);
            println!(
                "{nodes} nodes: mass start {started:?}, one joins {joined:?} ({bytes} bytes a node; memberlist's \
                 formula {:.2} s), mass stop {stopped:?}",
                memberlist_seconds(nodes)
            );
        }
    }
}

#[test]
fn a_bad_network_that_heals_leaves_no_trace() {
    for nodes in sizes(&[24]) {
        for seed in seeds() {
            let mut sim = Sim::new(seed);
            mass_start(&mut sim, nodes);
            agree(&mut sim, |_| true, 60 * SECOND);
            (sim.loss, sim.duplication) = (0.3, 0.1);
            sim.cut = (2..6).flat_map(|a| (6..=nodes).map(move |b| (addr(a), addr(b)))).collect();
            sim.run(10 * SECOND);
            sim.kill(nodes);
            sim.run(10 * SECOND);
            sim.cut.clear();
            (sim.loss, sim.duplication) = (0.0, 0.0);
            let took = agree(&mut sim, |_| true, 180 * SECOND);
            println!("{nodes} nodes: healed after {took:?}");
        }
    }
}
