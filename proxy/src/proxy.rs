//! A running proxy: its threads, its listeners, and the plan that they go by.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use feed::{
    Name,
    follow::Follow,
    recall::{Recalled, Which},
    request::Choice,
};
use program::metrics::Exposition;
use tokio::sync::watch;

use crate::{
    certificates::{Origins, Store},
    config::{Address, Args, Change, Listen, Plan, Protocol},
    held::Held,
    listen::{
        doors::{Bound, DoorId, DoorPlan},
        unix,
    },
    load,
    log::Log,
    metrics::{self, Reloads},
    placing::placed,
    stats::Stats,
    udp,
    upstream::follow::{Follower, Sources},
    worker::{Room, Settings},
};

mod hand;
mod renewal;

use hand::Hand;

/// Descriptors for everything that is not a client's: the event loops, the listeners, the feed, the logs.
const RESERVED_DESCRIPTORS: usize = 32;

/// A running proxy.
pub struct Proxy {
    current: Mutex<Current>,
    /// Held by whoever changes it: one after another.
    changing: tokio::sync::Mutex<()>,
    sources: Arc<Sources>,
    certificates: Arc<Store>,
    /// Each worker's, and those of the access log's writer and of whoever posts spans.
    stats: Vec<Arc<Stats>>,
    /// Where the listeners of its first plan are that have a port.
    addrs: Vec<SocketAddr>,
    /// How often its plan was changed, and was not.
    pub(crate) reloads: Reloads,
    log: Option<Log>,
    /// What whoever started this process keeps for the next.
    held: Mutex<Held>,
    stopping: watch::Sender<bool>,
    workers: Vec<Hand>,
    /// It follows every role: another plan may name any of them.
    follows_all: bool,
    /// It has a file, which may name listeners with TLS one day.
    has_file: bool,
}

/// What it goes by now.
struct Current {
    plan: Arc<Plan>,
    doors: Vec<DoorId>,
    origins: Arc<Origins>,
}

impl Proxy {
    /// Binds the listeners and starts the workers.
    ///
    /// # Errors
    /// An address that cannot be listened on, a file that cannot be read, or settings that contradict each other.
    pub fn start(args: &Args) -> anyhow::Result<Self> {
        Self::start_with(args, Held::default())
    }

    /// The same with what this process was started with.
    pub(crate) fn start_with(args: &Args, mut held: Held) -> anyhow::Result<Self> {
        let plan = Arc::new(args.plan()?);
        let workers = usize::from(plan.fixed.workers.unwrap_or_else(available_cores));
        let origins = Origins::read(&plan.rules, &Origins::default());
        let origins = Arc::new(origins.map_err(|error| placed(args, &plan, error.into()))?);
        let sources = Sources::new(plan.clone(), origins.clone(), workers);
        let stats: Vec<Arc<Stats>> = (0..=workers).map(|_| Arc::default()).collect();
        let log = Log::start(&plan.fixed, &sources, workers, &stats[workers])?;
        let (log, taps) = log.map_or((None, Vec::new()), |(log, taps)| (Some(log), taps));
        let has_flows = plan.listen.iter().any(|listen| !listen.protocol.is_of_streams());
        let certificates = Store::open(&plan.certificates).map_err(|error| placed(args, &plan, error))?;
        let certificates = Arc::new(certificates);
        let room = room(plan.fixed.clients_max, workers, has_flows);
        let ids = DoorId::of_all(&plan.listen);
        let opened = open(&ids, &plan.listen, &[], workers, &mut held)?;
        let first = opened.first().map(Vec::as_slice).unwrap_or_default();
        let addr = |door: &DoorPlan| door.sockets.first().and_then(Bound::local_addr);
        let bound_at: Vec<Address> = first.iter().filter_map(addr).collect();
        let mut proxy = Self {
            sources,
            certificates,
            stats,
            reloads: Reloads::default(),
            log,
            addrs: bound_at.iter().filter_map(Address::ip).collect(),
            held: Mutex::new(held),
            stopping: watch::Sender::new(false),
            workers: Vec::new(),
            changing: tokio::sync::Mutex::default(),
            follows_all: plan.is_routing() || args.config.is_some(),
            has_file: args.config.is_some(),
            current: Mutex::new(Current { plan: plan.clone(), doors: ids, origins }),
        };
        let mut taps = taps.into_iter();
        for (id, doors) in opened.into_iter().enumerate() {
            let hand = proxy.start_worker(id, &plan, room, doors, taps.next())?;
            proxy.workers.push(hand);
        }
        for (listen, addr) in plan.listen.iter().zip(&bound_at) {
            let role = listen.role.as_ref().map_or("of each route", Name::as_str);
            tracing::info!(%addr, role, workers, "proxy listening");
        }
        warn_of_unused(&plan);
        Ok(proxy)
    }

