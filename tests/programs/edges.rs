//! What comes before a protocol, between HAProxy, nginx, OpenSSL and curl.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{curl, nginx::Nginx, output_of, program::is_there, proxy::Proxy};

/// Where clients come from, which nobody else does.
pub(crate) const CLIENT: &str = "127.86.1.2";

/// An HAProxy in the foreground, for as long as this value lives.
pub(crate) struct Haproxy {
    child: Child,
    pub(crate) addr: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Haproxy {
    /// One that tells this server of its clients.
    pub(crate) fn start(server: &str, how: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // It has to be told a port: one that was free a moment ago, at an address of this process alone.
        let [.., high, low] = std::process::id().to_be_bytes();
        let addr = TcpListener::bind((Ipv4Addr::new(127, 87, high, low), 0)).unwrap().local_addr().unwrap();
        let path = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen clients\n bind {addr}\n server concertina {server} {how}\n"
        );
        fs::write(&path, text).unwrap();
        let child = Command::new("haproxy").args(["-db", "-q", "-f"]).arg(&path).stdin(Stdio::null()).spawn();
        let haproxy = Self { child: child.unwrap(), addr, _folder: folder };
        while TcpStream::connect(addr).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        haproxy
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn told(addr: SocketAddr) -> String {
    let curl = curl(&["--interface", CLIENT, &format!("http://{addr}/")]);
    String::from_utf8(output_of(curl)).unwrap()
}

#[test]
fn haproxy_tells_the_proxy_whose_connection_it_is_and_nginx_is_told() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") || !is_there("haproxy", "-v") {
        return;
    }
    let nginx = Nginx::serve(tempfile::tempdir().unwrap(), "", "return 200 $http_x_real_ip;");
    let upstream = format!("origin={}", nginx.addr);
    let flags =
        ["--listen", "http://127.0.0.1:0=origin", "--forwarded", "x", "--proxy-protocol", "127.0.0.0/8"];
    let proxy = Proxy::start_with(&[&flags[..], &["--upstream", &upstream]].concat());
    for how in ["send-proxy", "send-proxy-v2"] {
        let haproxy = Haproxy::start(&proxy.addr.to_string(), how);
        assert_eq!(told(haproxy.addr), CLIENT, "{how}");
    }
}

#[test]
fn nginx_and_haproxy_are_told_whose_connection_it_is_by_the_proxy() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") {
        return;
    }
    let nginx =
        Nginx::serve(tempfile::tempdir().unwrap(), "proxy_protocol", "return 200 $proxy_protocol_addr;");
    let upstream = format!("origin={}", nginx.addr);
    for version in ["v1", "v2"] {
        let told_by = format!("origin={version}");
        let flags =
            ["--listen", "tcp://127.0.0.1:0=origin", "--upstream", &upstream, "--send-proxy", &told_by];
        let proxy = Proxy::start_with(&flags);
        assert_eq!(told(proxy.addr), CLIENT, "{version}");
    }
}

#[test]
fn curl_gets_by_tls_what_the_host_has_that_it_asks_for() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") || !is_there("openssl", "version") {
        return;
    }
    let serve = |name: &str| {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"])
            .args([&format!("/CN={name}"), "-keyout", &at("key"), "-out", &at("cert")])
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let serving =
            format!("ssl_certificate {}; ssl_certificate_key {}; return 200 {name};", at("cert"), at("key"));
        Nginx::serve(folder, "ssl", &serving)
    };
    let [shop, bank] = ["shop.example", "bank.example"].map(serve);
    let (shop, bank) = (format!("shop={}", shop.addr), format!("bank={}", bank.addr));
    let hosts = "shop.example=shop,*.bank.example=bank";
    let proxy = Proxy::start_with(&[
        "--listen",
        "tls://127.0.0.1:0",
        "--upstream",
        &shop,
        "--upstream",
        &bank,
        "--sni",
        hosts,
    ]);
    let port = proxy.addr.port();
    let ask = |host: &str| {
        curl(&[
            "--insecure",
            "--resolve",
            &format!("{host}:{port}:127.0.0.1"),
            &format!("https://{host}:{port}/"),
        ])
    };
    for (host, name) in [("shop.example", "shop.example"), ("my.bank.example", "bank.example")] {
        assert_eq!(String::from_utf8(output_of(ask(host))).unwrap(), name);
    }
    assert!(!ask("elsewhere.example").wait().unwrap().success(), "an alert, and no wait for it");
}
