//! No request is lost while a node that still has its connections says nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{CLIENTS, short_or_long};
use crate::support::{cluster::Cluster, load::Load};

/// Less than a front waits for an app, which is 10 s.
const PAUSE: Duration = Duration::from_secs(4);

#[test]
fn a_frozen_app_delays_nobody_but_who_is_inside_and_loses_no_request() {
    let cluster = Cluster::up_alone(&["--app", "2"]);
    let pauses = short_or_long(1, 10);
    let load = Load::start(cluster.addr, CLIENTS);
    for _ in 0..pauses {
        load.goes_on();
        cluster.order("node pause appserver2");
        let paused = Instant::now();
        cluster.sees("frontserver1", "appserver", 1);
        // Clients of the first load may all be inside. Whoever comes now must not get there.
        let newcomers = Load::start(cluster.addr, CLIENTS);
        while paused.elapsed() < PAUSE {
            newcomers.goes_on();
            thread::sleep(Duration::from_millis(50));
        }
        newcomers.assert_lossless("an app is frozen and left out");
        cluster.order("node resume appserver2");
        cluster.sees("frontserver1", "appserver", 2);
    }
    load.goes_on();
    load.assert_lossless(&format!("{pauses} pauses of an app"));
}

#[test]
fn a_front_that_is_frozen_for_good_loses_no_request_of_those_inside_it() {
    let cluster = Cluster::up_alone(&["--front", "2"]);
    let pauses = short_or_long(1, 10);
    for _ in 0..pauses {
        let load = Load::start(cluster.addr, CLIENTS);
        load.goes_on();
        cluster.order("node pause frontserver2");
        cluster.sees("proxyserver", "frontserver", 1);
        // Each client ends with an answer, and those inside have it from the other front.
        load.assert_lossless("a front is frozen for good");
        cluster.order("node resume frontserver2");
        cluster.sees("proxyserver", "frontserver", 2);
    }
}
