//! Nodes in whatever order: sidecars with their roles, started by hand.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use crate::support::{
    http,
    place::Place,
    program::{Running, concertina},
    turns::Turn,
    wait::until,
};

const GOSSIP_PORT: u16 = 7946;
const SERVICE_PORT: u16 = 8080;

/// Loopback networks that `concertina up` leaves alone: 127.251.x.y to 127.254.x.y.
const NETWORK_FIRST: u8 = 251;
const NETWORKS: u8 = 4;

/// A network and a directory for nodes.
struct Network {
    base: [u8; 3],
    place: Place,
    /// Held: the network is ours.
    _claim: UdpSocket,
    _turn: Turn,
}

impl Network {
    fn claim() -> Self {
        let turn = Turn::one();
        let (base, claim) = until("a free loopback network", || {
            let [a, b, ..] = RandomState::new().hash_one(()).to_ne_bytes();
            let base = [127, NETWORK_FIRST + a % NETWORKS, b];
            UdpSocket::bind((ip(base, 1), GOSSIP_PORT)).ok().map(|claim| (base, claim))
        });
        Self { base, place: Place::new(), _claim: claim, _turn: turn }
    }

    /// Starts a node, which knows nobody but the dnsserver's address.
    fn start(&self, node: &str) -> Running {
        let role = node.trim_end_matches(|c: char| c.is_ascii_digit());
        // Each role's program is called like the role.
        let program = role.trim_end_matches("server");
        let service = self.service(node);
        let gossip = |node| SocketAddr::new(self.service(node).ip(), GOSSIP_PORT).to_string();
        let mut command = concertina(["sidecar", "--role", role, "--node", node, "--bind", &gossip(node)]);
        command
            .arg("--port")
            .arg(SERVICE_PORT.to_string())
            .arg("--feed")
            .arg(self.place.join(format!("{node}.sock")));
        if node != "dnsserver" {
            command.args(["--join", &gossip("dnsserver")]);
        }
        let listen = match program {
            "proxy" => format!("http://{service}=frontserver"),
            _ => service.to_string(),
        };
        command.args(["--", env!("CARGO_BIN_EXE_concertina"), program, "--listen", &listen]);
        Running::start(command, self.place.join(format!("{node}.log")))
    }

    fn service(&self, node: &str) -> SocketAddr {
        let host = match node {
            "dnsserver" => 2,
            "proxyserver" => 3,
            "frontserver1" => 4,
            "appserver1" => 5,
            "appserver2" => 6,
            other => panic!("no address for {other}"),
        };
        (ip(self.base, host), SERVICE_PORT).into()
    }

    /// Kills a sidecar and waits until its role is gone with it.
    fn kill(&self, node: &str, running: Running) {
        drop(running);
        let service = self.service(node).to_string();
        until(&format!("no process of {node} is left"), || {
            (!self.place.processes().iter().any(|process| process.contains(&service))).then_some(())
        });
    }

    /// Asks the proxy, which may just be starting, until it answers like this.
    fn hear(&self, status: u16, body: &str) -> http::Response {
        until(&format!("{status} {body:?}"), || {
            let response = http::get(self.service("proxyserver"), "/hello").ok()?;
            (response.status == status && response.body == body).then_some(response)
        })
    }
}

fn ip([a, b, c]: [u8; 3], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, host)
}

#[test]
fn whoever_is_missing_is_named_until_they_come() {
    let network = Network::claim();
    let _dnsserver = network.start("dnsserver");
    let _proxyserver = network.start("proxyserver");
    let refusal = network.hear(503, "no frontserver is ready\n");
    assert_eq!(refusal.field("retry-after"), Some("1"));
    let _frontserver1 = network.start("frontserver1");
    network.hear(503, "no appserver is ready\n");
    let appserver1 = network.start("appserver1");
    network.hear(200, "Hello frontserver1, I'm appserver1 !\n");
    network.kill("appserver1", appserver1);
    network.hear(503, "no appserver is ready\n");
    let _appserver1 = network.start("appserver1");
    network.hear(200, "Hello frontserver1, I'm appserver1 !\n");
}

#[test]
fn everybody_may_start_before_the_dnsserver_and_join_through_its_successor() {
    let network = Network::claim();
    let _appserver1 = network.start("appserver1");
    let _frontserver1 = network.start("frontserver1");
    let _proxyserver = network.start("proxyserver");
    network.hear(503, "no frontserver is ready\n");
    let dnsserver = network.start("dnsserver");
    network.hear(200, "Hello frontserver1, I'm appserver1 !\n");

    network.kill("dnsserver", dnsserver);
    network.hear(200, "Hello frontserver1, I'm appserver1 !\n");
    let _dnsserver = network.start("dnsserver");
    let _appserver2 = network.start("appserver2");
    for app in ["appserver1", "appserver2"] {
        network.hear(200, &format!("Hello frontserver1, I'm {app} !\n"));
    }
}
