//! No request is lost while the cluster grows and shrinks.

use std::time::{Duration, Instant};

use super::{CLIENTS, short_or_long};
use crate::support::{cluster::Cluster, load::Load};

/// Twice ten scalings of a second each would not be elastic, on whatever machine.
const ROUND_TIME_MAX: Duration = Duration::from_secs(4);

#[test]
fn rounds_of_scaling_under_load_lose_no_request() {
    let rounds = short_or_long(10, 50);
    let cluster = Cluster::up_alone(&[]);
    let load = Load::start(cluster.addr, 2 * CLIENTS);
    let started = Instant::now();
    for round in 1..=rounds {
        for targets in ["front=2 app=3", "front=1 app=1"] {
            cluster.order(&format!("scale {targets}"));
            load.goes_on();
        }
        let time_max = ROUND_TIME_MAX * rounds;
        assert!(started.elapsed() < time_max, "only {round} rounds in {time_max:?}");
    }
    load.assert_lossless(&format!("{rounds} rounds of scaling"));
}

#[test]
fn half_of_the_fronts_and_apps_stopped_at_once_lose_no_request() {
    for _ in 0..short_or_long(1, 10) {
        let cluster = Cluster::up_alone(&["--front", "4", "--app", "4"]);
        let load = Load::start(cluster.addr, CLIENTS);
        load.goes_on();
        // `node stop` stops one node at a time, and `scale` all that are too many at once, in the same way.
        let steps = cluster.order("scale front=2 app=2");
        for node in ["frontserver3", "frontserver4", "appserver3", "appserver4"] {
            assert!(steps.contains(&format!("{node} stopped after ")), "{steps}");
        }
        load.goes_on();
        load.assert_lossless("half of the fronts and apps stopped at once");
    }
}
