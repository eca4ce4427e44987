//! The one place of the sidecar with sockets, clocks and signals: feeds the membership and carries out its effects.

mod admin;
mod company;
mod errands;
mod news;
mod place;
mod serving;
mod streams;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::Context;
use feed::{
    FromSidecar, Name, Routes, Tags,
    event::Outcome,
    socket::{self, FEED_PATH, OwnPath, READ_ONLY_FEED_PATH, Served, SocketError},
    stats::Stats,
};
use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

pub use self::admin::admin_token;
use self::{
    admin::Drains,
    company::Company,
    place::{advertised, bind_failed, bind_udp, hostname, is_in_container},
    serving::{start_role, watch, watch_role},
};
use crate::{
    cluster::{
        effect::Effect,
        input::Input,
        labels::Labels,
        member_id::MemberId,
        membership::{Config, Membership, SyncTurn},
        peer::Peer,
        query::QueryId,
    },
    config::{Args, Check},
    node::{
        check::{News, Watch},
        footprint,
        glance::Drained,
        handler::Handlers,
        intake::Intake,
        key_file,
        key_orders::Round,
        link::{Link, SharedGate, unix_ms},
        publish::{Publisher, Request},
        recent::Recent,
        role::Role,
        seats::{Limits, Seat, Seats},
        seeds::{self, Sources},
        signals::{Signals, Wish},
        snapshot,
        tickets::{self, Tickets},
    },
    wire::{
        access::Access,
        gate::Gate,
        keyring::Keyring,
        packet::{DATAGRAM_BYTES_MAX, Envelope},
    },
};

/// Longest exchange of states by stream.
const SYNC_TIMEOUT: Duration = Duration::from_secs(3);
/// Most streams served at a time, lifelines included; others are closed and come again.
const STREAMS_MAX: usize = 1024;
/// One address gets half of them: on one host, or behind one gateway, many sidecars may start at a time.
const STREAMS_SHARE: usize = 2;
/// The role that founds a cluster: everybody's first contact has nobody to contact itself.
const FOUNDING_ROLE: &str = "dnsserver";
/// Who may write to the feed may make the node leave, and handlers run: user and group, not the world.
const FEED_MODE: u32 = 0o660;

/// When the code that only the start needed is given back, and how often what has gathered since.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(2);
const GIVE_BACK_PERIOD: Duration = Duration::from_secs(10);

/// What the helper tasks tell the loop.
enum Event {
    Check(News),
    Seeds(seeds::Known),
    /// Nobody was found, and why.
    Alone(String),
    /// A message of an exchange of states, and who waits for what is to be said to it.
    Sync {
        from: IpAddr,
        message: Vec<u8>,
        turn: SyncTurn,
        answer: Option<oneshot::Sender<Vec<u8>>>,
    },
    SyncEnded(SocketAddr),
    Stream {
        link: Link,
        packet: Vec<u8>,
        seat: Seat<IpAddr>,
    },
    Dead(Peer),
    Outcome(QueryId, Option<Outcome>),
}

/// Runs a sidecar until it is asked to stop or its role's process ends.
///
/// # Errors
/// An address, socket or command that cannot be used; the message names it.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install()?;
    let check = args.check()?;
    let mut driver = tokio::select! {
        started = Driver::start(args, check) => started?,
        // Nobody knows the node yet, and there is no process to leave behind.
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let ended = driver.serve(&mut signals).await;
    driver.role.stop(driver.args.stop_timeout, signals.stop_now()).await;
    Ok(ended)
}

struct Driver {
    args: Args,
    started: Instant,
    membership: Membership,
    publisher: Publisher,
    /// Held: given back when the driver ends. A consumer that outlives this process dials until somebody serves there again.
    _feed: OwnPath,
    role: Role,
    watch: Watch,
    /// None: the role's process does not run, and whoever answers there is not it.
    watching: Option<AbortOnDropHandle<()>>,
    udp: UdpSocket,
    tcp: Intake<TcpListener>,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    requests: mpsc::UnboundedReceiver<Request>,
    envelope: Envelope,
    gate: SharedGate,
    streams: Seats<IpAddr>,
    tickets: Tickets,
    lifelines: BTreeMap<Peer, AbortOnDropHandle<()>>,
    joined: BTreeMap<Name, Instant>,
    company: Company,
    node: Name,
    handlers: Handlers,
    /// Connections that wait for answers of the membership.
    askers: BTreeMap<u64, mpsc::UnboundedSender<FromSidecar>>,
    snapshot: Option<watch::Sender<Vec<SocketAddr>>>,
    drains: Drains,
    recent: Recent,
}

