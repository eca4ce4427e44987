//! The access log from outside: what a proxy writes of requests that end in each of the ways that there are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use clap::Parser;
use proxy::{Args, Proxy};
use serde_json::Value;

/// How long a step may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

struct Stage {
    upstream: TcpListener,
    proxy: Proxy,
    addr: SocketAddr,
}

impl Stage {
    fn new(format: &str, file: &Path) -> Self {
        Self::with(format, file, "")
    }

    fn with(format: &str, file: &Path, flags: &str) -> Self {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let flags = format!(
            "proxy --listen http://127.0.0.1:0=app --upstream app={} --workers 1 --timeouts drain=10ms \
             --access-log {format} --access-log-file {} {flags}",
            upstream.local_addr().unwrap(),
            file.display()
        );
        let proxy = Proxy::start(&Flags::parse_from(flags.split_whitespace()).args).unwrap();
        let addr = proxy.addrs()[0];
        Self { upstream, proxy, addr }
    }

    /// A client that has sent this.
    fn client(&self, request: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.addr).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client
    }

    /// The upstream's end of the proxy's next connection, on which a request without a body has come.
    fn accept(&self) -> TcpStream {
        self.accept_head().0
    }

    /// The same with the head that has come.
    fn accept_head(&self) -> (TcpStream, String) {
        let (mut upstream, _) = self.upstream.accept().unwrap();
        upstream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            upstream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        (upstream, String::from_utf8(head).unwrap())
    }

    /// What the log says when the proxy has stopped.
    fn lines(self, file: &Path) -> Vec<String> {
        self.proxy.stop();
        std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
    }
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn every_request_has_its_line_however_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let stage = Stage::new("json", &file);

    let client = stage.client("GET /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut upstream = stage.accept();
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").unwrap();
    assert!(read_all(client).ends_with("\r\n\r\nok"));

    let refused = read_all(stage.client("GET /refused HTTP/1.1\nHost: a\r\n\r\n"));
    assert!(refused.starts_with("HTTP/1.1 400 "));

    let client = stage.client("GET /truncated HTTP/1.0\r\n\r\n");
    let mut upstream = stage.accept();
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf").unwrap();
    drop(upstream);
    read_all(client);

    let client = stage.client("GET /gone HTTP/1.1\r\nHost: a\r\n\r\n");
    let upstream = stage.accept();
    drop(client);
    assert_eq!(read_all(upstream), "", "the proxy gives it up");

    let upgrade = "Connection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let mut client = stage.client(&format!("GET /tunnel HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    let mut upstream = stage.accept();
    upstream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}down").as_bytes()).unwrap();
    client.write_all(b"and up").unwrap();
    let mut up = [0; 6];
    upstream.read_exact(&mut up).unwrap();
    drop(upstream);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    read_all(client);

    // A connection without a request has no line.
    drop(stage.client("\r\n"));
    let _client = stage.client("GET /stopped HTTP/1.1\r\nHost: a\r\n\r\n");
    let _upstream = stage.accept();
    let (upstream, addr) = (stage.upstream.local_addr().unwrap().to_string(), stage.proxy.addrs()[0]);

    let lines: Vec<Value> =
        stage.lines(&file).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ends: Vec<_> = lines.iter().map(|line| (&line["target"], &line["status"], &line["end"])).collect();
    let expected = serde_json::json!([
        ["/whole", 200, "done"],
        ["/refused", 400, "bare-lf"],
        ["/truncated", 200, "truncated"],
        ["/gone", null, "client-gone"],
        ["/tunnel", 101, "done"],
        ["/stopped", null, "stopped"],
    ]);
    assert_eq!(serde_json::json!(ends), expected, "{addr}");
    let [whole, refused, truncated, gone, tunnel, _] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&whole["upstream"], &whole["bytes_out"], &whole["retries"]),
        (&upstream.into(), &2.into(), &0.into())
    );
    assert_eq!((&whole["protocol"], &truncated["protocol"]), (&"HTTP/1.1".into(), &"HTTP/1.0".into()));
    assert_eq!((&refused["method"], &refused["upstream"]), (&"GET".into(), &Value::Null));
    assert_eq!((&refused["protocol"], &refused["scheme"]), (&"HTTP/1.1".into(), &"http".into()));
    assert_eq!(refused["bytes_out"], "line not ended by CR LF\n".len());
    assert_eq!((&truncated["bytes_out"], &gone["first_byte_us"]), (&4.into(), &Value::Null));
    assert_eq!((&tunnel["bytes_in"], &tunnel["bytes_out"]), (&6.into(), &4.into()));
    let times: Vec<u64> = ["head_us", "upstream_us", "first_byte_us", "end_us"]
        .iter()
        .map(|key| whole[key].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn requests_of_one_connection_and_a_failed_upstream_have_a_common_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let stage = Stage::new("common", &file);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let client = stage.client(&[get("/1"), get("/2\"x"), get("/3")].concat());
    for _ in 0..2 {
        let mut upstream = stage.accept();
        upstream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            .unwrap();
    }
    for _ in 0..2 {
        // Repeated once, since it may be, and not twice.
        drop(stage.accept());
    }
    assert!(read_all(client).contains("HTTP/1.1 502 Bad Gateway"));
    let lines = stage.lines(&file);
    let rest: Vec<&str> = lines.iter().map(|line| line.split_once("] ").unwrap().1).collect();
    assert_eq!(
        rest,
        ["\"GET /1 HTTP/1.1\" 200 5", "\"GET /2\\\"x HTTP/1.1\" 200 5", "\"GET /3 HTTP/1.1\" 502 44",]
    );
    assert!(lines.iter().all(|line| line.starts_with("127.0.0.1 - - [")), "{lines:?}");
}

