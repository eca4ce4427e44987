//! No request is lost while nodes come and go.

use std::time::{Duration, Instant};

use crate::support::{cluster::Cluster, load::Load, wait::until};

const CLIENTS: usize = 64;
const ROUNDS: u64 = 10;

/// Twice ten scalings of a second each would not be elastic, on whatever machine.
const TIME_MAX: Duration = Duration::from_secs(40);

#[test]
fn ten_rounds_of_scaling_under_load_lose_no_request() {
    let cluster = Cluster::up_alone(&[]);
    let load = Load::start(cluster.addr, CLIENTS);
    let started = Instant::now();
    for round in 1..=ROUNDS {
        for targets in ["front=2 app=3", "front=1 app=1"] {
            let before = load.answers();
            cluster.order(&format!("scale {targets}"));
            until("answers after scaling", || (load.answers() >= before + CLIENTS as u64).then_some(()));
        }
        assert!(started.elapsed() < TIME_MAX, "only {round} rounds in {TIME_MAX:?}");
    }
    let answers = load.answers();
    assert_eq!(load.stop(), [] as [String; 0], "of {answers} requests");
}
