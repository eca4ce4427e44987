//! The membership state machine: inputs and the time in, effects out. No socket, no clock, no global randomness.
//!
//! The picture of the cluster is never built from up and down notifications, which do not come in pairs (a restart or a
//! reused address shows as a rename only). They only say which addresses have moved; what is there now is taken from
//! foca's member list and the adverts.

mod explaining;
mod gossip;
mod joining;
mod leaving;
mod proving;
pub(crate) mod questions;
mod renewing;
mod settling;
mod suspecting;
mod syncing;

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use feed::{
    Name, Routes,
    explain::Evidence,
    frame::{Member, MemberState},
};
use foca::{AccumulatingRuntime, Foca, Timer};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    cluster::{
        advert::{Advert, Adverts, Follows},
        broadcast::{Broadcast, Handler},
        codec::{Codec, Horizon, fault_of},
        drain::{Barrier, Report, Reports},
        effect::Effect,
        event::Events,
        explain::Stories,
        health::Health,
        input::Input,
        labels::Labels,
        member_id::MemberId,
        peer::Peer,
        picture::Picture,
        query::Queries,
        role_tables::RoleTables,
        timers::Timers,
        twins::Twins,
        verdicts::Verdicts,
    },
    wire::{
        packet::{Envelope, Kind, PacketError},
        swim::foca_config,
    },
};

/// Changes within this time become one table.
const SETTLE_PERIOD: Duration = Duration::from_millis(10);
/// First pause between announcements while alone; doubles up to a maximum.
const ANNOUNCE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The same while a seed that was a member is none any more: a restarted dnsserver is an island with every newcomer in it
/// until somebody of the old cluster speaks to it.
const REANNOUNCE_LOST_PERIOD: Duration = Duration::from_millis(250);
/// Longest pause between exchanges of states with some member; the pause with one whose advert is missing, and after one that taught
/// something.
const SYNC_PERIOD: Duration = Duration::from_secs(10);
const SYNC_REPAIR_PERIOD: Duration = Duration::from_millis(200);
/// How long newcomers that know nobody else wait before they are a cluster: time for one who knows it to answer.
const FOUNDING_PERIOD: Duration = Duration::from_secs(1);

/// Effects that room is kept for. The first exchange with a large cluster makes one for each of its members, as does
/// a partition that heals, and seldom anything else.
const EFFECTS_KEPT_COUNT: usize = 64;

/// What a node is and knows when it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its identity; `id.instance` is its start in milliseconds since the Unix epoch, at the clock's zero.
    pub id: MemberId,
    /// Where its role's process listens, 0 for nowhere.
    pub port: u16,
    /// Where this sidecar is asked by HTTP at its gossip address, 0 for nowhere.
    pub admin_port: u16,
    /// Its share of the work.
    pub weight: u16,
    /// What its operator says of it.
    pub labels: Labels,
    /// Which requests it claims for its role.
    pub routes: Routes,
    /// The cluster's name.
    pub cluster: String,
    /// Whether it may take itself for the first of its cluster: it has no seeds.
    pub founds: bool,
    /// Longest wait for consumers to let go.
    pub drain_timeout: Duration,
}

#[derive(Debug)]
enum Phase {
    Member,
    Draining(Barrier),
    Leaving { farewells: u32, next_at: Duration },
    Left,
}

use joining::Service;
pub use syncing::SyncTurn;

type Gossip = Foca<MemberId, Codec, StdRng, Handler>;

