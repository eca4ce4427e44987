//! No request is lost while programs end, politely or not, and start again.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use super::{CLIENTS, short_or_long};
use crate::support::{
    cluster::Cluster,
    load::Load,
    program::{Running, concertina, run},
    wait::until,
};

const GOSSIP_PORT: u16 = 7946;
const SERVICE_PORT: u16 = 8080;

#[test]
fn a_rolling_restart_of_every_front_and_app_loses_no_request() {
    let cluster = Cluster::up_alone(&["--front", "2", "--app", "3"]);
    let load = Load::start(cluster.addr, CLIENTS);
    let rounds = short_or_long(1, 20);
    for _ in 0..rounds {
        for node in ["frontserver1", "frontserver2", "appserver1", "appserver2", "appserver3"] {
            load.goes_on();
            cluster.order(&format!("node stop {node}"));
            load.goes_on();
            // Returns when whoever asks this node acts on its presence.
            cluster.order(&format!("node start {node}"));
        }
    }
    load.goes_on();
    load.assert_lossless(&format!("{rounds} rolling restarts"));
}

#[test]
fn killed_apps_lose_no_get() {
    let cluster = Cluster::up_alone(&["--app", "2"]);
    let load = Load::start(cluster.addr, CLIENTS);
    let kills = short_or_long(2, 20);
    for node in ["appserver1", "appserver2"].iter().cycle().take(kills) {
        load.goes_on();
        cluster.order(&format!("node kill {node}"));
        load.goes_on();
        cluster.order(&format!("node start {node}"));
    }
    load.goes_on();
    load.assert_lossless(&format!("{kills} kills of an app"));
}

#[test]
fn an_absent_dnsserver_loses_no_request() {
    let cluster = Cluster::up_alone(&["--front", "2", "--app", "2"]);
    let load = Load::start(cluster.addr, CLIENTS);
    load.goes_on();
    cluster.order("node stop dnsserver");
    let absence = Duration::from_secs(short_or_long(3, 60));
    thread::sleep(absence);
    load.goes_on();
    cluster.order("node start dnsserver");
    // The cluster is whole again when the dnsserver knows all, and everybody knows it.
    cluster.sees("dnsserver", "appserver", 2);
    for node in ["proxyserver", "frontserver1", "appserver2"] {
        cluster.sees(node, "dnsserver", 1);
    }
    load.goes_on();
    load.assert_lossless(&format!("no dnsserver for {absence:?}"));
}

/// A proxy beside a sidecar that is not its parent, and can be killed without it.
struct Beside {
    ip: IpAddr,
    dnsserver: SocketAddr,
    feed: PathBuf,
    log: PathBuf,
}

impl Beside {
    /// In the cluster's own network, at an address that none of its nodes has.
    fn of(cluster: &Cluster) -> Self {
        let dnsserver = cluster.service("dnsserver").ip();
        let IpAddr::V4(ip) = dnsserver else { panic!("{dnsserver} is no loopback address") };
        let [a, b, c, _] = ip.octets();
        Self {
            ip: [a, b, c, 9].into(),
            dnsserver: (dnsserver, GOSSIP_PORT).into(),
            feed: cluster.place.join("proxy2.sock"),
            log: cluster.place.join("proxy2.log"),
        }
    }

    fn service(&self) -> SocketAddr {
        (self.ip, SERVICE_PORT).into()
    }

    fn sidecar(&self) -> Running {
        let mut command = concertina(["sidecar", "--role", "proxyserver", "--node", "proxy2", "--bind"]);
        command.arg(SocketAddr::new(self.ip, GOSSIP_PORT).to_string());
        command.args(["--join", &self.dnsserver.to_string(), "--port", &SERVICE_PORT.to_string()]);
        command.arg("--feed").arg(&self.feed);
        Running::start(command, self.log.clone())
    }

    fn proxy(&self) -> Running {
        let mut command =
            concertina(["proxy", "--listen", &format!("http://{}=frontserver", self.service())]);
        command.arg("--feed").arg(&self.feed);
        let mut proxy = Running::start(command, self.log.clone());
        proxy.hear("proxy listening addr=");
        proxy
    }

    /// Waits until the proxy acts on what a sidecar says that knows so many fronts. The sidecar may just be starting.
    fn sees_fronts(&self, count: usize) {
        until(&format!("proxy2 sees {count} fronts"), || {
            let (min, max) = (format!("--min={count}"), format!("--max={count}"));
            let mut command =
                concertina(["wait", "--role", "frontserver", "--visible", &min, &max, "--feed"]);
            command.arg(&self.feed);
            (run(command).code == Some(0)).then_some(())
        });
    }
}

#[test]
fn a_killed_sidecar_beside_a_proxy_loses_no_request() {
    let cluster = Cluster::up_alone(&["--front", "2", "--app", "2"]);
    let beside = Beside::of(&cluster);
    let mut sidecar = beside.sidecar();
    let _proxy = beside.proxy();
    beside.sees_fronts(2);
    let load = Load::start(beside.service(), CLIENTS);
    let kills = short_or_long(2, 20);
    for _ in 0..kills {
        load.goes_on();
        drop(sidecar);
        load.goes_on();
        sidecar = beside.sidecar();
        beside.sees_fronts(2);
    }
    load.goes_on();
    // The proxy follows again: a front that stops waits for it, as for every consumer.
    cluster.order("scale front=1");
    beside.sees_fronts(1);
    load.goes_on();
    load.assert_lossless(&format!("{kills} kills of a proxy's sidecar"));
    drop(sidecar);
}
