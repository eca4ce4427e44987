//! The walk-through of the README, command by command.

use std::net::SocketAddr;

use crate::support::{
    hello::{answers, hello, pairs},
    load::Load,
    scene::Scene,
    wait::until,
};

/// Waits until every pair of so many fronts and apps answers among so many requests, and nothing else.
fn until_pairs(addr: SocketAddr, requests: usize, fronts: usize, apps: usize) {
    until(&format!("{fronts} fronts with {apps} apps answer"), || {
        (answers(addr, requests) == pairs(fronts, apps)).then_some(())
    });
}

/// The four that every scene begins with.
fn run_first_four(scene: &mut Scene) {
    for node in ["dnsserver", "appserver1", "frontserver1", "proxyserver"] {
        scene.run(&[node]);
    }
}

fn walk_through(mut scene: Scene) {
    run_first_four(&mut scene);
    let addr = scene.published();
    until("the first request is served", || hello(addr).is_ok().then_some(()));
    assert_eq!(hello(addr).unwrap(), "Hello frontserver1, I'm appserver1 !\n");

    for node in ["frontserver2", "appserver2", "appserver3"] {
        scene.run(&[node]);
    }
    until_pairs(addr, 80, 2, 3);

    let load = Load::start(addr);
    scene.stop(&["appserver3", "appserver2", "frontserver2"]);
    assert_eq!(answers(addr, 20), pairs(1, 1), "right after docker stop");
    scene.order("start", &["appserver2"]);
    until_pairs(addr, 20, 1, 2);
    load.end();

    scene.stop(&["appserver1", "appserver2", "frontserver1", "proxyserver", "dnsserver"]);
}

#[test]
fn the_walk_through_works_on_the_default_bridge() {
    if let Some(scene) = Scene::new("bridge", false) {
        walk_through(scene);
    }
}

#[test]
fn the_walk_through_works_on_a_network_of_its_own() {
    if let Some(scene) = Scene::new("network", true) {
        walk_through(scene);
    }
}

#[test]
fn a_killed_container_costs_no_get_and_serves_again_after_its_start() {
    let Some(mut scene) = Scene::new("kill", true) else { return };
    run_first_four(&mut scene);
    scene.run(&["appserver2"]);
    let addr = scene.published();
    until_pairs(addr, 20, 1, 2);
    let load = Load::start(addr);
    scene.order("kill", &["appserver2"]);
    assert!(answers(addr, 20).is_subset(&pairs(1, 2)));
    scene.order("start", &["appserver2"]);
    until_pairs(addr, 20, 1, 2);
    load.end();
}
