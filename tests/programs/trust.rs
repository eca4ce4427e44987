//! Origins that speak TLS: nginx, nghttp2's server and OpenSSL's, behind the proxy.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::{
    curl, length::short_or_long, lengths, nginx::Nginx, output_of, pattern, program::is_there, proxy::Proxy,
};

/// How long a program may take to start, and an answer to come, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An authority, and what it has signed.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A certificate for this name; its file and that of its key are called after the other one.
    pub(crate) fn certify(&self, name: &str, file: &str, is_expired: bool) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if is_expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        }
        let key = KeyPair::generate().unwrap();
        fs::write(self.at(file), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(self.at(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// What nginx says of such a certificate.
    fn nginx(&self, file: &str) -> String {
        format!("ssl_certificate {0}; ssl_certificate_key {0}.key;", self.at(file))
    }
}

/// As curl's manual has it.
pub(crate) fn pin(certificate: &str) -> String {
    let script = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | openssl enc -base64";
    let output = Command::new("sh").args(["-c", script, certificate]).output().unwrap();
    format!("sha256//{}", String::from_utf8(output.stdout).unwrap().trim())
}

/// A proxy that speaks so to this origin.
fn start_proxy(origin: SocketAddr, protocol: &str, flags: &[&str]) -> Proxy {
    start_proxy_in(&[], origin, protocol, flags)
}

/// The same with these variables.
fn start_proxy_in(variables: &[(&str, &str)], origin: SocketAddr, protocol: &str, flags: &[&str]) -> Proxy {
    let (upstream, protocol) = (format!("origin={origin}"), format!("origin={protocol}"));
    let fixed =
        ["--listen", "http://127.0.0.1:0=origin", "--upstream", &upstream, "--upstream-protocol", &protocol];
    // The handshake is a part of it, and the other side may be busy.
    let patient = ["--timeouts", "connect=20s"];
    Proxy::start_in(variables, &[&fixed[..], &patient, flags].concat())
}

/// The status of an answer, and all of it.
pub(crate) fn ask(proxy: &Proxy) -> (u16, String) {
    let mut stream = TcpStream::connect(proxy.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

/// A server that is told where to listen; it lives as long as this value.
struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(addr: SocketAddr, command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child: command.spawn().unwrap(), addr };
        let started = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server has ended");
            assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: a server listens");
            thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// See nginx: they cannot be told to take a free port.
fn addr_of_ones_own(port: u16) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 87, high, low), port))
}

