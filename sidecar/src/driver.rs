//! The one place of the sidecar with sockets, clocks and signals: feeds the membership and carries out its effects.

mod errands;
mod streams;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::Context;
use feed::{
    FromSidecar, Name, Tags,
    event::Outcome,
    frame::{Member, MemberState},
    stats::Stats,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    access::Access,
    check,
    config::{Args, Check},
    effect::Effect,
    footprint,
    gate::Gate,
    handler::Handlers,
    input::Input,
    key_file,
    key_orders::Round,
    lifeline::Peer,
    link::{Link, SharedGate, unix_ms},
    member_id::MemberId,
    membership::{Config, Membership, SyncTurn},
    packet::{DATAGRAM_BYTES_MAX, Envelope},
    publish::{self, Publisher, Request},
    query::QueryId,
    seeds::Sources,
    snapshot,
    supervise::{Role, describe},
};

/// Longest exchange of states by stream.
const SYNC_TIMEOUT: Duration = Duration::from_secs(3);
/// Most streams served at a time, lifelines included; others are closed and come again.
const STREAMS_MAX: usize = 1024;
/// Kernel buffer for incoming datagrams: a mass start sends thousands within a scheduling delay.
const DATAGRAM_BUFFER_BYTES: usize = 1 << 20;
/// The role that founds a cluster: everybody's first contact has nobody to contact itself.
const FOUNDING_ROLE: &str = "dnsserver";
/// Deadline for looking at the seeds once, at the start, to learn which interface leads to them.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_millis(1200);

/// When the code that only the start needed is given back, and how often what has gathered since.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(2);
const GIVE_BACK_PERIOD: Duration = Duration::from_secs(10);

/// What the helper tasks tell the loop.
enum Event {
    Serving(bool),
    Seeds(Vec<SocketAddr>),
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
        turn: streams::Turn,
    },
    Dead(Peer),
    Outcome(QueryId, Option<Outcome>),
}

/// Runs a sidecar until it is asked to stop or its role's process ends.
///
/// # Errors
/// An address, socket or command that cannot be used; the message names it.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut driver = Driver::start(args).await?;
    let ended = driver.serve().await;
    driver.role.stop().await;
    // Nobody serves the socket any more; a consumer that outlives this process dials until somebody does.
    let _ = std::fs::remove_file(&driver.args.feed);
    Ok(ended)
}

struct Driver {
    args: Args,
    started: Instant,
    membership: Membership,
    publisher: Publisher,
    role: Role,
    udp: UdpSocket,
    tcp: TcpListener,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    requests: mpsc::UnboundedReceiver<Request>,
    terminate: Signal,
    interrupt: Signal,
    envelope: Envelope,
    gate: SharedGate,
    streams: Rc<Cell<usize>>,
    lifelines: BTreeMap<Peer, AbortOnDropHandle<()>>,
    joined: BTreeMap<Name, Instant>,
    node: Name,
    handlers: Handlers,
    /// Connections that wait for answers of the membership.
    askers: BTreeMap<u64, mpsc::UnboundedSender<FromSidecar>>,
    snapshot: Option<watch::Sender<Vec<SocketAddr>>>,
}

