//! The torture of bodies: random exchanges and tunnels through a real proxy, every byte compared at both ends.
//!
//! A seed draws scenes (`bodies/scene.rs`): what the clients and the origin do on each client's connection, in what framing,
//! at what pace, with what buffers in the kernel. Clients play them side by side; upstream connections are shared. Each byte
//! of a body is a function of its position and of whose body it is, so that a wrong one is known by its offset. The origin
//! takes nothing but whole requests that were sent, one after another; clients take nothing but their own answers.
//!
//! A fault is told with what plays its scene alone, many times at once: `BODIES_SEED=1 BODIES_SCENE=7`. `BODIES_EXCHANGES`
//! sets how many exchanges (or tunnels) there are, `CONCERTINA_LONG=1` plays ten seeds of a thousand, new ones every day.
//!
//! Other proxies can be played through, which shows whether a fault is theirs or ours: `BODIES_PROXY` is an address where one
//! listens whose only upstream is 127.0.0.1 at `BODIES_ORIGIN_PORT`. With `BODIES_TCP_PROXY` and `BODIES_TCP_ORIGIN_PORT`, the
//! same for tunnels; with `BODIES_H2C_PROXY` and `BODIES_H2C_ORIGIN_PORT`, for streams of HTTP/2.

#[path = "bodies/buffers.rs"]
mod buffers;
#[path = "bodies/client.rs"]
mod client;
#[path = "bodies/incoming.rs"]
mod incoming;
#[path = "bodies/ledger.rs"]
mod ledger;
#[path = "bodies/origin.rs"]
mod origin;
#[path = "bodies/outgoing.rs"]
mod outgoing;
#[path = "bodies/pace.rs"]
mod pace;
#[path = "bodies/pattern.rs"]
mod pattern;
#[path = "bodies/scene.rs"]
mod scene;
#[path = "sealed/mod.rs"]
mod sealed;
#[path = "bodies/stage.rs"]
mod stage;
#[path = "bodies/streams.rs"]
mod streams;
#[path = "bodies/tunnel.rs"]
mod tunnel;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use client::Client;
use ledger::Ledger;
use origin::Origin;
use scene::Scene;
use stage::{Speaks, Stage, play_side_by_side};
use streams::Streams;
use tokio::sync::watch;
use tunnel::Tunnel;

/// How long nothing may move before it has failed, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of a seed, where there is no hurry.
const LONG_COUNT: usize = 1000;

/// Seeds, where there is no hurry.
const LONG_SEEDS: u64 = 10;

/// How often a scene is played that is played alone: what goes wrong is a matter of time.
const REPEATED_COUNT: usize = 200;

/// What is to be played.
struct Plan {
    seeds: Vec<u64>,
    count: usize,
    /// One scene alone.
    scene: Option<usize>,
}

impl Plan {
    /// As the environment has it, else so many of the first seed.
    fn new(count: usize) -> Self {
        let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        let is_long = std::env::var_os("CONCERTINA_LONG").is_some_and(|value| value == "1");
        let seeds = match number("BODIES_SEED") {
            Some(seed) => vec![seed as u64],
            None if is_long => {
                // New ones every day; whichever fails is told.
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let first = now.as_secs() / 86_400 * LONG_SEEDS;
                (first..first + LONG_SEEDS).collect()
            }
            None => vec![1],
        };
        let count = number("BODIES_EXCHANGES").unwrap_or(if is_long { LONG_COUNT } else { count });
        Self { seeds, count, scene: number("BODIES_SCENE") }
    }

    /// Plays each seed; fails with all that went wrong in the first that does.
    fn run(&self, play: impl Fn(u64, &Self) -> Arc<Ledger>) {
        for seed in &self.seeds {
            let started = Instant::now();
            let ledger = play(*seed, self);
            println!("seed {seed}, {:.1?}: {:?}", started.elapsed(), ledger.tally());
        }
    }
}

/// What plays this one again.
fn replay(seed: u64, drawn: usize, test: &str) -> String {
    format!("BODIES_SEED={seed} BODIES_SCENE={drawn} cargo test -p proxy --test bodies {test}")
}

#[test]
fn every_byte_of_every_body_arrives_where_it_belongs() {
    play_bodies(stage::HTTP, 600, "where_it_belongs");
}

#[test]
fn every_byte_of_every_body_arrives_sealed_too() {
    play_bodies(stage::HTTPS, 600, "sealed_too");
}

