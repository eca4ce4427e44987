//! A cluster of `concertina up`, for as long as a value lives.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    http,
    place::Place,
    program::{Ended, Running, concertina, run},
    turns::Turn,
    wait::until,
};

/// A running cluster. The order of the fields is the order in which it goes away.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) launcher: Running,
    pub(crate) addr: SocketAddr,
    pub(crate) place: Place,
    _turn: Turn,
}

impl Cluster {
    /// Starts one and waits until it says that it is ready.
    pub(crate) fn up(arguments: &[&str]) -> Self {
        Self::up_in_turn(Turn::one(), arguments)
    }

    /// The same while no other test has one.
    pub(crate) fn up_alone(arguments: &[&str]) -> Self {
        Self::up_in_turn(Turn::alone(), arguments)
    }

    fn up_in_turn(turn: Turn, arguments: &[&str]) -> Self {
        Self::up_at(turn, Place::new(), arguments)
    }

    /// The same in a place where something is already.
    pub(crate) fn up_at(turn: Turn, place: Place, arguments: &[&str]) -> Self {
        let mut launcher = launch(&place, arguments);
        let addr = hear_ready(&mut launcher);
        Self { launcher, addr, place, _turn: turn }
    }

    /// Starts one in the same directory after the first has ended.
    pub(crate) fn up_again(&mut self) {
        self.launcher = launch(&self.place, &[]);
        self.addr = hear_ready(&mut self.launcher);
    }

    /// Runs a command for this cluster, e.g. `scale front=2`.
    pub(crate) fn run(&self, command: &str) -> Ended {
        let mut arguments = concertina(command.split(' '));
        arguments.arg("--dir").arg(self.place.path());
        run(arguments)
    }

    /// Runs a command that must succeed; what it said.
    pub(crate) fn order(&self, command: &str) -> String {
        let ended = self.run(command);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command}: {}", ended.stdout);
        ended.stdout
    }

    /// Waits until a node, which may just be starting, and what runs there act on so many of a role.
    pub(crate) fn sees(&self, node: &str, role: &str, count: usize) {
        let wait = format!("wait --role {role} --min {count} --max {count} --node {node} --visible");
        until(&format!("{node} sees {count} {role}"), || (self.run(&wait).code == Some(0)).then_some(()));
    }

    /// Where a node's role serves that was there from the start.
    pub(crate) fn service(&self, node: &str) -> SocketAddr {
        let started = format!("{node} started at ");
        let said = self.launcher.said();
        said.lines().find_map(|line| line.strip_prefix(&started)).unwrap().parse().unwrap()
    }

    /// One request on a connection of its own.
    pub(crate) fn hello(&self) -> http::Response {
        http::get(self.addr, "/hello").unwrap()
    }
}

/// Starts a launcher that may not become ready.
pub(crate) fn launch(place: &Place, arguments: &[&str]) -> Running {
    let mut command = concertina(["up", "--listen", "127.0.0.1:0", "--dir"]);
    command.arg(place.path()).args(arguments);
    Running::start(command, place.join("up.log"))
}

fn hear_ready(launcher: &mut Running) -> SocketAddr {
    let url = launcher.hear("ready http://");
    // Whatever host is to be opened, it is at this machine.
    let port = url.split('/').next().unwrap().rsplit(':').next().unwrap();
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()))
}
