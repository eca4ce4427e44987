//! A whole cluster on this machine without containers: real processes, each node on its own loopback address.
//!
//! ```text
//! file ─▶ services ─▶ layout ─▶ Cluster ─▶ node (sidecar process ─▶ role process)
//! scale, node ──control socket──▶ Cluster
//! ```
//!
//! Nothing of the cluster's inner life is here: nodes find each other by gossip, as they do in containers.

mod authority;
mod claims;
mod cluster;
mod command_line;
mod control;
mod file;
mod layout;
mod logs;
mod probe;
mod processes;
mod service;
mod sight;
mod told;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
};

use anyhow::Context;
use feed::Name;
use proxy::config::{Listen, Protocol, RequestIds};
use tokio::signal::unix::{SignalKind, signal};

use cluster::{Cluster, Start};
use control::Order;
use layout::{Layout, Plan};
use service::{NODES_OF_ROLE_MAX, Services};

pub(crate) use logs::{LogsArgs, logs};

use crate::{
    place::{Dir, feed_path},
    say::mention,
};

/// Where the services of the example listen, each node at its own address.
const EXAMPLE_PORT: u16 = 8080;

/// Whoever tries something out asks `explain request` why it was so, and may choose the id.
const REQUEST_IDS: RequestIds = RequestIds::Keep;

/// `concertina up`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Front services to start with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(NODES_OF_ROLE_MAX)))]
    front: u8,
    /// App services to start with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(NODES_OF_ROLE_MAX)))]
    app: u8,
    /// The services of your own to run instead: a file that says each one's command, routes and so on
    #[arg(long, value_name = "PATH", conflicts_with_all = ["front", "app"])]
    file: Option<PathBuf>,
    /// Where the proxy listens; port 0 takes a free one [default: what the file says, or 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_addr)]
    listen: Option<SocketAddr>,
    /// Have the proxy speak TLS, too, by a certificate of an authority of this cluster's own; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:8443", value_parser = parse_addr)]
    tls: Option<SocketAddr>,
    /// The key file of every node: with it, the gossip is sealed
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    dir: Dir,
}

/// `concertina scale`.
#[derive(clap::Args)]
pub(crate) struct ScaleArgs {
    /// How many nodes of a role there shall be, e.g. front=2 app=3
    #[arg(required = true, value_name = "ROLE=COUNT", value_parser = parse_target)]
    targets: Vec<(Name, u8)>,
    #[command(flatten)]
    dir: Dir,
}

impl Args {
    /// What the cluster is to be; an error if the file is wrong.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.plan().map(drop)
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let mut plan = self.plan_in_the_clear()?;
        if let Some(addr) = self.tls {
            // What is served in the clear, before routes what one role has.
            let of_http = plan.listen.iter().filter(|listen| listen.protocol == Protocol::Http);
            let beside = of_http.min_by_key(|listen| listen.role.is_some());
            let beside =
                beside.context("--tls: expected a listener with http:// to serve the same by TLS")?;
            let sealed = Listen { protocol: Protocol::Https, addr: addr.into(), ..beside.clone() };
            plan.listen.push(sealed);
        }
        Ok(plan)
    }

    fn plan_in_the_clear(&self) -> anyhow::Result<Plan> {
        let listen_source = "--listen";
        let addr = self.listen.unwrap_or(file::LISTEN);
        let Some(path) = &self.file else {
            let services = Services::of_example(self.front, self.app, EXAMPLE_PORT);
            let front = services.ids().next().map(|front| services.get(front).role.clone());
            let listen = Listen { role: front, ..file::routing(addr) };
            return Ok(Plan { listen: vec![listen], listen_source, request_ids: REQUEST_IDS, services });
        };
        let said = file::read(path)?;
        let (listen, listen_source) = match self.listen {
            None if !said.listen.is_empty() => (said.listen, "proxy.listen"),
            _ => (vec![file::routing(addr)], listen_source),
        };
        let request_ids = said.request_ids.unwrap_or(REQUEST_IDS);
        Ok(Plan { listen, listen_source, request_ids, services: said.services })
    }
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?}: expected IP:PORT, such as 127.0.0.1:8080"))
}

fn parse_target(text: &str) -> Result<(Name, u8), String> {
    let refused = || {
        format!(
            "{text:?}: expected ROLE=COUNT, such as front=2 or billing=3, with a count up to {NODES_OF_ROLE_MAX}"
        )
    };
    let (role, count) = text.split_once('=').ok_or_else(refused)?;
    let count = count.parse().ok().filter(|count| *count <= NODES_OF_ROLE_MAX);
    Ok((role.parse().map_err(|_| refused())?, count.ok_or_else(refused)?))
}

