//! Idle connections: little memory, and no time.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};

use crate::{
    origin::{self, Client},
    running::Running,
    stage,
};

const IDLE_COUNT: usize = 10_000;

/// What the project promises of one idle connection in the proxy's own memory.
const IDLE_BYTES_MAX: u64 = 1024;

/// The same of one that is sealed, nearly all of which is what rustls keeps of a session.
const SEALED_IDLE_BYTES_MAX: u64 = 6 * 1024;

/// Sealed connections: each costs a handshake of either side.
const SEALED_IDLE_COUNT: usize = 2000;

/// Connections before the first look: what is allocated once is there, in good part.
const WARM_UP_COUNT: usize = 100;

/// Requests of the active connection in one measurement of the time: so many that ticks of the deadlines are among them.
const REQUESTS_COUNT: u64 = 2500;

/// Measurements of which the least counts, since whoever disturbs only adds.
const MEASUREMENTS_COUNT: usize = 8;

/// How often all of it is measured until it is as it should be.
const ATTEMPTS_COUNT: usize = 4;

/// Far above what two measurements of the same thing differ by, and far below what a look at each idle connection for every
/// request would make of it.
const SLOWDOWN_MAX: f64 = 1.5;

fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let needed = IDLE_COUNT as u64 + 500;
    assert!(limit.maximum.is_none_or(|maximum| maximum >= needed), "ulimit -Hn: {needed} are needed");
    // The proxy inherits it.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// Resident memory of the proxy.
fn memory_bytes(proxy: &Running) -> u64 {
    let rollup = std::fs::read_to_string(proxy.proc("smaps_rollup")).unwrap();
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
    rss.unwrap().parse::<u64>().unwrap() * 1024
}

/// Time that the worker ran, by the scheduler's account.
fn busy_ns(proxy: &Running) -> u64 {
    let schedstat = std::fs::read_to_string(proxy.proc_of_worker("schedstat")).unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}

/// Time of the worker for a request.
fn request_ns(proxy: &Running, client: &mut Client) -> u64 {
    let mut measure = || {
        let before = busy_ns(proxy);
        (0..REQUESTS_COUNT).for_each(|_| client.get());
        (busy_ns(proxy) - before) / REQUESTS_COUNT
    };
    (0..MEASUREMENTS_COUNT).map(|_| measure()).min().unwrap()
}

fn connect_idle(proxy: &Running, count: usize) -> Vec<Client> {
    let connect = |_| {
        let mut client = Client::connect(proxy.addr);
        client.get();
        client
    };
    (0..count).map(connect).collect()
}

#[test]
fn idle_connections_cost_a_kib_each_at_most_and_active_ones_nothing() {
    let _stage = stage();
    allow_descriptors();
    let proxy = Running::start(origin::start(1));
    let mut active = Client::connect(proxy.addr);
    let _warm_up = connect_idle(&proxy, WARM_UP_COUNT);
    let mut measure = || {
        let alone_ns = request_ns(&proxy, &mut active);
        let before_bytes = memory_bytes(&proxy);
        let idle = connect_idle(&proxy, IDLE_COUNT);
        let each_bytes = memory_bytes(&proxy).saturating_sub(before_bytes) / IDLE_COUNT as u64;
        let among_idle_ns = request_ns(&proxy, &mut active);
        drop(idle);
        // Before and after: a machine that slows down meanwhile is not the idle connections' doing.
        let alone_ns = request_ns(&proxy, &mut active).max(alone_ns);
        let slowdown = among_idle_ns as f64 / alone_ns as f64;
        eprintln!(
            "{IDLE_COUNT} idle connections: {each_bytes} bytes each; {alone_ns} ns a request without them, {among_idle_ns} ns with \
             ({slowdown:.2})"
        );
        (each_bytes, slowdown)
    };
    // Of the memory, the first time counts: later ones find some that was given back.
    let (each_bytes, mut slowdown) = measure();
    // What the idle connections cost is there each time, and what a neighbour takes is not.
    for _ in 1..ATTEMPTS_COUNT {
        if slowdown > SLOWDOWN_MAX {
            slowdown = measure().1;
        }
    }
    assert!(each_bytes <= IDLE_BYTES_MAX, "{each_bytes} bytes");
    assert!(slowdown <= SLOWDOWN_MAX, "{slowdown:.2}");
}

#[test]
fn idle_sealed_connections_cost_six_kib_each_at_most() {
    let _stage = stage();
    allow_descriptors();
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
    let [cert_path, key_path] = ["cert", "key"].map(|name| folder.path().join(name));
    std::fs::write(&cert_path, certificate.pem()).unwrap();
    std::fs::write(&key_path, key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let upstream = format!("origin={}", origin::start(1));
    let pair = format!("{},{}", cert_path.display(), key_path.display());
    let flags = ["--listen", "https://127.0.0.1:0=origin", "--upstream", &upstream, "--certificate", &pair];
    let proxy = Running::start_with(&flags);
    let connect = |_| {
        let connection = ClientConnection::new(config.clone(), "a".try_into().unwrap()).unwrap();
        let mut client = StreamOwned::new(connection, TcpStream::connect(proxy.addr).unwrap());
        client.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhello\n") {
            let mut piece = [0; 1024];
            let count = client.read(&mut piece).unwrap();
            answer.extend_from_slice(&piece[..count]);
        }
        client
    };
    let _warm_up: Vec<_> = (0..WARM_UP_COUNT).map(connect).collect();
    let before_bytes = memory_bytes(&proxy);
    let idle: Vec<_> = (0..SEALED_IDLE_COUNT).map(connect).collect();
    let each_bytes = memory_bytes(&proxy).saturating_sub(before_bytes) / idle.len() as u64;
    eprintln!("{} idle sealed connections: {each_bytes} bytes each", idle.len());
    assert!(each_bytes <= SEALED_IDLE_BYTES_MAX, "{each_bytes} bytes");
}
