//! A loopback network for nodes that are started by hand: sidecars with whatever behind them.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use super::{
    http,
    place::Place,
    program::{Ended, Running, concertina, run},
    turns::Turn,
    wait::until,
};

const GOSSIP_PORT: u16 = 7946;
const SERVICE_PORT: u16 = 8080;

/// Loopback networks that `concertina up` leaves alone: 127.251.x.y to 127.254.x.y.
const NETWORK_FIRST: u8 = 251;
const NETWORKS: u8 = 4;

/// Those that a test here has had. None has it again: servers that are threads of this process listen there to its end.
static USED: Mutex<BTreeSet<[u8; 3]>> = Mutex::new(BTreeSet::new());

/// A network and a directory for nodes.
pub(crate) struct Network {
    base: [u8; 3],
    pub(crate) place: Place,
    /// Held: the network is ours.
    _claim: UdpSocket,
    _turn: Turn,
}

impl Network {
    pub(crate) fn claim() -> Self {
        Self::claim_in_turn(Turn::one())
    }

    /// The same while no other test has one.
    pub(crate) fn claim_alone() -> Self {
        Self::claim_in_turn(Turn::alone())
    }

    fn claim_in_turn(turn: Turn) -> Self {
        let (base, claim) = until("a free loopback network", || {
            let [a, b, ..] = RandomState::new().hash_one(()).to_ne_bytes();
            let base = [127, NETWORK_FIRST + a % NETWORKS, b];
            let is_new = USED.lock().unwrap_or_else(PoisonError::into_inner).insert(base);
            let claim = is_new.then(|| UdpSocket::bind((ip(base, 1), GOSSIP_PORT)).ok())?;
            claim.map(|claim| (base, claim))
        });
        Self { base, place: Place::new(), _claim: claim, _turn: turn }
    }

    /// Starts one of the project's own programs, which knows nobody but the dnsserver's address.
    pub(crate) fn start(&self, node: &str) -> Running {
        self.start_with(node, &self.join(node))
    }

    /// The same with these flags of the sidecar instead.
    pub(crate) fn start_with(&self, node: &str, flags: &[String]) -> Running {
        // Each role's program is called like the role.
        let program = role(node).trim_end_matches("server");
        let service = self.service(node);
        let listen = match program {
            "proxy" => format!("http://{service}=frontserver"),
            _ => service.to_string(),
        };
        self.wrap(node, flags, &[env!("CARGO_BIN_EXE_concertina"), program, "--listen", &listen])
    }

    /// Starts a sidecar around a command.
    pub(crate) fn wrap(&self, node: &str, flags: &[String], command: &[&str]) -> Running {
        self.run(node, self.sidecar(node, flags, command))
    }

    /// A sidecar around a command.
    pub(crate) fn sidecar(&self, node: &str, flags: &[String], command: &[&str]) -> Command {
        let mut sidecar = concertina(["sidecar", "--role", role(node), "--node", node]);
        sidecar.args(["--bind", &self.gossip(node), "--port", &SERVICE_PORT.to_string(), "--feed"]);
        sidecar.arg(self.feed(node)).args(flags).arg("--").args(command);
        sidecar
    }

    /// Starts it.
    pub(crate) fn run(&self, node: &str, sidecar: Command) -> Running {
        Running::start(sidecar, self.place.join(format!("{node}.log")))
    }

    /// The flags that name the first contact, whom the dnsserver has not.
    pub(crate) fn join(&self, node: &str) -> Vec<String> {
        if node == "dnsserver" { Vec::new() } else { vec!["--join".into(), self.gossip("dnsserver")] }
    }

    /// Asks a node's sidecar.
    pub(crate) fn ask(&self, node: &str, question: &str) -> Ended {
        let mut command = concertina(question.split(' '));
        command.arg("--feed").arg(self.feed(node));
        run(command)
    }

    pub(crate) fn feed(&self, node: &str) -> PathBuf {
        self.place.join(format!("{node}.sock"))
    }

    pub(crate) fn gossip(&self, node: &str) -> String {
        SocketAddr::new(self.service(node).ip(), GOSSIP_PORT).to_string()
    }

    pub(crate) fn service(&self, node: &str) -> SocketAddr {
        let host = match node {
            "dnsserver" => 2,
            "proxyserver" => 3,
            "frontserver1" => 4,
            "appserver1" => 5,
            "appserver2" => 6,
            "billing1" => 7,
            "postgres1" => 8,
            "postgres2" => 9,
            "coming-a1" => 10,
            "coming-b1" => 11,
            "coming-c1" => 12,
            "sockets1" => 13,
            "rpc1" => 14,
            "rpc2" => 15,
            other => panic!("no address for {other}"),
        };
        (ip(self.base, host), SERVICE_PORT).into()
    }

    /// Kills a sidecar and waits until its role is gone with it, and its place is free. A process that ends loses its
    /// command line first and its sockets last, so that the list of processes alone says so too early.
    pub(crate) fn kill(&self, node: &str, running: Running) {
        drop(running);
        let service = self.service(node);
        until(&format!("no process of {node} is left"), || {
            let gone = !self.place.processes().iter().any(|process| process.contains(&service.to_string()));
            let free = || TcpListener::bind(service).is_ok() && UdpSocket::bind(service).is_ok();
            (gone && free()).then_some(())
        });
    }

    /// Asks the proxy, which may just be starting, until it answers like this.
    pub(crate) fn hear(&self, path: &str, status: u16, body: &str) -> http::Response {
        until(&format!("{status} {body:?}"), || {
            let response = http::get(self.service("proxyserver"), path).ok()?;
            (response.status == status && response.body == body).then_some(response)
        })
    }
}

fn role(node: &str) -> &str {
    node.trim_end_matches(|c: char| c.is_ascii_digit())
}

fn ip([a, b, c]: [u8; 3], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, host)
}
