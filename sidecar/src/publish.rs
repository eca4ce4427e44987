//! The feed's sidecar end: a Unix socket that tells tables to consumers and answers questions.
//!
//! A consumer is sent the newest table of each role that is newer than what it was sent: one latest-wins slot a role,
//! so that a slow reader costs bounded memory and never holds up the gossip.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    rc::Rc,
    time::Duration,
};

use feed::{
    Endpoint, FromSidecar, Name, RoleTable, Tags, ToSidecar,
    event::UserEvent,
    frame::{Applied, ConsumerHello, FeedError, Member, SidecarCodec, SidecarHello, VERSION, Wait},
    keys::KeysAt,
    stats::{Histogram, Stats},
};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::codec::Framed;

use crate::{
    advert::{FOLLOWED_ROLES_MAX, Follows},
    key_orders::Order,
    link::unix_ms,
};

/// How long a connection may take to say what it wants.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Most connections at a time: consumers are a handful; the rest are questions.
const CONNECTIONS_MAX: usize = 256;
/// Changes that a monitor may lag behind before it is cut off.
const MONITOR_LAG_MAX: usize = 4096;

/// What consumers and askers cause.
pub(crate) enum Request {
    /// The set of followed roles, or what is in flight, changed.
    Consumers,
    /// Somebody changed the node's own tags.
    Tags(Tags),
    /// Somebody asks what the membership answers, for this connection.
    Question { to: u64, question: ToSidecar, answers: mpsc::UnboundedSender<FromSidecar> },
    /// Whoever asked on this connection is gone.
    Withdrawn(u64),
    /// Somebody asked the node to leave.
    Leave,
    /// Somebody asked what was counted.
    Stats(oneshot::Sender<Stats>),
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
    applied: BTreeMap<Name, Applied>,
}

struct Board {
    hello: SidecarHello,
    tags: RefCell<Tags>,
    tables: RefCell<BTreeMap<Name, RoleTable>>,
    /// When the newest change in each table was made.
    changed_ms: RefCell<BTreeMap<Name, u64>>,
    applied: RefCell<BTreeMap<String, Histogram>>,
    members: RefCell<Vec<Member>>,
    subscriptions: RefCell<BTreeMap<u64, Subscription>>,
    synced: Cell<bool>,
    next_id: Cell<u64>,
    connections: Cell<usize>,
    /// Counts the changes of all of the above.
    epoch: watch::Sender<u64>,
    /// Made for the first monitor: its room for laggards is a megabyte, and most sidecars never have one.
    changes: OnceCell<broadcast::Sender<FromSidecar>>,
    requests: mpsc::UnboundedSender<Request>,
}

/// The published state and its readers.
#[derive(Clone)]
pub(crate) struct Publisher(Rc<Board>);

/// Binds the socket, taking the place of one that nobody serves any more.
pub(crate) async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another sidecar serves there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

