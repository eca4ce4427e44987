//! The admin port of every node: metrics, drains, discovery, and who may what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use simple_dns::TYPE;

use crate::support::{
    cluster::Cluster,
    dns::{self, Over},
    http,
    network::Network,
    prometheus::{ADMIN_PORT, Prometheus, example},
    skip,
    wait::{DEADLINE, look_for, until},
};

const TOKEN: &str = "a-token-of-this-test";
const OPENMETRICS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";

/// What a node answers at its admin port: the status and the body.
pub(crate) fn ask(node: SocketAddr, method: &str, path: &str, fields: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(SocketAddr::new(node.ip(), ADMIN_PORT)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: admin\r\n{fields}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

pub(crate) fn get(node: SocketAddr, path: &str) -> (u16, String) {
    ask(node, "GET", path, "")
}

fn await_ready(network: &Network, node: &str) {
    let addr = SocketAddr::new(network.service(node).ip(), ADMIN_PORT);
    until(&format!("{node} is ready"), || {
        TcpStream::connect(addr).ok()?;
        (get(addr, "/ready").0 == 200).then_some(())
    });
}

/// A sample's value; 0 where there is none.
fn value(text: &str, sample: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// The nodes of a cluster that is not scaled, a program each.
const NODES: [&str; 4] = ["proxyserver", "dnsserver", "frontserver1", "appserver1"];

/// A cluster with requests and questions of several kinds behind it.
fn used_cluster() -> Cluster {
    let cluster = Cluster::up(&[]);
    send_requests(&cluster);
    send_questions(&cluster);
    // Latencies are noted when an answer has left, which the client may see first.
    for (node, family) in NODES.into_iter().zip(["proxy", "dns", "service", "service"]) {
        until(&format!("{node} has served"), || {
            let text = get(cluster.service(node), "/metrics").1;
            text.contains(&format!("\nconcertina_{family}_request_duration_seconds_count{{")).then_some(())
        });
    }
    cluster
}

fn send_questions(cluster: &Cluster) {
    let server = cluster.service("dnsserver");
    for (name, record_type) in [("appserver", TYPE::A), ("appserver", TYPE::AAAA), ("nobody", TYPE::SRV)] {
        dns::ask(server, Over::Udp, &format!("{name}.concertina.internal"), record_type);
    }
}

fn send_requests(cluster: &Cluster) {
    for _ in 0..3 {
        assert_eq!(cluster.hello().status, 200);
    }
    assert_eq!(http::get(cluster.addr, "/nowhere").unwrap().status, 404);
    // One that is refused, and says of itself what is to be in no label.
    let mut odd = TcpStream::connect(cluster.addr).unwrap();
    odd.write_all(b"EVIL-VERB /evil-path HTTP/1.1\r\nHost: evil.example\r\nHost: evil.example\r\n\r\n")
        .unwrap();
    odd.read_to_end(&mut Vec::new()).unwrap();
    let mut patch = TcpStream::connect(cluster.addr).unwrap();
    patch
        .write_all(
            b"EVIL-VERB /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
        )
        .unwrap();
    patch.read_to_end(&mut Vec::new()).unwrap();
}

/// A family as it is served, or as it is in the document.
type Told = (String, BTreeSet<String>, String);

/// The families of a text in the older format, by the name of their samples; labels of those without samples are unknown.
fn families(text: &str) -> BTreeMap<String, Told> {
    let mut all: BTreeMap<String, Told> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(!all.contains_key(name), "{name} is there twice");
            current = name.to_owned();
            all.entry(current.clone()).or_default().0 = kind.to_owned();
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            all.get_mut(&current).unwrap().2 = rest.split_once(' ').unwrap().1.to_owned();
        } else {
            assert!(line.starts_with(current.as_str()), "{line} is not of {current}");
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            all.get_mut(&current).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    all
}

/// The table of docs/metrics.md.
fn documented() -> BTreeMap<String, Told> {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let &[name, kind, labels, meaning] = cells.as_slice() else { panic!("{row}") };
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels, meaning.to_owned()))
    })
    .collect()
}

