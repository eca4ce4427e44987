//! What can be asked of a sidecar: `members`, `tags`, `wait`, `monitor`, `leave`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{
    cluster::Cluster,
    network::Network,
    place::Place,
    program::{Running, concertina, run},
    wait::until,
};

/// Name and state of each member, as a node's sidecar knows them.
fn states(cluster: &Cluster, node: &str) -> BTreeMap<String, String> {
    let members: Vec<Value> =
        serde_json::from_str(&cluster.order(&format!("members --json --node {node}"))).unwrap();
    let text = |member: &Value, key: &str| member[key].as_str().unwrap().to_owned();
    members.iter().map(|member| (text(member, "name"), text(member, "state"))).collect()
}

/// A program that stays, for this cluster.
fn start(cluster: &Cluster, command: &str) -> Running {
    let mut arguments = concertina(command.split(' '));
    arguments.arg("--dir").arg(cluster.place.path());
    Running::start(arguments, cluster.place.join(format!("{}.log", command.replace(' ', "_"))))
}

#[test]
fn members_are_listed_for_people_and_for_programs() {
    let cluster = Cluster::up(&[]);
    let nodes = ["appserver1", "dnsserver", "frontserver1", "proxyserver"];
    for asked in nodes {
        let ready = nodes.map(|node| (node.to_owned(), "ready".to_owned()));
        until(&format!("{asked} knows everybody"), || {
            (states(&cluster, asked) == BTreeMap::from(ready.clone())).then_some(())
        });
    }
    let listed = cluster.order("members --node proxyserver");
    assert!(listed.lines().map(|line| line.split(' ').next().unwrap()).eq(nodes), "{listed}");
    let apps = cluster.order("members --role appserver --node proxyserver");
    let [line] = apps.lines().collect::<Vec<_>>()[..] else { panic!("one line: {apps}") };
    for part in ["appserver1", ":7946", "ready", "role=appserver", "port=8080"] {
        assert!(line.contains(part), "{line}");
    }
    let nobody = cluster.run("members --node appserver2");
    assert!(nobody.why().contains("appserver2/feed.sock"), "{nobody:?}");
}

#[test]
fn waiting_ends_when_the_role_has_grown_or_the_time_is_over() {
    let cluster = Cluster::up(&[]);
    cluster.order("wait --role appserver --node frontserver1");
    let mut waiting = start(&cluster, "wait --role appserver --min 2 --node frontserver1");
    cluster.order("scale app=2");
    assert_eq!(waiting.ended().code(), Some(0), "{}", waiting.said());
    assert!(waiting.said().starts_with("appserver ready after "), "{}", waiting.said());

    for (wish, expected) in [("--min 3", "at least 3"), ("--max 0", "at most 0")] {
        let why = format!("error: timed out after 50ms: appserver has 2 ready nodes, expected {expected}");
        let wait = format!("wait --role appserver {wish} --timeout 50ms --node frontserver1");
        // A sidecar that is slow to answer is told instead of the number.
        until(&why, || (cluster.run(&wait).why() == why).then_some(()));
    }
    let never = cluster.run("wait --role appserver --min 3 --max 2 --node frontserver1");
    assert!(never.why().contains("no number is both"), "{never:?}");
    cluster.order("scale app=0");
    let gone = cluster.order("wait --role appserver --max 0 --node frontserver1");
    assert!(gone.starts_with("appserver gone after "), "{gone}");
}

#[test]
fn waiting_begins_before_its_sidecar_does() {
    let network = Network::claim();
    let mut wait = concertina(["wait", "--role", "dnsserver", "--feed"]);
    wait.arg(network.feed("dnsserver"));
    let mut wait = Running::start(wait, network.place.join("wait.log"));
    let over = network.ask("dnsserver", "wait --role dnsserver --timeout 50ms");
    assert!(over.why().contains("timed out after 50ms: no sidecar answers at "), "{over:?}");
    let _dnsserver = network.start("dnsserver");
    assert_eq!(wait.ended().code(), Some(0), "{}", wait.said());
}

