//! A worker: one thread, one runtime, everything that its sessions share. Nothing here is shared with other workers but the
//! counters and the directory.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use feed::{
    EndpointProtocol, Route,
    recall::{Recalled, Which},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    buffer::Shelf,
    certificates::Seal,
    config::{Balance, RequestIds},
    deadline::{Deadlines, TICK},
    http1::{Date, Scheme, head::Asked, verb::Verb},
    limits::{HANDSHAKES_COUNT_MAX, HEAD_BYTES_MAX, RESPONSE_BUFFER_BYTES},
    listen::{handshakes::Handshakes, target::Target},
    log::Tap,
    pipe::Pipes,
    recall::Memory,
    route::{self, Key, Rules, Verdict},
    stats::{Phase, Stats},
    stream::tls::{Shelves, Turns},
    upstream::{
        Pool, Roster, Upstream,
        attention::Attention,
        dice::Dice,
        directory::{Directory, Routes},
        hash,
    },
};

mod counted;
mod followers;
mod ids;
mod leases;
mod settings;
mod traces;

pub(crate) use counted::Counted;
use ids::Ids;
pub(crate) use settings::Settings;
use traces::Traces;

/// Buffers and exchanges that a worker keeps for reuse: enough for a thousand requests under way, and a bound on what an
/// hour of overload leaves behind.
pub(crate) const SHELF_COUNT_MAX: usize = 1024;

/// What a worker may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) clients_max: usize,
    pub(crate) pipes_max: usize,
    pub(crate) flows_max: usize,
}

/// What the sessions of one thread share.
pub(crate) struct Worker {
    settings: RefCell<Rc<Settings>>,
    clients_max: usize,
    pub(crate) stats: Arc<Stats>,
    /// The access log, if there is one.
    pub(crate) log: Option<Tap>,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) requests: Shelf,
    pub(crate) responses: Shelf,
    /// For what is sealed by TLS, and what is to be.
    pub(crate) sealed: Rc<Shelves>,
    pub(crate) handshakes: Turns,
    pub(crate) handshakes_under_way: Rc<Handshakes>,
    pub(crate) pipes: Pipes,
    /// By the position of the role in the directory.
    rosters: RefCell<Vec<Rc<Roster>>>,
    /// The newest routes, and those that were looked at last.
    routes: RefCell<(watch::Receiver<Routes>, Routes)>,
    pub(crate) clients: Cell<usize>,
    pub(crate) flows_max: usize,
    /// Flows of datagrams that there are.
    pub(crate) flows: Cell<usize>,
    /// A client has gone.
    pub(crate) room: Notify,
    /// What messages are dated with; as exact as the ticker.
    pub(crate) date: Cell<Date>,
    draining: Cell<bool>,
    /// It stops.
    drained: Notify,
    /// Clients without a request are closed.
    ends_idle: Cell<bool>,
    dice: RefCell<Dice>,
    pub(crate) ids: Ids,
    /// Requests that were.
    pub(crate) memory: Memory,
    attention: Arc<Attention>,
    /// Somebody looks at how long answers take, as of the last tick.
    times_answers: Cell<bool>,
    /// Wakes the task that looks after idle upstream connections.
    sweeper: Arc<Notify>,
}

impl Worker {
    /// The worker of this position; `seed` is for its choices.
    pub(crate) fn new(
        settings: Settings,
        room: Room,
        id: usize,
        directory: &Directory,
        stats: Arc<Stats>,
        log: Option<Tap>,
        seed: u64,
    ) -> Rc<Self> {
        let sweeper = Arc::new(Notify::new());
        let routes = directory.subscribe_routes();
        let worker = Rc::new(Self {
            rosters: RefCell::default(),
            routes: RefCell::new((routes.clone(), routes.borrow().clone())),
            pipes: Pipes::new(room.pipes_max),
            clients_max: room.clients_max,
            flows_max: room.flows_max,
            flows: Cell::new(0),
            settings: RefCell::new(Rc::new(settings)),
            stats,
            log,
            deadlines: Rc::default(),
            requests: Shelf::new(HEAD_BYTES_MAX, SHELF_COUNT_MAX),
            responses: Shelf::new(RESPONSE_BUFFER_BYTES, SHELF_COUNT_MAX),
            sealed: Rc::new(Shelves::new(SHELF_COUNT_MAX)),
            handshakes: Turns::new(HANDSHAKES_COUNT_MAX),
            handshakes_under_way: Rc::default(),
            clients: Cell::new(0),
            room: Notify::new(),
            date: Cell::new(now_as_date()),
            draining: Cell::new(false),
            drained: Notify::new(),
            ends_idle: Cell::new(false),
            dice: RefCell::new(Dice::new(seed)),
            ids: Ids::new(),
            memory: Memory::new(),
            attention: directory.attention().clone(),
            times_answers: Cell::new(false),
            sweeper,
        });
        worker.add_rosters(id, &directory.roles());
        worker
    }

    /// What holds now. Whoever needs it for longer than a moment keeps it.
    pub(crate) fn settings(&self) -> Rc<Settings> {
        self.settings.borrow().clone()
    }

    /// From now on these hold.
    pub(crate) fn apply_settings(&self, settings: Settings) {
        self.rosters.borrow().iter().for_each(|roster| roster.apply_rules(&settings.rules));
        self.settings.replace(Rc::new(settings));
    }

    /// The roster of the role at this position of the directory.
    pub(crate) fn roster(&self, role: usize) -> Rc<Roster> {
        self.rosters.borrow()[role].clone()
    }

