//! The feed's sidecar end: a Unix socket that tells tables to consumers and answers questions.
//!
//! A consumer is sent the newest table of each role that is newer than what it was sent: one latest-wins slot a role,
//! so that a slow reader costs bounded memory and never holds up the gossip.

mod connection;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use feed::{
    Endpoint, EndpointId, FromSidecar, Name, RoleTable, ToSidecar,
    event::UserEvent,
    frame::{Applied, Member, MemberState, SidecarHello, VERSION, Wait},
    keys::KeysAt,
    recall::{Account, Which},
    report::Loads,
    stats::{Histogram, Stats},
    ticket::TicketKeys,
};
use rand::{Rng, seq::IteratorRandom};
use tokio::{
    net::UnixListener,
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    cluster::{
        advert::{FOLLOWED_ROLES_MAX, Follows},
        labels::Labels,
    },
    node::{
        glance::{Drained, Glance},
        intake::Intake,
        key_orders::Order,
        link::unix_ms,
        receipts,
        seats::{Limits, Seats},
        shortage::LogPace,
    },
};

/// Most connections at a time: consumers are a handful; the rest are questions. One process may have them all, a script that asks a hundred
/// things at once, until somebody else wants one.
const CONNECTIONS_MAX: usize = 256;
const CONNECTIONS_SHARE: usize = 1;

/// What consumers and askers cause.
pub(crate) enum Request {
    /// The set of followed roles, or what is in flight, changed.
    Consumers,
    /// Somebody changed the node's own tags.
    Labels(Labels),
    /// Somebody asks what the membership answers, for this connection.
    Question { to: u64, question: ToSidecar, answers: mpsc::UnboundedSender<FromSidecar> },
    /// Whoever asked on this connection is gone.
    Withdrawn(u64),
    /// Somebody asked the node to leave.
    Leave,
    /// Somebody wants another process in the place of the role's, if it is ready in this time.
    Upgrade(Duration, mpsc::UnboundedSender<FromSidecar>),
    /// Somebody asked what was counted.
    Stats(oneshot::Sender<Stats>),
    /// Somebody asked for all that is known of the node.
    Glance(oneshot::Sender<Glance>),
    /// Somebody asked how much the cluster has to do.
    Load(oneshot::Sender<Loads>),
    /// Somebody asked what has become of requests.
    Recall(Which, oneshot::Sender<Account>),
    /// Somebody asked the node to drain, and waits for the end of that.
    Drain(oneshot::Sender<Drained>),
    /// Somebody wants something done with the keys of all members.
    Keys(Order, oneshot::Sender<Vec<KeysAt>>),
}

struct Subscription {
    /// What the consumer calls itself.
    name: String,
    /// The newest change of each role that is no news to it any more; by default those before it came.
    seen_ms: BTreeMap<Name, u64>,
    /// When it came.
    since_ms: u64,
    follows: Follows,
    wants_tickets: bool,
    applied: BTreeMap<Name, Applied>,
}

struct Board {
    hello: SidecarHello,
    labels: RefCell<Labels>,
    tables: RefCell<BTreeMap<Name, RoleTable>>,
    /// Counts the publications of tables.
    tables_published: Cell<u64>,
    /// When the newest change in each table was made.
    changed_ms: RefCell<BTreeMap<Name, u64>>,
    applied: RefCell<BTreeMap<String, Histogram>>,
    members: RefCell<Vec<Member>>,
    subscriptions: RefCell<BTreeMap<u64, Subscription>>,
    synced: Cell<bool>,
    /// The keys of session tickets; none before somebody has wanted them.
    tickets: RefCell<Option<TicketKeys>>,
    next_id: Cell<u64>,
    /// By the process at the other end.
    seats: Seats<i32>,
    pace: RefCell<LogPace>,
    /// Counts the changes of all of the above.
    epoch: watch::Sender<u64>,
    /// Made for the first monitor: its room for laggards is a megabyte, and most sidecars never have one.
    changes: OnceCell<broadcast::Sender<FromSidecar>>,
    requests: mpsc::UnboundedSender<Request>,
}

/// The published state and its readers.
#[derive(Clone)]
pub(crate) struct Publisher(Rc<Board>);

