//! A worker, from outside: its thread, and what it is told and asked.

use std::{
    future::Future,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use feed::{
    recall::{Recalled, Which},
    request::Choice,
};
use tokio::sync::{mpsc, oneshot};

use super::Proxy;
use crate::{
    config::Plan,
    listen::doors::{DoorPlan, Doors},
    log::Tap,
    worker::{Room, Settings, Worker},
};

/// How often a draining worker looks whether its last client is gone.
const DRAIN_LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Of the time for a drain, clients that wait between two requests have one part in so many to send the next, which is answered with
/// "Connection: close": a connection that is closed while a request is on its way to it loses that.
const IDLE_DRAIN_PART: u32 = 4;

/// A worker, from outside.
pub(super) struct Hand {
    orders: mpsc::UnboundedSender<Order>,
    looks: mpsc::UnboundedSender<Look>,
    thread: JoinHandle<()>,
}

/// What a worker goes by from now on.
struct Order {
    settings: Settings,
    doors: Vec<DoorPlan>,
    /// Dropped when it does.
    done: oneshot::Sender<()>,
}

/// What a worker is to say.
enum Look {
    /// Whom it would choose of a role, by its position.
    Choice { role: usize, key: Option<u64>, told: oneshot::Sender<Choice> },
    /// What it keeps of these requests.
    Recall { which: Which, told: oneshot::Sender<Recalled> },
}

impl Hand {
    /// Has it go by these from now on. What is returned is done when it does, or when it has ended.
    pub(super) fn order(&self, settings: Settings, doors: Vec<DoorPlan>) -> impl Future<Output = ()> + use<> {
        let (done, is_done) = oneshot::channel();
        let _ = self.orders.send(Order { settings, doors, done });
        async move {
            let _ = is_done.await;
        }
    }

    /// Whom it would choose of a role, by its position; none: it has ended.
    pub(super) async fn look(&self, role: usize, key: Option<u64>) -> Option<Choice> {
        let (told, choice) = oneshot::channel();
        self.looks.send(Look::Choice { role, key, told }).ok()?;
        choice.await.ok()
    }

    /// What it keeps of these requests; none: it has ended.
    pub(super) async fn recall(&self, which: &Which) -> Option<Recalled> {
        let (told, recalled) = oneshot::channel();
        self.looks.send(Look::Recall { which: which.clone(), told }).ok()?;
        recalled.await.ok()
    }

    /// Waits until it has ended.
    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
}

impl Look {
    /// Who asked may have gone.
    fn answer(self, worker: &Worker) {
        match self {
            Self::Choice { role, key, told } => {
                if let Some(choice) = worker.prospect(role, key) {
                    let _ = told.send(choice);
                }
            }
            Self::Recall { which, told } => drop(told.send(worker.recall(&which))),
        }
    }
}

impl Proxy {
    /// Starts one.
    pub(super) fn start_worker(
        &self,
        id: usize,
        plan: &Plan,
        room: Room,
        doors: Vec<DoorPlan>,
        log: Option<Tap>,
    ) -> anyhow::Result<Hand> {
        let directory = self.sources.directory().clone();
        let settings =
            Settings::of(plan, &directory, self.certificates.clone(), self.current().origins.clone());
        let (stats, mut stopping) = (self.stats[id].clone(), self.stopping.subscribe());
        let follows_another = self.held().follows_another();
        let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
        let (looks, mut looked) = mpsc::unbounded_channel::<Look>();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let serve = move || {
            let mut runtime = runtime;
            let runtime = match runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "no event loop for a worker");
                    return;
                }
            };
            runtime.block_on(async move {
                // Seeded by position and start: workers and proxies must not choose alike.
                let seed = std::collections::hash_map::RandomState::new();
                let seed = std::hash::BuildHasher::hash_one(&seed, id);
                let worker = Worker::new(settings, room, id, &directory, stats, log, seed);
                worker.start_tasks(id, &directory);
                let mut open = Doors::new(id, worker.clone(), directory, follows_another);
                open.apply(doors).await;
                loop {
                    tokio::select! {
                        Some(Order { settings, doors, done }) = ordered.recv() => {
                            worker.apply_settings(settings);
                            let closed = open.apply(doors);
                            tokio::task::spawn_local(async move {
                                closed.await;
                                drop(done);
                            });
                        }
                        Some(look) = looked.recv() => look.answer(&worker),
                        _ = stopping.wait_for(|stopping| *stopping) => break,
                    }
                }
                worker.drain();
                open.close().await;
                drain_worker(&worker).await;
            });
        };
        let thread = std::thread::Builder::new().name(format!("worker-{id}"));
        let thread = thread.spawn(serve).context("cannot start a worker thread")?;
        Ok(Hand { orders, looks, thread })
    }
}

async fn drain_worker(worker: &Worker) {
    let (begun, drain) = (Instant::now(), worker.settings().timeouts.drain);
    while worker.clients.get() > 0 && begun.elapsed() < drain {
        if begun.elapsed() >= drain / IDLE_DRAIN_PART {
            worker.end_idle();
        }
        tokio::time::sleep(DRAIN_LOOK_PERIOD).await;
    }
}
