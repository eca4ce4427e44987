//! Origins that speak HTTP/2, behind the proxy: nginx and nghttp2's server, whose bytes are compared with what curl gets.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    curl, length::short_or_long, lengths, nginx::Nginx, output_of, pattern, program::is_there, proxy::Proxy,
};

/// How long it may take to start, however busy the machine is.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A proxy that asks this origin by HTTP/2; the scheme is that of its listener.
fn start_proxy(scheme: &str, origin: SocketAddr) -> Proxy {
    Proxy::start_with(&[
        "--listen",
        &format!("{scheme}://127.0.0.1:0=origin"),
        "--upstream",
        &format!("origin={origin}"),
        "--upstream-protocol",
        "origin=h2c",
    ])
}

/// nghttp2's server, which sends back what is uploaded; it lives as long as this value.
struct Nghttpd {
    child: Child,
    addr: SocketAddr,
}

impl Nghttpd {
    fn start() -> Self {
        // See nginx: it cannot be told to take a free port.
        let [.., high, low] = std::process::id().to_be_bytes();
        let addr = SocketAddr::from((Ipv4Addr::new(127, 86, high, low), 8080));
        let mut command = Command::new("nghttpd");
        command.args(["--no-tls", "--echo-upload", "--address"]);
        command.args([addr.ip().to_string(), addr.port().to_string()]);
        let mut nghttpd =
            Self { child: command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap(), addr };
        let started = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(nghttpd.child.try_wait().unwrap().is_none(), "nghttpd has ended");
            assert!(started.elapsed() < START_TIMEOUT, "not within {START_TIMEOUT:?}: nghttpd listens");
            thread::sleep(Duration::from_millis(5));
        }
        nghttpd
    }
}

impl Drop for Nghttpd {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn curl_gets_every_byte_of_what_nginx_sends_by_streams_however_slowly_it_takes_it() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") {
        return;
    }
    let lengths = lengths();
    let all = pattern(*lengths.last().unwrap());
    let folder = tempfile::tempdir().unwrap();
    for length in &lengths {
        fs::write(folder.path().join(length.to_string()), &all[..*length]).unwrap();
    }
    let serving = format!("root {};", folder.path().display());
    let nginx = Nginx::serve(tempfile::tempdir().unwrap(), "http2", &serving);
    let (first, second) = (start_proxy("http", nginx.addr), start_proxy("h2c", nginx.addr));
    let get = |(number, length): (usize, &usize)| {
        let (proxy, version) = if number.is_multiple_of(2) {
            (&first, "--http1.1")
        } else {
            (&second, "--http2-prior-knowledge")
        };
        curl(&["--limit-rate", crate::RATE, version, &format!("http://{}/{length}", proxy.addr)])
    };
    let curls: Vec<_> = lengths.iter().enumerate().map(get).collect();
    thread::scope(|scope| {
        for (curl, length) in curls.into_iter().zip(&lengths) {
            let right = &all[..*length];
            scope.spawn(move || assert!(output_of(curl) == right, "not the {length} bytes that nginx has"));
        }
    });
}

#[test]
fn what_curl_uploads_comes_back_whole() {
    if !is_there("curl", "--version") || !is_there("nghttpd", "--version") {
        return;
    }
    let all = pattern(short_or_long(16_000_000, 50_000_000));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("upload");
    fs::write(&file, &all).unwrap();
    let nghttpd = Nghttpd::start();
    for (scheme, version) in [("http", "--http1.1"), ("h2c", "--http2-prior-knowledge")] {
        let proxy = start_proxy(scheme, nghttpd.addr);
        let url = format!("http://{}/", proxy.addr);
        let got = output_of(curl(&[version, "--upload-file", file.to_str().unwrap(), &url]));
        assert!(got == all, "{version}: {} of {} bytes", got.len(), all.len());
    }
}

#[test]
fn many_exchanges_share_a_few_connections_and_all_are_answered() {
    if !is_there("h2load", "--version") || !is_there("nginx", "-v") {
        return;
    }
    let nginx = Nginx::serve(tempfile::tempdir().unwrap(), "http2", "location / { return 200 hello; }");
    let proxy = start_proxy("h2c", nginx.addr);
    let count = short_or_long("20000", "1000000");
    let url = format!("http://{}/", proxy.addr);
    // nginx ends each connection after a thousand requests, by GOAWAY.
    let output = Command::new("h2load").args(["-n", count, "-c", "16", "-m", "10", &url]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(&format!("status codes: {count} 2xx")), "{told}");
}
