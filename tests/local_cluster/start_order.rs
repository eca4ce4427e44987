//! Nodes in whatever order: sidecars with their roles, started by hand.

use std::fs;

use crate::support::{network::Network, wait::until};

#[test]
fn whoever_is_missing_is_named_until_they_come() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let _proxyserver = network.start("proxyserver");
    let refusal = network.hear("/hello", 503, "no frontserver is ready\n");
    assert_eq!(refusal.field("retry-after"), Some("1"));
    let _frontserver1 = network.start("frontserver1");
    network.hear("/hello", 503, "no appserver is ready\n");
    let appserver1 = network.start("appserver1");
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");
    network.kill("appserver1", appserver1);
    network.hear("/hello", 503, "no appserver is ready\n");
    let _appserver1 = network.start("appserver1");
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");
}

#[test]
fn everybody_may_start_before_the_dnsserver_and_join_through_its_successor() {
    let network = Network::claim();
    let _appserver1 = network.start("appserver1");
    let _frontserver1 = network.start("frontserver1");
    let _proxyserver = network.start("proxyserver");
    network.hear("/hello", 503, "no frontserver is ready\n");
    let dnsserver = network.start("dnsserver");
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");

    network.kill("dnsserver", dnsserver);
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");
    let _dnsserver = network.start("dnsserver");
    let _appserver2 = network.start("appserver2");
    for app in ["appserver1", "appserver2"] {
        network.hear("/hello", 200, &format!("Hello frontserver1, I'm {app} !\n"));
    }
}

#[test]
fn a_cluster_that_was_killed_whole_finds_itself_without_any_seed() {
    let network = Network::claim();
    let nodes = ["proxyserver", "frontserver1", "appserver1"];
    let snapshot = |node: &str| network.place.join(format!("{node}.snapshot"));
    let path = |node: &str| snapshot(node).display().to_string();
    let remember = |node: &str| vec!["--snapshot".to_owned(), path(node)];
    let dnsserver = network.start("dnsserver");
    let running =
        nodes.map(|node| (node, network.start_with(node, &[network.join(node), remember(node)].concat())));
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");
    for node in nodes {
        until(&format!("{node} remembers three others"), || {
            fs::read_to_string(snapshot(node)).is_ok_and(|text| text.ends_with("\nend 3\n")).then_some(())
        });
    }
    network.kill("dnsserver", dnsserver);
    running.into_iter().for_each(|(node, running)| network.kill(node, running));

    // No first contact any more, neither by flag nor by nameserver, and one whose memory is damaged.
    fs::write(snapshot("appserver1"), "concertina-snapshot 1 default\n127.").unwrap();
    let nobody = network.place.join("resolv.conf");
    fs::write(&nobody, "").unwrap();
    let alone = ["--resolv-conf".to_owned(), nobody.display().to_string()];
    let mut running = nodes.map(|node| network.start_with(node, &[&alone[..], &remember(node)].concat()));
    running[2].hear("--snapshot is ignored");
    network.hear("/hello", 200, "Hello frontserver1, I'm appserver1 !\n");
}
