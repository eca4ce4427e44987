//! No request is lost while a network is in two halves, and when it is whole again.

use std::{
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{CLIENTS, short_or_long};
use crate::support::{
    halves::{Half, Halves},
    http::Connection,
    load::Load,
    place::Place,
    program::{Running, concertina, run},
    turns::Turn,
    wait::until,
    wrk::Wrk,
};

const GOSSIP_PORT: u16 = 7946;
const SERVICE_PORT: u16 = 8080;

/// Who is where. The last is the address's last byte.
const NODES: [(&str, Half, u8); 6] = [
    ("dnsserver", Half::A, 2),
    ("proxyserver", Half::A, 3),
    ("frontserver1", Half::A, 4),
    ("appserver1", Half::A, 5),
    ("frontserver2", Half::B, 14),
    ("appserver2", Half::B, 15),
];

/// A client waits longer than any cut lasts: what was inside the other half comes when TCP sends it again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Six nodes in two halves. The order of the fields is the order in which they go away.
struct Scene {
    _nodes: Vec<Running>,
    halves: Halves,
    place: Place,
    _turn: Turn,
}

impl Scene {
    fn new() -> Option<Self> {
        let turn = Turn::alone();
        let (halves, place) = (Halves::make()?, Place::new());
        let start = |(node, half, host): (&str, Half, u8)| {
            halves.add_address(half, &format!("10.0.0.{host}/24"));
            let role = node.trim_end_matches(|c: char| c.is_ascii_digit());
            let gossip = |host| format!("10.0.0.{host}:{GOSSIP_PORT}");
            let mut sidecar = concertina(["sidecar", "--role", role, "--node", node]);
            sidecar.args(["--bind", &gossip(host), "--port", &SERVICE_PORT.to_string(), "--feed"]);
            sidecar.arg(feed(&place, node));
            if node != "dnsserver" {
                sidecar.args(["--join", &gossip(NODES[0].2)]);
            }
            // Each role's program is called like the role.
            let program = role.trim_end_matches("server");
            let service = service(host);
            let listen = match program {
                "proxy" => format!("http://{service}=frontserver"),
                _ => service.to_string(),
            };
            sidecar.args(["--", env!("CARGO_BIN_EXE_concertina"), program, "--listen", &listen]);
            Running::start(halves.command(half, &sidecar), place.join(format!("{node}.log")))
        };
        let nodes = NODES.into_iter().map(start).collect();
        Some(Self { _nodes: nodes, halves, place, _turn: turn })
    }

    /// Waits until a node acts on so many of a role.
    fn sees(&self, node: &str, role: &str, count: usize) {
        until(&format!("{node} sees {count} {role}"), || {
            let (min, max) = (format!("--min={count}"), format!("--max={count}"));
            let mut command = concertina(["wait", "--role", role, "--visible", &min, &max, "--feed"]);
            command.arg(feed(&self.place, node));
            (run(command).code == Some(0)).then_some(())
        });
    }

    fn see_each_other(&self, count: usize) {
        self.sees("proxyserver", "frontserver", count);
        for front in ["frontserver1", "frontserver2"] {
            self.sees(front, "appserver", count);
        }
    }

    /// Clients in half A.
    fn load(&self) -> Load {
        let (enter, proxy) = (self.halves.entrance(Half::A), service(NODES[1].2));
        let wrk = self.halves.command(Half::A, &Wrk::command(proxy, PATIENCE));
        Load::start_by(CLIENTS, wrk, move || {
            enter()?;
            Connection::open_patiently(proxy, PATIENCE)
        })
    }
}

fn feed(place: &Place, node: &str) -> PathBuf {
    place.join(format!("{node}.sock"))
}

fn service(host: u8) -> SocketAddr {
    ([10, 0, 0, host], SERVICE_PORT).into()
}

#[test]
fn a_cut_network_that_heals_loses_no_get() {
    let Some(scene) = Scene::new() else { return };
    let cut_time = Duration::from_secs(short_or_long(5, 30));
    scene.see_each_other(2);
    let load = scene.load();
    load.goes_on();

    scene.halves.cut();
    let cut = Instant::now();
    scene.see_each_other(1);
    // Clients of the first load may all wait for the other half. Whoever comes now must not get there.
    let newcomers = scene.load();
    while cut.elapsed() < cut_time {
        newcomers.goes_on();
        thread::sleep(Duration::from_millis(50));
    }
    scene.halves.heal();
    scene.see_each_other(2);
    newcomers.goes_on();
    newcomers.assert_lossless("a half heals that newcomers never met");
    load.goes_on();
    load.assert_lossless(&format!("a network cut for {cut_time:?}"));
}
