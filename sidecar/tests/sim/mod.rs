//! A cluster of memberships on a virtual clock and a network with delay and loss. Everything follows from the seed.

pub(crate) mod scenes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use feed::{Endpoint, EndpointState, FromSidecar, Name, RoleTable, event::UserEvent, frame::Member};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sidecar::{
    cluster::{
        advert::Follows,
        effect::Effect,
        input::Input,
        labels::Labels,
        member_id::MemberId,
        membership::{Config, Membership, SyncTurn},
        query::{Asked, QueryId},
    },
    wire::packet::{DATAGRAM_BYTES_MAX, SEAL_BYTES},
};

/// What the clocks show when a simulation begins.
pub(crate) const WALL: Duration = Duration::from_secs(1_800_000_000);

/// One way through the simulated network, at least and at most.
const DELAY_US: std::ops::Range<u64> = 100..2_000;

/// When TCP sends again what was lost.
const RESEND_PERIOD: Duration = Duration::from_millis(200);

/// When an exchange that hangs is given up.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3);

enum Delivery {
    Datagram { to: SocketAddr, bytes: Vec<u8> },
    Sync { from: SocketAddr, to: SocketAddr, message: Vec<u8>, turn: SyncTurn },
    SyncEnded { at: SocketAddr, with: SocketAddr },
}

/// A node and what an observer beside it has seen.
pub(crate) struct Node {
    pub(crate) membership: Membership,
    started: Duration,
    /// By which its clock has jumped.
    ahead: Duration,
    /// Its entry in [`Sim::due`].
    due: Option<Duration>,
    pub(crate) tables: BTreeMap<Name, RoleTable>,
    pub(crate) changes: Vec<Member>,
    /// Names with several claims that it told of, and where those are.
    pub(crate) twins: Vec<(String, Vec<SocketAddr>)>,
    pub(crate) drained: Option<(Duration, Vec<Name>)>,
    pub(crate) left: bool,
    pub(crate) in_touch: bool,
    /// Datagrams that were sent to it.
    pub(crate) offered: u64,
    /// Processes that it has seen draining.
    drained_once: BTreeSet<(String, u64)>,
    /// The apps that it listed when it first called its picture complete.
    pub(crate) knew: BTreeSet<String>,
    frozen: bool,
    pub(crate) events: Vec<UserEvent>,
    /// What its askers were told.
    pub(crate) replies: Vec<FromSidecar>,
    /// Queries that wait for an outcome.
    pub(crate) asked: Vec<(QueryId, Asked)>,
    /// So many it was given.
    pub(crate) worked_on: usize,
    pub(crate) at: u16,
    pub(crate) name: String,
    pub(crate) instance: u64,
}

impl Node {
    /// What its clock shows.
    fn local(&self, now: Duration) -> Duration {
        now - self.started + self.ahead
    }

    /// When a member of the role last changed what its table says, as this node knows.
    pub(crate) fn changed_ms(&self, role: &str) -> Option<u64> {
        self.membership.changed_ms(&role.parse().unwrap())
    }

    /// Whether this node lists exactly these processes as ready for the role.
    pub(crate) fn has_ready(&self, role: &str, processes: &BTreeMap<String, u64>) -> bool {
        let ready = self.tables.get(role).into_iter().flat_map(RoleTable::ready);
        let ready = ready.map(|endpoint| (endpoint.node.as_str(), endpoint.instance));
        ready.eq(processes.iter().map(|(name, instance)| (name.as_str(), *instance)))
    }

    /// Takes tables as a consumer beside the node would, and checks what must hold of them at any time.
    fn apply_tables(&mut self, tables: Vec<RoleTable>, started: &BTreeSet<(SocketAddr, u64, String)>) {
        for table in tables {
            for e in table.endpoints() {
                let process = (gossip_addr(e), e.instance, e.node.to_string());
                assert!(started.contains(&process), "never was: {e:?}");
                let process = (process.2, process.1);
                match e.state {
                    EndpointState::Draining => drop(self.drained_once.insert(process)),
                    EndpointState::Ready => assert!(!self.drained_once.contains(&process), "back: {e:?}"),
                    EndpointState::Suspect => {}
                }
            }
            let known = self.tables.insert(table.role().clone(), table.clone());
            assert!(known.is_none_or(|known| known.generation() < table.generation()), "versions go back");
        }
        // Over all roles: a name and an address have one holder.
        let (mut names, mut addrs) = (BTreeSet::new(), BTreeSet::new());
        for e in self.tables.values().flat_map(RoleTable::endpoints) {
            if e.state != EndpointState::Suspect {
                assert!(names.insert(&e.node) && addrs.insert(gossip_addr(e)), "twice: {e:?}");
            }
        }
    }

