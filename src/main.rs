//! `concertina`: an elastic front door for containers that come and go.
//!
//! One binary, several programs: each subcommand is one, and its code is its own crate. What is here is the
//! command line, the local cluster ([`up`]), and questions to a sidecar ([`ask`]).

mod ask;
mod keys;
mod say;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// An elastic front door for containers that come and go
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole cluster on this machine, each node on its own loopback address (the default command)
    Up(up::Args),
    /// Change how many nodes of a role the local cluster has
    Scale(up::ScaleArgs),
    /// Start, stop, kill, pause or resume a node of the local cluster
    #[command(subcommand)]
    Node(up::NodeCommand),
    /// Gossip, feed, and supervision of one role process
    Sidecar(sidecar::Args),
    /// HTTP/1 and TCP in front of roles
    Proxy(proxy::Args),
    /// DNS that answers from live membership
    Dns(dns::Args),
    /// The front service: says hello through an app
    Front(app::FrontArgs),
    /// The app service: says hello
    App(app::AppArgs),
    /// Who is in the cluster
    Members(ask::MembersArgs),
    /// This node's tags, or a change of them
    Tags(ask::TagsArgs),
    /// Tell every live member something, once
    Event(ask::EventArgs),
    /// Ask members something and print their answers
    Query(ask::QueryArgs),
    /// Every change and event from now on
    Monitor(ask::MonitorArgs),
    /// Wait until a role has enough ready endpoints
    Wait(ask::WaitArgs),
    /// What a node's sidecar sent, received and dropped
    Stats(ask::StatsArgs),
    /// Drain this node and leave the cluster
    Leave(ask::LeaveArgs),
    /// Have every member forget one as left; a live one comes back by itself
    ForceLeave(ask::ForceLeaveArgs),
    /// What a node knows of a member, and why
    Explain(ask::ExplainArgs),
    /// The keys that the gossip is sealed with
    #[command(subcommand)]
    Keys(keys::KeysCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let outcome = { runtime }
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli.command.unwrap_or_else(default_command))));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn default_command() -> Command {
    match Cli::parse_from(["concertina", "up"]).command {
        Some(command) => command,
        None => unreachable!("a subcommand was given"),
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => up::run(args).await?,
        Command::Scale(args) => return up::scale(args).await,
        Command::Node(command) => return up::node(command).await,
        Command::Sidecar(args) => return sidecar::run(args).await,
        Command::Proxy(args) => proxy::run(args).await?,
        Command::Dns(args) => dns::run(args).await?,
        Command::Front(args) => app::run_front(args).await?,
        Command::App(args) => app::run_app(args).await?,
        Command::Members(args) => ask::members(args).await?,
        Command::Tags(args) => ask::tags(args).await?,
        Command::Event(args) => ask::event(args).await?,
        Command::Query(args) => return ask::query(args).await,
        Command::Monitor(args) => ask::monitor(args).await?,
        Command::Wait(args) => return ask::wait(args).await,
        Command::Stats(args) => ask::stats(args).await?,
        Command::Leave(args) => ask::leave(args).await?,
        Command::ForceLeave(args) => ask::force_leave(args).await?,
        Command::Explain(args) => ask::explain(args).await?,
        Command::Keys(command) => return keys::keys(command).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Info and above to stderr; `CONCERTINA_LOG` changes that. The DNS library would log two lines for each query.
fn start_log() {
    let filter = EnvFilter::try_from_env("CONCERTINA_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,hickory_server=error,hickory_net=error,hickory_proto=error")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}