impl Publisher {
    pub(crate) fn new(
        node: Name,
        cluster: String,
        labels: Labels,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Self {
        Self(Rc::new(Board {
            hello: SidecarHello { version: VERSION, node, cluster },
            labels: RefCell::new(labels),
            tables: RefCell::default(),
            tables_published: Cell::new(0),
            changed_ms: RefCell::default(),
            applied: RefCell::default(),
            members: RefCell::default(),
            subscriptions: RefCell::default(),
            synced: Cell::new(false),
            tickets: RefCell::default(),
            next_id: Cell::new(0),
            seats: Seats::new(Limits::within_descriptors(CONNECTIONS_MAX, CONNECTIONS_SHARE)),
            pace: RefCell::default(),
            epoch: watch::Sender::new(0),
            changes: OnceCell::new(),
            requests,
        }))
    }

    /// Publishes a table; `changed_ms` is when a member changed what is in it.
    pub(crate) fn publish_table(&self, table: RoleTable, changed_ms: Option<u64>) {
        let role = table.role().clone();
        self.0.changed_ms.borrow_mut().extend(changed_ms.map(|at| (role.clone(), at)));
        self.0.tables.borrow_mut().insert(role, table);
        self.0.tables_published.update(|count| count + 1);
        self.0.bump();
    }

    /// How long it took from changes until consumers had applied them, by consumer.
    pub(crate) fn applied(&self) -> BTreeMap<String, Histogram> {
        self.0.applied.borrow().clone()
    }

    pub(crate) fn publish_synced(&self) {
        self.0.synced.set(true);
        self.0.bump();
    }

    /// Waits until the node knows the cluster.
    pub(crate) async fn in_touch(&self) {
        self.until(|board| board.synced.get()).await;
    }

    /// Whether there is a consumer that wants the keys of session tickets.
    pub(crate) fn wants_tickets(&self) -> bool {
        self.0.wants_tickets()
    }

    /// Waits until there is one.
    pub(crate) async fn tickets_wanted(&self) {
        self.until(Board::wants_tickets).await;
    }

    /// Publishes the keys of session tickets, if they are others than before.
    pub(crate) fn publish_tickets(&self, keys: Option<TicketKeys>) {
        if *self.0.tickets.borrow() != keys {
            *self.0.tickets.borrow_mut() = keys;
            self.0.bump();
        }
    }

    pub(crate) fn publish_change(&self, change: Member) {
        self.0.tell_monitors(FromSidecar::Change(change));
    }

    pub(crate) fn publish_members(&self, members: Vec<Member>) {
        *self.0.members.borrow_mut() = members;
    }

    pub(crate) fn publish_event(&self, event: UserEvent) {
        self.0.tell_monitors(FromSidecar::Event(event));
    }

    /// Waits until the wish has come true for the consumers of this sidecar.
    pub(crate) async fn fulfilled(&self, wish: &Wait) {
        self.until(|board| board.fulfils(wish)).await;
    }

    async fn until(&self, is_so: impl Fn(&Board) -> bool) {
        let mut epoch = self.0.epoch.subscribe();
        while !is_so(&self.0) {
            // The sender is in the board that is held here.
            let _ = epoch.changed().await;
        }
    }

    /// The members as they are, this one included.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.0.members.borrow().clone()
    }

    /// Any of the others that are there, and one of these only where there is nobody else.
    pub(crate) fn any_other(
        &self,
        own: SocketAddr,
        rather_not: &BTreeSet<Name>,
        random: &mut impl Rng,
    ) -> Option<(Name, SocketAddr)> {
        let members = self.0.members.borrow();
        let is_there = |member: &&Member| {
            member.addr != own && !matches!(member.state, MemberState::Left | MemberState::Failed)
        };
        let others = || members.iter().filter(is_there);
        let wanted = others().filter(|member| !rather_not.contains(&member.name)).choose(random);
        let other = wanted.or_else(|| others().choose(random));
        other.map(|member| (member.name.clone(), member.addr))
    }

    /// How many consumers follow this sidecar.
    pub(crate) fn consumers_count(&self) -> usize {
        self.0.subscriptions.borrow().len()
    }

    /// Everything that some consumer follows.
    pub(crate) fn follows(&self) -> Follows {
        let mut roles = Vec::new();
        for subscription in self.0.subscriptions.borrow().values() {
            match &subscription.follows {
                Follows::All => return Follows::All,
                Follows::Roles(more) => roles.extend_from_slice(more),
            }
        }
        roles.sort();
        roles.dedup();
        // The advert has room for so many; whoever follows more is waited for by every role.
        if roles.len() > FOLLOWED_ROLES_MAX { Follows::All } else { Follows::Roles(roles) }
    }

    /// In-flight counts at the draining endpoints that every consumer of their role has stopped choosing.
    pub(crate) fn in_flight(&self) -> BTreeMap<EndpointId, u32> {
        let subscriptions = self.0.subscriptions.borrow();
        let of_table = |table: &RoleTable| {
            let followers = subscriptions.values().filter(|s| s.follows.includes(table.role()));
            receipts::in_flight(table, followers.map(|s| s.applied.get(table.role())))
        };
        self.0.tables.borrow().values().flat_map(of_table).collect()
    }

