//! `concertina up --file`: programs that others wrote as a cluster, at one port by their routes.

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;

use crate::support::{
    cluster::{Cluster, launch},
    http,
    load::Load,
    place::Place,
    program::{Ended, Running, concertina, run},
    skip,
    turns::Turn,
    wait::until,
};

/// An ordinary HTTP server, which knows nothing of this project: it says its name, port and words, and greets as the load expects.
const SERVER: &str = r#"
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = " ".join([os.environ["CONCERTINA_NODE"], self.path, *sys.argv[1:]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print("asked for", self.path, flush=True)
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
print("serving on port", os.environ["PORT"], flush=True)
Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"#;

const FILE: &str = r#"
[service.shop]
command = ["python3", "server.py", "$HOST:$PORT", "${PORT}"]
check = "http:/health"
routes = ["/", "shop.localhost/shop"]
[service.billing]
command = "exec python3 server.py $WORD"
count = 2
port = 9000
dir = "inner"
routes = ["shop.localhost/billing"]
env = { WORD = "port-$PORT" }
tags = { version = "7" }
stop-signal = "SIGINT"
[service.worker]
command = "while sleep 1; do echo worked; done"
port = 0
"#;

/// A place with that file in it; none: there is no Python.
fn place() -> Option<Place> {
    if Command::new("python3").arg("--version").output().is_err() {
        skip::test("python3");
        return None;
    }
    let place = Place::new();
    fs::create_dir(place.join("inner")).unwrap();
    for server in ["server.py", "inner/server.py"] {
        fs::write(place.join(server), SERVER).unwrap();
    }
    fs::write(place.join("cluster.toml"), FILE).unwrap();
    Some(place)
}

fn up(turn: Turn) -> Option<Cluster> {
    let place = place()?;
    let file = place.join("cluster.toml");
    Some(Cluster::up_at(turn, place, &["--file", file.to_str().unwrap()]))
}

fn body(cluster: &Cluster, host: &str, path: &str) -> String {
    let response = http::get_of(cluster.addr, host, path).unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    response.body
}

#[test]
fn ordinary_programs_share_one_port_by_their_routes() {
    let Some(mut cluster) = up(Turn::one()) else { return };
    let shop = cluster.service("shop1");
    let expected = format!("shop1 /x {shop} {}", shop.port());
    assert_eq!(body(&cluster, "anything", "/x"), expected);
    assert_eq!(body(&cluster, "shop.localhost", "/shop"), format!("shop1 /shop {shop} {}", shop.port()));
    for node in ["billing1", "billing2"] {
        assert_eq!(cluster.service(node).port(), 9000);
        until(node, || {
            (body(&cluster, "shop.localhost", "/billing/1") == format!("{node} /billing/1 port-9000"))
                .then_some(())
        });
    }
    let members = cluster.order("members --role billing");
    assert!(members.lines().count() == 2 && members.contains("version=7"), "{members}");
    let (said, port) = (cluster.launcher.said(), cluster.addr.port());
    for line in [
        format!("shop serves http://shop.localhost:{port}/shop http://{}/\n", cluster.addr),
        format!("billing serves http://shop.localhost:{port}/billing\n"),
        "worker has no route\n".to_owned(),
        "worker1 started\n".to_owned(),
        format!("ready http://{}/\n", cluster.addr),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    cluster.launcher.signal(Signal::INT);
    assert_eq!(cluster.launcher.ended().code(), Some(0));
    assert_eq!(cluster.place.processes(), [] as [String; 0], "what a shell had started has ended, too");
}

#[test]
fn programs_that_know_no_host_have_ports_for_themselves_and_what_they_serve_arrives_whole() {
    let Some(place) = place() else { return };
    if Command::new("curl").arg("--version").output().is_err() {
        return skip::test("curl");
    }
    let bytes: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(place.join("inner/bytes"), &bytes).unwrap();
    let file = place.join("cluster.toml");
    // It listens at all addresses, and a second one could not at the same port.
    let text = "[service.files]\ncommand = ['python3', '-m', 'http.server', '$PORT']\ncount = 2\nroutes = ['files.localhost']\ndir = 'inner'\n";
    fs::write(&file, text).unwrap();
    let cluster = Cluster::up_at(Turn::one(), place, &["--file", file.to_str().unwrap()]);
    assert_ne!(cluster.service("files1").port(), cluster.service("files2").port());
    for _ in 0..4 {
        let url = format!("http://files.localhost:{}/bytes", cluster.addr.port());
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--noproxy", "*", "--resolve"]);
        curl.arg(format!("files.localhost:{}:127.0.0.1", cluster.addr.port())).arg(url);
        let got = curl.output().unwrap();
        assert!(got.stdout == bytes, "{} bytes: {}", got.stdout.len(), String::from_utf8_lossy(&got.stderr));
    }
}

#[test]
fn services_of_a_file_are_scaled_and_restarted_under_requests_that_all_are_answered() {
    let Some(cluster) = up(Turn::alone()) else { return };
    let load = Load::start(cluster.addr, 8);
    for _ in 0..3 {
        load.goes_on();
        let said = cluster.order("scale shop=3 billing=1");
        assert!(
            said.contains("proxyserver sees 3 shop after ") && said.contains("billing2 stopped"),
            "{said}"
        );
        load.goes_on();
        cluster.order("node restart shop2");
        load.goes_on();
        let said = cluster.order("scale shop=1 billing=2");
        assert!(said.contains("shop3 stopped after ") && said.contains("proxyserver sees 1 shop"), "{said}");
    }
    load.goes_on();
    load.assert_lossless("three times more and fewer nodes of an ordinary program");
}

/// nginx with a master and a worker, at an address that it has to find in its file.
const NGINX: &str = r#"
daemon off; worker_processes 1; pid NODE.pid; error_log stderr; events {}
http {
    access_log off;
    client_body_temp_path NODE-1; proxy_temp_path NODE-2; fastcgi_temp_path NODE-3; uwsgi_temp_path NODE-4; scgi_temp_path NODE-5;
    server { listen ADDRESS; location /hello { return 200 NODE; } }
}
"#;

const NGINX_FILE: &str = r#"
[service.web]
command = '''
sed "s/ADDRESS/$HOST:$PORT/; s/NODE/$CONCERTINA_NODE/g" nginx.conf > $CONCERTINA_NODE.conf
exec nginx -p . -e stderr -c $CONCERTINA_NODE.conf
'''
check = "http:/hello"
routes = ["/hello"]
port = 8088
stop-signal = "SIGQUIT"
"#;

#[test]
fn nginx_is_scaled_and_stopped_by_its_own_signal_under_requests_that_all_are_answered() {
    if Command::new("nginx").arg("-v").output().is_err() {
        return skip::test("nginx");
    }
    let (turn, place) = (Turn::alone(), Place::new());
    fs::write(place.join("nginx.conf"), NGINX).unwrap();
    let file = place.join("cluster.toml");
    fs::write(&file, NGINX_FILE).unwrap();
    let mut cluster = Cluster::up_at(turn, place, &["--file", file.to_str().unwrap()]);
    let load = Load::start(cluster.addr, 8);
    for _ in 0..3 {
        load.goes_on();
        cluster.order("scale web=3");
        until("the third answers", || (body(&cluster, "any", "/hello") == "web3").then_some(()));
        load.goes_on();
        cluster.order("scale web=1");
    }
    load.goes_on();
    load.assert_lossless("three times more and fewer nginx");
    assert_eq!(body(&cluster, "any", "/hello"), "web1");
    // The worker of a master that is killed goes on for ever.
    cluster.launcher.signal(Signal::TERM);
    assert_eq!(cluster.launcher.ended().code(), Some(0));
}

#[test]
fn nodes_of_a_files_services_take_the_same_orders_as_others() {
    let Some(cluster) = up(Turn::one()) else { return };
    for (order, why) in [
        ("scale app=2", "app is no service of this cluster: expected one of billing, shop, worker"),
        ("node stop shop2", "shop2 does not run"),
        ("node stop appserver1", "expected dnsserver, proxyserver, billingN, shopN or workerN"),
    ] {
        assert!(cluster.run(order).why().contains(why), "{order}: {:?}", cluster.run(order));
    }
    for order in ["node stop billing2", "node start billing2", "node kill billing2", "node start billing2"] {
        cluster.order(order);
    }
    cluster.order("node pause billing2");
    cluster.sees("proxyserver", "billing", 1);
    cluster.order("node resume billing2");
    cluster.sees("proxyserver", "billing", 2);
}

#[test]
fn a_program_that_ends_is_told_and_stays_ended_until_somebody_starts_it() {
    let Some(mut cluster) = up(Turn::one()) else { return };
    let log = cluster.place.join("worker1.log");
    until("the worker works", || fs::read_to_string(&log).unwrap().contains("worked").then_some(()));
    let worker = cluster.place.processes().into_iter().find(|process| process.contains(" sh\0-c\0"));
    let worker = worker.unwrap();
    let pid: i32 = worker.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    cluster.launcher.hear("worker1 failed, see ");
    assert!(cluster.run("node stop worker1").why().contains("worker1 does not run"));
    cluster.order("node start worker1");
}

#[test]
fn a_program_that_ends_at_the_start_ends_the_cluster() {
    let Some(place) = place() else { return };
    let (file, _turn) = (place.join("cluster.toml"), Turn::one());
    fs::write(&file, "[service.web]\ncommand = 'echo no database; exit 3'\n").unwrap();
    let mut launcher = launch(&place, &["--file", file.to_str().unwrap()]);
    assert_eq!(launcher.ended().code(), Some(1));
    let said = launcher.said();
    assert!(said.contains("error: web1 failed") && said.contains("web1.log"), "{said}");
    assert!(said.contains("web1 | no database\n") && said.contains("exit code 3"), "{said}");
    assert_eq!(place.left_behind(), [] as [String; 0]);
}

#[test]
fn logs_are_those_of_a_node_or_of_a_role_from_the_beginning_or_the_end() {
    let Some(cluster) = up(Turn::one()) else { return };
    body(&cluster, "anything", "/first");
    body(&cluster, "anything", "/second");
    let shop = until("what was asked is in the log", || {
        let said = cluster.order("logs shop1");
        said.contains("asked for /second\n").then_some(said)
    });
    assert!(shop.starts_with("serving on port 2") && !shop.contains(" | "), "{shop}");
    // The check asks, too, now and then.
    let last = cluster.order("logs shop1 -n 1000");
    let last = last.lines().rfind(|line| *line != "asked for /health");
    assert_eq!(last, Some("asked for /second"));
    let last = cluster.order("logs shop -n 1");
    assert!(last.starts_with("shop1 | ") && last.lines().count() == 1, "{last}");
    let billing = cluster.order("logs billing shop1");
    for line in
        ["billing1 | serving on port 9000", "billing2 | serving on port 9000", "shop1    | serving on port "]
    {
        assert!(billing.contains(line), "{billing}");
    }
    let refused = cluster.run("logs billign");
    let why = refused.why();
    assert!(
        why.contains("billign: no node or role") && why.contains("expected one of billing1, billing2, "),
        "{why}"
    );
    let nobody = Place::new();
    let mut command = concertina(["logs", "--dir"]);
    command.arg(nobody.path());
    assert!(run(command).why().contains("start one with `concertina up`"));
}

#[test]
fn followed_logs_go_on_with_nodes_that_come_later_and_end_with_their_reader() {
    let Some(cluster) = up(Turn::one()) else { return };
    let mut follow = concertina(["logs", "shop", "billing", "-f", "-n", "0", "--dir"]);
    follow.arg(cluster.place.path());
    let mut follow = Running::start(follow, cluster.place.join("follow.txt"));
    // It has looked once when it shows something.
    until("it follows", || {
        body(&cluster, "anything", "/here");
        follow.said().contains("shop1    | asked for /here\n").then_some(())
    });
    cluster.order("scale shop=2");
    follow.hear("shop2    | serving on port ");
    cluster.order("node restart billing1");
    follow.hear("billing1 | serving on port 9000");
    cluster.order("node stop shop2");
    fs::write(cluster.place.join("shop2.log"), "written anew\n").unwrap();
    follow.hear("shop2    | written anew");
    follow.signal(Signal::INT);
    follow.ended();
    assert!(!follow.said().contains("rror"), "{}", follow.said());

    let mut unread = concertina(["logs", "worker", "-f", "--dir"]);
    unread.arg(cluster.place.path());
    cluster.order("node stop worker1");
    assert_eq!(Running::start_unheard(unread).ended().code(), Some(141));
}

#[test]
fn a_wrong_file_starts_nothing_and_says_where_it_is_wrong() {
    let place = Place::new();
    let file = place.join("cluster.toml");
    let start = |text: &str, command: &[&str]| -> Ended {
        fs::write(&file, text).unwrap();
        let mut command = concertina(command);
        command.arg("--file").arg(&file).arg("--dir").arg(place.join("cluster"));
        run(command)
    };
    let wrong = "[service.web]\ncommand = \"true\"\nroute = [\"/\"]\n";
    for command in [["up"].as_slice(), &["check", "up"]] {
        let refused = start(wrong, command);
        let where_and_what = format!("error: {}:3:1: unknown field `route`, expected", file.display());
        assert!(refused.why().starts_with(&where_and_what), "{refused:?}");
        assert!(refused.why().ends_with("did you mean `routes`?"), "{refused:?}");
    }
    assert!(!place.join("cluster").exists());
    assert_eq!(start("[service.web]\ncommand = \"true\"\n", &["check", "up"]).stdout, "ok\n");
    let both = run(concertina(["up", "--file", "x", "--app", "2"]));
    assert!(both.code == Some(2) && both.stderr.contains("cannot be used with"), "{both:?}");
}

#[test]
fn the_example_is_a_right_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster.toml");
    let checked = run(concertina(["check", "up", "--file", file.to_str().unwrap()]));
    assert_eq!((checked.stdout.as_str(), checked.stderr.as_str()), ("ok\n", ""));
}