    /// The plan, and a look at the files that it names, as at a start.
    ///
    /// # Errors
    /// Settings that contradict each other, or a certificate that would not be taken.
    pub fn check(args: &Args) -> anyhow::Result<Plan> {
        let plan = args.plan()?;
        Store::open(&plan.certificates).map_err(|error| placed(args, &plan, error))?;
        Origins::read(&plan.rules, &Origins::default()).map_err(|error| placed(args, &plan, error.into()))?;
        Log::check(&plan.fixed)?;
        Ok(plan)
    }

    /// The addresses of the listeners that have a port, in the order of the plan that it was started with.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The counters in one line.
    pub fn summary(&self) -> String {
        Stats::summary(&self.stats.iter().map(|stats| &**stats))
    }

    /// What was counted, as an OpenMetrics document. Counters are read where they are: no worker notices.
    pub fn metrics(&self) -> String {
        self.metrics_in_place_of(String::new())
    }

    /// The same in the room of a text that is not needed any more.
    pub(crate) fn metrics_in_place_of(&self, text: String) -> String {
        let workers: Vec<&Stats> = self.stats.iter().map(|stats| &**stats).collect();
        let roles = self.sources.directory().roles();
        let document = Exposition::in_place_of(text);
        metrics::document(document, &workers, &roles, &self.certificates.get(), &self.reloads)
    }

    /// How much each role has to do, as JSON. From now on answers are timed for a while: who asks once asks again.
    pub fn load(&self) -> String {
        let directory = self.sources.directory();
        directory.attention().draw();
        load::report(&directory.roles())
    }

    /// Opens the access log's file anew: the old one has been renamed.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Keeps the tables that are not fixed as the feed tells them; never ends.
    pub fn follow(&self) -> impl Future<Output = ()> + use<> {
        let plan = self.plan();
        let is_fixed = |role: &Name| plan.fixed.upstream.iter().any(|fixed| fixed.role == *role);
        let named = plan.named_roles().into_iter().filter(|role| !is_fixed(role));
        let mut roles: Vec<String> = named.map(|role| role.to_string()).collect();
        if self.follows_all {
            // Whoever may claim a route, or be named by another plan.
            roles = vec!["*".to_owned()];
        }
        let follow = Follow { path: plan.fixed.feed.clone(), name: "proxy".into(), roles };
        let has_tls = self.has_file || plan.listen.iter().any(|listen| listen.protocol == Protocol::Https);
        let tickets = has_tls.then(|| self.certificates.tickets().clone());
        let follower = Follower { sources: self.sources.clone(), tickets };
        async move {
            if follow.roles.is_empty() {
                return std::future::pending().await;
            }
            follow.run(follower).await;
        }
    }