#[test]
fn every_metric_is_in_the_document_and_the_other_way_round() {
    let cluster = used_cluster();
    let mut served: BTreeMap<String, Told> = BTreeMap::new();
    for node in NODES {
        for (name, (kind, labels, help)) in families(&get(cluster.service(node), "/metrics").1) {
            let all = served.entry(name).or_default();
            (all.0, all.2) = (kind, help);
            all.1.extend(labels);
        }
    }
    let documented = documented();
    let names = |all: &BTreeMap<String, Told>| all.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&served), names(&documented));
    for (name, (kind, labels, help)) in &served {
        let (documented_kind, documented_labels, meaning) = &documented[name];
        assert_eq!((kind, help), (documented_kind, meaning), "{name}");
        assert!(labels.is_empty() || labels == documented_labels, "{name}: {labels:?}");
    }
}

#[test]
fn a_proxys_node_tells_what_its_proxy_has_counted_and_nothing_that_a_client_has_chosen() {
    let cluster = Cluster::up(&[]);
    let read = || ask(cluster.service("proxyserver"), "GET", "/metrics", OPENMETRICS);
    let (_, before) = read();
    send_requests(&cluster);
    let expected = [
        ("concertina_proxy_requests_total", 5),
        ("concertina_proxy_connections_total", 6),
        ("concertina_proxy_responses_total{role=\"frontserver\",method=\"GET\",class=\"2xx\"}", 3),
        ("concertina_proxy_responses_total{role=\"frontserver\",method=\"GET\",class=\"4xx\"}", 1),
        ("concertina_proxy_responses_total{role=\"frontserver\",method=\"other\",class=\"4xx\"}", 2),
        ("concertina_proxy_refused_total{reason=\"host-repeated\"}", 1),
        ("concertina_proxy_bytes_total{direction=\"in\"}", 4),
        ("concertina_proxy_in_flight{role=\"frontserver\"}", 0),
        ("concertina_proxy_request_duration_seconds_count{role=\"frontserver\",phase=\"first_byte\"}", 5),
    ];
    // What an answer leaves in the counters is there a moment after its client has it.
    let mut seen = (0, String::new());
    let is_counted = look_for(DEADLINE, || {
        seen = read();
        let is_right = |(sample, more): &(&str, u64)| value(&seen.1, sample) == value(&before, sample) + more;
        expected.iter().all(is_right).then_some(())
    });
    let (status, text) = seen;
    assert!(status == 200 && is_counted.is_some(), "{expected:?}: {text}");
    for (sample, now) in [
        ("concertina_proxy_upstreams{role=\"frontserver\",state=\"ready\"}", 1),
        ("concertina_proxy_upstream_ejections_total{role=\"frontserver\",upstream=\"frontserver1\"}", 0),
        ("concertina_node_state{role=\"proxyserver\",state=\"ready\"}", 1),
        ("concertina_members{role=\"appserver\",state=\"ready\"}", 1),
    ] {
        assert!(text.contains(&format!("\n{sample} {now}\n")), "{sample}: {text}");
    }
    let connected = "concertina_proxy_request_duration_seconds_count{role=\"frontserver\",phase=\"connect\"}";
    let connects = value(&text, "concertina_proxy_connects_total");
    assert!(connects > 0 && value(&text, connected) == connects, "{connects}: {text}");
    assert!(!text.to_lowercase().contains("evil"), "{text}");
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    for node in ["dnsserver", "frontserver1", "appserver1"] {
        let (status, text) = get(cluster.service(node), "/metrics");
        assert!(status == 200 && text.contains("\nprocess_cpu_seconds_total{process=\"role\"} "), "{text}");
        assert!(!text.contains("concertina_proxy"), "{text}");
    }
}

#[test]
fn promtool_finds_nothing_to_say_of_any_nodes_metrics() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skip::test("promtool");
    }
    let cluster = used_cluster();
    for node in NODES {
        let mut promtool = Command::new("promtool");
        promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut promtool = promtool.spawn().unwrap();
        let text = get(cluster.service(node), "/metrics").1;
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn a_prometheus_that_knows_one_node_scrapes_all_while_the_cluster_scales() {
    if Command::new("prometheus").arg("--version").output().is_err() {
        return skip::test("prometheus");
    }
    let cluster = Cluster::up(&[]);
    let prometheus = Prometheus::start(&cluster, "dnsserver");
    prometheus.await_up(&["appserver1", "dnsserver", "frontserver1", "proxyserver"]);
    cluster.order("scale front=2 app=3");
    let all = [
        "appserver1",
        "appserver2",
        "appserver3",
        "dnsserver",
        "frontserver1",
        "frontserver2",
        "proxyserver",
    ];
    prometheus.await_up(&all);
    for _ in 0..20 {
        assert_eq!(cluster.hello().status, 200);
    }
    let requests = "sum(concertina_proxy_responses_total{class=\"2xx\"})";
    let sample = "concertina_proxy_responses_total{role=\"frontserver\",method=\"GET\",class=\"2xx\"}";
    until("Prometheus has the same count", || {
        let counted = value(&get(cluster.service("proxyserver"), "/metrics").1, sample);
        (counted >= 20 && format!("{}", prometheus.value(requests)?) == counted.to_string()).then_some(())
    });
    until("each node knows seven", || {
        (prometheus.value("min(sum by (node) (concertina_members))")? == 7.0).then_some(())
    });
    send_questions(&cluster);
    the_dashboard_shows_something(&prometheus);
    let rules = fs::read_to_string(example("alerts.yaml")).unwrap();
    let rules = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned));
    let rules: BTreeSet<String> = rules.collect();
    assert!(rules.len() >= 4, "{rules:?}");
    until("all alerts are evaluated", || (prometheus.evaluated_rules()? == rules).then_some(()));
    cluster.order("scale front=1 app=1");
    prometheus.await_up(&["appserver1", "dnsserver", "frontserver1", "proxyserver"]);
}