/// The value of the only field of this name.
fn value(head: &str, name: &str) -> String {
    let prefix = format!("{name}: ");
    let values: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    assert_eq!(
        (values.len(), head.to_ascii_lowercase().replace('_', "-").matches("request-id").count()),
        (1, 1),
        "{head}"
    );
    values[0].to_owned()
}

#[test]
fn a_request_has_one_id_at_the_upstream_at_the_client_and_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    for (how, sent, kept) in [
        ("make", "X-Request-ID: mine\r\n", None),
        ("keep", "x-request-id: mine-1\r\n", Some("mine-1")),
        ("keep", "X-Request-Id: a b\r\nX_Request_ID: c\r\n", None),
        ("keep", "X-Request-ID: a\r\nX-Request-ID: b\r\n", None),
        ("keep", "", None),
    ] {
        let file = folder.path().join("access.log");
        let _ = std::fs::remove_file(&file);
        let stage = Stage::with("json", &file, &format!("--request-id {how}"));
        let end = "Host: a\r\nConnection: close\r\n\r\n";
        let client = stage.client(&format!("GET / HTTP/1.1\r\n{sent}{end}"));
        let (mut upstream, head) = stage.accept_head();
        let answer = "HTTP/1.1 200 OK\r\nX-Request-Id: its\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        upstream.write_all(answer.as_bytes()).unwrap();
        let id = value(&head, "X-Request-ID");
        assert_eq!(value(&read_all(client), "X-Request-ID"), id);
        assert!(kept.map_or_else(|| id.len() == 32, |kept| id == kept), "{how} {sent}: {id}");
        let refused = read_all(stage.client(&format!("GET /refused HTTP/1.1\n{end}")));
        let lines = stage.lines(&file);
        assert!(lines[0].ends_with(&format!(",\"id\":\"{id}\"}}")), "{lines:?}");
        let other = value(&refused, "X-Request-ID");
        assert!(lines[1].ends_with(&format!(",\"id\":\"{other}\"}}")) && other != id, "{lines:?}");
    }
    let file = folder.path().join("common.log");
    let stage = Stage::with("common", &file, "--request-id make");
    let id = value(&read_all(stage.client("GET / HTTP/9\r\n\r\n")), "X-Request-ID");
    assert!(stage.lines(&file)[0].ends_with(&format!(" \"{id}\"")));
}

#[test]
fn without_ids_that_of_a_client_passes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let stage = Stage::new("json", &file);
    let client = stage.client("GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: a b\r\nConnection: close\r\n\r\n");
    let (mut upstream, head) = stage.accept_head();
    assert_eq!(value(&head, "X-Request-ID"), "a b");
    upstream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
    assert!(!read_all(client).contains("Request-ID"));
    assert!(stage.lines(&file)[0].ends_with(",\"id\":null}"));
}

#[test]
fn a_log_that_cannot_be_opened_and_a_file_without_a_log_are_told_at_once() {
    for (flags, told) in [
        ("--access-log json --access-log-file /nonexistent/log", "--access-log-file /nonexistent/log"),
        ("--access-log-file /nonexistent/log", "needs --access-log common or json"),
    ] {
        let flags = format!("proxy --listen http://127.0.0.1:0=app {flags}");
        let args = Flags::parse_from(flags.split_whitespace()).args;
        let error = Proxy::start(&args).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(told), "{error}");
    }
}