    /// The names that this node lists as ready for the role.
    pub(crate) fn ready(&self, role: &str) -> BTreeSet<String> {
        self.tables.get(role).into_iter().flat_map(|t| t.ready()).map(|e| e.node.to_string()).collect()
    }
}

fn gossip_addr(endpoint: &Endpoint) -> SocketAddr {
    (endpoint.addr.ip(), endpoint.gossip_port).into()
}

/// Traffic to strangers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    /// Exchanges of states that were tried, and lifelines.
    pub(crate) streams: u64,
}

/// The cluster.
pub(crate) struct Sim {
    pub(crate) now: Duration,
    pub(crate) nodes: BTreeMap<SocketAddr, Node>,
    /// Who wants a tick, and when.
    due: BTreeSet<(Duration, SocketAddr)>,
    /// Every process that there ever was: whatever a table lists is one of them.
    started: BTreeSet<(SocketAddr, u64, String)>,
    queue: BTreeMap<(Duration, u64), Delivery>,
    sequence: u64,
    rng: StdRng,
    /// Probability that a datagram is lost.
    pub(crate) loss: f64,
    /// Probability that a datagram comes twice.
    pub(crate) duplication: f64,
    /// Bytes of all datagrams and states that were sent.
    pub(crate) bytes_sent: u64,
    pub(crate) datagrams_sent: u64,
    /// What was sent to addresses where nobody is.
    pub(crate) outside: Outside,
    /// Whether nothing comes of a stream.
    pub(crate) streams_fail: bool,
    /// Nodes that no datagram reaches and whose datagrams reach nobody.
    pub(crate) deaf: BTreeSet<SocketAddr>,
    /// Pairs that do not reach each other.
    pub(crate) cut: BTreeSet<(SocketAddr, SocketAddr)>,
}

