//! Large clusters on a virtual clock: mass start and mass stop, and a network that loses, repeats and reorders.
//!
//! What is checked stands outside of the code under test: after healing all tables agree with who lives, nobody lists an endpoint
//! that was never advertised, versions never go back, no live node stays failed. Everything follows from the seed, which is
//! printed. `SIM_NODES` (a list) and `SIM_SEEDS` choose other sizes and more seeds; in release mode,
//! `SIM_NODES=316 SIM_SEEDS=1 cargo test --release -p sidecar --test scale -- --nocapture` takes minutes. `bench scale` makes a table and a
//! plot of the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(dead_code, reason = "the simulator serves other tests, too")]

mod sim;

use std::time::Duration;

use sim::scenes::{bytes_after_most_left, churn, heal, mass_kill, memberlist_seconds};

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

#[test]
fn a_cluster_that_starts_and_half_stops_within_a_second_agrees_soon_after() {
    for nodes in sizes(&[10, 60]) {
        for seed in seeds() {
            let churn = churn(nodes, seed);
            println!("{nodes} nodes: {churn:?}; memberlist's formula {:.2} s", memberlist_seconds(nodes));
            assert!(churn.started < 2 * SECOND && churn.joined < SECOND && churn.stopped < 2 * SECOND);
            assert!(churn.idle_bytes < 1000 + 10 * u64::from(nodes), "something is told without end");
        }
    }
}

#[test]
fn a_cluster_that_most_have_left_is_quiet_again() {
    for nodes in sizes(&[160]) {
        // Of the first seed, all were quiet even when the dead were told of without end.
        let seeds = seeds();
        for seed in seeds.start + 1..seeds.end.max(seeds.start + 2) {
            let bytes = bytes_after_most_left(nodes, seed);
            println!("{nodes} nodes, three quarters left: {bytes} bytes a node and second");
            assert!(bytes < 1500, "the dead are told of without end");
        }
    }
}

#[test]
fn a_cluster_of_which_half_is_killed_within_a_second_agrees_soon_after() {
    for nodes in sizes(&[40]) {
        for seed in seeds() {
            let took = mass_kill(nodes, seed);
            println!("{nodes} nodes, half killed: {took:?}");
            assert!(took < 20 * SECOND);
        }
    }
}

#[test]
fn a_bad_network_that_heals_leaves_no_trace() {
    for nodes in sizes(&[24]) {
        for seed in seeds() {
            let took = heal(nodes, seed);
            println!("{nodes} nodes: healed after {took:?}");
            assert!(took < 30 * SECOND);
        }
    }
}

#[test]
fn a_seed_makes_the_same_cluster_again() {
    assert_eq!(churn(10, 51), churn(10, 51));
    assert_eq!(heal(12, 51), heal(12, 51));
}