/// Every expression of the dashboard is understood, and those that show what there always is have samples.
fn the_dashboard_shows_something(prometheus: &Prometheus) {
    const MAY_BE_EMPTY: [&str; 6] =
        ["Errors", "Ejected", "Refused", "Drains", "TLS handshakes", "Time left of certificates"];
    let dashboard: Value = serde_json::from_slice(&fs::read(example("grafana.json")).unwrap()).unwrap();
    let mut shown = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "1m").replace("$role", ".*");
            assert!(!query.contains('$'), "{title}: {query}");
            until(&format!("{title}: {query}"), || {
                let samples = prometheus.query(&query)?;
                let is_shown = !samples.as_array()?.is_empty() || MAY_BE_EMPTY.contains(&title);
                is_shown.then_some(())
            });
            shown += 1;
        }
    }
    assert!(shown >= 20, "{shown} expressions");
}

#[test]
fn every_alert_fires_when_it_should_and_none_where_all_is_well() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skip::test("promtool");
    }
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/local_cluster/alerts.yaml");
    for (command, file) in [("check", example("alerts.yaml")), ("test", cases)] {
        let checked = Command::new("promtool").args([command, "rules"]).arg(file).output().unwrap();
        let said = [checked.stdout, checked.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(checked.status.success(), "{said}");
    }
}

#[test]
fn a_drain_is_answered_when_everybody_has_let_go_and_the_node_waits_for_its_end() {
    let cluster = Cluster::up(&[]);
    cluster.order("scale app=2");
    cluster.sees("frontserver1", "appserver", 2);
    let drained = SocketAddr::new("127.0.0.1".parse().unwrap(), 1);
    let ip = cluster.service("appserver1").ip().to_string().replace(".2.1", ".2.2");
    let node = SocketAddr::new(ip.parse().unwrap(), drained.port());
    assert_eq!(get(node, "/drain"), (200, "{\"state\":\"none\"}\n".to_owned()), "it only reads");
    assert_eq!(get(node, "/ready").0, 200);
    let (status, body) = ask(node, "POST", "/drain", "");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &told["state"], &told["held_up_by"]),
        (200, &"drained".into(), &Value::Array(vec![]))
    );
    let bodies: BTreeSet<String> = (0..20).map(|_| cluster.hello().body).collect();
    assert_eq!(bodies, BTreeSet::from(["Hello frontserver1, I'm appserver1 !\n".to_owned()]));
    assert_eq!(get(node, "/ready"), (503, "draining\n".to_owned()));
    assert_eq!(get(node, "/health").0, 200, "it is to be left alone");
    assert_eq!(ask(node, "POST", "/drain", "").1, body, "it is told again");
    assert_eq!(get(node, "/drain").1, body);
    assert!(get(node, "/metrics").1.contains("concertina_drains_total{result=\"released\"} 1\n"));
    // Its end has nothing to wait for.
    let begun = Instant::now();
    cluster.order("node stop appserver2");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(cluster.hello().status, 200);
}

