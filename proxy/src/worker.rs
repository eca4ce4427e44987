//! A worker: one thread, one runtime, everything that its sessions share. Nothing here is shared with other workers but the
//! counters and the directory.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    ops::Range,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use feed::{EndpointProtocol, Route, recall::Recalled};
use tokio::{
    sync::{Notify, watch},
    task::spawn_local,
    time::Instant,
};

use crate::{
    buffer::Shelf,
    certificates::{Origins, Seal, Store},
    config::{Balance, EdgeRules, HalfClosed, Plan, RequestIds, SniRule, Timeouts, UpstreamRules},
    deadline::{Deadlines, TICK},
    error::{Fault, Refusal},
    http1::{Date, Forwarding, Scheme, head::Asked, verb::Verb},
    limits::{HANDSHAKES_COUNT_MAX, HEAD_BYTES_MAX, RESPONSE_BUFFER_BYTES},
    listen::{handshakes::Handshakes, target::Target},
    log::Tap,
    pipe::Pipes,
    recall::Memory,
    route::{self, Key, Rules, Table, Verdict},
    stats::{Phase, Retry, Stats},
    stream::tls::{Shelves, Turns},
    upstream::{
        Avoided, Lease, Pool, Roster, Ticket, Upstream, Wanted,
        attention::Attention,
        dice::Dice,
        directory::{Directory, Role, Roles, Routes},
        hash,
        pick::Picked,
    },
};

mod counted;
mod ids;
mod traces;

pub(crate) use counted::Counted;
use ids::Ids;
use traces::Traces;

/// Buffers and exchanges that a worker keeps for reuse: enough for a thousand requests under way, and a bound on what an
/// hour of overload leaves behind.
pub(crate) const SHELF_COUNT_MAX: usize = 1024;

/// A plan as workers look at it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) half_closed: HalfClosed,
    pub(crate) rules: UpstreamRules,
    pub(crate) edges: EdgeRules,
    /// The roles of the hosts of TLS clients, by their positions.
    pub(crate) sni: Arc<Table<usize>>,
    /// The certificates of this proxy.
    pub(crate) certificates: Arc<Store>,
    /// By what upstreams are spoken to over TLS.
    pub(crate) origins: Arc<Origins>,
    pub(crate) body_bytes_max: u64,
    pub(crate) forwarding: Option<Forwarding>,
    pub(crate) via: Option<String>,
    pub(crate) request_ids: RequestIds,
    /// None: requests are not traced.
    pub(crate) traces: Option<Traces>,
}

