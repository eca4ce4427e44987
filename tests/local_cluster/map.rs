//! The live map and what it is made of: the load of the whole cluster from any node, and the page in a browser.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    admin::{ask, get},
    keys::{generate, key_file},
    support::{cluster::Cluster, place::Place, program::Running, skip, wait::until},
};

fn json_at(node: SocketAddr, path: &str) -> Value {
    let (status, body) = get(node, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// What a node says of itself in the cluster's load.
fn said_by(load: &Value, node: &str) -> Value {
    load["nodes"].as_array().unwrap().iter().find(|said| said["node"] == node).cloned().unwrap_or_default()
}

/// Its first role's first endpoint.
fn endpoint_of(load: &Value, consumer: &str) -> Value {
    said_by(load, consumer)["roles"][0]["endpoints"][0].clone()
}

#[test]
fn any_node_tells_how_much_the_whole_cluster_has_to_do() {
    let cluster = Cluster::up(&[]);
    let anywhere = cluster.service("appserver1");
    let flows = [("proxyserver", "frontserver", "frontserver1"), ("frontserver1", "appserver", "appserver1")];
    let before = json_at(anywhere, "/load");
    // Answers are timed from a tick after the first look on.
    let load = until("answers are timed", || {
        assert_eq!(cluster.hello().status, 200);
        let load = json_at(anywhere, "/load");
        flows
            .iter()
            .all(|(consumer, ..)| endpoint_of(&load, consumer)["timed"].as_u64() > Some(2))
            .then_some(load)
    });
    assert_eq!(load["missing"], json!({}), "{load}");
    assert!(load["at_ms"].as_u64() > before["at_ms"].as_u64(), "{load}");
    for (consumer, role, endpoint) in flows {
        let told = &said_by(&load, consumer)["roles"][0];
        assert_eq!(
            (&told["role"], &told["queued"], &told["errors"]),
            (&json!(role), &json!(0), &json!(0)),
            "{load}"
        );
        assert!(!told["times_us"].as_object().unwrap().is_empty(), "{load}");
        let (first, last) = (endpoint_of(&before, consumer), endpoint_of(&load, consumer));
        assert_eq!((&last["node"], &last["failures"]), (&json!(endpoint), &json!(0)), "{load}");
        assert!(last["requests"].as_u64() > first["requests"].as_u64(), "{first} {last}");
        assert!(last["timed_us"].as_u64() > Some(0), "{last}");
    }
    assert_eq!(said_by(&load, "appserver1")["roles"], json!([]), "it asks nobody");
    cluster.order("node pause frontserver1");
    let load = until("a frozen node says nothing, and costs a question no more than its second", || {
        let asked = Instant::now();
        let load = json_at(anywhere, "/load");
        // Once is enough, on a machine that may be busy.
        let is_soon = asked.elapsed() < Duration::from_secs(3);
        (is_soon && load["missing"]["frontserver1"] == "did not answer in time").then_some(load)
    });
    assert!(said_by(&load, "proxyserver")["roles"][0]["role"] == "frontserver", "the others do: {load}");
    cluster.order("node resume frontserver1");
}

#[test]
fn a_drain_says_at_every_node_whom_it_waits_for_by_sealed_streams_too() {
    let files = Place::new();
    let keys = key_file(&files, "keys", &generate());
    let cluster = Cluster::up(&["--key-file", keys.to_str().unwrap()]);
    let (anywhere, front) = (cluster.service("appserver1"), cluster.service("frontserver1"));
    let mut holder = UnixStream::connect(cluster.place.join("dnsserver/feed.sock")).unwrap();
    holder.write_all(b"{\"hello\":{\"version\":1,\"name\":\"holder\",\"roles\":[\"*\"]}}\n").unwrap();
    BufReader::new(&holder).read_line(&mut String::new()).unwrap();
    let drain = thread::spawn(move || ask(front, "POST", "/drain", "").0);
    until("its state is told", || {
        let state = json_at(anywhere, "/state");
        let members = state["members"].as_array().unwrap();
        members.iter().any(|m| m["name"] == "frontserver1" && m["state"] == "draining").then_some(())
    });
    until("whom it waits for is told", || {
        let waits = said_by(&json_at(anywhere, "/load"), "frontserver1")["held_up_by"].clone();
        (waits == json!(["dnsserver"])).then_some(())
    });
    drop(holder);
    assert_eq!(drain.join().unwrap(), 200);
    let recent = json_at(anywhere, "/state")["recent"].clone();
    let drained = json!({"name": "frontserver1", "role": "frontserver", "state": "draining"});
    assert!(recent.as_array().unwrap().iter().any(|one| one["change"] == drained), "{recent}");
}

#[test]
fn the_page_comes_from_any_node_and_may_do_nothing_but_ask_it() {
    let cluster = Cluster::up(&[]);
    for (node, path, kind) in [
        ("proxyserver", "/", "text/html; charset=utf-8"),
        ("appserver1", "/map.css", "text/css; charset=utf-8"),
        ("dnsserver", "/map.js", "text/javascript; charset=utf-8"),
    ] {
        let mut stream = TcpStream::connect((cluster.service(node).ip(), 9790)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: map\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let head = answer.split("\r\n\r\n").next().unwrap();
        for field in [
            &format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; ",
            "x-content-type-options: nosniff",
        ] {
            assert!(head.contains(field), "{field}: {head}");
        }
    }
    let explained = json_at(cluster.service("dnsserver"), "/explain?node=appserver1");
    assert_eq!(explained["member"]["state"], "ready", "{explained}");
    assert_eq!(get(cluster.service("dnsserver"), "/explain?node=nobody").0, 404);
}

/// They are there; otherwise the test is skipped.
fn has_programs(programs: &[&str]) -> bool {
    let is_missing = |program: &&&str| !Command::new("which").arg(program).output().unwrap().status.success();
    programs.iter().find(is_missing).map(|program| skip::test(program)).is_none()
}

/// What a browser has made of the page after some seconds of its own time: the document, and what its console said.
fn browse(place: &Place, url: &str) -> (String, String) {
    let mut browser = Command::new("timeout");
    browser
        .args([
            "60",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .args(["--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", place.join("profile").display()))
        .arg(url)
        .env("NO_PROXY", "*");
    let output = browser.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// How often a drain is timed. The quickest one counts: what else a machine does can only make one slower.
const DRAINS_COUNT: usize = 8;

/// Longest from a drain's order to its being shown: the page asks every 200 ms.
const SHOWN_TIME_MAX: Duration = Duration::from_millis(300);

#[test]
fn a_node_that_drains_is_shown_so_at_once_at_another_nodes_map() {
    if !has_programs(&["chromium", "python3"]) {
        return;
    }
    let cluster = Cluster::up_alone(&["--app", &DRAINS_COUNT.to_string()]);
    let mut command = Command::new("python3");
    let url = format!("http://{}:9790/", cluster.service("proxyserver").ip());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/map/watch.py");
    command.arg(script).arg(cluster.place.join("profile")).arg(url);
    let browser = Running::start(command, cluster.place.join("watch.log"));
    // When the page first showed a node so, by the clock.
    let shown = |node: &str, state: &str| {
        until(&format!("the page shows {node} {state}"), || {
            let label = format!("{node}, appserver, {state}");
            let said = browser.said();
            let (at_ms, _) = said
                .lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(_, said)| said.starts_with(&label))?;
            Some(UNIX_EPOCH + Duration::from_millis(at_ms.parse().unwrap()))
        })
    };
    let times = (1..=DRAINS_COUNT).map(|number| {
        let node = format!("appserver{number}");
        shown(&node, "ready");
        let ordered = SystemTime::now();
        assert_eq!(ask(cluster.service(&node), "POST", "/drain", "").0, 200);
        shown(&node, "draining").duration_since(ordered).unwrap()
    });
    let times: Vec<_> = times.collect();
    println!("shown as draining after {times:.0?}");
    assert!(times.iter().min() <= Some(&SHOWN_TIME_MAX), "{times:?}");
}

/// The page with a cluster that does not exist.
fn browse_made_up(kind: &str, node: &str) -> Option<String> {
    if !has_programs(&["chromium", "python3"]) {
        return None;
    }
    let place = Place::new();
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/map/serve.py")).args(["0", kind]);
    let mut server = Running::start(command, place.join("serve.log"));
    let url = format!("http://{}#{node}", server.hear("http://"));
    let (document, said) = browse(&place, &url);
    assert!(!said.contains("CONSOLE"), "{said}");
    Some(document)
}

#[test]
fn two_hundred_nodes_are_shown_and_what_is_slow_or_leaving_is_said_in_words() {
    let Some(document) = browse_made_up("many", "api2") else { return };
    assert_eq!(document.matches("class=\"tile ").count(), 200);
    for words in ["is leaving: waits for proxyserver1, web2", "api4 is slow: ", "199/200", "1.4.2"] {
        assert!(document.contains(words), "{words}: {document}");
    }
}

#[test]
fn hostile_names_tags_and_reasons_are_text() {
    let Some(document) = browse_made_up("hostile", "api3") else { return };
    assert!(document.contains("&lt;img src=x") && document.contains("&lt;script&gt;"), "{document}");
    assert_eq!(document.matches("<script").count(), 1, "{document}");
    assert!(!document.contains("<img") && !document.contains("href=\"javascript"), "{document}");
    assert!(!document.contains("<title>evil"), "{document}");
}