    /// Serves the socket for ever.
    pub(crate) async fn serve(self, listener: UnixListener) {
        let mut intake = Intake::new(listener, "feed");
        loop {
            let socket = intake.accept().await;
            // Of a process in another container the kernel gives no number: those are one.
            let process = socket.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or_default();
            match self.0.seats.take(process) {
                Some(seat) => {
                    let board = self.0.clone();
                    tokio::task::spawn_local(async move {
                        tokio::select! {
                            () = seat.evicted() => {}
                            () = board.serve_connection(socket, &seat) => {}
                        }
                    });
                }
                None => self.0.warn(&"too many connections, refusing one"),
            }
        }
    }
}

impl Board {
    fn wants_tickets(&self) -> bool {
        self.subscriptions.borrow().values().any(|subscription| subscription.wants_tickets)
    }

    fn bump(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Anybody beside this sidecar can cause these by the thousand.
    fn warn(&self, why: &dyn std::fmt::Debug) {
        if let Some(held_back) = self.pace.borrow_mut().pass(Instant::now().into_std()) {
            tracing::warn!(?why, held_back, "feed");
        }
    }

    /// Takes a receipt for a table that was sent; false for any other.
    fn apply_receipt(&self, id: u64, mut applied: Applied) -> bool {
        let mut subscriptions = self.subscriptions.borrow_mut();
        let Some(subscription) = subscriptions.get_mut(&id) else { return false };
        if !self.is_due(subscription, &mut applied) {
            return false;
        }
        self.measure(subscription, &applied, unix_ms());
        // Most tables have nobody who drains, and then there is nothing to report.
        let mut is_about_drains = !applied.draining.is_empty();
        let before = subscription.applied.insert(applied.role.clone(), applied);
        is_about_drains |= before.is_some_and(|before| !before.draining.is_empty());
        drop(subscriptions);
        self.bump();
        if is_about_drains {
            let _ = self.requests.send(Request::Consumers);
        }
        true
    }

    /// Whether there is such a table for this consumer. What it says of endpoints that do not drain is taken out: whatever a consumer says,
    /// no more is kept than the tables have.
    fn is_due(&self, subscription: &Subscription, applied: &mut Applied) -> bool {
        let tables = self.tables.borrow();
        let table = tables.get(&applied.role);
        let draining: BTreeSet<u64> =
            table.into_iter().flat_map(RoleTable::draining).map(|e| e.instance).collect();
        applied.draining.retain(|at| draining.contains(&at.instance));
        applied.draining.truncate(table.map_or(0, |table| table.draining().count()));
        applied.draining.shrink_to_fit();
        match &subscription.follows {
            Follows::All => table.is_some(),
            Follows::Roles(roles) => roles.contains(&applied.role),
        }
    }

    /// Counts how long the newest change took until this receipt for it.
    fn measure(&self, subscription: &mut Subscription, applied: &Applied, now_ms: u64) {
        let generation = self.tables.borrow().get(&applied.role).map(RoleTable::generation);
        let Some(&changed_ms) = self.changed_ms.borrow().get(&applied.role) else { return };
        let seen_ms = subscription.seen_ms.entry(applied.role.clone()).or_insert(subscription.since_ms);
        if generation == Some(applied.generation) && changed_ms > *seen_ms {
            *seen_ms = changed_ms;
            let mut all = self.applied.borrow_mut();
            if all.len() < CONNECTIONS_MAX || all.contains_key(&subscription.name) {
                all.entry(subscription.name.clone()).or_default().record(now_ms.saturating_sub(changed_ms));
            }
        }
    }

    fn tell_monitors(&self, frame: FromSidecar) {
        if let Some(changes) = self.changes.get() {
            // Nobody may be listening any more.
            let _ = changes.send(frame);
        }
    }

    fn fulfils(&self, wish: &Wait) -> bool {
        let tables = self.tables.borrow();
        let table = tables.get(&wish.role);
        let wanted = |e: &&Endpoint| e.tags.include(&wish.tags);
        let count = |t: &RoleTable| (t.ready().filter(wanted).count(), t.draining().filter(wanted).count());
        let (ready, draining) = table.map_or((0, 0), count);
        let enough = ready >= wish.min as usize;
        let not_too_many = wish.max.is_none_or(|max| ready <= max as usize && draining == 0);
        let generation = table.map_or(0, RoleTable::generation);
        let subscriptions = self.subscriptions.borrow();
        let mut followers = subscriptions.values().filter(|s| s.follows.includes(&wish.role)).peekable();
        let is_seen = !wish.visible || followers.peek().is_some();
        let applied =
            |s: &Subscription| s.applied.get(&wish.role).is_some_and(|a| a.generation >= generation);
        enough && not_too_many && is_seen && followers.all(applied)
    }
}
