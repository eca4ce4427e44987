//! Claims about a whole proxy that need a look at its counters, or more than one worker.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use clap::Parser;

use feed::{Endpoint, EndpointState, RoleTable};

use super::*;
use crate::{stats::Counter, upstream::follow::fixed_endpoint};

/// How long anything may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// Ends what goes on beside a test, which may fail meanwhile: when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A proxy for the role `app` of these upstreams.
fn start(upstreams: &[SocketAddr], flags: &str) -> Proxy {
    let addrs: Vec<_> = upstreams.iter().map(SocketAddr::to_string).collect();
    let upstream = format!("--upstream=app={}", addrs.join(","));
    let fixed = ["--listen=http://127.0.0.1:0=app", &upstream];
    let timeouts =
        Some("--timeouts=drain=10ms,queue=20s,connect=20s").filter(|_| !flags.contains("--timeouts"));
    let cli = Cli::try_parse_from(fixed.into_iter().chain(timeouts).chain(flags.split_whitespace()));
    Proxy::start(&cli.unwrap_or_else(|error| panic!("{flags}: {error}")).args).unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addrs()[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// An origin: each connection is served by this, request by request, with the head that came.
fn origin(serve: impl Fn(&mut TcpStream, &str) -> bool + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || {
                let mut head = Vec::new();
                while read_head(&mut stream, &mut head) && serve(&mut stream, &String::from_utf8_lossy(&head))
                {
                }
            });
        }
    });
    addr
}

/// False if nobody is there any more.
fn answer(stream: &mut TcpStream, text: &str) -> bool {
    stream.write_all(text.as_bytes()).is_ok()
}

/// Reads a head to its end; false if there is none.
fn read_head(stream: &mut impl Read, head: &mut Vec<u8>) -> bool {
    head.clear();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return false;
        }
        head.push(byte[0]);
    }
    true
}

/// Reads the head of a response and returns its status.
fn read_status(stream: &mut TcpStream) -> u16 {
    let mut head = Vec::new();
    assert!(read_head(stream, &mut head), "no answer");
    String::from_utf8_lossy(&head[9..12]).parse().unwrap()
}

/// An upstream whose responses have its name, one byte, as their body.
struct Upstream {
    addr: SocketAddr,
    /// Most requests at a time, ever.
    most: Arc<AtomicU32>,
}

impl Upstream {
    /// Serves until the process ends.
    fn start(name: u8) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, most) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let (now, most_seen) = (Arc::new(AtomicU32::new(0)), most.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (now, most) = (now.clone(), most_seen.clone());
                thread::spawn(move || serve(stream, name, &now, &most));
            }
        });
        Self { addr, most }
    }
}

/// An upstream that hands out each request's connection instead of answering: a frozen process, until the test thaws it.
fn start_frozen() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, (asked, requests)) = (listener.local_addr().unwrap(), mpsc::channel());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if read_head(&mut stream, &mut Vec::new()) && asked.send(stream).is_err() {
                return;
            }
        }
    });
    (addr, requests)
}

/// Every worker chooses from this table from now on. The instances of one list are those of another by their positions.
fn publish(proxy: &Proxy, table: &[(usize, SocketAddr, EndpointState)]) {
    let role = proxy.sources.directory().role("app").unwrap();
    let endpoint = |(position, addr, state): &(usize, SocketAddr, EndpointState)| Endpoint {
        state: *state,
        ..fixed_endpoint(*position, &(*addr).into())
    };
    let table = RoleTable::new(role.name.clone(), 2, table.iter().map(endpoint).collect());
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(role.apply_table(&table, &Origins::default()));
}

fn serve(mut stream: TcpStream, name: u8, now: &AtomicU32, most: &AtomicU32) {
    let mut response = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n".to_vec();
    response.push(name);
    let mut head = Vec::new();
    while read_head(&mut stream, &mut head) {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::yield_now();
        now.fetch_sub(1, Ordering::SeqCst);
        if stream.write_all(&response).is_err() {
            return;
        }
    }
}

/// Sends a request and returns the name of the upstream that answered.
fn ask(client: &mut TcpStream, request: &[u8]) -> u8 {
    client.write_all(request).unwrap();
    assert_eq!(read_status(client), 200);
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    name[0]
}

fn sum(proxy: &Proxy, counter: fn(&Stats) -> &Counter) -> u64 {
    proxy.stats.iter().map(|stats| counter(stats).read()).sum()
}