impl Driver {
    async fn start(args: Args) -> anyhow::Result<Self> {
        let node = match &args.node {
            Some(node) => node.clone(),
            None => hostname()?,
        };
        let keys = args.key_file.as_deref().map(key_file::load).transpose()?;
        let access = Access { allow: args.allow.clone(), deny: args.deny.clone() };
        let founds = args.join.is_empty() && args.role.as_str() == FOUNDING_ROLE;
        let resolv_conf = (args.join.is_empty() && !founds).then(|| args.resolv_conf.clone());
        let sources = Sources { join: args.join.clone(), resolv_conf, zone: args.zone.clone() };
        let udp = bind_udp(args.bind)?;
        let tcp = TcpListener::bind(args.bind).await.with_context(|| bind_failed("TCP", args.bind))?;
        let ip = advertised(&args, &sources).await?;
        let gossip = SocketAddr::new(ip, udp.local_addr()?.port());

        let tags = Tags::new(args.tags.iter().cloned()).context("--tag (CONCERTINA_TAGS)")?;

        let (requests_out, requests) = mpsc::unbounded_channel();
        let publisher = Publisher::new(node.clone(), args.cluster.clone(), tags.clone(), requests_out);
        let feed = publish::bind(&args.feed).await;
        let feed = feed.with_context(|| format!("--feed {}: cannot listen there", args.feed.display()))?;
        spawn_local(publisher.clone().serve(feed));

        // Before there is a process to leave behind: a signal that came too early would end this one at once.
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let role = Role::start(
            &args.command,
            &[("CONCERTINA_NODE", node.to_string()), ("CONCERTINA_FEED", args.feed.display().to_string())],
        )
        .with_context(|| format!("cannot run {}", args.command.join(" ")))?;

        let (events, inbox) = mpsc::unbounded_channel();
        let id = MemberId {
            addr: gossip,
            instance: unix_ms(),
            renewal: 0,
            node: node.clone(),
            role: args.role.clone(),
        };
        let config = Config {
            id,
            port: args.port,
            weight: args.weight,
            tags,
            cluster: args.cluster.clone(),
            founds,
            drain_timeout: args.drain_timeout,
        };
        tracing::info!(%node, role = %args.role, addr = %gossip, "sidecar started");
        watch_seeds(sources, events.clone());
        watch_role(&args, gossip, events.clone());
        Ok(Self {
            started: Instant::now(),
            membership: Membership::new(config, rand::random()),
            publisher,
            udp,
            tcp,
            events,
            inbox,
            requests,
            terminate,
            interrupt,
            envelope: Envelope::new(&args.cluster),
            gate: Rc::new(RefCell::new(Gate::new(&args.cluster, gossip, access, keys, rand::random()))),
            streams: Rc::default(),
            lifelines: BTreeMap::new(),
            joined: BTreeMap::new(),
            node,
            handlers: Handlers::new(args.handlers.clone(), role.others()),
            askers: BTreeMap::new(),
            snapshot: keep_snapshot(&args),
            role,
            args,
        })
    }

    async fn serve(&mut self) -> ExitCode {
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
                _ = give_back.tick() => {
                    if let Err(error) = footprint::give_back_code() {
                        tracing::debug!(%error, "cannot give back memory");
                    }
                }
                accepted = self.tcp.accept() => self.accept_stream(accepted).await,
                Some(event) = self.inbox.recv() => self.handle_event(event),
                Some(request) = self.requests.recv() => self.handle_request(request),
                _ = self.terminate.recv() => self.input(Input::Leave),
                _ = self.interrupt.recv() => self.input(Input::Leave),
                status = self.role.ended() => {
                    tracing::error!(status = %describe(status), "the role's process ended");
                    code = ExitCode::FAILURE;
                    self.input(Input::RoleDied);
                }
            }
        }
        code
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
            Event::Serving(serving) => {
                tracing::info!(serving, "role check");
                self.input(Input::Serving(serving));
            }
            Event::Seeds(seeds) => self.input(Input::Seeds(seeds)),
            Event::Sync { from, message, turn, answer } => {
                if let Some((answer, bytes)) = answer.zip(self.hear_sync(&message, turn, from)) {
                    let _ = answer.send(bytes);
                }
            }
            Event::SyncEnded(with) => self.input(Input::SyncEnded(with)),
            Event::Stream { link, packet, turn } => self.handle_stream(link, &packet, turn),
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
            Request::Tags(tags) => self.input(Input::Tags(tags)),
            Request::Question { to, question, answers } => {
                self.askers.insert(to, answers);
                self.input(Input::Question { to, question });
            }
            Request::Withdrawn(to) => {
                self.askers.remove(&to);
                self.input(Input::Withdrawn(to));
            }
            Request::Leave => self.input(Input::Leave),
            // Who asked may have gone.
            Request::Keys(order, reply) => {
                let round = self.key_round();
                spawn_local(async move { drop(reply.send(round.spread(order).await)) });
            }
            Request::Stats(reply) => {
                let applied = self.publisher.applied();
                drop(reply.send(Stats { applied, ..self.gate.borrow().stats() }));
            }
        }
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
                Effect::Drained { after, held_up_by } if held_up_by.is_empty() => {
                    tracing::info!(?after, "drained");
                }
                Effect::Drained { after, held_up_by } => {
                    tracing::warn!(?after, ?held_up_by, "drain timed out");
                }
                Effect::Left => return true,
            }
        }
        if has_changed {
            self.publish_members();
        }
        false
    }

    fn apply_change(&mut self, member: Member) {
        let (name, role, addr) = (&member.name, &member.role, member.addr);
        match member.state {
            MemberState::Failed => {
                let after = self.joined.remove(name).map_or(Duration::ZERO, |joined| joined.elapsed());
                let evidence = self.membership.evidence(name).map(tracing::field::debug);
                tracing::warn!(%name, ?after, evidence, "member failed");
            }
            MemberState::Left => {
                self.joined.remove(name);
                tracing::info!(%name, "member left");
            }
            state => {
                if !self.joined.contains_key(name) {
                    self.joined.insert(name.clone(), Instant::now());
                    tracing::info!(%name, %role, %addr, "member joined");
                }
                if state != MemberState::Joining {
                    tracing::info!(%name, state = state.as_str(), "member changed");
                }
            }
        }
        self.publisher.publish_change(member);
    }

    /// The members as they are after changes: once for all that came together, since a newcomer to a large cluster learns of thousands.
    fn publish_members(&self) {
        let members: Vec<Member> = self.membership.members().cloned().collect();
        if let Some(snapshot) = &self.snapshot {
            let others = members.iter().filter(|member| member.name != self.node).map(|member| member.addr);
            let others: Vec<SocketAddr> = others.collect();
            // Who is left alone will need the last others.
            snapshot.send_if_modified(|kept| {
                let news = !others.is_empty() && *kept != others;
                if news {
                    *kept = others;
                }
                news
            });
        }
        self.publisher.publish_members(members);
    }
}