    /// Goes over to another plan, all of it or nothing: what is under way goes on, and who comes afterwards is served by the new one. Done
    /// when every worker goes by it.
    ///
    /// # Errors
    /// A listener that cannot be opened, or a setting that only a restart changes: the plan before goes on.
    pub async fn change(&self, plan: Plan) -> anyhow::Result<Change> {
        let _changing = self.changing.lock().await;
        let plan = Arc::new(plan);
        let (before, open_doors, origins) = {
            let current = self.current();
            (current.plan.clone(), current.doors.clone(), current.origins.clone())
        };
        before.check_change(&plan)?;
        let ids = DoorId::of_all(&plan.listen);
        let opened = open(&ids, &plan.listen, &open_doors, self.workers.len(), &mut self.held());
        // Before anything is changed, and the last that may fail.
        let opened = opened.and_then(|opened| {
            let origins = Origins::read(&plan.rules, &origins)?;
            self.certificates.change(&plan.certificates)?;
            Ok((opened, Arc::new(origins)))
        });
        if opened.is_err() {
            self.release(&plan, &before);
        }
        let (opened, origins) = opened?;
        self.release(&before, &plan);
        apply_modes(&before, &plan);
        self.sources.add_roles(&plan, &origins).await;
        self.order(&plan, &origins, opened).await;
        self.sources.apply_plan(plan.clone()).await;
        *self.current() = Current { plan: plan.clone(), doors: ids, origins };
        warn_of_unused(&plan);
        Ok(Change::between(&before, &plan))
    }

    /// Has all workers go by a plan.
    async fn order(&self, plan: &Plan, origins: &Arc<Origins>, doors: Vec<Vec<DoorPlan>>) {
        let settings =
            Settings::of(plan, self.sources.directory(), self.certificates.clone(), origins.clone());
        let mut applied = Vec::new();
        for (worker, doors) in self.workers.iter().zip(doors) {
            applied.push(worker.order(settings.clone(), doors));
        }
        for is_done in applied {
            is_done.await;
        }
    }

    /// Lets go of what is kept for listeners that another plan has not.
    fn release(&self, of: &Plan, not_of: &Plan) {
        let is_other = |listen: &&Listen| !not_of.listen.iter().any(|other| other.addr == listen.addr);
        of.listen.iter().filter(is_other).for_each(|listen| self.held().release(&listen.addr));
    }