/// One node's share of the cluster's state.
pub struct Membership {
    config: Config,
    envelope: Envelope,
    horizon: Horizon,
    foca: Gossip,
    /// By which the own objections to suspicions are told apart.
    own_incarnation: foca::Incarnation,
    health: Health,
    runtime: AccumulatingRuntime<MemberId>,
    timers: Timers<Timer<MemberId>>,
    adverts: Rc<RefCell<Adverts>>,
    events: Rc<RefCell<Events>>,
    own: Advert,
    phase: Phase,
    /// Whether something moved that a drain may have waited for.
    recheck_barrier: bool,
    seeds: Vec<SocketAddr>,
    /// Members from before this start, and until when they are tried although others are there.
    former: Vec<SocketAddr>,
    former_until: Duration,
    /// Seeds that were members at some time.
    met_seeds: BTreeSet<SocketAddr>,
    announce_at: Duration,
    announce_pause: Duration,
    sync_at: Duration,
    sync_pause: Duration,
    /// Changes since the last exchange.
    unsynced_count: usize,
    syncing: BTreeSet<SocketAddr>,
    /// The same with suspects, which are apart: they hang if the suspicion is right.
    appealing: BTreeSet<SocketAddr>,
    in_touch: bool,
    /// Why nobody was found, when that was last looked into.
    alone: Option<String>,
    /// When a node with nothing but newcomers about it takes them for the cluster.
    founds_at: Option<Duration>,
    service: Service,
    settle_at: Option<Duration>,
    forget_at: Duration,
    /// Addresses at which something may have changed.
    moved: BTreeSet<SocketAddr>,
    picture: Picture,
    lifelines: Vec<Peer>,
    tables: RoleTables,
    reports: Reports,
    queries: Queries,
    stories: Stories,
    suspects: suspecting::Suspects,
    renewals: renewing::Renewals,
    proofs: proving::Proofs,
    verdicts: Verdicts,
    twins: Twins,
    /// What is being looked at, for the stories.
    cause: Evidence,
    rng: StdRng,
    effects: VecDeque<Effect>,
}

impl Membership {
    /// A node that has just started; `seed` makes its random choices repeatable.
    pub fn new(config: Config, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (adverts, events): (Rc<RefCell<Adverts>>, Rc<RefCell<Events>>) = Default::default();
        let own_addr = config.id.addr;
        let handler = Handler { adverts: adverts.clone(), events: events.clone(), own_addr };
        let foca_rng = StdRng::seed_from_u64(rng.random());
        let horizon = Horizon::at(config.id.instance);
        let codec = Codec::new(horizon.clone());
        let foca = Foca::with_custom_broadcast(config.id.clone(), foca_config(1), foca_rng, codec, handler);
        let own = first_advert(&config);
        // Who is told of this node by an exchange of states need not ask again for its advert.
        adverts.borrow_mut().apply(own.clone(), (Evidence::Itself, None));
        let mut node = Self {
            envelope: Envelope::new(&config.cluster),
            horizon,
            foca,
            own_incarnation: foca::Incarnation::default(),
            health: Health::default(),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::new(),
            adverts,
            events,
            own,
            phase: Phase::Member,
            recheck_barrier: false,
            seeds: Vec::new(),
            former: Vec::new(),
            former_until: Duration::ZERO,
            met_seeds: BTreeSet::new(),
            announce_at: Duration::ZERO,
            announce_pause: ANNOUNCE_PAUSE_MIN,
            sync_at: SYNC_PERIOD,
            sync_pause: SYNC_REPAIR_PERIOD,
            unsynced_count: 0,
            syncing: BTreeSet::new(),
            appealing: BTreeSet::new(),
            in_touch: false,
            alone: None,
            founds_at: None,
            service: Service::Unchecked,
            settle_at: Some(Duration::ZERO),
            forget_at: Duration::ZERO,
            moved: BTreeSet::from([config.id.addr]),
            picture: Picture::default(),
            lifelines: Vec::new(),
            tables: RoleTables::default(),
            reports: Reports::default(),
            queries: Queries::default(),
            stories: Stories::default(),
            suspects: suspecting::Suspects::default(),
            renewals: renewing::Renewals::default(),
            proofs: proving::Proofs::default(),
            verdicts: Verdicts::default(),
            twins: Twins::default(),
            cause: Evidence::Itself,
            rng,
            effects: VecDeque::new(),
            config,
        };
        // Whoever founds a cluster is one by itself, from its first input on, unless it remembers others.
        node.founds_at = node.config.founds.then_some(Duration::ZERO);
        node
    }

    /// Takes what happened. The effects are then due; see [`Membership::poll_effect`].
    ///
    /// # Errors
    /// A datagram or state that was dropped, and why; the node is unharmed.
    pub fn handle(&mut self, input: Input<'_>, now: Duration) -> Result<(), PacketError> {
        // A node that said goodbye must not listen any more: the echo of its own farewell would bring it back.
        let gone = matches!(self.phase, Phase::Leaving { .. } | Phase::Left);
        self.set_now(now);
        self.cause = input.evidence();
        let result = match input {
            Input::Datagram(_) if gone => Ok(()),
            Input::Datagram(packet) => self.handle_datagram(packet, now),
            other => {
                self.handle_other(other, gone, now);
                Ok(())
            }
        };
        self.advance(now);
        result
    }

