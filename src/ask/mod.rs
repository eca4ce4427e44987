//! Questions to a sidecar: `members`, `tags`, `event`, `query`, `monitor`, `wait`, `stats`, `health`, `leave`,
//! `force-leave`, `explain`, `explain request`, `proxy upgrade`.

mod events;
mod explain;
mod recall;
mod reload;
mod request;
mod routes;
mod tags;
mod upgrade;
mod wait;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use feed::{
    FromSidecar, Name, Tag, Tags, ToSidecar,
    ask::{Answers, ask},
    frame::{Member, MemberState},
    socket::{FEED_PATH, READ_ONLY_FEED_PATH},
};

use crate::{
    place::{self, Dir},
    say::{escaped, say},
};

pub(crate) use events::{EventArgs, QueryArgs, event, query};
pub(crate) use explain::{ExplainArgs, ForceLeaveArgs, explain, force_leave};
pub(crate) use reload::{ReloadArgs, reload};
pub(crate) use routes::{RoutesArgs, routes};
pub(crate) use tags::{TagsArgs, tags};
pub(crate) use upgrade::{UpgradeArgs, upgrade};
pub(crate) use wait::{WaitArgs, wait};

/// Which sidecar to ask.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The sidecar's feed socket [default: /run/concertina/feed.sock, or else a node of the local cluster's]
    #[arg(long, global = true, value_name = "PATH")]
    feed: Option<PathBuf>,
    /// Ask this node of the local cluster instead
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "feed")]
    node: Option<Name>,
    #[command(flatten)]
    dir: Dir,
}

/// Whom a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Any node knows the answer.
    Cluster,
    /// It is about the node that is asked.
    ItsNode,
}

impl Target {
    /// Asks what any node of the cluster can answer.
    pub(crate) async fn ask(&self, question: ToSidecar) -> anyhow::Result<Answers> {
        self.ask_about(About::Cluster, question).await
    }

    /// Asks something of one node. Of several in a local cluster, it has to be named.
    pub(crate) async fn ask_node(&self, question: ToSidecar) -> anyhow::Result<Answers> {
        self.ask_about(About::ItsNode, question).await
    }

    /// Whether somebody has said which sidecar it is.
    #[cfg(feature = "top")]
    pub(crate) fn is_named(&self) -> bool {
        self.feed.is_some() || self.node.is_some()
    }

    async fn ask_about(&self, about: About, question: ToSidecar) -> anyhow::Result<Answers> {
        let dir = self.dir.path()?;
        let path = self.socket(&dir, about)?;
        match ask(&path, question).await {
            Ok(answers) => Ok(answers),
            Err(error) => {
                bail!("no sidecar answers at {}: {error}; {}", path.display(), self.advice(&dir))
            }
        }
    }

    fn socket(&self, dir: &Path, about: About) -> anyhow::Result<PathBuf> {
        if let Some(node) = &self.node {
            return Ok(place::feed_path(dir, node));
        }
        let usual = self.feed.clone().unwrap_or_else(|| feed_path(FEED_PATH.into()));
        if self.feed.is_some() || usual.exists() {
            return Ok(usual);
        }
        let nodes = place::nodes(dir);
        match nodes.first() {
            Some(_) if about == About::ItsNode => {
                bail!("which node of the local cluster? Name it with --node: {}", listed(&nodes))
            }
            Some(node) => Ok(place::feed_path(dir, node)),
            None => Ok(usual),
        }
    }

    /// What would do instead.
    fn advice(&self, dir: &Path) -> String {
        match (&self.node, place::nodes(dir)) {
            (Some(_), nodes) if !nodes.is_empty() => {
                format!("the nodes in {} are {}", dir.display(), listed(&nodes))
            }
            (None, nodes) if self.feed.is_some() && !nodes.is_empty() => {
                format!("--node asks one of the local cluster: {}", listed(&nodes))
            }
            _ => format!(
                "give a sidecar's socket with --feed, or start a local cluster with `concertina up`, whose nodes \
                 --node names (none runs in {})",
                dir.display()
            ),
        }
    }
}

