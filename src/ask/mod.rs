//! Questions to a sidecar: `members`, `tags`, `event`, `query`, `monitor`, `wait`, `stats`, `leave`,
//! `force-leave`, `explain`.

mod events;
mod explain;
mod tags;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use feed::{
    FromSidecar, Name, Tag, Tags, ToSidecar,
    ask::{Answers, ask},
    frame::{Member, Wait},
};

use crate::{say::say, up};

pub(crate) use events::{EventArgs, QueryArgs, event, query};
pub(crate) use explain::{ExplainArgs, ForceLeaveArgs, explain, force_leave};
pub(crate) use tags::{TagsArgs, tags};

/// Which sidecar to ask.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The sidecar's feed socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "CONCERTINA_FEED",
        default_value = "/run/concertina/feed.sock"
    )]
    feed: PathBuf,
    /// Ask this node of the local cluster instead
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "feed")]
    node: Option<Name>,
    #[command(flatten)]
    dir: up::Dir,
}

impl Target {
    pub(crate) async fn ask(self, question: ToSidecar) -> anyhow::Result<Answers> {
        let path = match self.node {
            Some(node) => up::feed_path(&self.dir.path()?, &node),
            None => self.feed,
        };
        ask(&path, question).await.with_context(|| {
            format!(
                "no sidecar answers at {} (give its socket with --feed, or a local node with --node)",
                path.display()
            )
        })
    }
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
    Ok(())
}

fn print_member(member: &Member) {
    let Member { name, role, addr, port, state, tags, .. } = member;
    let (name, addr, state) = (name.as_str(), addr.to_string(), state.as_str());
    let tags = if tags.is_empty() { String::new() } else { format!(" {tags}") };
    say!("{name:<20} {addr:<22} {state:<9} role={role} port={port}{tags}");
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
pub(crate) struct WaitArgs {
    /// The role
    #[arg(long)]
    role: Name,
    /// At least so many ready endpoints
    #[arg(long, default_value_t = 1)]
    min: u32,
    /// At most so many ready endpoints, and none draining
    #[arg(long)]
    max: Option<u32>,
    /// Only endpoints with this tag count; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// And every live consumer of the role in the cluster acts on it, of which there is at least one
    #[arg(long)]
    visible: bool,
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = feed::time::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn wait(args: WaitArgs) -> anyhow::Result<ExitCode> {
    let tags = Tags::new(args.tags)?;
    let wish = Wait {
        role: args.role.clone(),
        min: args.min,
        max: args.max,
        visible: false,
        everywhere: args.visible,
        tags,
    };
    let waited = async {
        let mut answers = args.target.ask(ToSidecar::Wait(wish)).await?;
        Ok::<_, anyhow::Error>(answers.next().await?)
    };
    match tokio::time::timeout(args.timeout, waited).await {
        Ok(answer) => {
            if let FromSidecar::Waited { after_ms } = answer? {
                say!("{} ready after {after_ms} ms", args.role);
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(_) => bail!("{} has not {} ready endpoints after {:?}", args.role, args.min, args.timeout),
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
    let FromSidecar::Stats(stats) = args.target.ask(ToSidecar::Stats {}).await?.next().await? else {
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
        say!("dropped.{cause} {count}");
    }
    for (consumer, times) in &stats.applied {
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
pub(crate) struct LeaveArgs {
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn leave(args: LeaveArgs) -> anyhow::Result<()> {
    args.target.ask(ToSidecar::Leave {}).await?.next().await?;
    say!("leaving");
    Ok(())
}