#[test]
fn the_running_local_cluster_is_asked_unless_a_socket_or_node_is_named() {
    let (cluster, empty) = (Cluster::up(&[]), Place::new());
    until("all are members", || (cluster.order("members").lines().count() == 4).then_some(()));
    assert!(cluster.order("explain appserver1").contains(" to proxyserver, "));
    cluster.order("node kill proxyserver");
    assert!(cluster.order("explain frontserver1").contains(" to appserver1, "));
    for own in ["tags", "tags set a=b", "leave", "stats"] {
        let which = cluster.run(own);
        assert!(which.why().contains("--node: ") && which.why().contains("appserver1"), "{own}: {which:?}");
    }
    let nobody = cluster.run("members --node appserver9");
    assert!(nobody.why().contains("are appserver1, dnsserver, frontserver1"), "{nobody:?}");
    let mut none = concertina(["members", "--dir"]);
    none.arg(empty.path());
    assert!(run(none).why().contains("start a local cluster with `concertina up`"));
    let nothing = cluster.run("members --role nosuch");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
    assert_eq!(nothing.stderr, "no member has this role and these tags\n");
}

#[test]
fn a_monitor_tells_who_is_there_and_then_every_change() {
    let cluster = Cluster::up(&[]);
    let monitor = start(&cluster, "monitor --node proxyserver");
    let tells = |node: &str, states: &[&str]| {
        until(&format!("{node} {states:?} of the monitor"), || {
            let said = monitor.said();
            let of_node = said.lines().filter_map(|line| line.strip_prefix(node));
            is_in_order(states, of_node.filter_map(|rest| rest.split_whitespace().nth(1))).then_some(())
        });
    };
    for node in ["appserver1", "dnsserver", "frontserver1", "proxyserver"] {
        tells(node, &["ready"]);
    }
    cluster.order("node start appserver2");
    tells("appserver2", &["ready"]);
    cluster.order("node stop appserver2");
    tells("appserver2", &["ready", "left"]);
    cluster.order("node kill appserver1");
    tells("appserver1", &["ready", "failed"]);
}

/// Whether all of these come in this order, others between them or not.
fn is_in_order<'a>(expected: &[&str], mut heard: impl Iterator<Item = &'a str>) -> bool {
    expected.iter().all(|state| heard.any(|other| other == *state))
}

#[test]
fn a_node_that_is_told_to_leave_leaves_and_can_come_back() {
    let cluster = Cluster::up(&["--app", "2"]);
    assert_eq!(cluster.order("leave --node appserver2"), "leaving\n");
    until("appserver2 has left", || {
        (!states(&cluster, "frontserver1").contains_key("appserver2")).then_some(())
    });
    assert_eq!(cluster.hello().body, "Hello frontserver1, I'm appserver1 !\n");
    // It ends a moment after it has left, and the launcher notices that.
    until("appserver2 starts again", || (cluster.run("node start appserver2").code == Some(0)).then_some(()));
    assert_eq!(states(&cluster, "frontserver1")["appserver2"], "ready");
}

#[test]
fn tags_change_while_the_node_runs_and_select_it() {
    let cluster = Cluster::up(&["--app", "2"]);
    assert_eq!(cluster.order("tags --node appserver2"), "");
    let set = cluster.order("tags --node appserver2 set zone=b disk=ssd zone=a");
    assert_eq!(set, "disk=ssd\nzone=a\n");
    cluster.order("wait --role appserver --tag zone=a --node proxyserver");
    let listed = cluster.order("members --tag zone=a --tag disk=ssd --node proxyserver");
    assert!(listed.starts_with("appserver2 ") && listed.ends_with(" disk=ssd,zone=a\n"), "{listed}");
    let listed: Vec<Value> =
        serde_json::from_str(&cluster.order("members --json --role appserver --node proxyserver")).unwrap();
    assert_eq!(listed[1]["tags"], serde_json::json!({"disk": "ssd", "zone": "a"}));
    assert!(listed[0].get("tags").is_none(), "absent where there is none: {listed:?}");

    assert_eq!(cluster.order("tags delete disk never --node appserver2"), "zone=a\n");
    let long = cluster.run(&format!("tags set a={0} b={0} --node appserver2", "v".repeat(126)));
    assert!(long.why().contains("over 256"), "{long:?}");
    assert_eq!(cluster.order("tags --node appserver2"), "zone=a\n");
}

