//! A worker: one thread, one runtime, everything that its sessions share. Nothing here is shared with other workers but the
//! counters and the directory.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch, task::spawn_local, time::Instant};

use crate::{
    buffer::Shelf,
    config::{Balance, HalfClosed, Timeouts, UpstreamRules},
    deadline::{Deadlines, TICK},
    error::{AttemptFailure, Refusal},
    http1::Forwarding,
    limits::{HEAD_BYTES_MAX, RESPONSE_BUFFER_BYTES},
    log::Tap,
    pipe::Pipes,
    session::exchange::Exchange,
    stats::Stats,
    upstream::{
        Lease, Roster, Ticket, Wanted,
        directory::{Directory, Role},
        hash,
        pick::{Dice, Now},
    },
};

/// Buffers and exchanges that a worker keeps for reuse: enough for a thousand requests under way, and a bound on what an
/// hour of overload leaves behind.
const SHELF_COUNT_MAX: usize = 1024;

/// What does not change while a proxy runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) half_closed: HalfClosed,
    pub(crate) clients_max: usize,
    pub(crate) rules: UpstreamRules,
    pub(crate) body_bytes_max: u64,
    pub(crate) forwarding: Option<Forwarding>,
    pub(crate) via: Option<String>,
}

/// What the sessions of one thread share.
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) stats: Arc<Stats>,
    /// The access log, if there is one.
    pub(crate) log: Option<Tap>,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) requests: Shelf,
    pub(crate) responses: Shelf,
    pub(crate) pipes: Pipes,
    /// By the position of the role in the directory.
    pub(crate) rosters: Vec<Roster>,
    pub(crate) clients: Cell<usize>,
    draining: Cell<bool>,
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is kept")]
    exchanges: RefCell<Vec<Box<Exchange>>>,
    dice: RefCell<Dice>,
    /// Wakes the task that looks after idle upstream connections.
    sweeper: RefCell<Waker>,
    started_unix_ms: u64,
}

impl Worker {
    /// The worker of this position; `seed` is for its choices.
    pub(crate) fn new(
        settings: Settings,
        id: usize,
        directory: &Directory,
        stats: Arc<Stats>,
        log: Option<Tap>,
        seed: u64,
    ) -> Rc<Self> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let roster = |role: &Arc<Role>| Roster::new(settings.rules.clone(), role, id);
        Rc::new(Self {
            rosters: directory.roles().iter().map(roster).collect(),
            settings,
            stats,
            log,
            deadlines: Rc::default(),
            requests: Shelf::new(HEAD_BYTES_MAX, SHELF_COUNT_MAX),
            responses: Shelf::new(RESPONSE_BUFFER_BYTES, SHELF_COUNT_MAX),
            pipes: Pipes::default(),
            clients: Cell::new(0),
            draining: Cell::new(false),
            exchanges: RefCell::default(),
            dice: RefCell::new(Dice::new(seed)),
            sweeper: RefCell::new(Waker::noop().clone()),
            started_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Starts the tasks that every worker has: the clock, the pools' sweeper, the roles' followers.
    pub(crate) fn start_tasks(self: &Rc<Self>, id: usize, directory: &Directory) {
        spawn_local(self.clone().keep_time());
        spawn_local(self.clone().sweep_pools());
        for (position, role) in directory.roles().iter().enumerate() {
            spawn_local(self.clone().follow_role(id, position, role.clone()));
            if let Some(queue) = self.rosters[position].queue().cloned() {
                spawn_local(async move { queue.take_turns().await });
            }
        }
    }

    /// The key of a client where its role is balanced by clients.
    pub(crate) fn client_key(&self, role: usize, peer: SocketAddr) -> Option<u64> {
        let is_wanted = self.rosters[role].balance == Balance::HashClient;
        is_wanted.then(|| hash::client_key(peer.ip()))
    }

    /// Chooses an upstream of a role and counts a use of it; waits where all are at their limit.
    pub(crate) fn poll_lease(
        &self,
        context: &Context<'_>,
        role: usize,
        (avoid, key): (&[u64], Option<u64>),
        ticket: &mut Option<Ticket>,
    ) -> Poll<Result<Lease, Refusal>> {
        let wanted = self.wanted(avoid, key);
        self.rosters[role].poll_lease(context, wanted, ticket, &mut self.dice.borrow_mut())
    }

    /// An attempt at an upstream of a role failed.
    pub(crate) fn note_failure(&self, role: usize, lease: &Lease, failure: AttemptFailure) {
        self.rosters[role].apply_failure(&lease.upstream.endpoint, failure, self.deadlines.now_ms());
    }

    /// Whether the role's budget has another retry; counts it as done, or as denied.
    pub(crate) fn take_retry(&self, role: usize) -> bool {
        let is_granted = self.rosters[role].take_retry(self.deadlines.now_ms());
        let counter = if is_granted { &self.stats.retries } else { &self.stats.retries_denied };
        counter.add(1);
        is_granted
    }

    /// Whether a request that waits can wait at another upstream instead, and the role's budget has a retry for it. It is not denied one
    /// by this: it waits on.
    pub(crate) fn take_move(&self, role: usize, avoid: &[u64]) -> bool {
        let roster = &self.rosters[role];
        let is_granted =
            roster.has_better(self.wanted(avoid, None)) && roster.take_retry(self.deadlines.now_ms());
        self.stats.retries.add(u64::from(is_granted));
        is_granted
    }

    fn wanted<'a>(&self, avoid: &'a [u64], key: Option<u64>) -> Wanted<'a> {
        let ms = self.deadlines.now_ms();
        Wanted { avoid, key, now: Now { ms, unix_ms: self.started_unix_ms + ms } }
    }