/// The gossip address of the n-th node.
pub(crate) fn addr(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7946))
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            due: BTreeSet::new(),
            started: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
            loss: 0.0,
            duplication: 0.0,
            bytes_sent: 0,
            datagrams_sent: 0,
            outside: Outside::default(),
            streams_fail: false,
            deaf: BTreeSet::new(),
            cut: BTreeSet::new(),
        }
    }

    /// Starts a node that serves at once; its seed is the first address, which founds the cluster.
    pub(crate) fn start(&mut self, at: u16, name: &str, role: &str) {
        self.start_so(at, name, role, Duration::ZERO, Vec::new());
    }

    /// The same on a machine whose wall clock is so much behind the others'.
    pub(crate) fn start_behind(&mut self, behind: Duration, at: u16, name: &str, role: &str) {
        self.start_so(at, name, role, behind, Vec::new());
    }

    /// The same of one that remembers members from before.
    pub(crate) fn start_remembering(&mut self, at: u16, name: &str, role: &str, former: Vec<SocketAddr>) {
        self.start_so(at, name, role, Duration::ZERO, former);
    }

    fn start_so(&mut self, at: u16, name: &str, role: &str, behind: Duration, former: Vec<SocketAddr>) {
        let wall = WALL + self.now - behind;
        let instance = u64::try_from(wall.as_millis()).unwrap();
        let config = Config {
            id: MemberId {
                addr: addr(at),
                instance,
                renewal: 0,
                node: name.parse().unwrap(),
                role: role.parse().unwrap(),
            },
            port: 8080,
            admin_port: 9790,
            weight: 100,
            labels: Labels::default(),
            routes: feed::Routes::default(),
            cluster: "default".into(),
            founds: at == 1,
            drain_timeout: Duration::from_secs(6),
        };
        let node = Node {
            membership: Membership::new(config, self.rng.random()),
            started: self.now,
            ahead: Duration::ZERO,
            due: None,
            tables: BTreeMap::new(),
            changes: Vec::new(),
            twins: Vec::new(),
            drained: None,
            left: false,
            in_touch: false,
            offered: 0,
            drained_once: BTreeSet::new(),
            knew: BTreeSet::new(),
            frozen: false,
            events: Vec::new(),
            replies: Vec::new(),
            asked: Vec::new(),
            worked_on: 0,
            at,
            name: name.to_owned(),
            instance,
        };
        self.started.insert((addr(at), instance, name.to_owned()));
        self.nodes.insert(addr(at), node);
        self.input(at, Input::Rejoin(former));
        if at != 1 {
            self.input(at, Input::Seeds(vec![addr(1)]));
        }
        self.input(at, Input::Serving(true));
    }

    pub(crate) fn node(&self, at: u16) -> &Node {
        &self.nodes[&addr(at)]
    }

    /// The queries that the node has not answered.
    pub(crate) fn take_asked(&mut self, at: u16) -> Vec<(QueryId, Asked)> {
        std::mem::take(&mut self.nodes.get_mut(&addr(at)).unwrap().asked)
    }

    pub(crate) fn keep_asked(&mut self, at: u16, id: QueryId, asked: Asked) {
        self.nodes.get_mut(&addr(at)).unwrap().asked.push((id, asked));
    }

    /// Ends a node without a word.
    pub(crate) fn kill(&mut self, at: u16) {
        if let Some(Node { due: Some(due), .. }) = self.nodes.remove(&addr(at)) {
            self.due.remove(&(due, addr(at)));
        }
    }

    /// Puts a node's clock forward.
    pub(crate) fn jump(&mut self, at: u16, time: Duration) {
        let node = self.nodes.get_mut(&addr(at)).unwrap();
        node.ahead += time;
        self.schedule(addr(at));
    }

    /// Stops a node's process, or lets it go on.
    pub(crate) fn freeze(&mut self, at: u16, frozen: bool) {
        self.nodes.get_mut(&addr(at)).unwrap().frozen = frozen;
        self.schedule(addr(at));
    }

    pub(crate) fn follow(&mut self, at: u16, roles: &[&str]) {
        let roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        self.input(at, Input::Follows(Follows::Roles(roles)));
    }

    pub(crate) fn input(&mut self, at: u16, input: Input<'_>) {
        let node = self.nodes.get_mut(&addr(at)).unwrap();
        let local = node.local(self.now);
        node.membership.handle(input, local).unwrap();
        self.effects(addr(at));
    }

    /// A datagram that nobody here sent.
    pub(crate) fn inject(&mut self, at: u16, datagram: &[u8]) {
        self.handle(addr(at), Input::Datagram(datagram));
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until the claim holds; returns how long that took.
    pub(crate) fn run_until(&mut self, limit: Duration, claim: impl Fn(&Self) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + limit);
        while !claim(self) {
            assert!(self.step(end), "not within {limit:?}");
        }
        self.now - start
    }

    /// Goes to the next event; false when there is none before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let timer = self.due.first().copied();
        let delivery = self.queue.keys().next().map(|(at, _)| *at);
        let timer_at = timer.map_or(Duration::MAX, |(at, _)| at.max(self.now));
        let next = timer_at.min(delivery.unwrap_or(Duration::MAX));
        if next > end {
            return false;
        }
        self.now = next;
        match (timer, self.queue.first_entry()) {
            (_, Some(entry)) if entry.key().0 <= timer_at => {
                let delivery = entry.remove();
                self.deliver(delivery);
            }
            (Some((_, at)), _) => self.handle(at, Input::Tick),
            (None, _) => return false,
        }
        true
    }

    /// Notes when this node wants its next tick.
    fn schedule(&mut self, at: SocketAddr) {
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let runs = !node.left && !node.frozen;
        let due = node
            .membership
            .next_deadline()
            .filter(|_| runs)
            .map(|due| (node.started + due).saturating_sub(node.ahead));
        if let Some(before) = std::mem::replace(&mut node.due, due) {
            self.due.remove(&(before, at));
        }
        self.due.extend(due.map(|due| (due, at)));
    }

    fn handle(&mut self, at: SocketAddr, input: Input<'_>) {
        if let Some(node) = self.nodes.get_mut(&at).filter(|node| !node.left && !node.frozen) {
            let local = node.local(self.now);
            let _ = node.membership.handle(input, local);
            self.effects(at);
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Datagram { to, bytes } => self.handle(to, Input::Datagram(&bytes)),
            Delivery::Sync { from, to, message, turn } => {
                let Some(node) = self.nodes.get_mut(&to).filter(|node| !node.left && !node.frozen) else {
                    return;
                };
                let answer = node.membership.handle_sync(&message, turn, node.local(self.now)).unwrap();
                self.effects(to);
                if let Some(message) = answer {
                    let next = if turn == SyncTurn::First { SyncTurn::Second } else { SyncTurn::Third };
                    self.send_stream(to, from, message, next);
                }
            }
            Delivery::SyncEnded { at, with } => self.handle(at, Input::SyncEnded(with)),
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, delivery: impl FnOnce(SocketAddr) -> Delivery) {
        self.send_after(Duration::ZERO, from, to, delivery);
    }

    fn send_after(
        &mut self,
        pause: Duration,
        from: SocketAddr,
        to: SocketAddr,
        delivery: impl FnOnce(SocketAddr) -> Delivery,
    ) {
        if !self.is_cut(from, to) {
            let delay = Duration::from_micros(self.rng.random_range(DELAY_US));
            self.sequence += 1;
            self.queue.insert((self.now + pause + delay, self.sequence), delivery(to));
        }
    }

    fn is_cut(&self, a: SocketAddr, b: SocketAddr) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// A message by stream: what is lost of it is sent again, which takes time.
    fn send_stream(&mut self, from: SocketAddr, to: SocketAddr, message: Vec<u8>, turn: SyncTurn) {
        if self.streams_fail {
            return;
        }
        self.bytes_sent += message.len() as u64;
        let again = u32::from(self.rng.random::<f64>() < self.loss);
        self.send_after(RESEND_PERIOD * again, from, to, |to| Delivery::Sync { from, to, message, turn });
    }

    fn effects(&mut self, at: SocketAddr) {
        while let Some(effect) = self.nodes.get_mut(&at).and_then(|node| node.membership.poll_effect()) {
            let node = self.nodes.get_mut(&at).unwrap();
            match effect {
                Effect::Send { to, bytes } => {
                    assert!(bytes.len() <= DATAGRAM_BYTES_MAX - SEAL_BYTES, "no room for a seal");
                    self.bytes_sent += bytes.len() as u64;
                    self.datagrams_sent += 1;
                    if let Some(other) = self.nodes.get_mut(&to) {
                        other.offered += 1;
                    } else {
                        self.outside.datagrams += 1;
                        self.outside.bytes += bytes.len() as u64;
                    }
                    if self.deaf.contains(&at) || self.deaf.contains(&to) {
                        continue;
                    }
                    let copies = u32::from(self.rng.random::<f64>() >= self.loss)
                        + u32::from(self.rng.random::<f64>() < self.duplication);
                    for _ in 0..copies {
                        self.send(at, to, |to| Delivery::Datagram { to, bytes: bytes.to_vec() });
                    }
                }
                Effect::Sync { with } => {
                    let message = node.membership.encode_summary();
                    self.send_stream(at, with.addr, message, SyncTurn::First);
                    self.sequence += 1;
                    self.outside.streams += u64::from(!self.nodes.contains_key(&with.addr));
                    let other = self.nodes.get(&with.addr).filter(|other| !other.frozen);
                    let hangs = other.is_none() || self.streams_fail || self.is_cut(at, with.addr);
                    // A process that has ended refuses, and its host is still there to say so.
                    if !hangs && other.is_some_and(|other| other.left) {
                        self.handle(at, Input::Dead(with));
                    }
                    let time = if hangs { STREAM_TIMEOUT } else { Duration::from_millis(5) };
                    let done = (self.now + time, self.sequence);
                    self.queue.insert(done, Delivery::SyncEnded { at, with: with.addr });
                }
                Effect::Tables(tables) => {
                    node.apply_tables(tables, &self.started);
                }
                // Streams of the simulation do not end by death: what these tests see is SWIM alone.
                Effect::Lifelines(peers) => {
                    let outside = peers.iter().filter(|peer| !self.nodes.contains_key(&peer.addr));
                    self.outside.streams += outside.count() as u64;
                }
                Effect::InTouch => {
                    node.in_touch = true;
                    node.knew = node.ready("app");
                }
                Effect::Reply { frame, .. } => node.replies.push(frame),
                Effect::Event(event) => node.events.push(event),
                Effect::Asked { id, asked } => {
                    node.worked_on += 1;
                    node.asked.push((id, asked));
                }
                Effect::Change(member) => node.changes.push(member),
                Effect::Drained { after, held_up_by } => node.drained = Some((after, held_up_by)),
                Effect::Twins { name, addrs } => node.twins.push((name.to_string(), addrs)),
                Effect::Left => node.left = true,
            }
        }
        self.schedule(at);
    }
}