/// An upstream that closes each connection as soon as a request has come on it.
fn start_closing() -> SocketAddr {
    let (addr, requests) = start_frozen();
    thread::spawn(move || requests.into_iter().for_each(drop));
    addr
}

/// Upstreams that refuse connections, as long as the sockets are held.
fn bind_refusing(count: usize) -> (Vec<socket2::Socket>, Vec<SocketAddr>) {
    let bind = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, addr)
    };
    (0..count).map(bind).unzip()
}

#[test]
fn a_spent_budget_denies_retries_and_the_failure_is_the_answer() {
    const REQUESTS: u64 = 200;
    let addrs = [start_closing(), start_closing()];
    let proxy = start(&addrs, "--workers=1");
    for _ in 0..REQUESTS {
        let mut client = connect(&proxy);
        client.write_all(REQUEST).unwrap();
        assert_eq!(read_status(&mut client), 502);
    }
    let (retries, denied) = (sum(&proxy, |s| &s.retries), sum(&proxy, |s| &s.retries_denied));
    assert!(denied > 0, "a retry each is more than the reserve");
    assert!(retries + denied <= REQUESTS && retries >= 100, "{retries} retries, {denied} denied");
    proxy.stop();
}

#[test]
fn whoever_lives_is_found_among_many_that_refuse() {
    let upstream = Upstream::start(b'a');
    let (_held, mut addrs) = bind_refusing(40);
    addrs.insert(20, upstream.addr);
    let proxy = start(&addrs, "--workers=1 --retry-percent=0");
    assert_eq!(ask(&mut connect(&proxy), REQUEST), b'a');
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(&mut connect(&proxy), post), b'a', "nothing was sent to the others");
    assert_eq!(sum(&proxy, |s| &s.retries_denied), 0);
    proxy.stop();
}

#[test]
fn where_all_refuse_each_is_asked_once_or_twice() {
    let (_held, addrs) = bind_refusing(10);
    let proxy = start(&addrs, "--workers=1");
    let mut client = connect(&proxy);
    client.write_all(REQUEST).unwrap();
    assert_eq!(read_status(&mut client), 502);
    let connects = sum(&proxy, |s| &s.connects);
    assert!((10..=11).contains(&connects), "{connects}");
    proxy.stop();
}

#[test]
fn connections_that_the_upstream_closed_when_idle_cost_no_retry() {
    const CLIENTS: usize = 12;
    // It closes a moment after each answer, as one with a short keep-alive does at the worst of times.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                if read_head(&mut stream, &mut Vec::new()) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    let proxy = start(&[addr], "--workers=1 --retry-percent=0");
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(&proxy)).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || (0..50).for_each(|_| assert_eq!(ask(&mut client, REQUEST), b'a')));
        }
    });
    assert_eq!(sum(&proxy, |s| &s.retries_denied), 0);
    proxy.stop();
}

#[test]
fn clients_that_are_too_many_wait_until_others_have_gone() {
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=1 --clients-max=2");
    let mut clients = [connect(&proxy), connect(&proxy)];
    assert!(clients.iter_mut().all(|client| ask(client, REQUEST) == b'a'));
    let mut third = connect(&proxy);
    third.write_all(REQUEST).unwrap();
    while sum(&proxy, |s| &s.clients_held) == 0 {
        thread::yield_now();
    }
    assert_eq!(sum(&proxy, |s| &s.clients), 2);
    drop(clients);
    assert_eq!(read_status(&mut third), 200);
    proxy.stop();
}

#[test]
fn a_request_that_waits_in_the_kernels_queue_is_answered_by_a_proxy_that_stops() {
    let (frozen, requests) = start_frozen();
    let proxy = start(&[frozen], "--workers=1 --clients-max=1 --timeouts=drain=20s");
    let mut first = connect(&proxy);
    first.write_all(REQUEST).unwrap();
    let mut at_work = requests.recv_timeout(PATIENCE).unwrap();
    // The worker is full: these are not accepted.
    let mut waiting = [connect(&proxy), connect(&proxy)];
    waiting.iter_mut().for_each(|client| client.write_all(REQUEST).unwrap());
    let stopping = proxy.stopping.clone();
    stopping.send_replace(true);
    for _ in &waiting {
        let mut upstream = requests.recv_timeout(PATIENCE).unwrap();
        upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    }
    assert!(waiting.iter_mut().all(|client| read_status(client) == 204));
    at_work.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(read_status(&mut first), 204);
    proxy.stop();
}

