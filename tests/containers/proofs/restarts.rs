//! No request is lost while containers end, politely or not, and start again.

use std::time::Duration;

use super::{MOMENT, PATIENCE, Proof, nodes, scene, short_or_long};

#[test]
fn a_rolling_docker_restart_of_every_front_and_app_loses_no_request() {
    let Some(proof) = Proof::of("rolling", 2, 2) else { return };
    let rounds = short_or_long(1, 10);
    for _ in 0..rounds {
        for (node, role) in [
            ("frontserver1", "frontserver"),
            ("frontserver2", "frontserver"),
            ("appserver1", "appserver"),
            ("appserver2", "appserver"),
        ] {
            proof.scene.order("restart", &[node]);
            proof.serves(node);
            // Seen by one is not yet seen by all, and without the next one nobody may be left.
            proof.scene.sees("proxyserver", role, 2);
        }
    }
    proof.end(&format!("{rounds} rolling restarts"));
}

#[test]
fn an_app_whose_container_is_killed_loses_no_get() {
    let Some(proof) = Proof::of("killed", 1, 2) else { return };
    let kills = short_or_long(2, 10);
    for _ in 0..kills {
        proof.scene.order("kill", &["appserver2"]);
        proof.scene.sees("frontserver1", "appserver", 1);
        proof.goes_on(MOMENT);
        proof.scene.order("start", &["appserver2"]);
        proof.serves("appserver2");
    }
    proof.end(&format!("{kills} kills of an app"));
}

#[test]
fn a_killed_sidecar_beside_a_container_of_the_proxy_loses_no_request() {
    let Some(mut scene) = scene("sidecar") else { return };
    scene.run(&["dnsserver"]);
    scene.run(&nodes(1..=2, 1..=2));
    scene.run_proxy_beside_sidecar();
    let Some(proof) = Proof::under_load(scene, "sidecar", 2, 2, PATIENCE) else { return };
    let kills = short_or_long(2, 10);
    for _ in 0..kills {
        proof.scene.order("kill", &["sidecar"]);
        proof.goes_on(MOMENT);
        proof.scene.order("start", &["sidecar"]);
        proof.scene.sees("sidecar", "frontserver", 2);
    }
    // The proxy follows again: a front that stops waits for it, as for every consumer.
    proof.scene.stop(&["frontserver2"]);
    proof.scene.sees("sidecar", "frontserver", 1);
    proof.goes_on(MOMENT);
    proof.end(&format!("{kills} kills of a proxy's sidecar"));
}

#[test]
fn a_stopped_dnsserver_loses_no_request_and_newcomers_join_after_it() {
    let Some(mut proof) = Proof::of("dns", 1, 2) else { return };
    let absence = Duration::from_secs(short_or_long(5, 60));
    proof.scene.stop(&["dnsserver"]);
    proof.goes_on(absence);
    proof.scene.order("start", &["dnsserver"]);
    proof.scene.find_dns();
    // The cluster is whole again when the dnsserver knows all.
    proof.scene.sees("dnsserver", "appserver", 2);
    proof.scene.run(&["appserver3"]);
    proof.serves("appserver3");
    proof.end(&format!("no dnsserver for {absence:?}"));
}
