//! Claims about the membership, on a virtual clock: no sockets, no waiting, every run the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bursts;
mod changing;
mod failing;
mod fencing;
mod joining;
mod leaving;
mod provoking;
mod questions;
#[path = "../sim/mod.rs"]
#[expect(dead_code, reason = "the simulator serves other tests, too")]
mod sim;

use std::{collections::BTreeMap, time::Duration};

use feed::{
    Endpoint, EndpointId, EndpointProtocol, Tags, ToSidecar,
    frame::{Member, MemberState},
};
use sidecar::cluster::{input::Input, labels::Labels, peer::Peer, trouble::Trouble};
use sim::{Sim, addr};

const SECOND: Duration = Duration::from_secs(1);

/// A dnsserver and so many apps, in agreement.
fn cluster(seed: u64, apps: u16) -> Sim {
    let mut sim = Sim::new(seed);
    sim.start(1, "dnsserver", "dnsserver");
    for n in 2..2 + apps {
        sim.start(n, &format!("app{n}"), "app");
    }
    sim.run_until(5 * SECOND, |sim| all_see(sim, usize::from(apps)));
    sim
}

fn all_see(sim: &Sim, apps: usize) -> bool {
    sim.nodes.values().filter(|node| !node.left).all(|node| node.ready("app").len() == apps)
}

fn last_state(sim: &Sim, at: u16, name: &str) -> Option<MemberState> {
    sim.node(at).changes.iter().rev().find(|member| member.name.as_str() == name).map(|member| member.state)
}

fn is_gone(member: &Member) -> bool {
    matches!(member.state, MemberState::Left | MemberState::Failed)
}