#[test]
fn curl_gets_every_byte_of_an_nginx_that_speaks_tls_however_slowly_it_takes_it() {
    if !is_there("curl", "--version") || !is_there("nginx", "-v") {
        return;
    }
    let (authority, lengths) = (Authority::make(), lengths());
    authority.certify("origin", "good", false);
    let all = pattern(*lengths.last().unwrap());
    for length in &lengths {
        fs::write(authority.at(&length.to_string()), &all[..*length]).unwrap();
    }
    let trust = format!("origin=ca:{}", authority.at("ca"));
    let start = |(version, listening, protocol): (&str, &str, &str)| {
        let tls = format!("ssl_protocols {version}; {}", authority.nginx("good"));
        let serving = format!("{tls} root {};", authority.folder.path().display());
        let nginx = Nginx::serve(tempfile::tempdir().unwrap(), listening, &serving);
        let proxy = start_proxy(nginx.addr, protocol, &["--upstream-trust", &trust]);
        (nginx, proxy)
    };
    let pairs = [("TLSv1.2", "ssl", "https"), ("TLSv1.3", "ssl", "https"), ("TLSv1.3", "ssl http2", "h2")];
    let pairs = pairs.map(start);
    let get = |(number, length): (usize, &usize)| {
        let (_, proxy) = &pairs[number % pairs.len()];
        curl(&["--limit-rate", crate::RATE, &format!("http://{}/{length}", proxy.addr)])
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
fn what_curl_uploads_to_a_server_of_http_2_over_tls_comes_back_whole() {
    if !is_there("curl", "--version") || !is_there("nghttpd", "--version") {
        return;
    }
    let authority = Authority::make();
    authority.certify("origin", "good", false);
    let all = pattern(short_or_long(16_000_000, 50_000_000));
    fs::write(authority.at("upload"), &all).unwrap();
    let addr = addr_of_ones_own(8080);
    let mut command = Command::new("nghttpd");
    command.args(["--echo-upload", "--address", &addr.ip().to_string(), &addr.port().to_string()]);
    let server = Server::start(addr, command.args([authority.at("good.key"), authority.at("good")]));
    let trust = format!("origin=ca:{}", authority.at("ca"));
    let proxy = start_proxy(server.addr, "h2", &["--upstream-trust", &trust]);
    let url = format!("http://{}/", proxy.addr);
    let got = output_of(curl(&["--upload-file", &authority.at("upload"), &url]));
    assert!(got == all, "{} of {} bytes", got.len(), all.len());
}

#[test]
fn an_upstream_that_is_not_whom_it_should_be_gets_nothing_of_a_request() {
    if !is_there("nginx", "-v") || !is_there("openssl", "version") {
        return;
    }
    let (authority, other) = (Authority::make(), Authority::make());
    authority.certify("origin", "good", false);
    authority.certify("origin", "expired", true);
    let serve = |file: &str| {
        let folder = tempfile::tempdir().unwrap();
        let requests: PathBuf = folder.path().join("requests");
        let log = format!("access_log {};", requests.display());
        let serving = format!("{} {log} location / {{ return 200 hello; }}", authority.nginx(file));
        (Nginx::serve(folder, "ssl", &serving), requests)
    };
    let ((good, to_good), (expired, to_expired)) = (serve("good"), serve("expired"));
    let ca = |authority: &Authority| format!("--upstream-trust=origin=ca:{}", authority.at("ca"));
    let pinned = |file: &str| format!("--upstream-trust=origin={}", pin(&authority.at(file)));
    let named = |name: &str| format!("--upstream-server-name=origin={name}");
    for (protocol, origin, flags, reason) in [
        ("https", &good, vec![ca(&other)], "nobody who is trusted"),
        // Nobody in the system's file knows it either.
        ("https", &good, vec![], "nobody who is trusted"),
        ("https", &good, vec![ca(&authority), named("elsewhere")], "for another name"),
        ("https", &good, vec![ca(&authority), named("127.0.0.1")], "for another name"),
        ("https", &expired, vec![ca(&authority)], "not valid now"),
        ("https", &good, vec![pinned("expired")], "another key"),
        ("h2", &good, vec![ca(&authority)], "does not choose HTTP/2"),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        if flags.is_empty() && !PathBuf::from("/etc/ssl/certs/ca-certificates.crt").exists() {
            continue;
        }
        let (status, answer) = ask(&start_proxy(origin.addr, protocol, &flags));
        assert!(status == 502 && answer.contains(reason), "{protocol} {flags:?}: {answer}");
    }
    for requests in [&to_good, &to_expired] {
        assert_eq!(fs::read_to_string(requests).unwrap(), "", "a request was read");
    }
    let both = format!("{};{}", pinned("expired"), pin(&authority.at("good")));
    for (origin, flags) in [
        (&good, vec![ca(&authority)]),
        (&good, vec![pinned("good")]),
        (&good, vec![both]),
        // A key is all that is looked at.
        (&expired, vec![pinned("expired"), named("elsewhere")]),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (status, answer) = ask(&start_proxy(origin.addr, "https", &flags));
        assert!(status == 200 && answer.ends_with("hello"), "{flags:?}: {answer}");
    }
}

#[test]
fn the_systems_authorities_are_believed_unless_others_are_named_and_ssl_cert_file_says_where_they_are() {
    if !is_there("nginx", "-v") {
        return;
    }
    let (authority, other) = (Authority::make(), Authority::make());
    authority.certify("origin", "good", false);
    let serving = format!("{} location / {{ return 200 hello; }}", authority.nginx("good"));
    let nginx = Nginx::serve(tempfile::tempdir().unwrap(), "ssl", &serving);
    let [believed, not_believed] = [&authority, &other].map(|authority| authority.at("ca"));
    // As distributions have it: many in one file, of which this is one.
    let bundle = authority.at("bundle");
    let all = [&not_believed, &believed].map(|path| fs::read_to_string(path).unwrap()).concat();
    fs::write(&bundle, all).unwrap();
    let named = format!("--upstream-trust=origin=ca:{not_believed}");
    for (file, flags, status, told) in [
        (&believed, &[][..], 200, "hello"),
        (&bundle, &[], 200, "hello"),
        (&bundle, &["--upstream-trust=origin=system"], 200, "hello"),
        (&bundle, &[&named], 502, "nobody who is trusted"),
        (&not_believed, &[], 502, "nobody who is trusted"),
    ] {
        let proxy = start_proxy_in(&[("SSL_CERT_FILE", file)], nginx.addr, "https", flags);
        let (found, answer) = ask(&proxy);
        assert!(found == status && answer.contains(told), "{file} {flags:?}: {answer}");
    }
}

#[test]
fn whoever_speaks_something_else_is_told_apart() {
    if !is_there("nginx", "-v") {
        return;
    }
    let authority = Authority::make();
    authority.certify("origin", "good", false);
    let serve = |listening: &str, serving: &str| {
        let serving = format!("{serving} location / {{ return 200 hello; }}");
        Nginx::serve(tempfile::tempdir().unwrap(), listening, &serving)
    };
    let (plain, sealed) = (serve("", ""), serve("ssl", &authority.nginx("good")));
    let trust = format!("--upstream-trust=origin=ca:{}", authority.at("ca"));
    for protocol in ["https", "h2"] {
        let (status, answer) = ask(&start_proxy(plain.addr, protocol, &[&trust]));
        assert!(status == 502 && answer.contains("does not speak TLS"), "{protocol}: {answer}");
    }
    let (status, answer) = ask(&start_proxy(sealed.addr, "http", &[]));
    assert!(status == 400 && answer.contains("plain HTTP request"), "nginx says it itself: {answer}");
    assert_eq!(ask(&start_proxy(sealed.addr, "h2c", &[])).0, 502);
}

#[test]
fn openssls_server_resumes_a_session_and_its_end_is_an_end() {
    if !is_there("openssl", "version") {
        return;
    }
    let authority = Authority::make();
    authority.certify("origin", "good", false);
    let trust = format!("--upstream-trust=origin=ca:{}", authority.at("ca"));
    for (version, port) in [("-tls1_2", 8081), ("-tls1_3", 8082)] {
        let addr = addr_of_ones_own(port);
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", version, "-accept", &addr.to_string()]);
        command.args(["-cert", &authority.at("good"), "-key", &authority.at("good.key")]);
        let server = Server::start(addr, &mut command);
        let proxy = start_proxy(server.addr, "https", &[&trust]);
        // Each of the two workers has sessions of its own: of three answers, one at least is another's second.
        let answers = [(); 3].map(|()| ask(&proxy));
        for (status, answer) in &answers {
            assert!(*status == 200 && answer.contains("</HTML>"), "{version}: {answer}");
        }
        assert!(answers.iter().any(|(_, answer)| answer.contains("Reused, TLS")), "{version}: {answers:?}");
    }
}
