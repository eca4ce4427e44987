//! Nobody is declared dead who lives: not while a network between two halves loses a fifth of everything, nor while
//! every core has something else to do. Whoever dies is, at once.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::short_or_long;
use crate::support::{
    halves::{Half, Halves},
    place::Place,
    program::{Running, concertina, run},
    turns::Turn,
    undisturbed,
    wait::until,
};

const LOSS_PERCENT: u32 = 20;

/// What a sidecar logs of a member.
const JOINED: &str = "member joined";
const FAILED: &str = "member failed";

/// Longest until all know that one was killed, by the end of its lifelines: SWIM takes twice as long at least.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The same where lifelines may not help: on such a network several probes and their gossip may be lost.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(20);

/// Sidecars without a role's process, in turn in one half and the other. The order of the fields is the order in which they go
/// away.
struct Scene {
    agents: Vec<Running>,
    halves: Halves,
    _place: Place,
    _turn: Turn,
}

impl Scene {
    /// Agents that all know all.
    fn new(keys: Option<&str>) -> Option<Self> {
        let turn = Turn::alone();
        let (halves, place) = (Halves::make()?, Place::new());
        let key_file = keys.map(|keys| {
            let path = place.join("keys");
            fs::write(&path, keys).unwrap();
            path
        });
        let count = short_or_long(12, 32);
        let agents: Vec<Running> =
            (1..=count).map(|n| start(&halves, &place, n, key_file.as_deref())).collect();
        let others = agents.len() - 1;
        until("all know all", || {
            agents.iter().all(|agent| lines(agent, JOINED).len() == others).then_some(())
        });
        Some(Self { agents, halves, _place: place, _turn: turn })
    }

    /// For so long, nobody may say of anybody that it failed; and then all must say so of one that is killed: it is not that
    /// nobody looks.
    fn assert_no_false_alarm(mut self, while_this: &str) {
        let (time, since) = (Duration::from_secs(short_or_long(10, 300)), Instant::now());
        while since.elapsed() < time {
            thread::sleep(Duration::from_millis(200));
            let failed = self.agents.iter().flat_map(|agent| lines(agent, FAILED));
            assert_eq!(failed.collect::<Vec<_>>(), [""; 0], "{while_this}, after {:?}", since.elapsed());
        }
        println!("{} agents, {while_this} for {time:?}: 0 times `failed`", self.agents.len());
        self.assert_death_is_noticed(NOTICED_TIMEOUT);
    }

    /// Kills one; what all others say of it, in time.
    fn assert_death_is_noticed(&mut self, timeout: Duration) -> Vec<String> {
        let killed = self.agents.pop().unwrap();
        killed.signal(Signal::KILL);
        let said = || self.agents.iter().flat_map(|agent| lines(agent, FAILED)).collect::<Vec<_>>();
        let noticed =
            undisturbed::look_for(timeout, || Some(said()).filter(|said| said.len() == self.agents.len()));
        noticed.unwrap_or_else(|| panic!("not everybody noticed a death within {timeout:?}: {:?}", said()))
    }
}

fn start(halves: &Halves, place: &Place, number: u8, key_file: Option<&Path>) -> Running {
    let half = if number.is_multiple_of(2) { Half::A } else { Half::B };
    let addr = |number| format!("10.0.0.{}:7946", number + 1);
    halves.add_address(half, &format!("10.0.0.{}/24", number + 1));
    let node = format!("n{number}");
    let mut sidecar = concertina(["sidecar", "--node", &node, "--bind", &addr(number), "--feed"]);
    sidecar.arg(place.join(format!("{node}.sock")));
    if let Some(key_file) = key_file {
        sidecar.arg("--key-file").arg(key_file);
    }
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

#[test]
fn a_network_that_loses_a_fifth_makes_nobody_failed() {
    let Some(scene) = Scene::new(None) else { return };
    scene.halves.lose(LOSS_PERCENT);
    scene.assert_no_false_alarm(&format!("{LOSS_PERCENT} % lost between two halves"));
}

#[test]
fn a_machine_that_is_busy_with_other_things_makes_nobody_failed() {
    let Some(scene) = Scene::new(None) else { return };
    let (is_over, cores) = (AtomicBool::new(false), thread::available_parallelism().unwrap().get());
    thread::scope(|scope| {
        let spin = || {
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        (0..cores).for_each(|_| drop(scope.spawn(spin)));
        // A failed claim must not leave the cores spinning for ever.
        let claim = scope.spawn(|| scene.assert_no_false_alarm(&format!("{cores} cores busy")));
        let outcome = claim.join();
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_killed_process_is_failed_everywhere_at_once_by_its_lifelines_with_keys_and_without() {
    let keys = run(concertina(["keys", "generate"])).stdout;
    for keys in [None, Some(keys.as_str())] {
        let Some(mut scene) = Scene::new(keys) else { return };
        let said = scene.assert_death_is_noticed(AT_ONCE);
        assert!(said.iter().any(|line| line.contains("evidence=Lifeline")), "{said:?}");
    }
}
