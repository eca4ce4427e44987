//! TLS that ends at the proxy, between curl, OpenSSL, Python and nginx.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    curl, lengths,
    nginx::Nginx,
    origin, output_of, pattern,
    program::{self, is_there},
    proxy::Proxy,
};

/// A certificate for localhost and its key, by OpenSSL.
pub(crate) struct Keys(TempDir);

impl Keys {
    pub(crate) fn make() -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-keyout", &keys.at("key"), "-out", &keys.at("cert")])
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        keys
    }

    pub(crate) fn at(&self, file: &str) -> String {
        self.0.path().join(file).display().to_string()
    }

    pub(crate) fn start_proxy(&self, origin: std::net::SocketAddr) -> Proxy {
        let pair = format!("{},{}", self.at("cert"), self.at("key"));
        let upstream = format!("origin={origin}");
        Proxy::start_with(&[
            "--listen",
            "https://127.0.0.1:0=origin",
            "--upstream",
            &upstream,
            "--certificate",
            &pair,
            // Nobody here is idle but who is to be sent away.
            "--timeouts",
            "idle=1s",
        ])
    }
}

/// What OpenSSL's client hears to this, and how it ends.
fn s_client(proxy: &Proxy, args: &[&str], input: &str) -> Output {
    let addr = proxy.addr.to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &addr, "-servername", "localhost"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended, which is seen.
    let _ = client.stdin.take().unwrap().write_all(input.as_bytes());
    client.wait_with_output().unwrap()
}

#[test]
fn curl_gets_and_uploads_every_byte_by_both_versions_of_tls_however_slowly() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") || !is_there("openssl", "version") {
        return;
    }
    let (keys, lengths) = (Keys::make(), lengths());
    let all = pattern(*lengths.last().unwrap());
    let nginx = Nginx::start(lengths.iter().map(|length| (format!("{length}"), &all[..*length])));
    let (down, up) = (keys.start_proxy(nginx.addr), keys.start_proxy(origin::start_slow_reader(all.clone())));
    let cert = keys.at("cert");
    let version = |number: usize| if number.is_multiple_of(2) { "1.2" } else { "1.3" };
    let common =
        |number: usize| ["--cacert", &*cert, "--tls-max", version(number), "--limit-rate", crate::RATE];
    let file = keys.at("upload");
    fs::write(&file, &all).unwrap();
    let get = |(number, length): (usize, &usize)| {
        let url = format!("https://localhost:{}/{length}", down.addr.port());
        curl(&[&common(number)[..], &[&url]].concat())
    };
    let gets: Vec<_> = lengths.iter().enumerate().map(get).collect();
    let url = format!("https://localhost:{}/", up.addr.port());
    let puts: Vec<_> =
        (0..2).map(|number| curl(&[&common(number)[..], &["--upload-file", &file, &url]].concat())).collect();
    for (curl, length) in gets.into_iter().zip(&lengths) {
        assert!(output_of(curl) == all[..*length], "not the {length} bytes that nginx has");
    }
    for curl in puts {
        assert_eq!(String::from_utf8_lossy(&output_of(curl)), format!("all of {}", all.len()));
    }
}

#[test]
fn older_versions_are_refused_and_so_is_another_handshake_on_the_same_connection() {
    if !is_there("curl", "--version") || !is_there("openssl", "version") {
        return;
    }
    let keys = Keys::make();
    let proxy = keys.start_proxy(origin::start_early());
    let url = format!("https://localhost:{}/", proxy.addr.port());
    // Whether curl's own library speaks them at all does not matter: nobody is served.
    for version in ["1.0", "1.1"] {
        let mut curl = curl(&["--insecure", "--tls-max", version, "--ciphers", "DEFAULT@SECLEVEL=0", &url]);
        assert!(!curl.wait().unwrap().success(), "{version}");
    }
    let output = s_client(&proxy, &["-tls1_2"], "R\n");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("no renegotiation") || !output.status.success(), "{told}");
}

#[test]
fn openssl_hears_the_end_of_a_response_that_ends_with_its_connection() {
    if !is_there("openssl", "version") {
        return;
    }
    let keys = Keys::make();
    let proxy = keys.start_proxy(origin::start_early());
    for version in ["-tls1_2", "-tls1_3"] {
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let output = s_client(&proxy, &[version, "-quiet", "-ign_eof"], request);
        let (heard, told) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(heard.ends_with("\r\n\r\nok"), "{version}: {heard} {told}");
        assert!(!told.contains("unexpected eof"), "{version}: {told}");
    }
}

/// Many small requests on kept connections, and new ones that resume a session.
const REQUESTS: &str = "
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
for n in range(50):
    connection = http.client.HTTPSConnection('localhost', int(sys.argv[1]), context=context)
    for m in range(4):
        connection.request('POST', '/', body=b'x' * (0, 1, 20_000, 300_000)[m])
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read() == b'ok', (n, m, answer.status)
    connection.close()
";

#[test]
fn python_posts_again_and_again() {
    if !program::has_python_module("ssl") || !is_there("openssl", "version") {
        return;
    }
    let keys = Keys::make();
    let proxy = keys.start_proxy(origin::start_early());
    let port = proxy.addr.port().to_string();
    let status = Command::new("python3").args(["-c", REQUESTS, &port, &keys.at("cert")]).status();
    assert!(status.unwrap().success());
}
