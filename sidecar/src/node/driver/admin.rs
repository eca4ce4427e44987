//! The admin port: where it is, and what a drain is there.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
};

use ::admin::Token;
use anyhow::Context;
use feed::stats::Histogram;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::spawn_local,
};

use super::{Driver, desk::Desk};
use crate::{
    cluster::input::Input,
    config::{ADMIN_PORT, AdminAt, Args},
    node::{
        glance::{Drain, Drained, Glance, Process},
        intake::Intake,
        procfs::Usage,
        publish::{Publisher, Request},
        seats::{Limits, Seats},
    },
};

/// Most connections at a time: a few scrapers and probes, and a drain that is waited for. One address has half of them; where it has more,
/// those go that have said nothing for longest.
const CONNECTIONS_MAX: usize = 64;
const CONNECTIONS_SHARE: usize = 2;

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
    spawn_local(admin.serve(Desk::new(publisher, requests, feed)));
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
    use super::*;

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
