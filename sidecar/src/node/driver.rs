//! The one place of the sidecar with sockets, clocks and signals: feeds the membership and carries out its effects.

mod admin;
mod company;
mod desk;
mod errands;
mod news;
mod place;
mod serving;
mod start;
mod streams;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use feed::{FromSidecar, Name, event::Outcome, socket::OwnPath, stats::Stats};
use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

pub use self::admin::admin_token;
use self::{admin::Drains, company::Company};
use crate::{
    cluster::{
        effect::Effect,
        input::Input,
        membership::{Membership, SyncTurn},
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
        key_orders::Round,
        link::{Link, SharedGate, unix_ms},
        publish::{Publisher, Request},
        recent::Recent,
        role::Role,
        seats::{Seat, Seats},
        seeds,
        signals::{Signals, Wish},
        snapshot,
        tickets::Tickets,
    },
    wire::packet::{DATAGRAM_BYTES_MAX, Envelope},
};

/// Longest exchange of states by stream.
const SYNC_TIMEOUT: Duration = Duration::from_secs(3);
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
            Request::Recall(which, reply) => {
                let recall = self.recall();
                spawn_local(async move { drop(reply.send(recall.take(which).await)) });
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

/// The members that the snapshot remembers. Whatever is wrong with the file, the node can do without.
fn former_members(args: &Args) -> Vec<SocketAddr> {
    let Some(path) = &args.snapshot else { return Vec::new() };
    snapshot::read(path, &args.cluster).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "--snapshot is ignored");
        Vec::new()
    })
}
