//! Nodes come and go in a running cluster.

use std::collections::BTreeSet;

use crate::support::{cluster::Cluster, wait::until};

fn greeting(front: u8, app: u8) -> String {
    format!("Hello frontserver{front}, I'm appserver{app} !\n")
}

/// Every front with every app.
fn greetings(fronts: &[u8], apps: &[u8]) -> BTreeSet<String> {
    fronts.iter().flat_map(|front| apps.iter().map(|app| greeting(*front, *app))).collect()
}

/// Asks until each of these has answered; nobody else may, and nothing may fail.
fn assert_all_answer(cluster: &Cluster, expected: &BTreeSet<String>) {
    let mut heard = BTreeSet::new();
    until(&format!("{expected:?}"), || {
        let response = cluster.hello();
        assert_eq!(response.status, 200, "{response:?}");
        assert!(expected.contains(&response.body), "{response:?} is not of {expected:?}");
        heard.insert(response.body);
        (heard == *expected).then_some(())
    });
}

/// Asks often enough that whoever else is chosen now and then would be heard.
fn assert_nobody_else_answers(cluster: &Cluster, expected: &BTreeSet<String>) {
    for _ in 0..100 {
        let response = cluster.hello();
        assert!(response.status == 200 && expected.contains(&response.body), "{response:?}");
    }
}

#[test]
fn the_time_from_a_change_to_its_application_is_counted() {
    let cluster = Cluster::up(&[]);
    cluster.order("scale front=2");
    let stats: serde_json::Value =
        serde_json::from_str(&cluster.order("stats --json --node proxyserver")).unwrap();
    let times = &stats["applied"]["proxy"];
    let count = times["count"].as_u64().unwrap();
    let buckets = times["at_most_ms"].as_object().unwrap().values();
    assert!(count >= 1 && buckets.map(|n| n.as_u64().unwrap()).sum::<u64>() == count, "{stats}");
    assert!(times["sum_ms"].as_u64().unwrap() < count * 20_000, "on one machine, with one clock: {stats}");
}

#[test]
fn every_front_asks_every_app_and_after_scaling_back_only_one_pair_is_left() {
    let cluster = Cluster::up(&[]);
    let steps = cluster.order("scale front=2 app=3");
    for step in ["proxyserver sees 2 frontserver after ", "frontserver2 sees 3 appserver after "] {
        assert!(steps.contains(step) && steps.contains(" ms\n"), "{steps}");
    }
    assert_all_answer(&cluster, &greetings(&[1, 2], &[1, 2, 3]));

    let steps = cluster.order("scale front=1 app=1");
    for node in ["frontserver2", "appserver2", "appserver3"] {
        assert!(steps.contains(&format!("{node} stopped after ")), "{steps}");
    }
    assert_nobody_else_answers(&cluster, &greetings(&[1], &[1]));
    assert_eq!(cluster.place.processes().len(), 9, "the launcher, four sidecars and four roles");
}

#[test]
fn a_stopped_or_killed_node_serves_again_under_its_name() {
    let cluster = Cluster::up(&["--front", "2", "--app", "2"]);
    let (everybody, survivors) = (greetings(&[1, 2], &[1, 2]), greetings(&[1], &[1]));
    for end in ["stop", "kill"] {
        for node in ["appserver2", "frontserver2"] {
            cluster.order(&format!("node {end} {node}"));
        }
        // Whoever was killed is still in the tables for a moment, and no client is to notice.
        assert_nobody_else_answers(&cluster, &survivors);
        for node in ["appserver2", "frontserver2"] {
            cluster.order(&format!("node start {node}"));
        }
        assert_all_answer(&cluster, &everybody);
    }
}

#[test]
fn who_was_killed_or_stopped_is_listed_as_alive_by_nobody_when_the_command_ends() {
    let cluster = Cluster::up(&["--app", "2"]);
    for end in ["kill", "stop", "kill"] {
        cluster.order(&format!("node {end} appserver2"));
        for node in ["dnsserver", "proxyserver", "frontserver1", "appserver1"] {
            let listed = cluster.order(&format!("members --role appserver --node {node}"));
            let is_alive = |line: &str| line.starts_with("appserver2 ") && line.contains(" ready ");
            assert!(!listed.lines().any(is_alive), "after {end}: {listed}");
        }
        cluster.order("node start appserver2");
    }
}

