//! The admin port: where it is, and who answers there. Everything that needs the membership is asked of the driver's loop.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ::admin::{Answer, Asked, Token, asked::Format};
use ::program::metrics::{merge, to_prometheus};
use anyhow::Context;
use feed::{
    FromSidecar, ToSidecar,
    ask::ask,
    control::{self, PROXY, Question, Scraper},
    frame::FeedError,
    stats::Histogram,
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot},
    task::spawn_local,
    time::{Instant, timeout},
};

use super::Driver;
use crate::{
    cluster::input::Input,
    config::{ADMIN_PORT, AdminAt, Args},
    node::{
        glance::{Drain, Drained, Glance, Process, json, targets},
        intake::Intake,
        link::unix_ms,
        procfs::{self, Usage},
        publish::{Publisher, Request},
        seats::{Limits, Seat, Seats, Standing},
    },
};

/// Most connections at a time: a few scrapers and probes, and a drain that is waited for. One address has half of them; where it has more,
/// those go that have said nothing for longest.
const CONNECTIONS_MAX: usize = 64;
const CONNECTIONS_SHARE: usize = 2;

/// How long what was told of the cluster's load is told again: ten that look at it together cost little more than one.
const FRESH_PERIOD: Duration = Duration::from_millis(300);

/// How long the sidecar may take to explain: it has to look.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the admin port and answers there; its port, if others reach it at this address of the node, else 0.
pub(super) async fn start(
    args: &Args,
    ip: IpAddr,
    publisher: &Publisher,
    requests: mpsc::UnboundedSender<Request>,
) -> anyhow::Result<u16> {
    let Some(admin) = Admin::open(args).await? else { return Ok(0) };
    let port = admin.port_at(ip);
    let (publisher, feed) = (publisher.clone(), args.feed.clone());
    let scraper = Scraper::new(feed.clone());
    spawn_local(admin.serve(Desk { publisher, requests, feed, scraper, loads: Arc::default() }));
    Ok(port)
}

/// An admin port that is open.
struct Admin {
    listener: TcpListener,
    token: Option<Token>,
}

impl Admin {
    /// Opens it where the arguments say. None: it is off, or nobody has asked for it and the port is another's.
    async fn open(args: &Args) -> anyhow::Result<Option<Self>> {
        let token = admin_token(args)?;
        let addr = match args.admin {
            Some(AdminAt::Off) => return Ok(None),
            Some(AdminAt::Addr(addr)) => addr,
            None => default_addr(args.bind.ip()),
        };
        match TcpListener::bind(addr).await {
            Ok(listener) => Ok(Some(Self { listener, token })),
            Err(error) if args.admin.is_none() => {
                tracing::warn!(%addr, %error, "no metrics here: the admin port cannot be had; --admin names another");
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("--admin {addr}: cannot listen there")),
        }
    }

    /// Its port, if others reach it at the address at which they reach the node.
    fn port_at(&self, ip: IpAddr) -> u16 {
        let addr = self.listener.local_addr().ok();
        addr.filter(|addr| addr.ip().is_unspecified() || addr.ip() == ip).map_or(0, |addr| addr.port())
    }

    /// Answers whoever comes, for ever.
    async fn serve(self, desk: Desk) {
        let mut intake = Intake::new(self.listener, "admin port");
        let seats: Seats<IpAddr> = Seats::new(Limits::within_descriptors(CONNECTIONS_MAX, CONNECTIONS_SHARE));
        let desk = Rc::new(desk);
        loop {
            let (stream, peer) = intake.accept().await;
            let peer = peer.ip().to_canonical();
            // There is none where all wait for a drain, and those are told its end.
            let Some(seat) = seats.take(peer) else { continue };
            let (desk, token) = (desk.clone(), self.token.clone());
            spawn_local(async move {
                tokio::select! {
                    () = seat.evicted() => {}
                    () = ::admin::serve(stream, peer, token, async |asked| desk.answer(asked, &seat).await) => {}
                }
            });
        }
    }
}

/// The token that lets others than this machine change something.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn admin_token(args: &Args) -> anyhow::Result<Option<Token>> {
    let Some(path) = &args.admin_token_file else { return Ok(None) };
    Token::load(path).with_context(|| format!("--admin-token-file {}", path.display())).map(Some)
}

/// At an address that is this machine's alone, each node of a local cluster has its own.
fn default_addr(bind: IpAddr) -> SocketAddr {
    let ip = if bind.is_loopback() { bind } else { Ipv4Addr::LOCALHOST.into() };
    SocketAddr::new(ip, ADMIN_PORT)
}

/// Who answers.
struct Desk {
    publisher: Publisher,
    requests: mpsc::UnboundedSender<Request>,
    /// Of this sidecar: beside it, the role's process is asked.
    feed: PathBuf,
    scraper: Scraper,
    /// What was told of the cluster's load, and when. Locked while the cluster is asked.
    loads: Arc<Mutex<Option<(Instant, Answer)>>>,
}