/// `concertina node`.
#[derive(clap::Subcommand)]
pub(crate) enum NodeCommand {
    /// Start a stopped node, or a new one of a known name such as appserver2
    Start(NodeArgs),
    /// Drain and stop: what docker stop does
    Stop(NodeArgs),
    /// Drain, stop and start again: what docker restart does
    Restart(NodeArgs),
    /// SIGKILL: what docker kill does
    Kill(NodeArgs),
    /// Freeze: what docker pause does
    Pause(NodeArgs),
    /// Thaw
    Resume(NodeArgs),
    /// Print the log of a node and its role: what docker logs does
    Logs(NodeArgs),
}

#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    /// The node's name
    name: Name,
    #[command(flatten)]
    dir: Dir,
}

/// Where a node of it and its role write their log.
pub(crate) fn log_path(dir: &Path, node: &Name) -> PathBuf {
    dir.join(format!("{node}.log"))
}

/// Starts a cluster and keeps it until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (dir, plan) = (args.dir.path()?, args.plan()?);
    let mut layout = Layout::claim(&dir, plan, args.key_file)?;
    certify(&mut layout)?;
    let control = control::listen(&dir).await?;
    let cluster = Rc::new(Cluster::new(layout));
    let serving = async {
        let start = cluster.start_all().await?;
        announce(&cluster.layout, start);
        Ok(control::serve(&control, cluster.clone()).await)
    };
    let outcome = tokio::select! {
        outcome = serving => outcome.map(|never: Infallible| match never {}),
        never = cluster.watch() => match never {},
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    mention!("stopping");
    cluster.stop_all().await;
    outcome
}

/// Makes a certificate for what is to speak TLS.
fn certify(layout: &mut Layout) -> anyhow::Result<()> {
    let sealed: Vec<SocketAddr> = layout.sealed().collect();
    if !sealed.is_empty() {
        let names = authority::names(sealed.into_iter(), layout.services.routes());
        layout.certified = Some(authority::certify(&layout.dir, names)?);
    }
    Ok(())
}

/// Says what has been started, and what to open.
fn announce(layout: &Layout, start: Start) {
    if let (Some(certified), Some(addr)) = (&layout.certified, layout.sealed().next()) {
        let (authority, port) = (certified.authority.display(), addr.port());
        mention!("TLS: curl --cacert {authority} https://localhost:{port}/");
    }
    mention!("map {}", layout.map_url());
    match start {
        Start::Greets => mention!("ready {}", layout.hello_url()),
        Start::Silent => mention!(
            "running, with nobody to say hello at {}: `concertina scale front=1 app=1` adds them",
            layout.hello_url()
        ),
        Start::Serves | Start::Slow => {
            let at_any_host = format!("http://{}/", layout.front_door());
            let mut opened: Option<String> = None;
            for service in layout.services.ids() {
                let (role, urls) = (&layout.services.get(service).role, layout.urls(service));
                if urls.is_empty() {
                    mention!("{role} has no route");
                } else {
                    mention!("{role} serves {}", urls.join(" "));
                }
                let first = urls.into_iter().min_by_key(|url| !url.starts_with(&at_any_host));
                opened = opened.into_iter().chain(first).min_by_key(|url| !url.starts_with(&at_any_host));
            }
            let word = if start == Start::Serves { "ready" } else { "running, and not all of it ready:" };
            mention!("{}", format!("{word} {}", opened.unwrap_or_default()).trim_end());
        }
    }
}

/// Asks the running cluster to change its size.
pub(crate) async fn scale(args: ScaleArgs) -> anyhow::Result<ExitCode> {
    control::send(&args.dir.path()?, Order::Scale(args.targets)).await
}

/// Asks the running cluster to do something to a node.
pub(crate) async fn node(command: NodeCommand) -> anyhow::Result<ExitCode> {
    let (args, order): (NodeArgs, fn(Name) -> Order) = match command {
        NodeCommand::Start(args) => (args, Order::Start),
        NodeCommand::Stop(args) => (args, Order::Stop),
        NodeCommand::Restart(args) => (args, Order::Restart),
        NodeCommand::Kill(args) => (args, Order::Kill),
        NodeCommand::Pause(args) => (args, Order::Pause),
        NodeCommand::Resume(args) => (args, Order::Resume),
        NodeCommand::Logs(args) => return logs::whole(&args.dir.path()?, &args.name),
    };
    control::send(&args.dir.path()?, order(args.name)).await
}
