//! Claims about a whole proxy that need a look at its counters, or more than one worker.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
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

mod change;
mod claims;
mod edges;
mod failures;
mod frames;
mod http2;
mod origins;
mod patience;
mod recall;
mod rules;
mod shares;
mod tls;
mod traces;
mod trust;
mod udp;
mod unix;
