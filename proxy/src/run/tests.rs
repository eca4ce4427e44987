//! Claims about a whole proxy that need a look at its counters, or more than one worker.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Parser;

use super::*;
use crate::stats::Counter;

/// How long anything may take before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// A proxy for the role `app` of these upstreams.
fn start(upstreams: &[SocketAddr], flags: &str) -> Proxy {
    let addrs: Vec<_> = upstreams.iter().map(SocketAddr::to_string).collect();
    let upstream = format!("--upstream=app={}", addrs.join(","));
    let fixed = ["--listen=http://127.0.0.1:0=app", "--timeouts=drain=10ms", &upstream];
    let cli = Cli::try_parse_from(fixed.into_iter().chain(flags.split_whitespace()));
    Proxy::start(cli.unwrap_or_else(|error| panic!("{flags}: {error}")).args).unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addrs()[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads one response without a body that matters, and returns its status.
fn read_status(stream: &mut TcpStream) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head[9..12]).parse().unwrap()
}

fn sum(proxy: &Proxy, counter: fn(&Stats) -> &Counter) -> u64 {
    proxy.stats.iter().map(|stats| counter(stats).read()).sum()
}

#[test]
fn a_spent_budget_denies_retries_and_the_failure_is_the_answer() {
    const REQUESTS: u64 = 60;
    // Bound, not listening: connections are refused.
    let bound: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket
        })
        .collect();
    let addrs: Vec<_> = bound.iter().map(|s| s.local_addr().unwrap().as_socket().unwrap()).collect();
    let proxy = start(&addrs, "--workers=1");
    for _ in 0..REQUESTS {
        let mut client = connect(&proxy);
        client.write_all(REQUEST).unwrap();
        assert_eq!(read_status(&mut client), 502);
    }
    let (retries, denied) = (sum(&proxy, |s| &s.retries), sum(&proxy, |s| &s.retries_denied));
    assert!(denied > 0, "two retries each are more than the reserve");
    assert!(retries + denied <= 2 * REQUESTS && retries >= 100, "{retries} retries, {denied} denied");
    proxy.stop();
}
