//! The nodes of a local cluster: started, watched, stopped.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    convert::Infallible,
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use feed::{
    FromSidecar, Name, Tags, ToSidecar,
    ask::ask,
    frame::{FeedError, Wait},
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use super::{
    Scalable,
    layout::{Kind, Layout},
    probe,
};
use crate::say::mention;

/// Longest wait for a change to be visible where it matters.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a node may take to stop before it is killed: what Docker grants, and some for a busy machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause between attempts to reach a sidecar that is just starting.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Tells a person what happens.
pub(super) type Tell<'a> = &'a dyn Fn(String);

struct Node {
    kind: Kind,
    /// The sidecar's process, which leads a group with the role's process in it. None: it has ended.
    pid: Option<Pid>,
    paused: bool,
}

/// A running cluster.
pub(super) struct Cluster {
    layout: Layout,
    nodes: RefCell<BTreeMap<Name, Node>>,
    some_ended: Notify,
    stopping: Cell<bool>,
}

impl Cluster {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, nodes: RefCell::default(), some_ended: Notify::new(), stopping: Cell::new(false) }
    }

    /// Starts every node at once and waits until a request succeeds; false where nobody can answer one.
    pub(super) async fn start_all(&self, front: u8, app: u8) -> anyhow::Result<bool> {
        let tell: Tell<'_> = &|line| mention!("{line}");
        let fronts = (1..=front).map(Kind::Front);
        let apps = (1..=app).map(Kind::App);
        for kind in [Kind::Dns, Kind::Proxy].into_iter().chain(fronts).chain(apps) {
            self.start(kind, tell)?;
        }
        let started = Instant::now();
        self.visible(tell).await?;
        if front == 0 || app == 0 {
            return Ok(false);
        }
        while let Err(error) = probe::hello(self.layout.listen).await {
            if started.elapsed() > VISIBLE_TIMEOUT {
                bail!(
                    "{} does not answer: {error}; see the logs in {}",
                    self.layout.url(),
                    self.layout.dir.display()
                );
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        Ok(true)
    }

    /// Changes the number of nodes of some roles, and waits until that is visible.
    pub(super) async fn scale(&self, targets: &[(Scalable, u8)], tell: Tell<'_>) -> anyhow::Result<()> {
        let mut stopping = Vec::new();
        for &(role, count) in targets {
            let running = self.running(role);
            let missing = (1..=u8::MAX).map(|n| Kind::of(role, n)).filter(|kind| !running.contains(kind));
            for kind in missing.take(usize::from(count).saturating_sub(running.len())) {
                self.start(kind, tell)?;
            }
            // The last to come are the first to go.
            let surplus = running.len().saturating_sub(usize::from(count));
            stopping.extend(running.into_iter().rev().take(surplus));
        }
        self.stop_several(&stopping, tell).await?;
        self.visible(tell).await
    }

    /// Starts a node that does not run.
    pub(super) async fn start_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = known(name)?;
        self.start(kind, tell)?;
        self.visible(tell).await
    }

    /// Drains and stops a node.
    pub(super) async fn stop_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        self.stop_several(&[known(name)?], tell).await
    }

    /// Kills a node without warning.
    pub(super) async fn kill_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = known(name)?;
        kill_process_group(self.pid(kind)?, Signal::KILL)?;
        self.ended(kind).await;
        tell(format!("{name} killed"));
        // While it is listed, it would be counted as one that is started next.
        self.visible(&|_| {}).await
    }

    /// Freezes a node, or thaws it.
    pub(super) fn pause_node(&self, name: &Name, pause: bool, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = known(name)?;
        kill_process_group(self.pid(kind)?, if pause { Signal::STOP } else { Signal::CONT })?;
        if let Some(node) = self.nodes.borrow_mut().get_mut(name) {
            node.paused = pause;
        }
        tell(format!("{name} {}", if pause { "paused" } else { "resumed" }));
        Ok(())
    }

    /// Notices nodes that end, for ever.
    pub(super) async fn watch(&self) -> Infallible {
        let Ok(mut child_changed) = signal(SignalKind::child()) else { std::future::pending().await };
        loop {
            for (name, node) in self.nodes.borrow_mut().iter_mut() {
                let Some(pid) = node.pid else { continue };
                if let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::NOHANG) {
                    node.pid = None;
                    if !self.stopping.get()
                        && status.exit_status() != Some(0)
                        && status.terminating_signal().is_none()
                    {
                        mention!("{name} failed, see {}", self.layout.log(node.kind).display());
                    }
                }
            }
            self.some_ended.notify_waiters();
            child_changed.recv().await;
        }
    }

    /// Stops everything at once; afterwards no process is left.
    pub(super) async fn stop_all(&self) {
        self.stopping.set(true);
        let all: Vec<Kind> =
            self.nodes.borrow().values().filter(|n| n.pid.is_some()).map(|n| n.kind).collect();
        tokio::select! {
            outcome = self.stop_several(&all, &|_| {}) => {
                if let Err(error) = outcome {
                    mention!("{error:#}");
                }
            }
            never = self.watch() => match never {},
        }
    }

    fn start(&self, kind: Kind, tell: Tell<'_>) -> anyhow::Result<()> {
        let name = kind.name();
        if self.pid(kind).is_ok() {
            bail!("{name} runs already");
        }
        let log_path = self.layout.log(kind);
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("{}: cannot write the log", log_path.display()))?;
        let mut command = self.layout.command(kind);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        sidecar::supervise::die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        self.nodes
            .borrow_mut()
            .insert(name.clone(), Node { kind, pid: Some(Pid::from_child(&child)), paused: false });
        tell(format!("{name} started at {}", self.layout.service(kind)));
        Ok(())
    }

    async fn stop_several(&self, kinds: &[Kind], tell: Tell<'_>) -> anyhow::Result<()> {
        for &kind in kinds {
            let pid = self.pid(kind)?;
            kill_process(pid, Signal::TERM)?;
            // A frozen node hears the signal when it is thawed.
            let _ = kill_process_group(pid, Signal::CONT);
        }
        let asked = Instant::now();
        for &kind in kinds {
            let (name, left) = (kind.name(), STOP_TIMEOUT.saturating_sub(asked.elapsed()));
            if tokio::time::timeout(left, self.ended(kind)).await.is_err() {
                if let Ok(pid) = self.pid(kind) {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
                self.ended(kind).await;
                bail!("{name} did not stop within {STOP_TIMEOUT:?} and was killed");
            }
            tell(format!("{name} stopped after {} ms", asked.elapsed().as_millis()));
        }
        Ok(())
    }

    /// Waits until the nodes that run are what the proxy and the fronts act on.
    async fn visible(&self, tell: Tell<'_>) -> anyhow::Result<()> {
        let (fronts, apps) = (self.running(Scalable::Front), self.running(Scalable::App));
        let started = Instant::now();
        let mut waits = vec![(Kind::Proxy, Kind::Front(1).role(), fronts.len())];
        waits.extend(fronts.iter().map(|front| (*front, Kind::App(1).role(), apps.len())));
        for (at, role, count) in waits {
            let left = VISIBLE_TIMEOUT.saturating_sub(started.elapsed());
            let seen = tokio::time::timeout(left, self.wait_at(at, &role, count)).await;
            match seen {
                Ok(()) => tell(format!(
                    "{} sees {count} {role} after {} ms",
                    at.name(),
                    started.elapsed().as_millis()
                )),
                Err(_) => bail!(
                    "{} does not see {count} {role} after {VISIBLE_TIMEOUT:?}; see the logs in {}",
                    at.name(),
                    self.layout.dir.display()
                ),
            }
        }
        Ok(())
    }

    /// Waits for as long as it takes; a node that does not run sees nothing and is not waited for.
    async fn wait_at(&self, at: Kind, role: &Name, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let wish = Wait {
            role: role.clone(),
            min: count,
            max: Some(count),
            visible: true,
            everywhere: false,
            tags: Tags::default(),
        };
        while self.pid(at).is_ok() && !self.is_paused(at) {
            if let Ok(FromSidecar::Waited { .. }) = ask_once(&self.layout.feed(at), wish.clone()).await {
                return;
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    fn running(&self, role: Scalable) -> Vec<Kind> {
        let nodes = self.nodes.borrow();
        let wanted = Kind::of(role, 1).role();
        let mut running: Vec<Kind> = nodes
            .values()
            .filter(|n| n.pid.is_some() && !n.paused && n.kind.role() == wanted)
            .map(|n| n.kind)
            .collect();
        running.sort_by_key(|kind| match kind {
            Kind::Front(n) | Kind::App(n) => *n,
            Kind::Dns | Kind::Proxy => 0,
        });
        running
    }

    fn is_paused(&self, kind: Kind) -> bool {
        self.nodes.borrow().get(&kind.name()).is_some_and(|node| node.paused)
    }

    fn pid(&self, kind: Kind) -> anyhow::Result<Pid> {
        let name = kind.name();
        let pid = self.nodes.borrow().get(&name).and_then(|node| node.pid);
        pid.with_context(|| format!("{name} does not run"))
    }

    async fn ended(&self, kind: Kind) {
        loop {
            let some_ended = self.some_ended.notified();
            if self.pid(kind).is_err() {
                return;
            }
            some_ended.await;
        }
    }
}

async fn ask_once(feed: &Path, wish: Wait) -> Result<FromSidecar, FeedError> {
    ask(feed, ToSidecar::Wait(wish)).await?.next().await
}

fn known(name: &Name) -> anyhow::Result<Kind> {
    Kind::parse(name).with_context(|| {
        format!("{name} is no node of a local cluster: expected dnsserver, proxyserver, frontserverN or appserverN")
    })
}