impl Desk {
    async fn answer(&self, asked: Asked, seat: &Seat<IpAddr>) -> Answer {
        seat.note(Standing::Spoke);
        let answer = match asked {
            Asked::Sd { role } => {
                Some(Answer::json(200, targets(&self.publisher.members(), role.as_deref())))
            }
            Asked::Reload => Some(self.reload().await),
            Asked::Drain => {
                seat.note(Standing::Proven);
                self.ask(Request::Drain).await.map(|drained| {
                    let status = if drained.held_up_by.is_empty() { 200 } else { 504 };
                    Answer::json(status, json(&Drain::Drained(drained)))
                })
            }
            Asked::Metrics(format) => self.metrics(format).await,
            Asked::Health => {
                self.ask(Request::Glance).await.map(|glance| Answer::text(200, glance.health_line()))
            }
            Asked::Ready => self.ask(Request::Glance).await.map(|glance| {
                let is_ready = glance.health.state == feed::frame::MemberState::Ready;
                Answer::text(if is_ready { 200 } else { 503 }, glance.health_line())
            }),
            Asked::State => self.ask(Request::Glance).await.map(|glance| Answer::json(200, glance.state())),
            Asked::Load => self.load().await,
            Asked::Explain { node } => Some(self.explain(&node).await),
            Asked::Page(page) => Some(Answer::page(page)),
            Asked::Drained => {
                self.ask(Request::Glance).await.map(|glance| Answer::json(200, json(&glance.drain)))
            }
        };
        answer.unwrap_or_else(|| Answer::text(503, "the sidecar is ending"))
    }

    /// Asks the driver's loop; none if that ends first.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        ask_driver(&self.requests, request).await
    }

    /// What is counted here, and what the processes beside it have counted, if they can be asked.
    async fn metrics(&self, format: Format) -> Option<Answer> {
        let glance = self.ask(Request::Glance).await?;
        let own = glance.metrics(procfs::uptime().unwrap_or_default(), Duration::from_millis(unix_ms()));
        let others = self.scraper.metrics().await;
        let all: Vec<&str> = std::iter::once(&own).chain(&others).map(String::as_str).collect();
        let document = merge(&all);
        let body = match format {
            Format::OpenMetrics => document,
            Format::Prometheus => to_prometheus(&document),
        };
        Some(Answer { status: 200, content_type: format.content_type(), body: body.into() })
    }

    /// How much the cluster has to do. Those that ask at nearly one time are told the same: the cluster is asked once.
    async fn load(&self) -> Option<Answer> {
        let mut known = self.loads.clone().lock_owned().await;
        if let Some((at, told)) = &*known
            && at.elapsed() < FRESH_PERIOD
        {
            return Some(told.clone());
        }
        let requests = self.requests.clone();
        // Whoever asks and goes at once would leave a survey behind each time, and nothing told: so it goes on without him, and holds
        // the lock until it is over.
        let asking = spawn_local(async move {
            let told = Answer::json(200, json(&ask_driver(&requests, Request::Load).await?));
            *known = Some((Instant::now(), told.clone()));
            Some(told)
        });
        asking.await.ok()?
    }

    /// What this node knows of a member, and why: asked where people ask it.
    async fn explain(&self, node: &str) -> Answer {
        let Ok(name) = node.parse() else { return Answer::text(400, "expected the name of a node") };
        let asking = async { ask(&self.feed, ToSidecar::Explain { name }).await?.next().await };
        match timeout(EXPLAIN_TIMEOUT, asking).await {
            Ok(Ok(FromSidecar::Explained(explanation))) => Answer::json(200, json(&explanation)),
            Ok(Err(FeedError::Refused(why))) => Answer::text(404, why),
            Ok(_) | Err(_) => Answer::text(503, "the sidecar has not answered"),
        }
    }

    async fn reload(&self) -> Answer {
        match control::ask(&self.feed, PROXY, Question::Reload).await {
            Ok(control::Answer::Done(difference)) => Answer::text(200, difference.trim_end()),
            Ok(control::Answer::Refused(why)) => Answer::text(422, why.trim_end()),
            Err(error) => Answer::text(502, format!("no proxy answers beside this sidecar: {error}")),
        }
    }
}

async fn ask_driver<T>(
    requests: &mpsc::UnboundedSender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).ok()?;
    answer.await.ok()
}

/// The drains of this node, and who waits for the end of one.
#[derive(Debug, Default)]
pub(super) struct Drains {
    last: Option<Drained>,
    waiting: Vec<oneshot::Sender<Drained>>,
    times: Histogram,
    timed_out_count: u64,
}

impl Drains {
    /// One is over.
    pub(super) fn note(&mut self, drained: Drained) {
        self.times.record(drained.after_ms);
        self.timed_out_count += u64::from(!drained.held_up_by.is_empty());
        // Who asked may have gone.
        self.waiting.drain(..).for_each(|waiting| drop(waiting.send(drained.clone())));
        self.last = Some(drained);
    }

