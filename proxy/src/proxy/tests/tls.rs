//! Claims about TLS that ends here.

use std::{collections::BTreeMap, fs, net::Shutdown, path::Path};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};

use super::{
    edges::start_echo_of_head,
    frames::{BEGIN, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, frame, next},
    *,
};
use crate::limits::HANDSHAKES_UNDER_WAY_MAX;

type Client = StreamOwned<ClientConnection, TcpStream>;

/// 204, as HPACK's static table has it.
const NO_CONTENT: u8 = 0x89;

/// 421: the name of the status from the table, and three digits by Huffman's code.
const MISDIRECTED: &[u8] = &[0x48, 0x82, 0x68, 0x41];

/// A certificate of these names in a file, and its key in another.
fn write_certificate(folder: &Path, names: &[&str]) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    fs::write(folder.join("a.crt"), certificate.pem()).unwrap();
    fs::write(folder.join("a.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

/// What trusts these, and wants these protocols.
fn trusting(certificates: &[CertificateDer<'static>], protocols: &[&str]) -> Arc<ClientConfig> {
    trusting_by(&[&TLS13, &TLS12], certificates, protocols)
}

/// The same that knows these versions.
fn trusting_by(
    versions: &[&'static SupportedProtocolVersion],
    certificates: &[CertificateDer<'static>],
    protocols: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    certificates.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn start_sealed(upstream: SocketAddr, folder: &Path, flags: &str) -> Proxy {
    let fixed = format!(
        "--listen=https://127.0.0.1:0=app --upstream=app={upstream} --certificates={} --workers=1 {flags}",
        folder.display()
    );
    let timeouts = Some("--timeouts=drain=10ms").filter(|_| !flags.contains("--timeouts"));
    let cli = Cli::try_parse_from(fixed.split_whitespace().chain(timeouts));
    Proxy::start(&cli.unwrap_or_else(|error| panic!("{flags}: {error}")).args).unwrap()
}

fn seal(stream: TcpStream, config: &Arc<ClientConfig>, name: &'static str) -> Client {
    let name = ServerName::try_from(name).unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream)
}

/// The head of an answer.
fn answer(client: &mut Client) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[test]
fn a_thousand_swaps_of_certificates_under_load_lose_no_handshake() {
    const SWAPS_COUNT: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let certificate = write_certificate(folder.path(), &["a"]);
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        pairs.push((certificate, read("a.crt"), read("a.key")));
    }
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "");
    let both: Vec<_> = pairs.iter().map(|(certificate, ..)| certificate.clone()).collect();
    let addr = proxy.addrs()[0];
    let (is_over, seen) = (AtomicBool::new(false), [AtomicU32::new(0), AtomicU32::new(0)]);
    thread::scope(|scope| {
        let stop = Stop(&is_over);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut config = ClientConfig::clone(&trusting(&both, &[]));
                // A session that is resumed shows what it was begun with.
                config.resumption = Resumption::disabled();
                let config = Arc::new(config);
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = seal(TcpStream::connect(addr).unwrap(), &config, "a");
                    client.write_all(REQUEST).unwrap();
                    assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200"));
                    let shown = &client.conn.peer_certificates().unwrap()[0];
                    let position = both.iter().position(|certificate| certificate == shown).unwrap();
                    seen[position].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for swap in 0..SWAPS_COUNT {
            let (_, certificate, key) = &pairs[swap % 2];
            // First the one and then the other, with a look between them: what does not fit is not taken.
            fs::write(folder.path().join("a.crt"), certificate).unwrap();
            assert_eq!(proxy.certificates.look().0, 0);
            fs::write(folder.path().join("a.key"), key).unwrap();
            assert_eq!(proxy.certificates.look().0, 1, "swap {swap}");
        }
        drop(stop);
    });
    let [one, other] = seen.map(AtomicU32::into_inner);
    assert!(one > 0 && other > 0, "{one} and {other} handshakes");
    assert_eq!(sum(&proxy, |s| &s.clients_unheard), 0);
    proxy.stop();
}

#[test]
fn a_host_of_another_certificate_is_misdirected_and_a_request_before_tls_is_told_what_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a", "*.b.test"]);
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "");
    let config = trusting(&[certificate], &["http/1.1"]);
    for (host, status) in
        [("a", "200"), ("A:443", "200"), ("x.b.test", "200"), ("b.test", "421"), ("elsewhere", "421")]
    {
        let mut client = seal(connect(&proxy), &config, "a");
        write!(client, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        assert!(answer(&mut client).unwrap().starts_with(&format!("HTTP/1.1 {status} ")), "{host}");
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    let mut client = connect(&proxy);
    client.write_all(REQUEST).unwrap();
    let mut told = String::new();
    client.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("this port speaks TLS"), "{told}");
    proxy.stop();
}

/// The heads and the bodies of the answers to so many requests, by their streams; nothing else may be told but settings and room.
fn answers_by_stream(client: &mut Client, count: usize) -> BTreeMap<u32, (Vec<u8>, Vec<u8>)> {
    let mut answers: BTreeMap<_, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    let mut ended = 0;
    while ended < count {
        let told = next(client).expect("an answer to every stream");
        let answer = match told.kind {
            HEADERS => &mut answers.entry(told.stream).or_default().0,
            DATA => &mut answers.entry(told.stream).or_default().1,
            SETTINGS | WINDOW_UPDATE => continue,
            _ => panic!("{told:?}"),
        };
        answer.extend(told.payload);
        ended += usize::from(told.flags & END_STREAM != 0);
    }
    answers
}

/// As a browser asks that has found two hosts at one address (RFC 9113 9.1.1).
#[test]
fn a_stream_for_a_host_of_another_certificate_is_misdirected_alone_and_its_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a", "*.b.test"]);
    let (origin, requests) = start_echo_of_head();
    let proxy = start_sealed(origin, folder.path(), "");
    let mut client = seal(connect(&proxy), &trusting(&[certificate], &["h2"]), "a");
    let ask = |stream: u32, host: &str| {
        let length = u8::try_from(host.len()).unwrap();
        let block = [&[0x82, 0x87, 0x84, 0x41, length], host.as_bytes()].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
    };
    let hosts =
        [(1, "a"), (3, "elsewhere"), (5, "x.b.test"), (7, "b.test"), (9, "A:443"), (11, "y.x.b.test")];
    let asked: Vec<u8> = hosts.iter().flat_map(|(stream, host)| ask(*stream, host)).collect();
    client.write_all(&[BEGIN, &asked].concat()).unwrap();
    let answers = answers_by_stream(&mut client, hosts.len());
    assert_eq!(client.conn.alpn_protocol(), Some(&b"h2"[..]));
    let is_served = |stream: u32| answers[&stream].0[0] == NO_CONTENT;
    assert_eq!(hosts.map(|(stream, _)| is_served(stream)), [true, false, true, false, true, false]);
    let misdirected = [3, 7, 11].map(|stream| &answers[&stream]);
    // Whichever came first has its status in full, and the others have it from HPACK's table.
    assert!(misdirected.iter().any(|(head, _)| head.starts_with(MISDIRECTED)), "{misdirected:x?}");
    for (_, body) in misdirected {
        assert_eq!(body, b"the certificate of this connection is not for this host\n");
    }
    client.write_all(&ask(13, "a")).unwrap();
    assert_eq!(answers_by_stream(&mut client, 1)[&13].0[0], NO_CONTENT, "it goes on");
    drop(client);
    proxy.stop();
    assert_eq!(requests.try_iter().count(), 4, "nobody is asked for the others");
}

#[test]
fn whoever_does_not_shake_hands_is_told_why_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a"]);
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "--timeouts=header=300ms,drain=10ms");
    // Nonsense, a ClientHello that is none, and one that has begun.
    let rest_of = |bytes: &[u8]| {
        let mut client = connect(&proxy);
        client.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        rest
    };
    let alert = |description| vec![21, 3, 3, 0, 2, 2, description];
    assert_eq!(rest_of(b"\0\0\0"), alert(50), "decode_error");
    assert_eq!(rest_of(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), alert(50));
    assert_eq!(rest_of(&[22, 3, 1, 0, 200, 1]), b"", "in time");
    // Half a handshake.
    let mut silent = connect(&proxy);
    let name = ServerName::try_from("a").unwrap();
    let config = trusting(std::slice::from_ref(&certificate), &[]);
    ClientConnection::new(config, name).unwrap().write_tls(&mut silent).unwrap();
    let mut heard = Vec::new();
    let _ = silent.read_to_end(&mut heard);
    assert!(heard.starts_with(&[22, 3, 3]), "the server's part");
    // Another protocol.
    let mut client = seal(connect(&proxy), &trusting(&[certificate], &["h3"]), "a");
    let error = client.write_all(REQUEST).and_then(|()| answer(&mut client)).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    proxy.stop();
}