    /// What an upstream of this role speaks: what the plan says of the role, else what the upstream claims.
    #[inline]
    pub(crate) fn protocol(&self, role: usize, upstream: &Upstream) -> EndpointProtocol {
        let claimed = || upstream.endpoint.claim.as_ref().map(|claim| claim.protocol);
        self.rosters.borrow()[role].protocol().or_else(claimed).unwrap_or_default()
    }

    /// By what connections to an upstream of this role are sealed; none where that is plain, or nobody is trusted.
    #[inline]
    pub(crate) fn seal(&self, role: usize, upstream: &Upstream) -> Option<Rc<Seal>> {
        if !self.protocol(role, upstream).is_sealed() {
            return None;
        }
        let roster = self.roster(role);
        let told = roster.protocol().map(|_| self.settings.borrow().origins.get(&roster.name).cloned());
        let claimed = || upstream.endpoint.claim.as_ref().and_then(|claim| claim.terms.clone());
        told.unwrap_or_else(claimed).map(|terms| upstream.pool.seal_by(&terms))
    }

    /// Where a request's route leads.
    pub(crate) fn route(&self, key: &Key) -> Option<route::Target> {
        self.with_routes(|routes| routes.find(key).map(|led| led.target.clone()))
    }

    /// What that route is, and the next best that matches.
    pub(crate) fn routes_of(&self, key: &Key) -> [Option<Route>; 2] {
        self.with_routes(|routes| {
            let mut all = routes.matches(key).map(|led| led.route.clone());
            [all.next(), all.next()]
        })
    }

    /// The role that has a host by its name, whatever the path; none where that takes a look at requests.
    pub(crate) fn route_host(&self, key: &Key) -> Option<usize> {
        self.with_routes(|routes| match routes.find_host(key).map(|led| &led.target) {
            Some(route::Target::Role(role)) => Some(*role),
            Some(route::Target::Ruled(_)) | None => None,
        })
    }

    /// What becomes of a client's request by the rules of its route.
    pub(crate) fn judge(
        &self,
        rules: &Rules,
        client: (Option<IpAddr>, Scheme),
        asked: &Asked<'_>,
    ) -> Verdict {
        let is_served = |role: usize| self.rosters.borrow()[role].has_ready();
        rules.judge(client, asked, &mut self.dice.borrow_mut(), is_served)
    }

    /// Whom a TLS client is for that asks for this host: whoever was told to have it, else who claims it by its name, else the default.
    pub(crate) fn target_of(&self, host: Option<&str>, default: Target) -> Target {
        let key = host.and_then(|host| Key::new(host.as_bytes(), b"/").ok());
        let role =
            key.and_then(|key| self.settings().sni.find(&key).copied().or_else(|| self.route_host(&key)));
        role.map_or(default, |role| Target::only(role, self.roster(role).name.clone()))
    }

    fn with_routes<T>(&self, look: impl FnOnce(&Routes) -> T) -> T {
        let (newest, current) = &mut *self.routes.borrow_mut();
        if newest.has_changed().unwrap_or(false) {
            *current = newest.borrow_and_update().clone();
        }
        look(current)
    }

    /// The key of a client where its role is balanced by clients; none of one without an address.
    pub(crate) fn client_key(&self, role: usize, peer: Option<SocketAddr>) -> Option<u64> {
        let is_wanted = *self.roster(role).balance() == Balance::HashClient;
        peer.filter(|_| is_wanted).map(|peer| hash::client_key(peer.ip()))
    }

    /// What it keeps of these requests.
    pub(crate) fn recall(&self, which: &Which) -> Recalled {
        let is_nameless = self.settings().request_ids == RequestIds::Off;
        Recalled { is_nameless, ..self.memory.recall(which) }
    }

    /// A request was answered, or is about to be: that of a role by its position, or of none.
    pub(crate) fn note_answer(&self, role: usize, verb: Verb, status: u16) {
        match self.rosters.borrow().get(role) {
            Some(roster) => roster.answers.note(verb, status),
            None => self.stats.answers.note(verb, status),
        }
    }

    /// A phase of a request took so long: that of a role by its position, or of none.
    pub(crate) fn note_time(&self, role: usize, phase: Phase, time: Duration) {
        match self.rosters.borrow().get(role) {
            Some(roster) => roster.latencies.note(phase, time),
            None => self.stats.latencies.note(phase, time),
        }
    }

    /// Waits until another client may come: those that are too many wait in the kernel's queue, as they do at HAProxy.
    pub(crate) async fn wait_for_room(&self) {
        while self.clients.get() >= self.clients_max {
            self.stats.clients_held.add(1);
            self.room.notified().await;
        }
    }

    /// Closes what is kept for later use only, for its descriptors.
    pub(crate) fn close_idle(&self) {
        self.rosters.borrow().iter().for_each(|roster| roster.for_each_pool(Pool::clear));
        self.pipes.clear();
    }

    /// Ready when the worker stops.
    pub(crate) async fn draining(&self) {
        while !self.is_draining() {
            self.drained.notified().await;
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Clients are closed after their exchange. Who has none may send one more request, which is answered: it may be under way.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.drained.notify_waiters();
        self.deadlines.wake_all();
    }

    /// Whether a client without a request is to be closed.
    pub(crate) fn ends_idle(&self) -> bool {
        self.ends_idle.get()
    }

    /// Clients without a request are closed now.
    pub(crate) fn end_idle(&self) {
        if !self.ends_idle.replace(true) {
            self.deadlines.wake_all();
        }
    }

    async fn keep_time(self: Rc<Self>) {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.date.set(now_as_date());
            self.times_answers.set(self.attention.is_drawn());
            self.deadlines.pass(started.elapsed());
            self.rosters.borrow().iter().for_each(|roster| roster.queue().wake_first());
        }
    }
}

fn now_as_date() -> Date {
    Date::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