fn watch_seeds(sources: Sources, events: mpsc::UnboundedSender<Event>) {
    spawn_local(sources.watch(move |seeds| drop(events.send(Event::Seeds(seeds)))));
}

fn watch_role(args: &Args, gossip: SocketAddr, events: mpsc::UnboundedSender<Event>) {
    let check = if args.port == 0 { Check::None } else { args.check.clone() };
    let addr = check::address(gossip, args.port);
    spawn_local(check::watch(check, addr, move |serving| drop(events.send(Event::Serving(serving)))));
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

fn bind_failed(protocol: &str, addr: SocketAddr) -> String {
    format!("--bind {addr}: cannot listen for gossip by {protocol} there")
}

fn bind_udp(addr: SocketAddr) -> anyhow::Result<UdpSocket> {
    let udp = std::net::UdpSocket::bind(addr).with_context(|| bind_failed("UDP", addr))?;
    udp.set_nonblocking(true)?;
    // The kernel may grant less; the default then has to do.
    let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(DATAGRAM_BUFFER_BYTES);
    Ok(UdpSocket::from_std(udp)?)
}

/// The address that others reach this node at: as told, as bound, or that of the interface that leads to a seed.
async fn advertised(args: &Args, sources: &Sources) -> anyhow::Result<IpAddr> {
    if let Some(ip) = args.advertise {
        return Ok(ip);
    }
    if !args.bind.ip().is_unspecified() {
        return Ok(args.bind.ip());
    }
    let seeds = timeout(FIRST_LOOK_TIMEOUT, sources.look()).await.unwrap_or_default();
    for seed in seeds {
        let probe = UdpSocket::bind(SocketAddr::new(args.bind.ip(), 0)).await?;
        // Connecting a datagram socket sends nothing: it only asks the routing table.
        if probe.connect(seed).await.is_ok()
            && let Ok(local) = probe.local_addr()
            && !local.ip().is_loopback()
        {
            return Ok(local.ip());
        }
    }
    let interfaces = if_addrs::get_if_addrs().context("cannot list the network interfaces")?;
    let addresses =
        interfaces.iter().filter(|i| !i.is_loopback() && !i.is_link_local()).map(if_addrs::Interface::ip);
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    let own = v4.into_iter().chain(v6).next();
    own.context(
        "no network interface but loopback: give the address that others reach this node at with --advertise",
    )
}

fn hostname() -> anyhow::Result<Name> {
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy();
    let label = hostname.split('.').next().unwrap_or_default();
    label.parse().context("the hostname cannot be the node's name; give one with --node")
}