#[test]
fn so_many_handshakes_are_under_way_and_one_more_ends_the_first_while_honest_clients_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a"]);
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "--timeouts=header=60s,drain=10ms");
    let config = trusting(&[certificate], &[]);
    let begin = || {
        let mut client = connect(&proxy);
        client.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
        client
    };
    let begun: Vec<TcpStream> = (0..HANDSHAKES_UNDER_WAY_MAX).map(|_| begin()).collect();
    while sum(&proxy, |s| &s.clients) < HANDSHAKES_UNDER_WAY_MAX as u64 {
        thread::sleep(Duration::from_millis(5));
    }
    let is_open = |client: &TcpStream| {
        client.set_nonblocking(true).unwrap();
        client.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert_eq!(sum(&proxy, |s| &s.handshakes_evicted), 0);
    assert!(begun.iter().all(is_open));
    let mut client = seal(connect(&proxy), &config, "a");
    client.write_all(REQUEST).unwrap();
    assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(sum(&proxy, |s| &s.handshakes_evicted), 1);
    // It is let go by a task of its own.
    let until = Instant::now() + PATIENCE;
    while is_open(&begun[0]) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(begun.iter().filter(|client| !is_open(client)).count(), 1, "it does not wait for its time");
    assert!(!is_open(&begun[0]), "the one that began first");
    proxy.stop();
}