#[test]
fn every_byte_of_every_body_arrives_in_streams_of_any_window_until_one_is_reset() {
    play_bodies(stage::H2C, 200, "in_streams");
}

fn play_bodies(speaks: Speaks, count: usize, test: &'static str) {
    Plan::new(count).run(|seed, plan| {
        let scenes = Arc::new(match plan.scene {
            Some(drawn) => scene::draw_scene(seed, drawn, REPEATED_COUNT),
            None => scene::draw_scenes(seed, plan.count),
        });
        let ledger = Arc::new(Ledger::default());
        Stage::run(speaks, seed, async |stage, listeners, is_over| {
            let busy = watch::Sender::new(0);
            let origin = Origin {
                seed,
                scenes: scenes.clone(),
                ledger: ledger.clone(),
                busy,
                is_ours: stage.is_ours(),
            };
            let origin = Arc::new(origin);
            let serving = listeners.into_iter();
            let serving = serving.map(|listener| origin.clone().serve(listener, is_over.clone())).collect();
            let (proxy, is_ours) = (stage.addr, stage.is_ours());
            let (players, told) = (scenes.clone(), ledger.clone());
            play_side_by_side(scenes.len(), &ledger, move |number| {
                let (scenes, ledger) = (players.clone(), told.clone());
                async move {
                    let played = if speaks == stage::H2C {
                        Streams { seed, scenes, number, ledger: ledger.clone() }.play(proxy).await
                    } else {
                        Client { scene: &scenes[number], ledger: &ledger, is_ours }.play(proxy).await
                    };
                    if let Err(fault) = played {
                        ledger.note(number, fault);
                    }
                }
            })
            .await;
            let mut busy = origin.busy.subscribe();
            if tokio::time::timeout(PATIENCE, busy.wait_for(|busy| *busy == 0)).await.is_err() {
                ledger
                    .note_other("all clients have gone, but the origin waits for requests to end".to_owned());
            }
            stage.end(serving).await;
        });
        let replay = |scene: &Scene| replay(seed, scene.drawn, test);
        if let Some(report) = ledger.report(&scenes, replay) {
            panic!("seed {seed}: {report}{:?}", ledger.tally());
        }
        ledger
    });
}

#[test]
fn every_byte_of_a_tunnel_arrives_before_its_end_and_a_reset_arrives_as_one() {
    Plan::new(200).run(|seed, plan| {
        let mut tunnels = match plan.scene {
            Some(drawn) => tunnel::draw_tunnel(seed, drawn, REPEATED_COUNT),
            None => tunnel::draw_tunnels(seed, plan.count),
        };
        if stage::TCP.other_proxy().is_some() {
            // Others may hide a reset; what is compared with them is bytes.
            tunnels.retain(|tunnel| !tunnel.has_reset());
            tunnels.iter_mut().enumerate().for_each(|(number, tunnel)| tunnel.number = number);
        }
        let tunnels = Arc::new(tunnels);
        let ledger = Arc::new(Ledger::default());
        Stage::run(stage::TCP, seed, async |stage, listeners, is_over| {
            let serve = |listener| tunnel::serve(tunnels.clone(), listener, ledger.clone(), is_over.clone());
            let serving = listeners.into_iter().map(serve).collect();
            let proxy = stage.addr;
            let (players, told) = (tunnels.clone(), ledger.clone());
            play_side_by_side(tunnels.len(), &ledger, move |number| {
                let (tunnels, ledger) = (players.clone(), told.clone());
                async move {
                    if let Err(fault) = tunnel::play(&tunnels[number], proxy).await {
                        ledger.note(number, fault);
                    }
                    ledger.count(|tally| tally.exchanges += 1);
                }
            })
            .await;
            stage.end(serving).await;
        });
        let is_lost = |tunnel: &&Tunnel| !tunnel.has_reset() && !ledger.has_seen(tunnel.number, 0);
        for tunnel in tunnels.iter().filter(is_lost).take_while(|_| ledger.failed_count() == 0) {
            ledger.note(tunnel.number, "its end was never seen at the origin".to_owned());
        }
        let replay = |tunnel: &Tunnel| replay(seed, tunnel.drawn, "tunnel");
        if let Some(report) = ledger.report(&tunnels, replay) {
            panic!("seed {seed}: {report}{:?}", ledger.tally());
        }
        ledger
    });
}
