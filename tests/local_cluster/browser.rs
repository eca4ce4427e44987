//! A browser that loads a page of a hundred assets again and again, with an event stream and WebSockets, all by HTTP/2, sees no error
//! while the role that serves it is scaled up and down.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    cluster::Cluster,
    place::Place,
    program::{Running, concertina},
    skip,
    turns::Turn,
    wait::until,
};

const SERVER: &str = include_str!("browser/server.py");
const PAGE: &str = include_str!("browser/page.html");

/// The event stream and the WebSocket that last begin when there is one node, which stays. Those of each round are anywhere.
const FILE: &str = r#"
[service.web]
command = "exec python3 server.py"
count = 1
port = 9000
check = "http:/health"
routes = ["/"]
"#;

/// How often the role grows and shrinks.
const TURNS_COUNT: usize = 4;

/// A certificate for localhost and its key; what the browser knows it by.
fn make_keys(place: &Place) -> String {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
            -addext subjectAltName=DNS:localhost -keyout key -out cert 2>/dev/null &&
        openssl x509 -in cert -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
    let output = Command::new("sh").args(["-c", script]).current_dir(place.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A proxy of its own that follows the same feed.
fn start_proxy(cluster: &Cluster) -> (Running, u16) {
    let place = &cluster.place;
    let mut command =
        concertina(["proxy", "--workers", "2", "--listen", "https://127.0.0.1:0=web", "--feed"]);
    let pair = format!("{},{}", place.join("cert").display(), place.join("key").display());
    command.arg(place.join("proxyserver/feed.sock")).args(["--certificate", &pair]);
    let mut proxy = Running::start(command, place.join("proxy.log"));
    let port =
        proxy.hear(&format!("addr={}:", Ipv4Addr::LOCALHOST)).split(' ').next().unwrap().parse().unwrap();
    (proxy, port)
}

fn start_browser(place: &Place, port: u16, key: &str) -> Running {
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-extensions", "--disable-background-networking", "--remote-debugging-port=0"])
        .arg(format!("--user-data-dir={}", place.join("profile").display()))
        .arg(format!("--ignore-certificate-errors-spki-list={key}"))
        .arg(format!("https://localhost:{port}/"))
        .env("NO_PROXY", "*")
        .stdin(Stdio::null());
    Running::start(command, place.join("chromium.log"))
}

/// What the page has written, once it has.
fn page_wrote(file: &Path) -> String {
    until(&format!("the page says {}", file.display()), || fs::read_to_string(file).ok())
}

#[test]
fn a_browser_sees_no_error_while_its_role_grows_and_shrinks() {
    for program in ["chromium", "openssl", "python3"] {
        if Command::new("which").arg(program).output().is_ok_and(|output| !output.status.success()) {
            return skip::test(program);
        }
    }
    let place = Place::new();
    for (file, text) in [("server.py", SERVER), ("page.html", PAGE), ("cluster.toml", FILE)] {
        fs::write(place.join(file), text).unwrap();
    }
    let key = make_keys(&place);
    let file = place.join("cluster.toml");
    let cluster = Cluster::up_at(Turn::alone(), place, &["--file", file.to_str().unwrap()]);
    let (_proxy, port) = start_proxy(&cluster);
    let _browser = start_browser(&cluster.place, port, &key);
    page_wrote(&cluster.place.join("began"));
    for _ in 0..TURNS_COUNT {
        cluster.order("scale web=4");
        cluster.sees("proxyserver", "web", 4);
        cluster.order("scale web=1");
        cluster.sees("proxyserver", "web", 1);
    }
    fs::write(cluster.place.join("over"), "").unwrap();
    let verdict = page_wrote(&cluster.place.join("verdict"));
    println!("{verdict}");
    let verdict: serde_json::Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!(verdict["errors"], serde_json::json!([]), "{verdict}");
    assert_eq!(verdict["socket"], "by a stream", "{verdict}");
    assert_eq!(verdict["loads"], 100, "{verdict}");
    for (what, least) in [("rounds", 5), ("events", 20), ("echoes", 20)] {
        assert!(verdict[what].as_u64().unwrap() >= least, "{what}: {verdict}");
    }
}
