//! How a driver comes to be: the addresses, sockets and files that its arguments name.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, path::Path, rc::Rc};

use anyhow::Context;
use feed::{
    Routes, Tags,
    socket::{self, FEED_PATH, READ_ONLY_FEED_PATH, Served, SocketError},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::spawn_local,
    time::Instant,
};

use super::{
    Driver, Event,
    admin::{self, Drains},
    company::Company,
    place::{advertised, bind_failed, bind_udp, hostname, is_in_container},
    serving::{start_role, watch, watch_role},
};
use crate::{
    cluster::{
        labels::Labels,
        member_id::MemberId,
        membership::{Config, Membership},
    },
    config::{Args, Check},
    node::{
        handler::Handlers,
        intake::Intake,
        key_file,
        link::{SharedGate, unix_ms},
        publish::Publisher,
        recent::Recent,
        seats::{Limits, Seats},
        seeds::Sources,
        snapshot, tickets,
    },
    wire::{access::Access, gate::Gate, keyring::Keyring, packet::Envelope},
};

/// Most streams served at a time, lifelines included; others are closed and come again.
const STREAMS_MAX: usize = 1024;
/// One address gets half of them: on one host, or behind one gateway, many sidecars may start at a time.
const STREAMS_SHARE: usize = 2;
/// The role that founds a cluster: everybody's first contact has nobody to contact itself.
const FOUNDING_ROLE: &str = "dnsserver";
/// Who may write to the feed may make the node leave, and handlers run: user and group, not the world.
const FEED_MODE: u32 = 0o660;

impl Driver {
    pub(super) async fn start(mut args: Args, check: Check) -> anyhow::Result<Self> {
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