#[test]
fn a_request_that_is_cut_is_none_and_one_that_ends_in_order_may_wait_for_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a"]);
    let (origin, requests) = start_frozen();
    let proxy = start_sealed(origin, folder.path(), "--half-closed=keep");
    let config = trusting(&[certificate], &[]);
    let ask = || {
        let mut client = seal(connect(&proxy), &config, "a");
        client.write_all(REQUEST).unwrap();
        (client, requests.recv_timeout(PATIENCE).unwrap())
    };
    let (mut client, mut upstream) = ask();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(upstream.read(&mut [0; 1]).unwrap_or(0), 0, "the client is gone");
    assert!(answer(&mut client).is_err());
    let (mut client, mut upstream) = ask();
    client.conn.send_close_notify();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").unwrap();
    assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200 "));
    drop(upstream);
    let mut body = String::new();
    client.read_to_string(&mut body).unwrap();
    assert_eq!(body, "until the end", "and its end was said");
    proxy.stop();
}

#[test]
fn requests_of_one_record_are_all_answered_and_a_record_of_one_byte_is_a_part_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a"]);
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "");
    let mut client = seal(connect(&proxy), &trusting(&[certificate], &[]), "a");
    client.write_all(&REQUEST.repeat(20)).unwrap();
    let mut body = [0];
    for _ in 0..20 {
        assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200 "));
        client.read_exact(&mut body).unwrap();
    }
    client.write_all(b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200 "));
    client.read_exact(&mut body).unwrap();
    for byte in REQUEST {
        client.write_all(&[*byte]).unwrap();
    }
    assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200 "));
    proxy.stop();
}