impl Settings {
    /// Those of a plan whose roles are known.
    pub(crate) fn of(
        plan: &Plan,
        directory: &Directory,
        certificates: Arc<Store>,
        origins: Arc<Origins>,
    ) -> Self {
        let position = |rule: &SniRule| directory.position(rule.role.as_str());
        let sni = plan.edges.sni.iter().filter_map(|rule| Some((rule.host.clone(), position(rule)?)));
        Self {
            timeouts: plan.timeouts,
            half_closed: plan.half_closed,
            rules: plan.rules.clone(),
            edges: plan.edges.clone(),
            sni: Arc::new(sni.collect()),
            certificates,
            origins,
            body_bytes_max: plan.body_bytes_max,
            forwarding: plan.forwarding,
            via: plan.via.clone(),
            request_ids: plan.request_ids,
            traces: Traces::of(plan),
        }
    }
}

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

    /// Starts the tasks that every worker has: the clock, the pools' sweeper, the roles' followers.
    pub(crate) fn start_tasks(self: &Rc<Self>, id: usize, directory: &Directory) {
        spawn_local(self.clone().keep_time());
        spawn_local(self.clone().sweep_pools());
        let (roles, known) = (directory.subscribe_roles(), self.rosters.borrow().len());
        self.start_following(id, 0..known, &roles.borrow());
        spawn_local(self.clone().follow_roles(id, roles));
    }

    /// Makes rosters for the roles that have none; their positions.
    fn add_rosters(&self, id: usize, roles: &[Arc<Role>]) -> Range<usize> {
        let mut rosters = self.rosters.borrow_mut();
        let known = rosters.len();
        let roster = |role: &Arc<Role>| {
            Rc::new(Roster::new(&self.settings.borrow().rules, role, id, self.sweeper.clone()))
        };
        rosters.extend(roles[known..].iter().map(roster));
        known..rosters.len()
    }

    fn start_following(self: &Rc<Self>, id: usize, positions: Range<usize>, roles: &[Arc<Role>]) {
        for position in positions {
            spawn_local(self.clone().follow_role(id, position, roles[position].clone()));
            let queue = self.roster(position).queue().clone();
            spawn_local(async move { queue.take_turns().await });
        }
    }

    async fn follow_roles(self: Rc<Self>, id: usize, mut roles: watch::Receiver<Roles>) {
        loop {
            let all = roles.borrow_and_update().clone();
            let new = self.add_rosters(id, &all);
            self.start_following(id, new, &all);
            if roles.changed().await.is_err() {
                return;
            }
        }
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

    /// Chooses an upstream of a role and counts a use of it; waits where all are at their limit.
    pub(crate) fn poll_lease(
        &self,
        context: &Context<'_>,
        role: usize,
        (avoid, key): (&Avoided, Option<u64>),
        ticket: &mut Option<Ticket>,
    ) -> Poll<Result<(Lease, Picked), Refusal>> {
        let wanted = self.wanted(avoid, key);
        let roster = &self.rosters.borrow()[role];
        let leased = roster.poll_lease(context, wanted, ticket, &mut self.dice.borrow_mut());
        leased.map_ok(|(lease, picked)| (self.timed(lease), picked))
    }

    /// Whom such a request of a role would be given to; nothing where this worker has not heard of the role yet.
    pub(crate) fn prospect(&self, role: usize, key: Option<u64>) -> Option<feed::request::Choice> {
        let wanted = self.wanted(Avoided::NOBODY, key);
        let roster = self.rosters.borrow().get(role).cloned()?;
        Some(roster.prospect(wanted, &mut self.dice.borrow_mut()))
    }

    /// What it keeps of the requests of this id.
    pub(crate) fn recall(&self, id: &str) -> Recalled {
        let is_nameless = self.settings().request_ids == RequestIds::Off;
        Recalled { is_nameless, ..self.memory.recall(id) }
    }

    /// Counts a use of the upstream of this node, by the hash of its name; none if it is not to be chosen, or full.
    pub(crate) fn lease_of_node(&self, role: usize, node_hash: u64, avoid: &Avoided) -> Option<Lease> {
        self.roster(role).lease_of_node(node_hash, self.wanted(avoid, None)).map(|lease| self.timed(lease))
    }

    /// A lease that has just been given, and when, if somebody looks at how long answers take.
    fn timed(&self, mut lease: Lease) -> Lease {
        lease.timed_from = self.times_answers.get().then(std::time::Instant::now);
        lease
    }

    /// Something failed that an upstream of a role is to answer for.
    pub(crate) fn note_fault(&self, role: usize, lease: &Lease, fault: Fault) {
        lease.upstream.endpoint.health.tally.note_failure();
        self.rosters.borrow()[role].apply_fault(lease, fault, self.deadlines.now_ms());
    }

    /// Whether the role's budget has another retry; counts it as done, or as denied.
    pub(crate) fn take_retry(&self, role: usize, why: Retry) -> bool {
        let is_granted = self.rosters.borrow()[role].take_retry(self.deadlines.now_ms());
        if is_granted {
            self.note_retry(role, why);
        } else {
            self.stats.retries_denied.add(1);
        }
        is_granted
    }

    /// Counts a further attempt for a request of this role.
    pub(crate) fn note_retry(&self, role: usize, why: Retry) {
        self.stats.retries.add(1);
        self.stats.retried.note(why);
        self.rosters.borrow()[role].answers.note_retry();
    }

    /// Whether a request that waits can wait at another upstream instead, and the role's budget has a retry for it. It is not denied one
    /// by this: it waits on.
    pub(crate) fn take_move(&self, role: usize, avoid: &Avoided) -> bool {
        let roster = self.roster(role);
        let is_granted =
            roster.has_better(self.wanted(avoid, None)) && roster.take_retry(self.deadlines.now_ms());
        if is_granted {
            self.note_retry(role, Retry::Lost);
        }
        is_granted
    }

    fn wanted<'a>(&self, avoid: &'a Avoided, key: Option<u64>) -> Wanted<'a> {
        Wanted { avoid, key, now_ms: self.deadlines.now_ms() }
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

    /// An upstream of a role has begun to answer.
    pub(crate) fn note_status(&self, role: usize, lease: &Lease, status: u16) {
        self.rosters.borrow()[role].apply_status(lease, status, self.deadlines.now_ms());
    }

    /// An upstream of a role has answered to the end.
    pub(crate) fn note_response(&self, role: usize, lease: &Lease, status: u16) {
        self.rosters.borrow()[role].apply_response(lease, status);
    }

    /// An upstream of a role has accepted a connection, which is all that is asked of it.
    pub(crate) fn note_accepted(&self, role: usize, lease: &Lease) {
        self.rosters.borrow()[role].apply_success(lease);
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

    /// Closes idle upstream connections: at once when the other side closes or speaks, and when nobody needed them for long.
    async fn sweep_pools(self: Rc<Self>) {
        let mut period = tokio::time::interval(Duration::from_secs(1));
        loop {
            let sweep: fn(&Pool, u64) = tokio::select! {
                _ = period.tick() => Pool::sweep,
                () = self.sweeper.notified() => Pool::sweep_news,
            };
            let idle = self.settings.borrow().timeouts.idle / 4;
            let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
            let oldest_ms = self.deadlines.now_ms().saturating_sub(idle_ms);
            for roster in &*self.rosters.borrow() {
                roster.for_each_pool(|pool| sweep(pool, oldest_ms));
            }
        }
    }

    async fn follow_role(self: Rc<Self>, id: usize, position: usize, role: Arc<Role>) {
        // Whatever ends this task, nobody may wait for a worker that does not choose any more.
        let on_end = NoteOnDrop { role: role.clone(), id };
        let mut listings: watch::Receiver<_> = role.subscribe();
        loop {
            let listing = listings.borrow_and_update().clone();
            self.roster(position).apply_listing(&listing, self.deadlines.now_ms());
            if listing.has_stranded() {
                self.deadlines.wake_all();
            }
            role.note_applied(id, listing.version);
            if listings.changed().await.is_err() {
                break;
            }
        }
        drop(on_end);
    }
}

fn now_as_date() -> Date {
    Date::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

struct NoteOnDrop {
    role: Arc<Role>,
    id: usize,
}

impl Drop for NoteOnDrop {
    fn drop(&mut self) {
        self.role.note_applied(self.id, u64::MAX);
    }
}