#[test]
fn a_restarted_node_serves_under_another_instance() {
    let cluster = Cluster::up(&[]);
    let instance = || {
        let explained = cluster.order("explain appserver1 --node proxyserver");
        explained.split_once("instance ").unwrap().1.split(',').next().unwrap().to_owned()
    };
    let before = instance();
    let said = cluster.order("node restart appserver1");
    assert!(said.contains("appserver1 stopped after ") && said.contains("appserver1 started at "), "{said}");
    assert_eq!(cluster.hello().status, 200);
    assert_ne!(instance(), before);
    let log = cluster.order("node logs appserver1");
    assert!(log.contains("sidecar started node=appserver1") && log.contains("app listening"), "{log}");
    assert!(cluster.run("node logs appserver9").why().contains("appserver9.log: no log of such a node"));
}

#[test]
fn a_node_that_cannot_serve_fails_the_order_that_started_it() {
    let cluster = Cluster::up(&[]);
    let mut taken = cluster.service("appserver1");
    let std::net::IpAddr::V4(ip) = taken.ip() else { panic!("{taken}") };
    let [a, b, c, d] = ip.octets();
    taken.set_ip([a, b, c, d + 1].into());
    // Bound and not listening: a check must not pass there before the program has failed.
    let holder = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // Over what earlier connections have left there, and then against everybody else.
    holder.set_reuse_address(true).unwrap();
    holder.bind(&taken.into()).unwrap();
    holder.set_reuse_address(false).unwrap();
    let failed = cluster.run("scale app=2");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for part in ["error: appserver2 failed: --listen 127.", "appserver2.log"] {
        assert!(failed.stderr.contains(part), "{failed:?}");
    }
    assert_eq!(cluster.hello().status, 200);
}

#[test]
fn a_proxy_that_comes_back_serves_at_once_where_it_was() {
    let cluster = Cluster::up(&[]);
    for end in ["stop", "kill", "stop", "kill"] {
        cluster.order(&format!("node {end} proxyserver"));
        cluster.order("node start proxyserver");
        assert_nobody_else_answers(&cluster, &greetings(&[1], &[1]));
    }
}

#[test]
fn a_frozen_node_is_left_out_and_serves_again_when_it_thaws() {
    let cluster = Cluster::up(&["--app", "2"]);
    cluster.order("node pause appserver2");
    cluster.order("wait --role appserver --min 1 --max 1 --node frontserver1");
    assert_nobody_else_answers(&cluster, &greetings(&[1], &[1]));
    cluster.order("node resume appserver2");
    cluster.order("wait --role appserver --min 2 --node frontserver1");
    assert_all_answer(&cluster, &greetings(&[1], &[1, 2]));
}

#[test]
fn an_order_that_cannot_be_carried_out_fails_in_one_line_that_says_why() {
    let cluster = Cluster::up(&[]);
    for (order, why) in [
        (
            "node stop web1",
            "web1 is no node of a local cluster: expected dnsserver, proxyserver, frontserverN or appserverN",
        ),
        ("node stop appserver01", "appserver01 is no node"),
        ("node start appserver251", "appserver251 is no node"),
        ("node stop appserver2", "appserver2 does not run"),
        ("node kill appserver2", "appserver2 does not run"),
        ("node pause appserver2", "appserver2 does not run"),
        ("node resume appserver2", "appserver2 does not run"),
        ("node start appserver1", "appserver1 runs already"),
        ("node resume appserver1", "appserver1 is not paused"),
        ("node restart appserver2", "appserver2 does not run"),
        ("scale front=1 frontserver=2", "a role is given twice"),
        ("scale web=1", "web is no service of this cluster: expected one of frontserver, appserver"),
    ] {
        let ended = cluster.run(order);
        assert!(ended.why().contains(why), "{order}: {ended:?}");
    }
    cluster.order("node pause appserver1");
    assert!(cluster.run("node pause appserver1").why().contains("appserver1 is paused already"));
    cluster.order("node resume appserver1");
    assert_eq!(cluster.hello().status, 200);
}