    /// Reads the file again, and goes over to what it says now.
    ///
    /// # Errors
    /// What is wrong with it; the plan before goes on.
    pub(crate) async fn reload(&self, args: &Args) -> anyhow::Result<Change> {
        let changed = match args.plan() {
            Ok(plan) => self.change(plan.clone()).await.map_err(|error| placed(args, &plan, error)),
            Err(error) => Err(error),
        };
        self.reloads.note(changed.is_ok());
        match &changed {
            Ok(change) if change.is_nothing() => tracing::info!("reloaded, nothing has changed"),
            Ok(change) => tracing::info!(change = %change.to_string().replace('\n', ", "), "reloaded"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "not reloaded, the plan before goes on");
            }
        }
        changed
    }

    /// Stops accepting, lets exchanges under way end, and ends the workers.
    pub fn stop(self) {
        // Whoever waits there already is accepted; another process may listen there from now on.
        self.held().remove_files();
        self.stopping.send_replace(true);
        for worker in self.workers {
            worker.join();
        }
        // After the workers: whatever they had to say is in their rings.
        if let Some(log) = self.log {
            log.stop();
        }
    }

    /// Whether it follows a feed.
    pub(crate) fn has_sidecar(&self) -> bool {
        let plan = self.plan();
        let is_fixed = |role: &Name| plan.fixed.upstream.iter().any(|fixed| fixed.role == *role);
        self.follows_all || !plan.named_roles().iter().all(is_fixed)
    }

    /// What tables and routes there are.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Whom the first worker would choose of a role now, by a key if there is one.
    pub(crate) async fn prospect(&self, role: &Name, key: Option<u64>) -> Option<Choice> {
        let role = self.sources.directory().position(role.as_str())?;
        self.workers.first()?.look(role, key).await
    }

    /// What all workers keep of these requests.
    pub(crate) async fn recall(&self, which: &Which) -> Recalled {
        let mut told = Recalled::default();
        for worker in &self.workers {
            told.add(worker.recall(which).await.unwrap_or_default(), which.hops_count_max());
        }
        told
    }

    /// What it goes by.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.current().plan.clone()
    }

    /// Waits until every worker knows where requests go: all that the sidecar knows has been told, or is fixed.
    pub(crate) async fn serves(&self) {
        let plan = self.plan();
        let is_fixed = |role: &Name| plan.fixed.upstream.iter().any(|fixed| fixed.role == *role);
        let directory = self.sources.directory();
        if plan.is_routing() || !plan.named_roles().iter().all(is_fixed) {
            directory.synced().await;
        }
        let roles = plan.listen.iter().filter_map(|listen| directory.role(listen.role.as_ref()?.as_str()));
        for role in roles {
            for worker in 0..self.workers.len() {
                role.first_table(worker).await;
            }
        }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens those of a plan's listeners that are not open: for each worker all of them, with the sockets of those that are new.
fn open(
    ids: &[DoorId],
    listen: &[Listen],
    open: &[DoorId],
    workers: usize,
    held: &mut Held,
) -> anyhow::Result<Vec<Vec<DoorPlan>>> {
    let mut doors: Vec<Vec<DoorPlan>> = (0..workers).map(|_| Vec::new()).collect();
    for (id, listen) in ids.iter().zip(listen) {
        let mut bound: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
        if !open.contains(id) {
            bound = Bound::for_all(listen, workers, held).map_err(|error| {
                let advice = match listen.addr {
                    Address::Ip(_) => program::advice::on_listening(&error),
                    Address::Unix(_) => program::advice::on_listening_at_file(&error),
                };
                anyhow::anyhow!("--listen {listen}: cannot listen there: {error}; {advice}")
            })?;
        }
        for (doors, sockets) in doors.iter_mut().zip(bound) {
            doors.push(DoorPlan { id: id.clone(), listen: listen.clone(), sockets });
        }
    }
    Ok(doors)
}

fn warn_of_unused(plan: &Plan) {
    if let Some(unused) = plan.unused() {
        tracing::warn!("{unused}");
    }
}

/// Has listeners at files that stay open let those connect whom the plan names now.
fn apply_modes(before: &Plan, plan: &Plan) {
    for listen in &plan.listen {
        let is_changed =
            |other: &Listen| other.addr == listen.addr && other.socket_mode() != listen.socket_mode();
        if let Some(path) = listen.addr.unix().filter(|_| before.listen.iter().any(is_changed))
            && let Err(error) = unix::set_mode(path, listen.socket_mode())
        {
            tracing::warn!(%listen, %error, "the socket keeps its mode");
        }
    }
}

fn room(clients_max: usize, workers: usize, has_flows: bool) -> Room {
    let limit = program::limits::descriptors_max();
    let room = room_of(limit, clients_max, workers, has_flows);
    if room.clients_max < clients_max {
        tracing::info!(
            descriptors = limit,
            clients_max = room.clients_max,
            "a worker serves fewer clients at a time than --clients-max: for more, raise the limit of descriptors (ulimit -n)"
        );
    }
    room
}

/// Three quarters of the descriptors are for clients, most of which are idle, and a sixteenth for pipes of two each: without one, bytes are
/// copied. The rest is for upstreams: a request for which there is nothing left waits a moment for that of another. Flows of datagrams have
/// one of the quarters where there are any from the start; those of a later plan share with everybody.
fn room_of(limit: usize, clients_max: usize, workers: usize, has_flows: bool) -> Room {
    let share = limit.saturating_sub(RESERVED_DESCRIPTORS) / workers;
    let quarters = if has_flows { 2 } else { 3 };
    Room {
        clients_max: clients_max.min((share / 4 * quarters).max(1)),
        pipes_max: share / 16 / 2,
        flows_max: udp::flows_count_max(share / 4, workers),
    }
}

/// The cores that the process may use: affinity and the cgroup's quota both count.
fn available_cores() -> u16 {
    std::thread::available_parallelism().ok().and_then(|cores| u16::try_from(cores.get()).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests;