impl Publisher {
    pub(crate) fn new(
        node: Name,
        cluster: String,
        tags: Tags,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Self {
        Self(Rc::new(Board {
            hello: SidecarHello { version: VERSION, node, cluster },
            tags: RefCell::new(tags),
            tables: RefCell::default(),
            changed_ms: RefCell::default(),
            applied: RefCell::default(),
            members: RefCell::default(),
            subscriptions: RefCell::default(),
            synced: Cell::new(false),
            next_id: Cell::new(0),
            connections: Cell::new(0),
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
        let mut epoch = self.0.epoch.subscribe();
        while !self.0.fulfils(wish) {
            // The sender is in the board that is held here.
            let _ = epoch.changed().await;
        }
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

    /// In-flight counts at the draining instances that every consumer of their role has stopped choosing.
    pub(crate) fn in_flight(&self) -> BTreeMap<u64, u32> {
        let tables = self.0.tables.borrow();
        let draining = tables.values().flat_map(|table| table.draining().map(|e| (table.role(), e.instance)));
        draining
            .filter_map(|(role, instance)| Some((instance, self.0.in_flight_at(role, instance)?)))
            .collect()
    }

    /// Serves the socket for ever.
    pub(crate) async fn serve(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) if self.0.connections.get() < CONNECTIONS_MAX => {
                    let board = self.0.clone();
                    board.connections.set(board.connections.get() + 1);
                    tokio::task::spawn_local(async move {
                        board.serve_connection(socket).await;
                        board.connections.set(board.connections.get() - 1);
                    });
                }
                Ok(_) => tracing::warn!(CONNECTIONS_MAX, "too many feed connections, refusing one"),
                // Out of descriptors or memory: others need the time more than a tight loop does.
                Err(error) => {
                    tracing::warn!(%error, "feed accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

type Connection = Framed<UnixStream, SidecarCodec>;

impl Board {
    fn bump(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// None while some consumer has not applied the drain yet, or where there is no consumer.
    fn in_flight_at(&self, role: &Name, instance: u64) -> Option<u32> {
        let subscriptions = self.subscriptions.borrow();
        let followers = subscriptions.values().filter(|s| s.follows.includes(role));
        followers
            .map(|s| {
                let draining = &s.applied.get(role)?.draining;
                draining.iter().find(|d| d.instance == instance).map(|d| d.in_flight)
            })
            .reduce(|a, b| Some(a?.saturating_add(b?)))
            .flatten()
    }

    async fn serve_connection(&self, socket: UnixStream) {
        let mut connection = Framed::new(socket, SidecarCodec::default());
        let outcome = match timeout(FIRST_FRAME_TIMEOUT, connection.next()).await {
            Ok(Some(Ok(frame))) => self.serve_frame(&mut connection, frame).await,
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Ok(()),
            Err(_) => Err(FeedError::OutOfPlace("nothing said")),
        };
        match outcome {
            Ok(()) | Err(FeedError::Io(_) | FeedError::Closed) => {}
            Err(error) => {
                tracing::warn!(%error, "feed");
                let _ = connection.send(FromSidecar::Refused { why: error.to_string() }).await;
            }
        }
    }

    async fn serve_frame(&self, connection: &mut Connection, frame: ToSidecar) -> Result<(), FeedError> {
        match frame {
            ToSidecar::Hello(hello) => {
                let follows = accept_hello(&hello)?;
                let id = self.next_id.replace(self.next_id.get() + 1);
                tracing::info!(consumer = hello.name, roles = ?hello.roles, "feed consumer came");
                let subscription = Subscription {
                    name: hello.name.clone(),
                    seen_ms: BTreeMap::new(),
                    since_ms: unix_ms(),
                    follows,
                    applied: BTreeMap::new(),
                };
                self.subscriptions.borrow_mut().insert(id, subscription);
                let _ = self.requests.send(Request::Consumers);
                let outcome = self.serve_consumer(connection, id).await;
                self.subscriptions.borrow_mut().remove(&id);
                self.bump();
                let _ = self.requests.send(Request::Consumers);
                tracing::info!(consumer = hello.name, "feed consumer went");
                outcome
            }
            ToSidecar::Members { role, tags } => {
                let mut members = self.members.borrow().clone();
                members.retain(|member| role.as_ref().is_none_or(|role| member.role == *role));
                members.retain(|member| member.tags.include(&tags));
                connection.send(FromSidecar::Members(members)).await
            }
            ToSidecar::Tags { set, delete } => {
                let tags = self.change_tags(set, &delete)?;
                connection.send(FromSidecar::Tags(tags)).await
            }
            ToSidecar::Monitor {} => self.serve_monitor(connection).await,
            question @ (ToSidecar::Event { .. }
            | ToSidecar::Query(_)
            | ToSidecar::ForceLeave { .. }
            | ToSidecar::Explain { .. }) => self.serve_question(connection, question).await,
            ToSidecar::Wait(wish) if wish.everywhere => {
                self.serve_question(connection, ToSidecar::Wait(wish)).await
            }
            ToSidecar::Wait(wish) => self.serve_wait(connection, &wish).await,
            ToSidecar::Leave {} => {
                let _ = self.requests.send(Request::Leave);
                connection.send(FromSidecar::Leaving {}).await
            }
            ToSidecar::Stats {} => {
                let (reply, stats) = oneshot::channel();
                let _ = self.requests.send(Request::Stats(reply));
                connection.send(FromSidecar::Stats(stats.await.map_err(|_| FeedError::Closed)?)).await
            }
            ToSidecar::Keys(asked) => {
                let order = Order::parse(&asked).map_err(FeedError::Refused)?;
                let (reply, answers) = oneshot::channel();
                let _ = self.requests.send(Request::Keys(order, reply));
                connection.send(FromSidecar::Keys(answers.await.map_err(|_| FeedError::Closed)?)).await
            }
            ToSidecar::Applied(_) => Err(FeedError::OutOfPlace("applied before hello")),
        }
    }

    fn change_tags(&self, set: Tags, delete: &[String]) -> Result<Tags, FeedError> {
        let mut own = self.tags.borrow_mut();
        *own = own.changed(set, delete).map_err(|error| FeedError::Refused(error.to_string()))?;
        let _ = self.requests.send(Request::Tags(own.clone()));
        Ok(own.clone())
    }

    async fn serve_consumer(&self, connection: &mut Connection, id: u64) -> Result<(), FeedError> {
        let mut epoch = self.epoch.subscribe();
        let mut sent: BTreeMap<Name, u64> = BTreeMap::new();
        let mut said_synced = false;
        connection.send(FromSidecar::Hello(self.hello.clone())).await?;
        loop {
            let now = *epoch.borrow_and_update();
            for table in self.news(id, &mut sent) {
                connection.send(FromSidecar::Table(table)).await?;
            }
            if self.synced.get() && !said_synced {
                said_synced = true;
                connection.send(FromSidecar::Synced { epoch: now }).await?;
            }
            tokio::select! {
                frame = connection.next() => match frame {
                    None => return Ok(()),
                    Some(Ok(ToSidecar::Applied(applied))) => self.apply_receipt(id, applied),
                    Some(Ok(_)) => return Err(FeedError::OutOfPlace("a question after hello")),
                    Some(Err(error)) => return Err(error),
                },
                _ = epoch.changed() => {}
            }
        }
    }

    /// The followed tables that are newer than what was sent. A role that is followed by name and unknown to a sidecar
    /// that knows the cluster counts as empty, so that the picture is complete with `synced`.
    fn news(&self, id: u64, sent: &mut BTreeMap<Name, u64>) -> Vec<RoleTable> {
        let tables = self.tables.borrow();
        let subscriptions = self.subscriptions.borrow();
        let Some(subscription) = subscriptions.get(&id) else { return Vec::new() };
        let known = tables.values().filter(|table| subscription.follows.includes(table.role())).cloned();
        let unknown = match &subscription.follows {
            Follows::Roles(roles) if self.synced.get() => roles.as_slice(),
            _ => &[],
        };
        let unknown = unknown.iter().filter(|role| !tables.contains_key(*role) && !sent.contains_key(*role));
        let empty = unknown.map(|role| RoleTable::new(role.clone(), 0, Vec::new()));
        let news =
            known.chain(empty).filter(|t| sent.get(t.role()).is_none_or(|sent| *sent < t.generation()));
        let news: Vec<RoleTable> = news.collect();
        sent.extend(news.iter().map(|table| (table.role().clone(), table.generation())));
        news
    }

    fn apply_receipt(&self, id: u64, applied: Applied) {
        if let Some(subscription) = self.subscriptions.borrow_mut().get_mut(&id) {
            self.measure(subscription, &applied, unix_ms());
            subscription.applied.insert(applied.role.clone(), applied);
        }
        self.bump();
        let _ = self.requests.send(Request::Consumers);
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

    async fn serve_monitor(&self, connection: &mut Connection) -> Result<(), FeedError> {
        let mut changes = self.changes.get_or_init(|| broadcast::Sender::new(MONITOR_LAG_MAX)).subscribe();
        let members = self.members.borrow().clone();
        for member in members {
            connection.send(FromSidecar::Change(member)).await?;
        }
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(news) => connection.send(news).await?,
                    Err(_) => return Err(FeedError::OutOfPlace("a monitor that reads too slowly")),
                },
                frame = connection.next() => return match frame {
                    None => Ok(()),
                    Some(_) => Err(FeedError::OutOfPlace("a frame while monitoring")),
                },
            }
        }
    }

    /// Passes a question on, and its answers back, until there are no more or the asker is gone.
    async fn serve_question(
        &self,
        connection: &mut Connection,
        question: ToSidecar,
    ) -> Result<(), FeedError> {
        let to = self.next_id.replace(self.next_id.get() + 1);
        let (answers, mut heard) = mpsc::unbounded_channel();
        let _ = self.requests.send(Request::Question { to, question, answers });
        let outcome = loop {
            tokio::select! {
                answer = heard.recv() => match answer {
                    Some(answer) => match connection.send(answer).await {
                        Ok(()) => {}
                        Err(error) => break Err(error),
                    },
                    None => break Ok(()),
                },
                frame = connection.next() => break match frame {
                    None => Ok(()),
                    Some(_) => Err(FeedError::OutOfPlace("a frame after a question")),
                },
            }
        };
        let _ = self.requests.send(Request::Withdrawn(to));
        outcome
    }

    async fn serve_wait(&self, connection: &mut Connection, wish: &Wait) -> Result<(), FeedError> {
        let asked = Instant::now();
        let mut epoch = self.epoch.subscribe();
        while !self.fulfils(wish) {
            tokio::select! {
                _ = epoch.changed() => {}
                frame = connection.next() => return match frame {
                    None => Ok(()),
                    Some(_) => Err(FeedError::OutOfPlace("a frame while waiting")),
                },
            }
        }
        let after_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        connection.send(FromSidecar::Waited { after_ms }).await
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

fn accept_hello(hello: &ConsumerHello) -> Result<Follows, FeedError> {
    if hello.version != VERSION {
        return Err(FeedError::Version { theirs: hello.version });
    }
    if hello.roles.iter().any(|role| role == "*") {
        return Ok(Follows::All);
    }
    let roles: Result<Vec<Name>, _> = hello.roles.iter().map(|role| role.parse()).collect();
    roles.map(Follows::Roles).map_err(|error: feed::name::NotAName| FeedError::Refused(error.to_string()))
}
