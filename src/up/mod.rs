//! A whole cluster on this machine without containers: real processes, each node on its own loopback address.
//!
//! ```text
//! up ─▶ Cluster ─▶ node (sidecar process ─▶ role process)
//! scale, node ──control socket──▶ Cluster
//! ```
//!
//! Nothing of the cluster's inner life is here: nodes find each other by gossip, as they do in containers.

mod cluster;
mod control;
mod layout;
mod probe;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
};

use anyhow::Context;
use feed::Name;
use tokio::signal::unix::{SignalKind, signal};

use cluster::Cluster;
use control::Order;
use layout::{Layout, NODES_OF_ROLE_MAX};

use crate::say::mention;

/// Where a local cluster lives.
#[derive(clap::Args, Clone)]
pub(crate) struct Dir {
    /// The local cluster's directory: sockets and logs [default: one for each user]
    #[arg(long, global = true, value_name = "DIR", env = "CONCERTINA_DIR")]
    dir: Option<PathBuf>,
}

impl Dir {
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        let path = match (&self.dir, std::env::var_os("XDG_RUNTIME_DIR")) {
            (Some(dir), _) => dir.clone(),
            (None, Some(runtime)) => PathBuf::from(runtime).join("concertina"),
            (None, None) => PathBuf::from(format!("/tmp/concertina-{}", rustix::process::geteuid().as_raw())),
        };
        std::path::absolute(&path).with_context(|| format!("--dir {}", path.display()))
    }
}

/// `concertina up`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Front services to start with
    #[arg(long, env = "CONCERTINA_UP_FRONT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(NODES_OF_ROLE_MAX)))]
    front: u8,
    /// App services to start with
    #[arg(long, env = "CONCERTINA_UP_APP", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(NODES_OF_ROLE_MAX)))]
    app: u8,
    /// Where the proxy listens; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", env = "CONCERTINA_UP_LISTEN", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    listen: SocketAddr,
    /// The key file of every node: with it, the gossip is sealed
    #[arg(long, value_name = "PATH", env = "CONCERTINA_KEY_FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    dir: Dir,
}

/// `concertina scale`.
#[derive(clap::Args)]
pub(crate) struct ScaleArgs {
    /// How many nodes of a role there shall be, e.g. front=2 app=3
    #[arg(required = true, value_name = "ROLE=COUNT", value_parser = parse_target)]
    targets: Vec<(Scalable, u8)>,
    #[command(flatten)]
    dir: Dir,
}

/// What `scale` can change the number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scalable {
    Front,
    App,
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?}: expected IP:PORT, such as 127.0.0.1:8080"))
}

fn parse_target(text: &str) -> Result<(Scalable, u8), String> {
    let refused =
        || format!("{text:?}: expected front=COUNT or app=COUNT, with a count up to {NODES_OF_ROLE_MAX}");
    let (role, count) = text.split_once('=').ok_or_else(refused)?;
    let role = match role {
        "front" => Scalable::Front,
        "app" => Scalable::App,
        _ => return Err(refused()),
    };
    let count = count.parse().ok().filter(|count| *count <= NODES_OF_ROLE_MAX);
    Ok((role, count.ok_or_else(refused)?))
}

/// `concertina node`.
#[derive(clap::Subcommand)]
pub(crate) enum NodeCommand {
    /// Start a stopped node, or a new one of a known name such as appserver2
    Start(NodeArgs),
    /// Drain and stop: what docker stop does
    Stop(NodeArgs),
    /// SIGKILL: what docker kill does
    Kill(NodeArgs),
    /// Freeze: what docker pause does
    Pause(NodeArgs),
    /// Thaw
    Resume(NodeArgs),
}

#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    /// The node's name
    name: Name,
    #[command(flatten)]
    dir: Dir,
}

/// The feed socket of a node of the local cluster in this directory.
pub(crate) fn feed_path(dir: &Path, node: &Name) -> PathBuf {
    dir.join(node.as_str()).join("feed.sock")
}

/// Starts a cluster and keeps it until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let dir = args.dir.path()?;
    let layout = Layout::claim(&dir, args.listen, args.key_file)?;
    let listener = control::listen(&dir)?;
    let url = layout.url();
    let cluster = Rc::new(Cluster::new(layout));
    let serving = async {
        if cluster.start_all(args.front, args.app).await? {
            mention!("ready {url}");
        } else {
            mention!(
                "running, with nobody to say hello at {url}: `concertina scale front=1 app=1` adds them"
            );
        }
        control::serve(listener, cluster.clone()).await
    };
    let outcome = tokio::select! {
        outcome = serving => outcome.map(|never| match never {}),
        never = cluster.watch() => match never {},
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    mention!("stopping");
    cluster.stop_all().await;
    outcome
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
        NodeCommand::Kill(args) => (args, Order::Kill),
        NodeCommand::Pause(args) => (args, Order::Pause),
        NodeCommand::Resume(args) => (args, Order::Resume),
    };
    control::send(&args.dir.path()?, order(args.name)).await
}
