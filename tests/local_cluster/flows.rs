//! Long flows of datagrams, as QUIC's are, through a proxy and a real drain.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hasher},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{
    network::Network,
    program::Running,
    skip,
    stop::Stop,
    wait::{DEADLINE, until},
};

/// What a packet of QUIC holds at least (RFC 9000 14.1).
const DATAGRAM_BYTES: usize = 1200;

/// Datagrams of a flow under way: together less than a socket holds that nobody has made larger.
const WINDOW_COUNT: usize = 4;

const FLOWS_COUNT: usize = 12;

/// How long a flow may be silent: longer than a busy machine leaves a thread waiting.
const FLOW_TIMEOUT: &str = "flow=3s";

/// How long the flows live on after the drain has begun: longer than one that is silent.
const DRAIN_TIME: Duration = Duration::from_secs(4);

/// Longest that the drain may take once all flows are silent: much more than that, and much less than its own limit.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// Sends every datagram back behind the number of its node.
const ECHO: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
while True:
    data, client = s.recvfrom(65536)
    s.sendto(sys.argv[3].encode() + data, client)
";

/// A node with such a server.
fn serve(network: &Network, node: &str) -> Running {
    let own = ["--check", "none", "--drain-timeout", "2m"].map(str::to_owned);
    let service = network.service(node);
    let (ip, port) = (service.ip().to_string(), service.port().to_string());
    let number = &node[node.len() - 1..];
    network.wrap(
        node,
        &[network.join(node), own.into()].concat(),
        &["python3", "-c", ECHO, &ip, &port, number],
    )
}

/// A client that never changes its address, and whose address nobody has had before: with only a port of its own it might be
/// taken for a flow that has just ended where the other node is.
struct Flow {
    socket: UdpSocket,
    count: u64,
    /// Of everything that was sent, and of everything that came back.
    sent: DefaultHasher,
    heard: DefaultHasher,
}

impl Flow {
    fn new(proxy: SocketAddr) -> Self {
        static CLIENTS_COUNT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = CLIENTS_COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, high, low), 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.connect(proxy).unwrap();
        Self { socket, count: 0, sent: DefaultHasher::new(), heard: DefaultHasher::new() }
    }

    /// Sends some datagrams and waits for all of them; who sent them back.
    fn exchange(&mut self) -> u8 {
        for _ in 0..WINDOW_COUNT {
            self.count += 1;
            let datagram: Vec<u8> =
                self.count.to_le_bytes().into_iter().cycle().take(DATAGRAM_BYTES).collect();
            self.sent.write(&datagram);
            self.socket.send(&datagram).unwrap();
        }
        let mut names = BTreeSet::new();
        for _ in 0..WINDOW_COUNT {
            let mut room = [0; DATAGRAM_BYTES + 2];
            let length = self.socket.recv(&mut room).expect("none is lost");
            assert_eq!(length, DATAGRAM_BYTES + 1);
            names.insert(room[0]);
            self.heard.write(&room[1..length]);
        }
        assert!(names.len() == 1 && self.sent.finish() == self.heard.finish(), "{names:?}");
        names.pop_first().unwrap()
    }
}

#[test]
fn a_scale_down_moves_no_flow_that_lives_and_loses_no_datagram() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip::test("python3");
    }
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let listen = format!("udp://{}=appserver", network.service("proxyserver"));
    let command = ["proxy", "--workers", "2", "--timeouts", FLOW_TIMEOUT, "--listen", &listen];
    let command = [&[env!("CARGO_BIN_EXE_concertina")], &command[..]].concat();
    let flags = [network.join("proxyserver"), ["--check", "none"].map(str::to_owned).into()].concat();
    let _proxyserver = network.wrap("proxyserver", &flags, &command);
    let (mut first, _second) = (serve(&network, "appserver1"), serve(&network, "appserver2"));
    let ready = network.ask("proxyserver", "wait --role appserver --min 2 --visible");
    assert_eq!(ready.code, Some(0), "{}", ready.stderr);
    // Their processes may just be starting.
    until("both answer", || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let answers = |node: &str| {
            socket.send_to(b"x", network.service(node)).is_ok() && socket.recv(&mut [0; 9]).is_ok()
        };
        (answers("appserver1") && answers("appserver2")).then_some(())
    });
    let (proxy, is_over) = (network.service("proxyserver"), AtomicBool::new(false));
    let mut flows: Vec<Flow> = (0..FLOWS_COUNT).map(|_| Flow::new(proxy)).collect();
    let homes: Vec<u8> = flows.iter_mut().map(Flow::exchange).collect();
    assert!(homes.contains(&b'1') && homes.contains(&b'2'), "{homes:?}");
    thread::scope(|scope| {
        let stop = Stop(&is_over);
        for (flow, home) in flows.iter_mut().zip(&homes) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(flow.exchange(), *home, "a flow that lives stays where it is");
                }
            });
        }
        first.signal(Signal::TERM);
        let is_elsewhere = || (0..FLOWS_COUNT).all(|_| Flow::new(proxy).exchange() == b'2');
        until("new flows begin elsewhere", || is_elsewhere().then_some(()));
        let began = Instant::now();
        while began.elapsed() < DRAIN_TIME {
            assert_eq!(Flow::new(proxy).exchange(), b'2', "a new one");
        }
        assert!(!first.said().contains("drained"), "it waits for them: {}", first.said());
        drop(stop);
    });
    let (silent, ended) = (Instant::now(), first.ended());
    assert_eq!(ended.code(), Some(0), "{}", first.said());
    assert!(
        first.said().contains("drained") && silent.elapsed() < END_TIME_MAX,
        "it waits for nothing else: {}",
        first.said()
    );
    flows.iter_mut().for_each(|flow| assert_eq!(flow.exchange(), b'2'));
    let count: u64 = flows.iter().map(|flow| flow.count).sum();
    eprintln!("{count} datagrams of {FLOWS_COUNT} flows");
}
