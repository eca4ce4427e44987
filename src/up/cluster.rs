//! The nodes of a local cluster: started, watched, stopped.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    convert::Infallible,
    fs::OpenOptions,
    os::unix::process::CommandExt,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use feed::Name;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use super::{
    layout::Layout,
    logs, probe,
    processes::{self, signal_all},
    service::{Kind, Process, ServiceId},
    told::{Tell, Told},
};
use crate::{progress::Progress, say::mention};

/// Longest wait for a change to be visible where it matters.
pub(super) const VISIBLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between attempts to reach a sidecar that is just starting.
pub(super) const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// How much of its log is shown of a program that has ended.
const LAST_LINES: usize = 10;

struct Node {
    kind: Kind,
    /// The sidecar's process, which leads a group with the role's process in it. None: it has ended.
    pid: Option<Pid>,
    paused: bool,
}

/// What has come of the start of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The services of the example answer.
    Greets,
    /// They do not, because one of them has no node.
    Silent,
    /// Every program of the user's is ready.
    Serves,
    /// Some are not yet.
    Slow,
}

/// A running cluster.
pub(super) struct Cluster {
    pub(super) layout: Layout,
    nodes: RefCell<BTreeMap<Name, Node>>,
    some_ended: Notify,
    stopping: Cell<bool>,
}

