//! Nobody is declared dead who lives, while a network between two halves loses a fifth of everything.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::short_or_long;
use crate::support::{
    halves::{Half, Halves},
    place::Place,
    program::{Running, concertina},
    turns::Turn,
    wait::{look_for, until},
};

const LOSS_PERCENT: u32 = 20;

/// What a sidecar logs of a member.
const JOINED: &str = "member joined";
const FAILED: &str = "member failed";

/// Longest until all know that one was killed: on such a network several probes and their gossip may be lost.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(20);

/// Sidecars without a role's process, in turn in one half and the other.
fn start(halves: &Halves, place: &Place, number: u8) -> Running {
    let half = if number.is_multiple_of(2) { Half::A } else { Half::B };
    let addr = |number| format!("10.0.0.{}:7946", number + 1);
    halves.add_address(half, &format!("10.0.0.{}/24", number + 1));
    let node = format!("n{number}");
    let mut sidecar = concertina(["sidecar", "--node", &node, "--bind", &addr(number), "--feed"]);
    sidecar.arg(place.join(format!("{node}.sock")));
    match number {
        1 => sidecar.args(["--role", "dnsserver"]),
        _ => sidecar.args(["--role", "agent", "--join", &addr(1)]),
    };
    Running::start(halves.command(half, &sidecar), place.join(format!("{node}.log")))
}

/// What a node has said with these words.
fn lines(agent: &Running, words: &str) -> Vec<String> {
    agent.said().lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

fn count(agent: &Running, words: &str) -> usize {
    lines(agent, words).len()
}

#[test]
fn a_network_that_loses_a_fifth_makes_nobody_failed() {
    let _turn = Turn::alone();
    let Some(halves) = Halves::make() else { return };
    let place = Place::new();
    let (agents_count, time) = (short_or_long(12, 32), Duration::from_secs(short_or_long(10, 300)));
    let mut agents: Vec<Running> = (1..=agents_count).map(|n| start(&halves, &place, n)).collect();
    let all = agents.len();
    until("all know all", || agents.iter().all(|agent| count(agent, JOINED) == all).then_some(()));

    halves.lose(LOSS_PERCENT);
    let since = Instant::now();
    while since.elapsed() < time {
        thread::sleep(Duration::from_millis(200));
        let failed = agents.iter().flat_map(|agent| lines(agent, FAILED));
        assert_eq!(failed.collect::<Vec<_>>(), [""; 0], "after {:?}", since.elapsed());
    }
    println!("{all} agents, {LOSS_PERCENT} % lost between two halves for {time:?}: 0 times `failed`");

    // It is not that nobody looks.
    let killed = agents.pop().unwrap();
    killed.signal(Signal::KILL);
    let noticed =
        look_for(NOTICED_TIMEOUT, || agents.iter().all(|agent| count(agent, FAILED) == 1).then_some(()));
    assert!(noticed.is_some(), "not everybody noticed a death within {NOTICED_TIMEOUT:?}");
}