#[test]
fn a_tcp_client_of_a_node_that_has_left_after_its_drain_is_let_go_and_no_other() {
    let echo = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        addr
    };
    let addrs = [echo(), echo()];
    let proxy = start(&addrs[..1], "--workers=1 --listen=tcp://127.0.0.1:0=app");
    let said = |table: &[(usize, SocketAddr, EndpointState)]| {
        publish(&proxy, table);
        let client = TcpStream::connect(proxy.addrs()[1]).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let is_alive =
        |client: &mut TcpStream| client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok();
    let mut drained = said(&[(0, addrs[0], EndpointState::Ready)]);
    assert!(is_alive(&mut drained));
    let mut failed = said(&[(0, addrs[0], EndpointState::Draining), (1, addrs[1], EndpointState::Ready)]);
    assert!(is_alive(&mut failed) && is_alive(&mut drained), "as long as the drain waits");
    drop(said(&[]));
    assert!(drained.read_exact(&mut [0]).is_err(), "let go");
    assert!(is_alive(&mut failed), "nobody asked this one to leave: it may only be out of reach");
    proxy.stop();
}

#[test]
fn what_a_worker_may_have_follows_from_the_descriptors() {
    let room = |limit, workers| room_of(limit, 16 * 1024, workers, false);
    assert_eq!(room(1 << 20, 4).clients_max, 16 * 1024, "as many as were asked for");
    for (limit, workers) in [(64, 1), (128, 1), (1024, 2), (4096, 16)] {
        let Room { clients_max, pipes_max, .. } = room(limit, workers);
        let left = limit - RESERVED_DESCRIPTORS - (clients_max + 2 * pipes_max) * workers;
        assert!(left * 6 > limit - RESERVED_DESCRIPTORS, "upstreams have {left} of {limit}");
    }
    assert_eq!(room(16, 4).clients_max, 1, "never none");
    for (limit, workers) in [(64, 1), (1024, 2), (4096, 16), (1 << 20, 2)] {
        let Room { clients_max, pipes_max, flows_max } = room_of(limit, usize::MAX, workers, true);
        let left = limit - RESERVED_DESCRIPTORS - (clients_max + 2 * pipes_max + flows_max) * workers;
        assert!(left * 6 > limit - RESERVED_DESCRIPTORS, "upstreams have {left} of {limit} beside flows");
    }
}

#[test]
fn the_same_field_goes_to_the_same_upstream_whoever_sends_it() {
    let upstreams: Vec<_> = (b'a'..b'e').map(Upstream::start).collect();
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    let reversed: Vec<_> = addrs.iter().rev().copied().collect();
    let flags = "--workers=2 --balance=app=hash:header:X-User";
    let (proxy, other) = (start(&addrs, flags), start(&reversed, flags));
    let mut names: Vec<_> = (0..64)
        .map(|user| {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
            let name = ask(&mut connect(&proxy), request.as_bytes());
            assert_eq!(ask(&mut connect(&other), request.as_bytes()), name, "user {user} at the other proxy");
            name
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, b"abcd", "all have some");
    proxy.stop();
    other.stop();
}

#[test]
fn the_same_client_goes_to_the_same_upstream() {
    let upstreams: Vec<_> = (b'a'..b'e').map(Upstream::start).collect();
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    let proxy = start(&addrs, "--workers=2 --balance=app=hash:client");
    let first = ask(&mut connect(&proxy), REQUEST);
    assert!((0..32).all(|_| ask(&mut connect(&proxy), REQUEST) == first));
    proxy.stop();
}

#[test]
fn a_limit_holds_over_all_workers_and_everybody_gets_a_turn() {
    const CLIENTS: usize = 24;
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=2 --upstream-connections-max=1");
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(&proxy)).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || (0..20).for_each(|_| assert_eq!(ask(&mut client, REQUEST), b'a')));
        }
    });
    assert_eq!(upstream.most.load(Ordering::SeqCst), 1);
    assert!(proxy.stats[..2].iter().all(|stats| stats.requests.read() > 0), "{}", proxy.summary());
    proxy.stop();
}

#[test]
fn connections_are_spread_over_workers() {
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=2");
    // The kernel chooses by a hash of addresses and ports: that one of two gets none of 64 has a probability of 2^-63.
    let mut clients: Vec<_> = (0..64).map(|_| connect(&proxy)).collect();
    assert!(clients.iter_mut().all(|client| ask(client, REQUEST) == b'a'));
    assert_eq!(sum(&proxy, |stats| &stats.requests), 64);
    assert!(proxy.stats[..2].iter().all(|stats| stats.requests.read() > 0), "{}", proxy.summary());
    proxy.stop();
}