#[test]
fn a_session_is_resumed_under_another_certificate_too() {
    let folder = tempfile::tempdir().unwrap();
    let first = write_certificate(folder.path(), &["a"]);
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "");
    let mut kinds = Vec::new();
    let read = |client: &mut Client| {
        client.write_all(REQUEST).unwrap();
        assert!(answer(client).unwrap().starts_with("HTTP/1.1 200 "));
        client.read_exact(&mut [0]).unwrap();
    };
    let config = trusting(&[first], &[]);
    for _ in 0..3 {
        let mut client = seal(connect(&proxy), &config, "a");
        read(&mut client);
        kinds.push(client.conn.handshake_kind().unwrap());
        write_certificate(folder.path(), &["a"]);
        assert_eq!(proxy.certificates.look().0, 1);
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    proxy.stop();
}

#[test]
fn a_proxy_in_front_says_whose_connection_it_is_before_tls_begins() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a"]);
    let (origin, requests) = start_echo_of_head();
    let proxy = start_sealed(origin, folder.path(), "--proxy-protocol=127.0.0.0/8 --forwarded=x");
    let mut stream = connect(&proxy);
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\n").unwrap();
    let mut client = seal(stream, &trusting(&[certificate], &[]), "a");
    client.write_all(REQUEST).unwrap();
    assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 204 "));
    let head = requests.recv_timeout(PATIENCE).unwrap();
    for told in
        ["X-Forwarded-For: 192.0.2.7\r\n", "X-Forwarded-Proto: https\r\n", "X-Forwarded-Port: 443\r\n"]
    {
        assert!(head.contains(told), "{head}");
    }
    proxy.stop();
}

#[test]
fn each_handshake_is_counted_by_how_it_ended_and_the_end_of_the_certificate_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), &["a"]);
    let proxy = start_sealed(Upstream::start(b'u').addr, folder.path(), "--timeouts=header=300ms,drain=10ms");
    let trusted = std::slice::from_ref(&certificate);
    for version in [&TLS12, &TLS13] {
        let config = trusting_by(&[version], trusted, &[]);
        for _ in 0..3 {
            let mut client = seal(connect(&proxy), &config, "a");
            client.write_all(REQUEST).unwrap();
            assert!(answer(&mut client).unwrap().starts_with("HTTP/1.1 200 "));
            client.read_exact(&mut [0]).unwrap();
        }
    }
    // Nonsense, a request, and a ClientHello that never becomes whole: its client goes away, or waits.
    for said in [&b"\0\0\0"[..], REQUEST, &[22, 3, 1, 0, 200, 1]] {
        let mut client = connect(&proxy);
        client.write_all(said).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    }
    let mut client = connect(&proxy);
    client.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let _ = client.read_to_end(&mut Vec::new());
    // Another protocol, and somebody who trusts others.
    for config in [trusting(trusted, &["h3"]), trusting(&[], &[])] {
        let mut client = seal(connect(&proxy), &config, "a");
        client.write_all(REQUEST).and_then(|()| answer(&mut client)).unwrap_err();
    }
    let told = |labels: [&str; 3]| {
        let [version, resumed, result] = labels;
        format!(
            "concertina_proxy_tls_handshakes_total{{version=\"{version}\",resumed=\"{resumed}\",result=\"{result}\"}}"
        )
    };
    let mut expected: Vec<String> = ["no_tls", "plain_http", "timeout", "gone", "incompatible", "alert"]
        .map(|result| format!("{} 1", told(["", "", result])))
        .into();
    for version in ["1.2", "1.3"] {
        expected.push(format!("{} 1", told([version, "no", "done"])));
        expected.push(format!("{} 2", told([version, "yes", "done"])));
    }
    let started = Instant::now();
    loop {
        let text = proxy.metrics();
        let missing: Vec<_> =
            expected.iter().filter(|line| !text.lines().any(|told| told == **line)).collect();
        if missing.is_empty() {
            let ends = format!(
                "concertina_proxy_certificate_not_after_seconds{{certificate=\"{}\"}} 67",
                folder.path().join("a.crt").display()
            );
            assert!(text.contains(&ends), "the year 4096, as rcgen has it: {text}");
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{missing:?}: {text}");
        thread::sleep(Duration::from_millis(5));
    }
    proxy.stop();
}