impl Cluster {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, nodes: RefCell::default(), some_ended: Notify::new(), stopping: Cell::new(false) }
    }

    /// Starts every node at once and waits until the cluster does its work, as far as it can be known.
    pub(super) async fn start_all(&self) -> anyhow::Result<Start> {
        let progress = Progress::waiting("the nodes to start");
        let tell = |told| match told {
            Told::Line(line) => mention!("{line}"),
            Told::Awaited(awaited) => progress.now_for(awaited),
        };
        progress.during(self.start_all_telling(&tell)).await
    }

    async fn start_all_telling(&self, tell: Tell<'_>) -> anyhow::Result<Start> {
        let services: Vec<ServiceId> = self.layout.services.ids().collect();
        let nodes = services.iter().flat_map(|service| {
            (1..=self.layout.services.get(*service).count).map(|number| Kind::Of(*service, number))
        });
        let all: Vec<Kind> = [Kind::Dns, Kind::Proxy].into_iter().chain(nodes).collect();
        for &kind in &all {
            self.start(kind, tell)?;
        }
        let is_own = |id: &ServiceId| matches!(self.layout.services.get(*id).process, Process::Program(_));
        if services.iter().any(is_own) {
            return self.settle_programs(&services, &all, tell).await;
        }
        let started = Instant::now();
        self.settle(&all, tell).await?;
        if services.iter().any(|service| self.layout.services.get(*service).count == 0) {
            return Ok(Start::Silent);
        }
        tell(Told::Awaited(format!("{} to answer", self.layout.hello_url())));
        while let Err(error) = probe::hello(self.layout.front_door()).await {
            self.check_running(&all)?;
            if started.elapsed() > VISIBLE_TIMEOUT {
                bail!(
                    "{} does not answer: {error}; see the logs in {}",
                    self.layout.hello_url(),
                    self.layout.dir.display()
                );
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        // Somebody answered: it may have been another's proxy.
        self.check_running(&all)?;
        Ok(Start::Greets)
    }

    /// Waits for programs of the user's, which may take longer than anybody here knows. One that ends is an error.
    async fn settle_programs(
        &self,
        services: &[ServiceId],
        all: &[Kind],
        tell: Tell<'_>,
    ) -> anyhow::Result<Start> {
        let mut start = Start::Serves;
        tokio::select! {
            outcome = self.visible(services, tell) => if let Err(slow) = outcome {
                mention!("{slow:#}");
                start = Start::Slow;
            },
            () = self.any_ended(all) => {}
        }
        self.check_running(all)?;
        Ok(start)
    }

    /// Changes the number of nodes of some services, and waits until that is visible.
    pub(super) async fn scale(&self, targets: &[(Name, u8)], tell: Tell<'_>) -> anyhow::Result<()> {
        let mut services: Vec<(ServiceId, u8)> = Vec::new();
        for (name, count) in targets {
            let known = self.layout.services.find(name);
            let service = known.with_context(|| {
                let roles = self.layout.services.roles();
                format!("{name} is no service of this cluster: expected one of {roles}; others are started with `concertina sidecar`")
            })?;
            if services.iter().any(|(other, _)| *other == service) {
                bail!("a role is given twice: expected each once, such as front=2 app=3");
            }
            services.push((service, *count));
        }
        let (mut starting, mut stopping) = (Vec::new(), Vec::new());
        for &(service, count) in &services {
            let running = self.running(service);
            let missing = (1..=u8::MAX).map(|n| Kind::Of(service, n)).filter(|kind| !running.contains(kind));
            for kind in missing.take(usize::from(count).saturating_sub(running.len())) {
                self.start(kind, tell)?;
                starting.push(kind);
            }
            // The last to come are the first to go.
            let surplus = running.len().saturating_sub(usize::from(count));
            stopping.extend(running.into_iter().rev().take(surplus));
        }
        self.stop_several(&stopping, tell).await?;
        let services: Vec<ServiceId> = services.into_iter().map(|(service, _)| service).collect();
        self.settle_services(&services, &starting, tell).await
    }

    /// Starts a node that does not run.
    pub(super) async fn start_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = self.known(name)?;
        self.start(kind, tell)?;
        self.settle(&[kind], tell).await
    }

    /// Drains and stops a node.
    pub(super) async fn stop_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = self.known(name)?;
        self.stop_several(&[kind], tell).await?;
        self.unlisted(kind, tell).await
    }

    /// Drains and stops a node, and starts it again.
    pub(super) async fn restart_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        self.stop_several(&[self.known(name)?], tell).await?;
        self.start_node(name, tell).await
    }

    /// Kills a node without warning.
    pub(super) async fn kill_node(&self, name: &Name, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = self.known(name)?;
        let pid = self.pid(kind)?;
        let role = processes::role(pid);
        signal_all(pid, Signal::KILL)?;
        self.ended(kind).await;
        // It is nobody's child any more, and may hold its port for a moment longer.
        if let Some(role) = role {
            processes::end_leftovers(role).await;
        }
        tell(Told::Line(format!("{name} killed")));
        // While it is listed, it would be counted as one that is started next.
        self.visible(&self.services_of(&[kind]), &|_| {}).await?;
        self.unlisted(kind, tell).await
    }

    /// Freezes a node, or thaws it.
    pub(super) fn pause_node(&self, name: &Name, pause: bool, tell: Tell<'_>) -> anyhow::Result<()> {
        let kind = self.known(name)?;
        let pid = self.pid(kind)?;
        if self.is_paused(kind) == pause {
            bail!("{name} is {}", if pause { "paused already" } else { "not paused" });
        }
        signal_all(pid, if pause { Signal::STOP } else { Signal::CONT })?;
        if let Some(node) = self.nodes.borrow_mut().get_mut(name) {
            node.paused = pause;
        }
        tell(Told::Line(format!("{name} {}", if pause { "paused" } else { "resumed" })));
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
                        let log = self.layout.log(node.kind);
                        mention!("{name} failed, see {}", log.display());
                        if self.layout.program(node.kind).is_some() {
                            let last = logs::last_lines(&log, LAST_LINES).unwrap_or_default();
                            last.iter().for_each(|line| mention!("{name} | {line}"));
                        }
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
        let progress = Progress::waiting("the nodes to stop");
        let tell = |told| {
            if let Told::Awaited(awaited) = told {
                progress.now_for(awaited);
            }
        };
        tokio::select! {
            outcome = progress.during(self.stop_several(&all, &tell)) => {
                if let Err(error) = outcome {
                    mention!("{error:#}");
                }
            }
            never = self.watch() => match never {},
        }
    }

    fn start(&self, kind: Kind, tell: Tell<'_>) -> anyhow::Result<()> {
        let name = self.layout.name(kind);
        if self.pid(kind).is_ok() {
            bail!("{name} runs already");
        }
        let log_path = self.layout.log(kind);
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("{}: cannot write the log", log_path.display()))?;
        let mut command = self.layout.command(kind);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        sidecar::node::supervise::die_with_parent(&mut command);
        program::limits::restore_descriptors(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        self.nodes
            .borrow_mut()
            .insert(name.clone(), Node { kind, pid: Some(Pid::from_child(&child)), paused: false });
        match self.layout.service(kind) {
            Some(service) => tell(Told::Line(format!("{name} started at {service}"))),
            None => tell(Told::Line(format!("{name} started"))),
        }
        Ok(())
    }

    async fn stop_several(&self, kinds: &[Kind], tell: Tell<'_>) -> anyhow::Result<()> {
        let mut roles = Vec::new();
        for &kind in kinds {
            let pid = self.pid(kind)?;
            roles.push(processes::role(pid));
            kill_process(pid, Signal::TERM)?;
            // A frozen node hears the signal when it is thawed.
            let _ = signal_all(pid, Signal::CONT);
        }
        let asked = Instant::now();
        for (&kind, role) in kinds.iter().zip(roles) {
            let (name, granted) = (self.layout.name(kind), self.layout.stop_timeout(kind));
            let left = granted.saturating_sub(asked.elapsed());
            let ended = async {
                tokio::select! {
                    () = self.ended(kind) => {}
                    never = self.tell_drain(kind, tell) => match never {},
                }
            };
            if tokio::time::timeout(left, ended).await.is_err() {
                if let Ok(pid) = self.pid(kind) {
                    let _ = signal_all(pid, Signal::KILL);
                }
                self.ended(kind).await;
                bail!("{name} did not stop within {granted:?} and was killed");
            }
            if let Some(role) = role {
                processes::end_leftovers(role).await;
            }
            tell(Told::Line(format!("{name} stopped after {} ms", asked.elapsed().as_millis())));
        }
        Ok(())
    }

    /// Waits until the nodes that run are visible, these among them. One that ends meanwhile ends the wait.
    async fn settle(&self, started: &[Kind], tell: Tell<'_>) -> anyhow::Result<()> {
        self.settle_services(&self.services_of(started), started, tell).await
    }

    /// The same for all nodes of some services.
    async fn settle_services(
        &self,
        services: &[ServiceId],
        started: &[Kind],
        tell: Tell<'_>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            outcome = self.visible(services, tell) => outcome?,
            () = self.any_ended(started) => {}
        }
        self.check_running(started)
    }

    fn check_running(&self, kinds: &[Kind]) -> anyhow::Result<()> {
        let Some(&kind) = kinds.iter().find(|kind| self.pid(**kind).is_err()) else { return Ok(()) };
        let log = self.layout.log(kind);
        let why = logs::last_error(&log).map(|why| format!(": {why}")).unwrap_or_default();
        bail!("{} failed{why}; see {}", self.layout.name(kind), log.display())
    }

    /// The services of these nodes. What starts beside services, the proxy, is to see all of them.
    fn services_of(&self, kinds: &[Kind]) -> Vec<ServiceId> {
        let is_general = kinds.iter().any(|kind| matches!(kind, Kind::Dns | Kind::Proxy));
        let all = self.layout.services.ids();
        all.filter(|service| is_general || kinds.iter().any(|kind| kind.is_of(*service))).collect()
    }

    /// Every node that was ever started, in the order of their names.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        self.nodes.borrow().values().map(|node| node.kind).collect()
    }

    pub(super) fn is_awake(&self, kind: Kind) -> bool {
        self.pid(kind).is_ok() && !self.is_paused(kind)
    }

    pub(super) fn running(&self, service: ServiceId) -> Vec<Kind> {
        let mut running = self.kinds();
        running.retain(|kind| kind.is_of(service) && self.is_awake(*kind));
        running.sort_by_key(|kind| kind.number());
        running
    }

    fn is_paused(&self, kind: Kind) -> bool {
        self.nodes.borrow().get(&self.layout.name(kind)).is_some_and(|node| node.paused)
    }

    fn pid(&self, kind: Kind) -> anyhow::Result<Pid> {
        let name = self.layout.name(kind);
        let pid = self.nodes.borrow().get(&name).and_then(|node| node.pid);
        pid.with_context(|| format!("{name} does not run"))
    }

    fn known(&self, name: &Name) -> anyhow::Result<Kind> {
        self.layout.services.parse(name).with_context(|| {
            let known = self.layout.services.node_names();
            format!("{name} is no node of a local cluster: expected {known}")
        })
    }

    async fn ended(&self, kind: Kind) {
        self.any_ended(&[kind]).await;
    }

    /// Waits until one of these has ended.
    async fn any_ended(&self, kinds: &[Kind]) {
        loop {
            let some_ended = self.some_ended.notified();
            if kinds.iter().any(|kind| self.pid(*kind).is_err()) {
                return;
            }
            some_ended.await;
        }
    }
}