#[test]
fn an_event_is_shown_by_every_monitor_once() {
    let cluster = Cluster::up(&["--app", "2"]);
    let nodes = ["dnsserver", "proxyserver", "frontserver1", "appserver1", "appserver2"];
    let monitors = nodes.map(|node| start(&cluster, &format!("monitor --json --node {node}")));
    for (node, monitor) in nodes.iter().zip(&monitors) {
        until(&format!("{node} is watched"), || monitor.said().contains("appserver2").then_some(()));
    }
    assert!(cluster.order("event deploy v2 --node appserver1").starts_with("deploy sent, time="));
    cluster.order("event deploy v3 --node appserver1");
    for monitor in &monitors {
        let events = until("both events", || {
            let said = monitor.said();
            let whole = said.rfind('\n').map_or("", |end| &said[..end]);
            let frames = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let mut events: Vec<Value> = frames.filter_map(|frame| frame.get("event").cloned()).collect();
            // Gossip may bring the later one first; their times say which that is.
            events.sort_by_key(|event| event["time"].as_u64());
            (events.len() >= 2).then_some(events)
        });
        let told: Vec<_> = events.iter().map(|event| (&event["payload"], &event["origin"])).collect();
        let origin = Value::from("appserver1");
        assert_eq!(told, [(&"v2".into(), &origin), (&"v3".into(), &origin)]);
    }
    let long = cluster.run(&format!("event deploy {} --node appserver1", "x".repeat(513)));
    assert!(long.why().contains("513 bytes, over 512"), "{long:?}");
}

#[test]
fn a_query_prints_each_answer_and_how_many_of_how_many() {
    let cluster = Cluster::up(&["--app", "2"]);
    until("the dnsserver knows all", || (states(&cluster, "dnsserver").len() == 5).then_some(()));
    let said = cluster.order("query ping --node dnsserver");
    assert!(said.ends_with("\n5 of 5 answered\n") && said.lines().count() == 6, "{said}");
    let said = cluster.order("query version --role appserver --json --node dnsserver");
    let version = format!("\"payload\":\"{}\"}}}}", env!("CARGO_PKG_VERSION"));
    assert!(said.lines().take(2).all(|line| line.ends_with(&version)), "{said}");
    assert!(said.ends_with("{\"answered\":{\"answered\":2,\"asked\":2}}\n"), "{said}");

    cluster.order("node pause appserver2");
    let silent = cluster.run("query ping --to appserver2 --timeout 50ms --node dnsserver");
    assert_eq!((silent.code, silent.stdout.as_str()), (Some(1), "0 of 1 answered\n"), "{silent:?}");
    let unknown = cluster.run("query status --to appserver1 --node dnsserver");
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stdout.contains("error: nothing here answers status\n0 of 1 answered\n"), "{unknown:?}");
    let nobody = cluster.run("query ping --to nosuch --node dnsserver");
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(1), "0 of 0 answered\n"));
    assert!(nobody.stderr.starts_with("no live member has this name"), "{nobody:?}");
}

#[test]
fn a_lost_node_is_explained_and_forgotten_on_demand() {
    let cluster = Cluster::up(&["--app", "2"]);
    let explained = cluster.order("explain appserver2 --node frontserver1");
    assert!(explained.starts_with("appserver2 is ready to frontserver1, since "), "{explained}");
    for part in ["role appserver, port 8080", "advert version ", "lifeline from here"] {
        assert!(explained.contains(part), "{explained}");
    }
    cluster.order("node kill appserver2");
    for node in ["frontserver1", "dnsserver"] {
        until(&format!("appserver2 has failed to {node}"), || {
            let json = cluster.order(&format!("explain appserver2 --json --node {node}"));
            let explained: Value = serde_json::from_str(&json).unwrap();
            (explained["member"]["state"] == "failed").then_some(())
        });
    }
    let forgotten = cluster.order("force-leave appserver2 --node dnsserver");
    assert_eq!(forgotten, "appserver2 is marked as left; it was failed\n");
    until("appserver2 has left", || {
        let explained = cluster.order("explain appserver2 --node frontserver1");
        explained
            .contains("appserver2 is left")
            .then(|| assert!(explained.contains("an operator"), "{explained}"))
    });
    let unknown = cluster.run("explain appserver3 --node dnsserver");
    assert!(unknown.why().contains("no member appserver3"), "{unknown:?}");
}

#[test]
fn a_wish_is_visible_when_every_consumer_in_the_cluster_acts_on_it() {
    let cluster = Cluster::up(&["--front", "2"]);
    // Asked of a node whose own consumer is none of them.
    let mut waiting = start(&cluster, "wait --role appserver --min 2 --visible --node appserver1");
    cluster.order("scale app=2");
    assert_eq!(waiting.ended().code(), Some(0), "{}", waiting.said());
    assert!(waiting.said().starts_with("appserver ready after "), "{}", waiting.said());
    // A front whose process is stopped confirms nothing.
    cluster.order("node pause frontserver2");
    let over = cluster.run("wait --role appserver --min 2 --visible --timeout 300ms --node appserver1");
    assert!(over.why().contains("300ms"), "{over:?}");
    cluster.order("node resume frontserver2");
    cluster.order("wait --role appserver --min 2 --visible --node appserver1");
}
