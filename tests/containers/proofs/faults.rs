//! No request is lost while containers that still have their connections say nothing.

use std::time::{Duration, Instant};

use super::{MOMENT, Proof, REQUESTS_MIN, short_or_long};
use crate::support::cut::Cut;

/// For how long clients come that must not get to what says nothing. With the time until it is noticed this is less than a
/// front waits for an app, which is 10 s.
const NEWCOMERS_TIME: Duration = Duration::from_secs(2);

#[test]
fn a_paused_app_delays_nobody_but_who_is_inside_and_loses_no_request() {
    let Some(proof) = Proof::of("paused", 1, 2) else { return };
    let pauses = short_or_long(1, 10);
    for _ in 0..pauses {
        proof.goes_on(MOMENT);
        proof.scene.order("pause", &["appserver2"]);
        proof.scene.sees("frontserver1", "appserver", 1);
        // The first clients may all be inside. Whoever comes now must not get there.
        let newcomers = proof.newcomers();
        proof.goes_on(NEWCOMERS_TIME);
        newcomers.assert_lossless("containers, an app is paused and left out", REQUESTS_MIN);
        proof.scene.order("unpause", &["appserver2"]);
        proof.serves("appserver2");
    }
    proof.goes_on(MOMENT);
    proof.end(&format!("{pauses} pauses of an app"));
}

#[test]
fn a_network_of_containers_that_is_cut_and_heals_loses_no_get() {
    if !Cut::is_possible() {
        return;
    }
    let cut_time = Duration::from_secs(short_or_long(5, 30));
    // What waits in the other half comes when TCP sends it again, as long after the cut as it took or less.
    let Some(proof) = Proof::of_patient("cut", 2, 2, 4 * cut_time) else { return };
    let see_each_other = |count| {
        proof.scene.sees("proxyserver", "frontserver", count);
        for front in ["frontserver1", "frontserver2"] {
            proof.scene.sees(front, "appserver", count);
        }
    };
    let with_proxy = ["dnsserver", "proxyserver", "frontserver1", "appserver1"];
    let network = Cut::between(&proof.scene, [&with_proxy, &["frontserver2", "appserver2"]]);
    proof.goes_on(MOMENT);

    network.cut();
    let cut = Instant::now();
    see_each_other(1);
    // The first clients may all wait for the other half. Whoever comes now must not get there.
    let newcomers = proof.newcomers();
    proof.goes_on(NEWCOMERS_TIME.max(cut_time.saturating_sub(cut.elapsed())));
    network.heal();
    see_each_other(2);
    for node in ["frontserver2", "appserver2"] {
        proof.serves(node);
    }
    newcomers.assert_lossless("containers, a half heals that newcomers never met", REQUESTS_MIN);
    // Whoever waits still has the answer by then, or never.
    proof.goes_on(cut_time + MOMENT);
    proof.end(&format!("a network cut for {cut_time:?}"));
}