fn listed(nodes: &[Name]) -> String {
    nodes.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// Where the feed is that is said to be at this path: elsewhere, if the usual place has none, and the other has one of this user or of
/// root. Anybody may put a socket there.
fn feed_path(path: PathBuf) -> PathBuf {
    let own = rustix::process::geteuid().as_raw();
    let is_elsewhere = path == Path::new(FEED_PATH)
        && !path.exists()
        && fs::symlink_metadata(READ_ONLY_FEED_PATH).is_ok_and(|there| [0, own].contains(&there.uid()));
    if is_elsewhere { READ_ONLY_FEED_PATH.into() } else { path }
}

#[derive(clap::Args)]
pub(crate) struct MembersArgs {
    /// Only this role
    #[arg(long)]
    role: Option<Name>,
    /// Only those with this tag; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn members(args: MembersArgs) -> anyhow::Result<()> {
    let question = ToSidecar::Members { role: args.role, tags: Tags::new(args.tags)? };
    let mut answers = args.target.ask(question).await?;
    let FromSidecar::Members(members) = answers.next().await? else {
        bail!("the sidecar answered something else than members");
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&members)?);
    } else {
        members.iter().for_each(print_member);
    }
    if members.is_empty() {
        program::stderr().insist("no member has this role and these tags");
    }
    Ok(())
}

fn print_member(member: &Member) {
    let Member { name, role, addr, port, state, tags, routes, protocol, check, .. } = member;
    let (name, addr, state) = (name.as_str(), addr.to_string(), state.as_str());
    let routes = if routes.is_empty() { String::new() } else { format!(" routes={routes}") };
    let protocol = protocol.map(|protocol| format!(" protocol={protocol}")).unwrap_or_default();
    let tags = if tags.is_empty() { String::new() } else { format!(" {}", escaped(&tags.to_string())) };
    let check = check.as_deref().map(|why| format!(" check: {}", escaped(why))).unwrap_or_default();
    say!("{name:<20} {addr:<22} {state:<9} role={role} port={port}{routes}{protocol}{tags}{check}");
}

#[derive(clap::Args)]
pub(crate) struct MonitorArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn monitor(args: MonitorArgs) -> anyhow::Result<()> {
    let mut answers = args.target.ask(ToSidecar::Monitor {}).await?;
    loop {
        let frame = answers.next().await?;
        match frame {
            frame if args.json => say!("{}", serde_json::to_string(&frame)?),
            FromSidecar::Change(member) => print_member(&member),
            FromSidecar::Event(event) => events::print_event(&event),
            _ => {}
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct StatsArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn stats(args: StatsArgs) -> anyhow::Result<()> {
    let FromSidecar::Stats(stats) = args.target.ask_node(ToSidecar::Stats {}).await?.next().await? else {
        bail!("the sidecar answered something else than stats");
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&stats)?);
        return Ok(());
    }
    for (direction, traffic) in [("received", stats.received), ("sent", stats.sent)] {
        say!("{direction}.datagrams {}", traffic.datagrams);
        say!("{direction}.datagram_bytes {}", traffic.datagram_bytes);
        say!("{direction}.stream_packets {}", traffic.stream_packets);
        say!("{direction}.stream_bytes {}", traffic.stream_bytes);
    }
    for (cause, count) in &stats.dropped {
        say!("dropped.{} {count}", escaped(cause));
    }
    for (consumer, times) in &stats.applied {
        let consumer = escaped(consumer);
        say!("applied.{consumer}.count {}", times.count);
        say!("applied.{consumer}.sum_ms {}", times.sum_ms);
        for (bound, count) in &times.at_most_ms {
            say!("applied.{consumer}.at_most_ms.{bound} {count}");
        }
        say!("applied.{consumer}.longer {}", times.longer);
    }
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    target: Target,
}

/// Says how the node is; fails unless it is ready.
pub(crate) async fn health(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let FromSidecar::Health(health) = args.target.ask_node(ToSidecar::Health {}).await?.next().await? else {
        bail!("the sidecar answered something else than its health");
    };
    let why = health.check.as_deref().map(|why| format!(": {}", escaped(why))).unwrap_or_default();
    say!("{}{why}", health.state.as_str());
    Ok(if health.state == MemberState::Ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(clap::Args)]
pub(crate) struct LeaveArgs {
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn leave(args: LeaveArgs) -> anyhow::Result<()> {
    args.target.ask_node(ToSidecar::Leave {}).await?.next().await?;
    say!("leaving");
    Ok(())
}