impl Driver {
    async fn start(mut args: Args, check: Check) -> anyhow::Result<Self> {
        let node = args.node.clone().map_or_else(hostname, Ok)?;
        let keys = args.key_file.as_deref().map(key_file::load).transpose()?;
        let founds = args.join.is_empty() && args.role.as_str() == FOUNDING_ROLE;
        let sources = sources(&args, founds);
        let udp = bind_udp(args.bind)?;
        let tcp = TcpListener::bind(args.bind).await.with_context(|| bind_failed("TCP", args.bind))?;
        let ip = advertised(&args, &sources).await?;
        let gossip = SocketAddr::new(ip, udp.local_addr()?.port());

        let (labels, routes) = own_words(&args)?;
        let (requests_out, requests) = mpsc::unbounded_channel();
        let cluster = args.cluster.clone();
        let publisher = Publisher::new(node.clone(), cluster.clone(), labels.clone(), requests_out.clone());
        let feed = serve_feed(&mut args).await?;
        spawn_local(publisher.clone().serve(feed.listener));
        let admin_port = admin::start(&args, ip, &publisher, requests_out).await?;

        let role = start_role(&args, &node)?;
        let (events, inbox) = mpsc::unbounded_channel();
        let (node_name, role_name) = (node.clone(), args.role.clone());
        let config = Config {
            id: MemberId { addr: gossip, instance: unix_ms(), renewal: 0, node: node_name, role: role_name },
            port: args.port,
            admin_port,
            weight: args.weight,
            labels,
            routes,
            cluster,
            founds,
            drain_timeout: args.drain_timeout,
        };
        tracing::info!(%node, role = %args.role, addr = %gossip, "sidecar started");
        let gate = open_gate(&args, gossip, keys);
        let tickets = tickets::keep(&args, founds, &publisher, &gate);
        let company = Company::new(&sources, founds);
        watch_seeds(sources, events.clone());
        let watch = watch(&args, check, gossip, role.others());
        let watching = watch_role(&watch, &events);
        Ok(Self {
            started: Instant::now(),
            membership: Membership::new(config, rand::random()),
            publisher,
            _feed: feed.path,
            udp,
            tcp: Intake::new(tcp, "gossip port"),
            events,
            inbox,
            requests,
            envelope: Envelope::new(&args.cluster),
            tickets,
            gate,
            streams: Seats::new(Limits::within_descriptors(STREAMS_MAX, STREAMS_SHARE)),
            lifelines: BTreeMap::new(),
            joined: BTreeMap::new(),
            company,
            node,
            handlers: Handlers::new(args.handlers.clone(), role.others()),
            askers: BTreeMap::new(),
            snapshot: keep_snapshot(&args),
            drains: Drains::default(),
            recent: Recent::default(),
            watching: Some(watching),
            watch,
            role,
            args,
        })
    }

    async fn serve(&mut self, signals: &mut Signals) -> ExitCode {
        // One byte more than the longest: what fills it was truncated.
        let mut datagram = [0; DATAGRAM_BYTES_MAX + 1];
        let mut code = ExitCode::SUCCESS;
        let mut give_back = interval_at(self.started + GIVE_BACK_AFTER, GIVE_BACK_PERIOD);
        give_back.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.input(Input::Rejoin(former_members(&self.args)));
        self.input(Input::Tick);
        while !self.carry_out() {
            let deadline = self
                .membership
                .next_deadline()
                .map_or_else(|| Instant::now() + Duration::from_secs(1), |d| self.started + d);
            tokio::select! {
                received = self.udp.recv_from(&mut datagram) => match received {
                    Ok((length, from)) => self.handle_datagram(&datagram[..length], from.ip()),
                    // A peer's port was unreachable; the membership notices by itself.
                    Err(error) => tracing::debug!(%error, "receive"),
                },
                () = sleep_until(deadline) => self.input(Input::Tick),
                () = sleep_until(self.company.look_at) => self.look_for_company(),
                _ = give_back.tick() => {
                    if let Err(error) = footprint::give_back_code() {
                        tracing::debug!(%error, "cannot give back memory");
                    }
                }
                (stream, from) = self.tcp.accept() => self.accept_stream(stream, from),
                Some(event) = self.inbox.recv() => self.handle_event(event),
                Some(request) = self.requests.recv() => self.handle_request(request),
                wish = signals.next() => self.handle_wish(wish),
                news = self.role.next(self.membership.is_leaving()) => {
                    // Who stops a whole group, or all of a service, tells both at one moment.
                    if let Some(wish) = signals.next().now_or_never() {
                        self.handle_wish(wish);
                    }
                    code = self.handle_role(news).unwrap_or(code);
                }
            }
        }
        code
    }

