//! A keep-alive request allocates nothing, neither in the proxy nor in the event loop below it: also where it has an id, and where
//! something of it is kept.
//!
//! The process's allocator counts. The origin and the clients are threads of this process that allocate nothing either while
//! it counts, so that every allocation of the process is the proxy's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    alloc::System,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process,
    sync::Barrier,
    thread,
    time::Duration,
};

use clap::Parser;
use proxy::{Args, Proxy};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Clients at a time, each on a connection of its own.
const CLIENTS_COUNT: usize = 4;

/// Requests of each client before the count: every shelf and pool is as full as it gets.
const WARM_UP_COUNT: usize = 500;

/// Requests of each client in the count; together 10,000.
const REQUESTS_COUNT: usize = 2500;

/// How long a response may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request and the response to it, as plain and as full of work as they come.
const EXCHANGES: [(&[u8], &[u8]); 3] = [
    (
        b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n",
    ),
    // Fields that are cut out, a body, and chunks that pass.
    (
        b"POST /form HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nContent-Length: 3\r\n\r\na=b",
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello\n\r\n0\r\n\r\n",
    ),
    // A target to rewrite, and an interim response.
    (
        b"PUT http://a/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ),
];

/// Answers each request by its first byte; how it ends is seen by what the proxy sends.
fn serve(mut stream: TcpStream, together: &Barrier) {
    stream.set_nodelay(true).unwrap();
    together.wait();
    let (mut seen, mut length) = ([0; 1024], 0);
    loop {
        match stream.read(&mut seen[length..]) {
            Ok(0) | Err(_) => return,
            Ok(more) => length += more,
        }
        let ends: [&[u8]; 3] = [b"\r\n\r\n", b"\r\n\r\na=b", b"\r\n0\r\n\r\n"];
        let method = |(request, _): &(&[u8], &[u8])| request[..3] == seen[..3];
        let position = EXCHANGES.iter().position(method).unwrap();
        if seen[..length].ends_with(ends[position]) {
            length = 0;
            stream.write_all(EXCHANGES[position].1).unwrap();
        }
    }
}

/// What is there when its connections have ended is nothing: a thread that ends gives memory back, which another round would count.
fn start_origin() -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        // Nobody is answered before everybody is connected: later none has to be.
        let together = Barrier::new(CLIENTS_COUNT);
        thread::scope(|scope| {
            for stream in listener.incoming().take(CLIENTS_COUNT) {
                scope.spawn(|| serve(stream.unwrap(), &together));
            }
        });
    });
    (addr, serving)
}

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// It gives each request an id, and keeps one in 64 of them.
fn start_proxy(origin: SocketAddr, flag: Option<&str>) -> Proxy {
    let upstream = format!("--upstream=origin={origin}");
    let flags =
        ["proxy", "--listen=http://127.0.0.1:0=origin", &upstream, "--workers=1", "--request-id=make"];
    let flags = flags.into_iter().chain(flag);
    Proxy::start(&Flags::parse_from(flags).args).unwrap()
}

fn exchange(stream: &mut TcpStream, turn: usize) {
    let (request, response) = EXCHANGES[turn % EXCHANGES.len()];
    let mut seen = [0; 1024];
    stream.write_all(request).unwrap();
    // Without the Connection of the upstream's side, and dated.
    let ended_here = if turn % EXCHANGES.len() == 1 { "Connection: keep-alive\r\n".len() } else { 0 };
    let id = "X-Request-ID: 0123456789abcdef0123456789abcdef\r\n".len();
    let count = response.len() - ended_here + "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n".len() + id;
    stream.read_exact(&mut seen[..count]).unwrap();
    assert!(seen.starts_with(&response[..12]) && seen[..count].ends_with(&response[response.len() - 4..]));
}

/// Ends the process with a client that fails: the others would wait for it for ever.
struct Needed;

impl Drop for Needed {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

#[test]
fn a_keep_alive_request_allocates_nothing_traced_or_not() {
    // One after the other: whatever the process allocates is counted.
    for flag in [None, Some("--trace=propagate")] {
        check_allocations(flag);
    }
}

fn check_allocations(flag: Option<&str>) {
    let (origin, serving) = start_origin();
    let proxy = start_proxy(origin, flag);
    let addr = proxy.addrs()[0];
    // Warm, counting, counted.
    let phases = Barrier::new(CLIENTS_COUNT + 1);
    let change = thread::scope(|scope| {
        for _ in 0..CLIENTS_COUNT {
            scope.spawn(|| {
                let _needed = Needed;
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                (0..WARM_UP_COUNT).for_each(|turn| exchange(&mut stream, turn));
                phases.wait();
                phases.wait();
                (0..REQUESTS_COUNT).for_each(|turn| exchange(&mut stream, turn));
                phases.wait();
                // Closed after the count, by which time it has been read.
                phases.wait();
            });
        }
        phases.wait();
        let region = Region::new(COUNTING);
        phases.wait();
        phases.wait();
        let change = region.change();
        phases.wait();
        change
    });
    eprintln!("{} requests, {flag:?}: {change:?}", CLIENTS_COUNT * REQUESTS_COUNT);
    let summary = proxy.summary();
    let requests = format!(" requests={} ", CLIENTS_COUNT * (WARM_UP_COUNT + REQUESTS_COUNT));
    assert!(
        summary.contains(&requests) && summary.contains(&format!(" connects={CLIENTS_COUNT} ")),
        "{summary}"
    );
    let counts = (change.allocations, change.reallocations, change.deallocations);
    assert_eq!(counts, (0, 0, 0), "{change:?}");
    proxy.stop();
    serving.join().unwrap();
}