#[test]
fn a_client_that_never_pauses_does_not_hold_up_another_of_the_same_worker() {
    const HOT_REQUESTS: u64 = 5000;
    const OTHER_REQUESTS: u64 = 100;
    let upstream = Upstream::start(b'a');
    let proxy = start(&[upstream.addr], "--workers=1");
    let (mut hot, mut other) = (connect(&proxy), connect(&proxy));
    let (mut hot_reader, is_over) = (hot.try_clone().unwrap(), AtomicBool::new(false));
    thread::scope(|scope| {
        // It always has more requests under way than have been answered, until it is cut off.
        let stop = Stop(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                hot.write_all(&REQUEST.repeat(100)).unwrap();
            }
            hot.shutdown(std::net::Shutdown::Both).unwrap();
        });
        scope.spawn(|| while hot_reader.read(&mut [0; 64 * 1024]).is_ok_and(|count| count > 0) {});
        let mut asked = 0;
        while asked < OTHER_REQUESTS || proxy.stats[0].requests.read() < HOT_REQUESTS + asked {
            assert_eq!(ask(&mut other, REQUEST), b'a', "after {asked} requests");
            asked += 1;
        }
        drop(stop);
    });
    proxy.stop();
}

#[test]
fn what_was_asked_of_an_upstream_that_is_lost_is_answered_by_another_as_soon_as_there_is_one() {
    use EndpointState::{Ready, Suspect};
    let ((frozen, requests), live) = (start_frozen(), Upstream::start(b'b'));
    let (lost, other) = ((0, frozen, Suspect), (1, live.addr, Ready));
    let spare = (1, live.addr, Suspect);
    for tables in [
        &[&[lost, other][..]][..],
        &[&[other]],
        &[&[], &[other]],
        &[&[lost], &[], &[lost, spare], &[lost, other]],
    ] {
        let proxy = start(&[frozen], "--workers=2");
        let mut client = connect(&proxy);
        client.write_all(REQUEST).unwrap();
        let _held = requests.recv_timeout(PATIENCE).unwrap();
        for (position, table) in tables.iter().enumerate() {
            assert_eq!(sum(&proxy, |stats| &stats.retries), 0, "{tables:?}, before table {position}");
            publish(&proxy, table);
        }
        assert_eq!(read_status(&mut client), 200, "{tables:?}");
        assert_eq!([sum(&proxy, |s| &s.retries), sum(&proxy, |s| &s.retries_denied)], [1, 0], "{tables:?}");
        proxy.stop();
    }
}

#[test]
fn what_must_not_be_sent_twice_or_nobody_else_can_answer_waits_for_the_upstream_that_is_lost() {
    use EndpointState::{Ready, Suspect};
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    let live = Upstream::start(b'b');
    for (request, is_begun, state) in [
        (POST, false, Some(Ready)),
        (REQUEST, true, Some(Ready)),
        (REQUEST, false, Some(Suspect)),
        (REQUEST, false, None),
    ] {
        let (frozen, requests) = start_frozen();
        let proxy = start(&[frozen], "--workers=1");
        let (mut client, mut other) = (connect(&proxy), connect(&proxy));
        client.write_all(request).unwrap();
        let mut asked = requests.recv_timeout(PATIENCE).unwrap();
        if is_begun {
            asked.write_all(HEAD).unwrap();
            assert_eq!(read_status(&mut client), 200);
        }
        publish(&proxy, &state.map(|state| (1, live.addr, state)).into_iter().collect::<Vec<_>>());
        other.write_all(REQUEST).unwrap();
        assert_eq!(read_status(&mut other), if state.is_none() { 503 } else { 200 });
        // It thaws: the same process, which the tables have again.
        publish(&proxy, &[(0, frozen, Ready)]);
        if !is_begun {
            asked.write_all(HEAD).unwrap();
            assert_eq!(read_status(&mut client), 200);
        }
        asked.write_all(b"a").unwrap();
        let mut name = [0];
        client.read_exact(&mut name).unwrap();
        assert_eq!((name[0], sum(&proxy, |stats| &stats.retries)), (b'a', 0), "{is_begun}, {state:?}");
        proxy.stop();
    }
}

mod change;
mod claims;
mod edges;
mod frames;
mod http2;
mod origins;
mod patience;
mod recall;
mod rules;
mod tls;
mod traces;
mod trust;
mod udp;
mod unix;