    fn handle_wish(&mut self, wish: Wish) {
        match wish {
            Wish::Stop => self.input(Input::Leave),
            Wish::StopNow => {
                tracing::info!("asked to stop again, waiting for no consumer any more");
                self.input(Input::LeaveNow);
            }
            Wish::Pass(signal) if self.role.pass(signal) => {}
            Wish::Pass(signal) => {
                tracing::info!(?signal, "a signal for the role's process, and there is none");
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.started.elapsed();
        if let Err(error) = self.membership.handle(input, now) {
            tracing::debug!(%error, "dropped a packet");
        }
    }

    fn handle_datagram(&mut self, datagram: &[u8], from: IpAddr) {
        let opened = self.gate.borrow_mut().open_datagram(datagram, from, unix_ms());
        match opened {
            Ok(packet) => self.hear(Input::Datagram(&packet), from),
            Err(why) => self.gate.borrow_mut().note_drop(from, why),
        }
    }

    /// Takes an input that somebody else wrote.
    fn hear(&mut self, input: Input<'_>, from: IpAddr) {
        if let Err(why) = self.membership.handle(input, self.started.elapsed()) {
            self.gate.borrow_mut().note_drop(from, why);
        }
    }

    /// Takes a message of an exchange of states; what is to be said to it.
    fn hear_sync(&mut self, message: &[u8], turn: SyncTurn, from: IpAddr) -> Option<Vec<u8>> {
        let answer = self.membership.handle_sync(message, turn, self.started.elapsed());
        answer.unwrap_or_else(|why| {
            self.gate.borrow_mut().note_drop(from, why);
            None
        })
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            // Told before the process ended.
            Event::Check(_) if self.watching.is_none() => {}
            Event::Check(News::Serves) => {
                if self.watch.check != Check::None {
                    self.role.handle_serving();
                }
                self.input(Input::Serving(true));
            }
            Event::Check(News::Fails(trouble)) => self.input(Input::CheckFails(trouble)),
            Event::Seeds(seeds) => {
                self.input(Input::Seeds(seeds.addrs().into_iter().collect()));
                self.company.seeds = seeds;
            }
            Event::Alone(why) => self.apply_alone(why),
            Event::Sync { from, message, turn, answer } => {
                if let Some((answer, bytes)) = answer.zip(self.hear_sync(&message, turn, from)) {
                    let _ = answer.send(bytes);
                }
            }
            Event::SyncEnded(with) => self.input(Input::SyncEnded(with)),
            Event::Stream { link, packet, seat } => self.handle_stream(link, &packet, seat),
            Event::Dead(peer) => self.input(Input::Dead(peer)),
            Event::Outcome(id, outcome) => self.input(Input::Outcome(id, outcome)),
        }
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Consumers => {
                self.input(Input::Follows(self.publisher.follows()));
                self.input(Input::InFlight(self.publisher.in_flight()));
            }
            Request::Labels(labels) => self.input(Input::Labels(labels)),
            Request::Question { to, question, answers } => {
                self.askers.insert(to, answers);
                self.input(Input::Question { to, question });
            }
            Request::Withdrawn(to) => {
                self.askers.remove(&to);
                self.input(Input::Withdrawn(to));
            }
            Request::Leave => self.input(Input::Leave),
            Request::Upgrade(patience, asker) => {
                self.role.upgrade(patience, self.membership.is_leaving(), asker);
            }
            // Who asked may have gone.
            Request::Keys(order, reply) => {
                let round = self.key_round();
                spawn_local(async move { drop(reply.send(round.spread(order).await)) });
            }
            Request::Stats(reply) => drop(reply.send(self.stats())),
            Request::Glance(reply) => drop(reply.send(self.glance())),
            Request::Load(reply) => {
                let survey = self.survey();
                spawn_local(async move { drop(reply.send(survey.take().await)) });
            }
            Request::Recall(id, reply) => {
                let recall = self.recall();
                spawn_local(async move { drop(reply.send(recall.take(id).await)) });
            }
            Request::Drain(reply) => self.handle_drain(reply),
        }
    }

    fn stats(&self) -> Stats {
        Stats { applied: self.publisher.applied(), ..self.gate.borrow().stats() }
    }