    /// An upstream of a role answered.
    pub(crate) fn note_status(&self, role: usize, lease: &Lease, status: u16) {
        self.rosters[role].apply_status(&lease.upstream.endpoint, status, self.deadlines.now_ms());
    }

    /// The context of the sweeper, under which idle connections wait.
    pub(crate) fn with_sweeper<T>(&self, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        act(&mut Context::from_waker(&self.sweeper.borrow()))
    }

    pub(crate) fn take_exchange(&self) -> Box<Exchange> {
        self.exchanges.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn put_exchange(&self, mut exchange: Box<Exchange>) {
        exchange.reset(self);
        let mut exchanges = self.exchanges.borrow_mut();
        if exchanges.len() < SHELF_COUNT_MAX {
            exchanges.push(exchange);
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Idle clients are closed now, the others after their exchange.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.deadlines.wake_all();
    }

    async fn keep_time(self: Rc<Self>) {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.deadlines.tick(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
            self.rosters.iter().filter_map(Roster::queue).for_each(|queue| queue.wake_first());
        }
    }

    /// Closes idle upstream connections: at once when the other side closes or speaks, and when nobody needed them for long.
    async fn sweep_pools(self: Rc<Self>) {
        let idle_ms = u64::try_from(self.settings.timeouts.idle.as_millis() / 4).unwrap_or(u64::MAX);
        let mut period = tokio::time::interval(Duration::from_secs(1));
        std::future::poll_fn::<(), _>(|context| {
            if !self.sweeper.borrow().will_wake(context.waker()) {
                self.sweeper.replace(context.waker().clone());
            }
            while period.poll_tick(context).is_ready() {}
            let oldest_ms = self.deadlines.now_ms().saturating_sub(idle_ms);
            for roster in &self.rosters {
                roster.for_each_pool(|pool| pool.sweep(oldest_ms, context));
            }
            Poll::Pending
        })
        .await;
    }

    async fn follow_role(self: Rc<Self>, id: usize, position: usize, role: Arc<Role>) {
        // Whatever ends this task, nobody may wait for a worker that does not choose any more.
        let on_end = NoteOnDrop { role: role.clone(), id };
        let mut listings: watch::Receiver<_> = role.subscribe();
        loop {
            let listing = listings.borrow_and_update().clone();
            self.rosters[position].apply_listing(&listing);
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

struct NoteOnDrop {
    role: Arc<Role>,
    id: usize,
}

impl Drop for NoteOnDrop {
    fn drop(&mut self) {
        self.role.note_applied(self.id, u64::MAX);
    }
}
