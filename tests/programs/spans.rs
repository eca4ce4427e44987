//! A collector of spans that speaks TLS: Python's server.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    origin,
    program::is_there,
    proxy::Proxy,
    trust::{Authority, PATIENCE, ask, pin},
};

/// Says its port, and then of each span where it was posted to, with which key, what it is about and how that ended.
const COLLECTOR: &str = r#"
import http.server, json, ssl, sys
class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for resource in told["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    of = {each["key"]: list(each["value"].values())[0] for each in span["attributes"]}
                    status = of["http.response.status_code"]
                    print(self.path, self.headers["x-api-key"], of["url.path"], status, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[1] + ".key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// It lives as long as this value.
struct Collector {
    child: Child,
    port: u16,
    told: mpsc::Receiver<String>,
}

impl Collector {
    /// With this certificate, beside which its key is.
    fn start(certificate: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", COLLECTOR, certificate]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || lines.map(|line| tell.send(line)).all(|sent| sent.is_ok()));
        let port = told.recv_timeout(PATIENCE).unwrap().parse().unwrap();
        Self { child, port, told }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy whose spans go there.
fn start_proxy(endpoint: &str, trust: &str) -> Proxy {
    let upstream = format!("origin={}", origin::start_early());
    let listening = ["--listen", "http://127.0.0.1:0=origin", "--upstream", &upstream, "--trace", "restart"];
    let telling = ["--otlp-endpoint", endpoint, "--otlp-trust", trust, "--otlp-header", "x-api-key: s3cret"];
    Proxy::start_with(&[&listening[..], &telling].concat())
}

#[test]
fn a_collector_of_pythons_has_each_span_over_tls_with_the_key_that_whoever_hosts_it_wants() {
    const COUNT: usize = 20;
    if !is_there("python3", "--version") || !is_there("openssl", "version") {
        return;
    }
    let authority = Authority::make();
    authority.certify("localhost", "good", false);
    let collector = Collector::start(&authority.at("good"));
    for trust in [format!("ca:{}", authority.at("ca")), pin(&authority.at("good"))] {
        let proxy = start_proxy(&format!("https://localhost:{}/otlp", collector.port), &trust);
        for _ in 0..COUNT {
            assert_eq!(ask(&proxy).0, 200);
        }
        for _ in 0..COUNT {
            let told = collector.told.recv_timeout(PATIENCE);
            assert_eq!(told.as_deref(), Ok("/otlp/v1/traces s3cret / 200"), "{}", proxy.said());
        }
    }
    assert!(collector.told.recv_timeout(Duration::ZERO).is_err(), "one for each request, and no more");
}

#[test]
fn a_collector_with_a_wrong_certificate_has_no_span_and_the_log_says_what_would_be_right() {
    if !is_there("python3", "--version") {
        return;
    }
    let (authority, stranger) = (Authority::make(), Authority::make());
    authority.certify("localhost", "good", false);
    authority.certify("localhost", "old", true);
    let [good, old] = ["good", "old"].map(|file| Collector::start(&authority.at(file)));
    let plain = Proxy::start(origin::start_early());
    let [right, wrong] = [&authority, &stranger].map(|whom| format!("ca:{}", whom.at("ca")));
    for (host, port, trust, word, advice) in [
        ("localhost", good.port, &wrong, "tls-untrusted", "expected --otlp-trust ca:FILE"),
        ("127.0.0.1", good.port, &right, "tls-wrong-name", "expected the name of its certificate"),
        ("localhost", old.port, &right, "tls-expired", "expected a certificate that is valid now"),
        ("127.0.0.1", plain.addr.port(), &right, "tls-not-spoken", "expected http:// in --otlp-endpoint"),
    ] {
        let proxy = start_proxy(&format!("https://{host}:{port}"), trust);
        assert_eq!(ask(&proxy).0, 200);
        let began = Instant::now();
        while !proxy.said().contains(word) {
            assert!(began.elapsed() < PATIENCE, "{word}: {}", proxy.said());
            thread::sleep(Duration::from_millis(10));
        }
        let said = proxy.said();
        assert!(said.contains(advice) && !said.contains("s3cret"), "{said}");
    }
    assert!([good, old].iter().all(|collector| collector.told.recv_timeout(Duration::ZERO).is_err()));
}