    /// Somebody waits for the end of one.
    fn wait(&mut self, reply: oneshot::Sender<Drained>) {
        match &self.last {
            Some(drained) => drop(reply.send(drained.clone())),
            None => {
                self.waiting.retain(|waiting| !waiting.is_closed());
                self.waiting.push(reply);
            }
        }
    }
}

impl Driver {
    pub(super) fn handle_drain(&mut self, reply: oneshot::Sender<Drained>) {
        self.drains.wait(reply);
        self.input(Input::Drain);
    }

    pub(super) fn glance(&self) -> Glance {
        let drain = match (self.membership.drain_held_up_by(), &self.drains.last) {
            (Some(held_up_by), None) => Drain::Draining { held_up_by },
            (_, Some(drained)) => Drain::Drained(drained.clone()),
            (None, None) => Drain::None,
        };
        let role = self.role.pid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        let processes = [("sidecar", Some(std::process::id())), ("role", role)];
        let process =
            |(what, pid): (&'static str, Option<u32>)| Some(Process { what, usage: Usage::of(pid?)? });
        Glance {
            health: self.membership.own_health(),
            role: self.args.role.clone(),
            cluster: self.args.cluster.clone(),
            members: self.publisher.members(),
            consumers_count: self.publisher.consumers_count(),
            stats: self.stats(),
            drain,
            recent: self.recent.clone(),
            drains: self.drains.times.clone(),
            drains_timed_out: self.drains.timed_out_count,
            processes: processes.into_iter().filter_map(process).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use feed::report::Loads;
    use futures_util::FutureExt;
    use tokio::{task::LocalSet, time::advance};

    use super::*;
    use crate::cluster::labels::Labels;

    async fn told_once(desk: &Desk, requests: &mut mpsc::UnboundedReceiver<Request>) -> Answer {
        let surveying = async {
            let Some(Request::Load(reply)) = requests.recv().await else { panic!("asks for something else") };
            reply.send(Loads::default()).unwrap();
        };
        let (first, second, ()) = tokio::join!(desk.load(), desk.load(), surveying);
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.body.as_ptr(), second.body.as_ptr(), "it is there once");
        assert!(requests.try_recv().is_err(), "the cluster is asked once");
        first
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn those_that_ask_for_the_load_and_go_at_once_cause_one_survey() {
        let asking = async {
            let (outbox, mut requests) = mpsc::unbounded_channel();
            let (node, cluster, labels) = ("app1".parse().unwrap(), "default".into(), Labels::default());
            let publisher = Publisher::new(node, cluster, labels, outbox.clone());
            let feed = PathBuf::from("/none/feed.sock");
            let scraper = Scraper::new(feed.clone());
            let desk = Desk { publisher, requests: outbox, feed, scraper, loads: Arc::default() };
            for _ in 0..3 {
                assert_eq!(desk.load().now_or_never(), None, "who asks goes");
                tokio::task::yield_now().await;
            }
            let told = told_once(&desk, &mut requests).await;
            advance(FRESH_PERIOD - Duration::from_millis(1)).await;
            assert_eq!(desk.load().await, Some(told), "it is told again");
            assert!(requests.try_recv().is_err());
            advance(Duration::from_millis(1)).await;
            told_once(&desk, &mut requests).await;
        };
        LocalSet::new().run_until(asking).await;
    }

    #[test]
    fn by_default_the_port_is_this_machines_alone_and_each_nodes_own() {
        for (bind, addr) in [
            ("0.0.0.0", "127.0.0.1:9790"),
            ("10.0.0.7", "127.0.0.1:9790"),
            ("127.89.1.1", "127.89.1.1:9790"),
            ("::1", "[::1]:9790"),
        ] {
            assert_eq!(default_addr(bind.parse().unwrap()), addr.parse().unwrap());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_port_is_told_to_others_only_where_they_reach_it() {
        let open = async |addr: &str| Admin { listener: TcpListener::bind(addr).await.unwrap(), token: None };
        let (near, here) = ("127.0.0.1".parse().unwrap(), "10.0.0.7".parse().unwrap());
        let admin = open("127.0.0.1:0").await;
        assert_eq!(admin.port_at(here), 0);
        assert_ne!(admin.port_at(near), 0);
        assert_ne!(open("0.0.0.0:0").await.port_at(here), 0);
    }

    #[test]
    fn who_asks_for_a_drain_that_is_over_is_told_at_once() {
        let mut drains = Drains::default();
        let (first, mut heard) = oneshot::channel();
        drains.wait(first);
        assert!(heard.try_recv().is_err());
        let drained = Drained { after_ms: 7, held_up_by: vec!["p".parse().unwrap()] };
        drains.note(drained.clone());
        assert_eq!(heard.try_recv(), Ok(drained.clone()));
        let (second, mut heard) = oneshot::channel();
        drains.wait(second);
        assert_eq!(heard.try_recv(), Ok(drained));
        assert_eq!((drains.times.count, drains.timed_out_count), (1, 1));
    }
}