    /// What cannot be wrong.
    fn handle_other(&mut self, input: Input<'_>, gone: bool, now: Duration) {
        match input {
            Input::Tick | Input::Datagram(_) => {}
            Input::SyncEnded(with) => {
                self.syncing.remove(&with);
                self.appealing.remove(&with);
            }
            Input::Seeds(seeds) => self.handle_seeds(seeds, now),
            Input::Rejoin(addrs) => self.handle_rejoin(addrs, now),
            Input::Serving(_) | Input::CheckFails(_) => self.handle_check(&input, now),
            Input::Follows(follows) => self.readvertise(now, |own| own.follows = follows),
            Input::Labels(labels) => self.readvertise(now, |own| own.labels = labels),
            Input::InFlight(counts) => self.reports.apply_counts(counts),
            Input::Dead(peer) if !gone => self.handle_dead(peer),
            Input::Question { to, question } => self.handle_question(to, question, now),
            Input::Withdrawn(to) => self.queries.withdraw(to),
            Input::Outcome(id, outcome) => self.handle_outcome(id, outcome),
            Input::Alone(why) => {
                self.alone = Some(why);
                self.apply_readiness(now);
            }
            Input::Drain => self.handle_drain(now),
            Input::Leave => self.handle_leave(now),
            Input::LeaveNow => self.handle_leave_now(now),
            Input::RoleDied if !gone => {
                let state = if self.is_leaving() { MemberState::Left } else { MemberState::Failed };
                self.apply_farewell(state, now);
            }
            Input::Dead(_) | Input::RoleDied => {}
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if effect.is_none() {
            self.effects.shrink_to(EFFECTS_KEPT_COUNT);
        }
        effect
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Member => Some(self.announce_at.min(self.sync_at)),
            // Who stays takes part in everything.
            Phase::Draining(barrier) => barrier.next_deadline().or(Some(self.announce_at.min(self.sync_at))),
            Phase::Leaving { next_at, .. } => Some(*next_at),
            Phase::Left => None,
        };
        let founding = self.founds_at.filter(|_| !self.in_touch && matches!(self.phase, Phase::Member));
        let (reports, queries) = (self.reports.next_deadline(), self.queries.next_deadline());
        let asks = matches!(self.phase, Phase::Member | Phase::Draining(_));
        let suspects = self.suspects.next_deadline().filter(|_| asks);
        let timers = self.timers.next_deadline();
        let renewal = self.renewals.next_deadline().filter(|_| asks);
        let own = [phase, founding, timers, suspects, renewal, self.settle_at];
        own.into_iter().chain([reports, queries]).flatten().min()
    }

    /// The packet that introduces this node on a lifeline.
    pub fn encode_lifeline(&self) -> Vec<u8> {
        self.envelope.encode(Kind::Lifeline, &self.config.id.peer().encode())
    }

    /// Whether anybody else is known.
    pub fn has_company(&self) -> bool {
        self.foca.num_members() > 0
    }

    /// Whether the node drains, or more.
    pub fn is_leaving(&self) -> bool {
        !matches!(self.phase, Phase::Member)
    }

