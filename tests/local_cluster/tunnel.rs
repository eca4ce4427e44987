//! TCP through the proxy to a fixed upstream, without any sidecar.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::support::{
    place::Place,
    program::{Running, concertina},
    wait::DEADLINE,
};

/// More than the kernel and the proxy hold for one direction.
const MANY_BYTES: usize = 16 << 20;

/// A proxy in front of one address.
struct Tunnel {
    _proxy: Running,
    addr: SocketAddr,
    _place: Place,
}

impl Tunnel {
    fn to(upstream: SocketAddr) -> Self {
        let place = Place::new();
        let upstream = format!("echo={upstream}");
        let command = concertina(["proxy", "--listen", "tcp://127.0.0.1:0=echo", "--upstream", &upstream]);
        let mut proxy = Running::start(command, place.join("proxy.log"));
        let listening = proxy.hear("proxy listening addr=");
        let addr = listening.split(' ').next().unwrap().parse().unwrap();
        Self { _proxy: proxy, addr, _place: place }
    }

    fn connect(&self) -> TcpStream {
        impatient(TcpStream::connect(self.addr).unwrap())
    }
}

fn impatient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A client and an upstream with the proxy between them.
fn connected() -> (Tunnel, TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let tunnel = Tunnel::to(listener.local_addr().unwrap());
    let client = tunnel.connect();
    let upstream = impatient(listener.accept().unwrap().0);
    (tunnel, client, upstream)
}

fn assert_hears_to_the_end(mut from: &TcpStream, expected: &[u8]) {
    let mut heard = Vec::new();
    from.read_to_end(&mut heard).unwrap();
    // Not compared by `assert_eq`, which would print megabytes.
    assert!(heard == expected, "{} bytes instead of {}", heard.len(), expected.len());
}

#[test]
fn each_side_may_close_its_direction_and_still_hear_the_other() {
    for client_first in [true, false] {
        let (_tunnel, client, upstream) = connected();
        let (first, second) = if client_first { (&client, &upstream) } else { (&upstream, &client) };
        { first }.write_all(b"that is all from me").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_hears_to_the_end(second, b"that is all from me");
        { second }.write_all(b"and here is the rest").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        assert_hears_to_the_end(first, b"and here is the rest");
    }
}

#[test]
fn more_bytes_than_any_buffer_holds_arrive_intact_both_ways_at_once() {
    let (_tunnel, client, upstream) = connected();
    // A period that is no power of two shows bytes that are missing, doubled or swapped.
    let up: Vec<u8> = (0..251).cycle().take(MANY_BYTES).collect();
    let down: Vec<u8> = (0..241).cycle().take(MANY_BYTES).collect();
    let say = |mut stream: &TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| say(&client, &up));
        scope.spawn(|| say(&upstream, &down));
        scope.spawn(|| assert_hears_to_the_end(&upstream, &up));
        assert_hears_to_the_end(&client, &down);
    });
}

#[test]
fn a_refused_upstream_closes_the_client() {
    let refusing = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // Bound but not listening: connections are refused, and nobody else gets the port.
    refusing.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let tunnel = Tunnel::to(refusing.local_addr().unwrap().as_socket().unwrap());
    assert_hears_to_the_end(&tunnel.connect(), b"");
}
