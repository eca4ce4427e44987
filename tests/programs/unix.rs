//! Unix sockets between curl, nginx, HAProxy and Python.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    curl,
    edges::{CLIENT, Haproxy, told},
    nginx::Nginx,
    output_of, pattern,
    program::is_there,
    proxy::Proxy,
};

/// Answers uploads at a socket with their SHA-256.
const ORIGIN: &str = "
import hashlib, http.server, socketserver, sys
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers['Content-Length'])
        while left:
            part = self.rfile.read(min(left, 65536))
            digest.update(part)
            left -= len(part)
        body = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
Server(sys.argv[1], Handler).serve_forever()
";

/// Uploads at a socket on one connection, and compares.
const CLIENT_OF_SOCKET: &str = "
import hashlib, http.client, random, socket, sys
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(sys.argv[1])
connection = Connection('a')
for length in (0, 1, 100_000, 30_000_000, 5):
    body = random.Random(length).randbytes(length)
    connection.request('PUT', '/', body, {'Content-Length': str(length)})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read().decode() == hashlib.sha256(body).hexdigest(), length
";

/// A program that lives as long as this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody makes {}", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn curl_gets_every_byte_of_what_nginx_has_from_socket_to_socket() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let lengths = [0, 1, 100_000, 30_000_000];
    let all = pattern(30_000_000);
    for length in lengths {
        std::fs::write(at(&length.to_string()), &all[..length]).unwrap();
    }
    let serving = format!("listen unix:{}; root {};", at("app"), folder.path().display());
    let _nginx = Nginx::serve(tempfile::tempdir().unwrap(), "", &serving);
    let (listen, upstream) =
        (format!("http://unix:{}=origin", at("door")), format!("origin=unix:{}", at("app")));
    let proxy = Proxy::start_with(&[
        "--listen",
        "http://127.0.0.1:0=origin",
        "--listen",
        &listen,
        "--upstream",
        &upstream,
    ]);
    for length in lengths {
        let right = &all[..length];
        let at_socket = curl(&["--unix-socket", &at("door"), &format!("http://a/{length}")]);
        assert!(output_of(at_socket) == right, "{length} bytes, from a socket");
        let at_port = curl(&[&format!("http://{}/{length}", proxy.addr)]);
        assert!(output_of(at_port) == right, "{length} bytes, from a port");
    }
}

#[test]
fn python_has_every_byte_of_what_python_uploads_from_socket_to_socket() {
    if !is_there("python3", "--version") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (app, door) = (folder.path().join("app"), folder.path().join("door"));
    let origin = Command::new("python3").args(["-c", ORIGIN]).arg(&app).stdin(Stdio::null()).spawn();
    let _origin = Running(origin.unwrap());
    wait_for(&app);
    let (listen, upstream) =
        (format!("http://unix:{}=origin", door.display()), format!("origin=unix:{}", app.display()));
    let _proxy = Proxy::start_with(&[
        "--listen",
        "http://127.0.0.1:0=origin",
        "--listen",
        &listen,
        "--upstream",
        &upstream,
    ]);
    wait_for(&door);
    let status = Command::new("python3").args(["-c", CLIENT_OF_SOCKET]).arg(&door).status().unwrap();
    assert!(status.success());
}

#[test]
fn haproxy_tells_at_a_socket_whose_connection_it_is_and_without_its_word_nginx_is_told_of_nobody() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") || !is_there("haproxy", "-v") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let nginx = Nginx::serve(tempfile::tempdir().unwrap(), "", "return 200 <$http_x_real_ip>;");
    let upstream = format!("origin={}", nginx.addr);
    for (proxy_protocol, how, said) in [
        (&["--proxy-protocol", "unix:"][..], "send-proxy", format!("<{CLIENT}>")),
        (&["--proxy-protocol", "unix:"], "send-proxy-v2", format!("<{CLIENT}>")),
        (&[], "", "<>".to_owned()),
    ] {
        let listen = format!("http://unix:{}=origin", at("door"));
        let flags = ["--listen", "http://127.0.0.1:0=origin", "--listen", &listen, "--forwarded", "x"];
        let proxy = Proxy::start_with(&[&flags[..], &["--upstream", &upstream], proxy_protocol].concat());
        // The one before was killed, and left its socket there.
        let haproxy = Haproxy::start(&format!("unix@{}", at("door")), how);
        assert_eq!(told(haproxy.addr), said, "{how}");
        drop(proxy);
    }
}