    /// The members as they are, this one included.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.picture.listed().map(|listed| &listed.member)
    }

    /// When a member of the role last changed what its table says of it, by its own clock in milliseconds since the Unix epoch.
    pub fn changed_ms(&self, role: &Name) -> Option<u64> {
        let adverts = self.adverts.borrow();
        let serving = self.members().filter(|member| member.role == *role);
        serving.filter_map(|m| adverts.of(m.addr, m.instance)).map(|advert| advert.changed_ms).max()
    }

    fn handle_datagram(&mut self, packet: &[u8], now: Duration) -> Result<(), PacketError> {
        match self.envelope.parse(packet)? {
            // foca's header begins with its sender, which begins with its address.
            (Kind::Gossip, payload) => match postcard::take_from_bytes(payload) {
                Ok((sender, _)) if self.is_known(sender) => self.hear_gossip(sender, payload, now)?,
                Ok((sender, _)) => self.ask_for_proof(sender, payload, now)?,
                Err(_) => return Err(PacketError::Malformed),
            },
            (Kind::Prove, payload) => self.handle_prove(payload)?,
            (Kind::Proof, payload) => self.handle_proof(payload, now)?,
            (Kind::Drain, payload) => {
                let report = Report::parse(payload).ok_or(PacketError::Malformed)?;
                if let Phase::Draining(barrier) = &mut self.phase
                    && report.instance == self.config.id.instance
                {
                    barrier.handle_report(&report);
                    self.recheck_barrier = true;
                }
            }
            (Kind::Query, payload) => self.handle_query(payload, now)?,
            (Kind::Reply, payload) => self.handle_reply(payload, now)?,
            (kind, _) => return Err(PacketError::Kind(kind as u8)),
        }
        Ok(())
    }

    /// Takes a gossip packet of one that is where it says.
    fn hear_gossip(&mut self, sender: SocketAddr, payload: &[u8], now: Duration) -> Result<(), PacketError> {
        if self.renewals.is_waiting() {
            return Ok(());
        }
        self.stories.note_heard(sender, now);
        let outcome = self.foca.handle_data(payload, &mut self.runtime);
        let fault = fault_of(&outcome);
        self.note(outcome);
        fault.map_or(Ok(()), Err)
    }

    /// The death of exactly this process: whoever restarted at the address since is another identity.
    fn handle_dead(&mut self, peer: Peer) {
        let ids = self.foca.iter_members().map(foca::Member::id);
        let dead = { ids }.find(|id| id.addr == peer.addr && id.instance == peer.instance).cloned();
        if let Some(id) = dead {
            let outcome = self.foca.apply_many([foca::Member::down(id)].into_iter(), true, &mut self.runtime);
            self.note(outcome);
            let outcome = self.foca.gossip(&mut self.runtime);
            self.note(outcome);
        }
    }

    /// Changes the own advert and spreads the new version at once.
    fn readvertise(&mut self, now: Duration, change: impl FnOnce(&mut Advert)) {
        let before = self.own.clone();
        change(&mut self.own);
        if self.own != before || self.own.version == 0 {
            // Whom it follows is in no table.
            if (self.own.state, &self.own.labels) != (before.state, &before.labels) {
                self.own.changed_ms = self.config.id.instance + millis(now);
            }
            self.spread_own();
        }
    }

    fn spread_own(&mut self) {
        self.own.version += 1;
        let outcome = self.foca.add_broadcast(&Broadcast::Advert(self.own.clone()).encode()).map(drop);
        self.note(outcome);
        let outcome = self.foca.gossip(&mut self.runtime);
        self.note(outcome);
    }

    fn set_now(&mut self, now: Duration) {
        self.adverts.borrow_mut().set_now(now);
        self.events.borrow_mut().set_now(now);
        self.horizon.set_now(self.config.id.instance.saturating_add(millis(now)));
    }

    /// Everything that follows from an input or from time: timers, periodic work, the new picture, packets.
    fn advance(&mut self, now: Duration) {
        self.fire_timers(now);
        self.renew(now);
        if self.adverts.borrow().changed_count() > 0 {
            self.unsettle(now);
        }
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle(now);
        }
        match &self.phase {
            Phase::Member => {
                if !self.in_touch && self.founds_at.is_some_and(|at| at <= now) {
                    self.apply_in_touch(now);
                }
                self.announce(now);
                self.sync(now);
                self.advance_suspects(now);
            }
            Phase::Draining(barrier) => {
                if barrier.is_at_rest() {
                    self.announce(now);
                    self.sync(now);
                }
                self.advance_suspects(now);
                self.check_barrier(now);
            }
            Phase::Leaving { .. } => self.say_farewell(now),
            Phase::Left => {}
        }
        self.report(now);
        self.tell_events(now);
        self.advance_queries(now);
        self.drain_runtime(now);
    }
}

/// What a node says of itself before it knows anybody.
fn first_advert(config: &Config) -> Advert {
    Advert {
        addr: config.id.addr,
        instance: config.id.instance,
        version: 0,
        state: MemberState::Joining,
        port: config.port,
        admin_port: config.admin_port,
        weight: config.weight,
        since_ms: config.id.instance,
        changed_ms: config.id.instance,
        follows: Follows::Roles(Vec::new()),
        labels: config.labels.clone(),
        routes: config.routes.clone(),
        check: None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
