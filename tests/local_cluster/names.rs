//! The cluster's names, asked of its dnsserver.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use simple_dns::{RCODE, TYPE};

use crate::support::{
    cluster::Cluster,
    dns::{Over, ask},
    undisturbed,
    wait::until,
};

/// Longest that a node which has stopped may still be found.
const GONE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest that a dnsserver which comes back may know nobody: all that while, names that exist do not.
const RETURN_TIMEOUT: Duration = Duration::from_secs(3);

struct Names {
    cluster: Cluster,
    server: SocketAddr,
}

impl Names {
    fn up(arguments: &[&str]) -> Self {
        let mut cluster = Cluster::up(arguments);
        let server = cluster.launcher.hear("dnsserver started at ").parse().unwrap();
        Self { cluster, server }
    }

    /// Where a node serves, as the launcher says it.
    fn ip(&mut self, node: &str) -> Ipv4Addr {
        let addr: SocketAddr = self.cluster.launcher.hear(&format!("{node} started at ")).parse().unwrap();
        match addr.ip() {
            std::net::IpAddr::V4(ip) => ip,
            std::net::IpAddr::V6(ip) => panic!("{node} at {ip}"),
        }
    }
}

fn found<const N: usize>(records: [&str; N]) -> (RCODE, BTreeSet<String>) {
    (RCODE::NoError, records.map(str::to_owned).into())
}

#[test]
fn nodes_roles_services_and_addresses_have_names_over_udp_and_tcp() {
    let mut names = Names::up(&["--front", "2", "--app", "2"]);
    let (front1, front2) = (names.ip("frontserver1"), names.ip("frontserver2"));
    let [a, b, c, d] = front1.octets();
    let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
    let (front1, front2) = (front1.to_string(), front2.to_string());
    names.cluster.order("wait --role frontserver --min 2 --node dnsserver");
    names.cluster.order("wait --role appserver --min 2 --node dnsserver");
    let nothing = (RCODE::NameError, BTreeSet::new());
    let apps = ["8080 appserver1.concertina.internal", "8080 appserver2.concertina.internal"];
    for over in [Over::Udp, Over::Tcp] {
        for (name, record_type, expected) in [
            ("frontserver", TYPE::A, found([&front1, &front2])),
            ("frontserver.concertina.internal", TYPE::A, found([&front1, &front2])),
            ("frontserver1", TYPE::A, found([&front1])),
            ("FrontServer1.Concertina.Internal", TYPE::A, found([&front1])),
            ("_appserver._tcp.concertina.internal", TYPE::SRV, found(apps)),
            ("_appserver._tcp", TYPE::SRV, found(apps)),
            (&reverse, TYPE::PTR, found(["frontserver1.concertina.internal"])),
            ("frontserver", TYPE::AAAA, found([])),
            ("frontserver1.concertina.internal", TYPE::AAAA, found([])),
            ("frontserver3", TYPE::A, nothing.clone()),
            ("billing.concertina.internal", TYPE::A, nothing.clone()),
            ("example.com", TYPE::A, nothing.clone()),
        ] {
            let answer = ask(names.server, over, name, record_type);
            assert_eq!(answer, expected, "{name} {record_type:?} over {over:?}");
        }
    }
}

#[test]
fn a_stopped_node_has_no_name_within_a_second() {
    let mut names = Names::up(&["--front", "2"]);
    let front1 = names.ip("frontserver1").to_string();
    names.cluster.order("node stop frontserver2");
    let gone = undisturbed::look_for(GONE_TIMEOUT, || {
        let role = ask(names.server, Over::Udp, "frontserver", TYPE::A);
        let node = ask(names.server, Over::Udp, "frontserver2", TYPE::A);
        (role == found([&front1]) && node.0 == RCODE::NameError).then_some(())
    });
    assert!(gone.is_some(), "still found after {GONE_TIMEOUT:?}");
    names.cluster.order("node start frontserver2");
    let front2 = names.ip("frontserver2").to_string();
    until("frontserver2 has its name again", || {
        (ask(names.server, Over::Tcp, "frontserver2", TYPE::A) == found([&front2])).then_some(())
    });
}

#[test]
fn a_dnsserver_that_comes_back_knows_everybody_within_seconds_and_is_joined_through() {
    let mut names = Names::up(&[]);
    let front1 = names.ip("frontserver1").to_string();
    for (end, apps) in [("kill", "scale app=2"), ("stop", "scale app=3")] {
        names.cluster.order(&format!("node {end} dnsserver"));
        names.cluster.order("node start dnsserver");
        until("the dnsserver serves", || {
            let ready = names.cluster.run("wait --role dnsserver --node dnsserver");
            (ready.code == Some(0)).then_some(())
        });
        let known = undisturbed::look_for(RETURN_TIMEOUT, || {
            (ask(names.server, Over::Udp, "frontserver1", TYPE::A) == found([&front1])).then_some(())
        });
        assert!(known.is_some(), "{end}: frontserver1 is not found {RETURN_TIMEOUT:?} after the return");
        names.cluster.order(apps);
    }
    let answers = until("three names", || {
        let answer = ask(names.server, Over::Udp, "appserver", TYPE::A);
        (answer.1.len() == 3).then_some(answer)
    });
    assert_eq!(answers.0, RCODE::NoError);
}