    fn key_round(&self) -> Round {
        let members = self.membership.members().map(|member| (member.name.clone(), member.addr));
        Round {
            own: self.gate.borrow().own(),
            members: members.collect(),
            gate: self.gate.clone(),
            envelope: self.envelope,
            file: self.args.key_file.clone(),
        }
    }

    fn handle_drained(&mut self, after: Duration, held_up_by: Vec<Name>) {
        if held_up_by.is_empty() {
            tracing::info!(?after, "drained");
        } else {
            tracing::warn!(?after, ?held_up_by, "drain timed out");
        }
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.drains.note(Drained { after_ms, held_up_by });
    }

    /// Carries out what is due; true when the node has left.
    fn carry_out(&mut self) -> bool {
        let mut has_changed = false;
        while let Some(effect) = self.membership.poll_effect() {
            match effect {
                Effect::Send { to, bytes } => {
                    let bytes = self.gate.borrow_mut().seal_datagram(to, bytes, unix_ms());
                    // A full buffer loses a datagram, as a network does; gossip is made for it.
                    if let Err(error) = self.udp.try_send_to(&bytes, to) {
                        tracing::debug!(%to, %error, "send");
                    }
                }
                Effect::Sync { with } => self.sync_with(with),
                Effect::Lifelines(peers) => self.hold_lifelines(&peers),
                Effect::Tables(tables) => {
                    for table in tables {
                        let changed_ms = self.membership.changed_ms(table.role());
                        self.publisher.publish_table(table, changed_ms);
                    }
                    self.input(Input::InFlight(self.publisher.in_flight()));
                }
                Effect::InTouch => self.publisher.publish_synced(),
                Effect::Reply { to, frame, is_last } => self.reply(to, frame, is_last),
                Effect::Event(event) => self.apply_event(event),
                Effect::Asked { id, asked } => self.work_on(id, asked),
                Effect::Change(member) => {
                    has_changed = true;
                    self.apply_change(member);
                }
                Effect::Twins { name, addrs } => self.warn_of_twins(&name, &addrs),
                Effect::Drained { after, held_up_by } => self.handle_drained(after, held_up_by),
                Effect::Left => return true,
            }
        }
        if has_changed {
            self.publish_members();
        }
        false
    }
}

fn sources(args: &Args, founds: bool) -> Sources {
    let asks_nameservers = args.join_nameservers.unwrap_or_else(is_in_container);
    let resolv_conf = (args.join.is_empty() && !founds && asks_nameservers).then(|| args.resolv_conf.clone());
    Sources { join: args.join.clone(), resolv_conf, zone: args.zone.clone() }
}

fn open_gate(args: &Args, gossip: SocketAddr, keys: Option<Keyring>) -> SharedGate {
    let access = Access { allow: args.allow.clone(), deny: args.deny.clone() };
    Rc::new(RefCell::new(Gate::new(&args.cluster, gossip, access, keys, rand::random())))
}

/// What the operator says of the node.
fn own_words(args: &Args) -> anyhow::Result<(Labels, Routes)> {
    let tags = Tags::new(args.tags.iter().cloned()).context("--tag")?;
    let labels = Labels::new(tags, args.protocol).context("--tag")?;
    let routes = Routes::new(args.routes.iter().cloned()).context("--route")?;
    Ok((labels, routes))
}

fn watch_seeds(sources: Sources, events: mpsc::UnboundedSender<Event>) {
    spawn_local(sources.watch(move |seeds| drop(events.send(Event::Seeds(seeds.clone())))));
}

/// The members that the snapshot remembers. Whatever is wrong with the file, the node can do without.
fn former_members(args: &Args) -> Vec<SocketAddr> {
    let Some(path) = &args.snapshot else { return Vec::new() };
    snapshot::read(path, &args.cluster).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "--snapshot is ignored");
        Vec::new()
    })
}

fn keep_snapshot(args: &Args) -> Option<watch::Sender<Vec<SocketAddr>>> {
    let path = args.snapshot.clone()?;
    let (sender, addrs) = watch::channel(Vec::new());
    spawn_local(snapshot::keep(path, args.cluster.clone(), addrs));
    Some(sender)
}

/// Listens where the arguments say, and has them say where that is.
async fn serve_feed(args: &mut Args) -> anyhow::Result<Served> {
    let mut feed = socket::listen(&args.feed, FEED_MODE).await;
    if args.feed == Path::new(FEED_PATH) && feed.as_ref().is_err_and(SocketError::is_read_only) {
        args.feed = READ_ONLY_FEED_PATH.into();
        feed = socket::listen(&args.feed, FEED_MODE).await;
    }
    feed.with_context(|| format!("--feed {}", args.feed.display()))
}