#[test]
fn what_changes_something_needs_this_machine_or_the_token_and_no_web_page() {
    let network = Network::claim();
    let token = network.place.join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let flags = ["--admin-token-file".to_owned(), token.display().to_string()];
    let _node = network.start_with("dnsserver", &flags);
    await_ready(&network, "dnsserver");
    let node = network.service("dnsserver");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (method, path, fields, status) in [
        ("POST", "/drain", "Origin: http://evil.example\r\n".to_owned(), 403),
        ("POST", "/drain", bearer("another-token-of-it"), 401),
        ("GET", "/drain", bearer("another-token-of-it"), 401),
        ("GET", "/reload", bearer(TOKEN), 405),
        ("POST", "/reload", String::new(), 502),
        ("DELETE", "/drain", String::new(), 405),
        ("POST", "/metrics", String::new(), 405),
        ("GET", "/nowhere", String::new(), 404),
        ("GET", "/sd?role=a.b", String::new(), 400),
    ] {
        assert_eq!(ask(node, method, path, &fields).0, status, "{method} {path} {fields}");
    }
    assert_eq!(get(node, "/ready").0, 200, "nothing has changed");
    assert_eq!(ask(node, "GET", "/drain", &bearer(TOKEN)).0, 200, "as the kubelet does it");
    assert_eq!(get(node, "/ready").0, 503);
}

#[test]
fn a_port_that_is_taken_is_an_error_where_it_was_asked_for_and_a_warning_where_it_was_not() {
    let network = Network::claim();
    let addr = SocketAddr::new(network.service("dnsserver").ip(), ADMIN_PORT);
    let _taken = TcpListener::bind(addr).unwrap();
    let mut node = network.start("dnsserver");
    node.hear("no metrics here: the admin port cannot be had");
    until("it is there all the same", || {
        network.ask("dnsserver", "members").stdout.contains("ready").then_some(())
    });
    assert!(!network.ask("dnsserver", "members --json").stdout.contains("admin_port"));
    network.kill("dnsserver", node);
    let mut refused = network.start_with("dnsserver", &["--admin".into(), addr.to_string()]);
    assert_eq!(refused.ended().code(), Some(1));
    assert!(refused.said().contains(&format!("--admin {addr}: cannot listen there")), "{}", refused.said());
    let mut refused = network.start_with("dnsserver", &["--admin-token-file".into(), "/nowhere".into()]);
    assert_eq!(refused.ended().code(), Some(1));
    assert!(refused.said().contains("--admin-token-file /nowhere: cannot be read"), "{}", refused.said());
}

#[test]
fn a_port_that_is_off_is_nobodys_target() {
    let network = Network::claim();
    let _off = network.start_with("dnsserver", &["--admin".into(), "off".into()]);
    let _on = network.start("appserver1");
    await_ready(&network, "appserver1");
    let node = network.service("appserver1");
    let addr = SocketAddr::new(node.ip(), ADMIN_PORT);
    until("both know each other", || get(node, "/state").1.contains("dnsserver").then_some(()));
    let told: Value = serde_json::from_str(&get(node, "/sd").1).unwrap();
    let targets: Vec<&Value> = told.as_array().unwrap().iter().map(|target| &target["targets"][0]).collect();
    assert_eq!(targets, [&Value::from(addr.to_string())]);
    assert!(TcpStream::connect((network.service("dnsserver").ip(), ADMIN_PORT)).is_err());
}

/// Whoever holds connections open, drips bytes or sends too much is in nobody's way.
#[test]
fn strangers_at_the_admin_port_hurt_neither_it_nor_its_node() {
    let network = Network::claim();
    let node = network.start("dnsserver");
    await_ready(&network, "dnsserver");
    let addr = SocketAddr::new(network.service("dnsserver").ip(), ADMIN_PORT);
    let resident = || {
        let statm = fs::read_to_string(format!("/proc/{}/statm", node.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let mut silent: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for stream in &mut silent {
        // Where its place has been given to another, that fails.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
    }
    assert_eq!(get(addr, "/ready").0, 200);
    let mut huge = TcpStream::connect(addr).unwrap();
    let field = [b"X: ".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
    let _ = huge.write_all(b"GET /metrics HTTP/1.1\r\n");
    let refused = (0..1000).any(|_| huge.write_all(&field).is_err());
    assert!(refused, "four megabytes of a head were taken");
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes for strangers");
    let begun = Instant::now();
    let mut drip = TcpStream::connect(addr).unwrap();
    drip.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    until("who drips is let go", || {
        let _ = drip.write_all(b"G");
        match drip.read(&mut [0; 256]) {
            Ok(_) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => Some(()),
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(get(addr, "/metrics").0, 200);
    node.signal(Signal::TERM);
    let mut node = node;
    assert_eq!(node.ended().code(), Some(0), "{}", node.said());
}
