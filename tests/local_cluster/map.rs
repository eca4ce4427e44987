//! The live map and what it is made of: the load of the whole cluster from any node, and the page in a browser.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    admin::{ask, get},
    keys::{generate, key_file},
    support::{cluster::Cluster, place::Place, program::Running, skip, turns::Turn, wait::until},
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

/// A script beside this.
fn script(name: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/map").join(name));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// How often a node's end is timed. The quickest one counts: what else a machine does can only make one slower.
const ENDS_COUNT: usize = 8;

/// Longest from an order to its being shown: the page asks every 200 ms.
const SHOWN_TIME_MAX: Duration = Duration::from_millis(300);

/// A cluster, and a browser that shows it as its proxyserver sees it.
struct Shown {
    cluster: Cluster,
    browser: Running,
}

impl Shown {
    /// None: the machine has no browser.
    fn up() -> Option<Self> {
        if !has_programs(&["chromium", "python3"]) {
            return None;
        }
        let cluster = Cluster::up_alone(&["--app", &ENDS_COUNT.to_string()]);
        let mut command = script("watch.py");
        let url = format!("http://{}:9790/", cluster.service("proxyserver").ip());
        command.arg(cluster.place.join("profile")).arg(url);
        let browser = Running::start(command, cluster.place.join("watch.log"));
        Some(Self { cluster, browser })
    }

    /// When the page first showed an appserver in one of these states, by the clock.
    fn first(&self, node: &str, states: &[&str]) -> SystemTime {
        until(&format!("the page shows {node} {states:?}"), || {
            let said = self.browser.said();
            let is_so = |label: &str| {
                let state = label.strip_prefix(node)?.strip_prefix(", appserver, ")?;
                states.iter().any(|first| state.starts_with(first)).then_some(())
            };
            let mut lines = said.lines().filter_map(|line| line.split_once(' '));
            let (at_ms, _) = lines.find(|(_, label)| is_so(label).is_some())?;
            Some(UNIX_EPOCH + Duration::from_millis(at_ms.parse().unwrap()))
        })
    }

    /// Ends one appserver after another, and holds the quickest to the bound. A node that nobody uses may have left before anybody looks.
    fn time(&self, what: &str, states: &[&str], mut end: impl FnMut(&str)) {
        let times = (1..=ENDS_COUNT).map(|number| {
            let node = format!("appserver{number}");
            self.first(&node, &["ready"]);
            let ordered = SystemTime::now();
            end(&node);
            self.first(&node, states).duration_since(ordered).unwrap()
        });
        let mut times: Vec<_> = times.collect();
        times.sort();
        println!("{what}: shown after {times:.0?}");
        assert!(times[0] <= SHOWN_TIME_MAX, "{what}: {times:?}");
    }

    /// The process of a node's sidecar.
    fn sidecar(&self, node: &str) -> Pid {
        let id = self.cluster.launcher.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let is_its = |pid: &&str| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').any(|word| word == node)
        };
        let pid = children.split_whitespace().find(is_its).unwrap();
        Pid::from_raw(pid.parse().unwrap()).unwrap()
    }
}

#[test]
fn a_node_that_drains_is_shown_so_at_once_at_another_nodes_map() {
    let Some(shown) = Shown::up() else { return };
    shown.time("POST /drain", &["draining"], |node| {
        assert_eq!(ask(shown.cluster.service(node), "POST", "/drain", "").0, 200);
    });
}

#[test]
fn a_node_whose_sidecar_is_told_to_stop_is_shown_so_at_once_at_another_nodes_map() {
    let Some(shown) = Shown::up() else { return };
    shown.time("SIGTERM", &["draining", "left"], |node| {
        kill_process(shown.sidecar(node), Signal::TERM).unwrap();
    });
}

#[test]
fn a_node_that_is_stopped_by_hand_is_shown_so_at_once_at_another_nodes_map() {
    let Some(shown) = Shown::up() else { return };
    shown.time("node stop", &["draining", "left"], |node| {
        shown.cluster.order(&format!("node stop {node}"));
    });
}

/// How long all claims may take, in seconds, on a machine that is busy.
const CLAIMS_TIMEOUT: &str = "300";

#[test]
fn the_page_holds_to_what_it_claims_in_a_browser() {
    if !has_programs(&["chromium", "python3"]) {
        return;
    }
    let (_turn, place) = (Turn::alone(), Place::new());
    let mut command = Command::new("timeout");
    command.arg(CLAIMS_TIMEOUT).arg("python3");
    command.args(script("check.py").get_args()).arg(place.join("profile"));
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// The page with a cluster that does not exist.
fn browse_made_up(kind: &str, node: &str) -> Option<String> {
    if !has_programs(&["chromium", "python3"]) {
        return None;
    }
    let place = Place::new();
    let mut command = script("serve.py");
    command.args(["0", kind]);
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
