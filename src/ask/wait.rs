//! `concertina wait`: for scripts, which begin before everything is there.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use feed::{
    FromSidecar, Name, Tag, Tags, ToSidecar,
    frame::{FeedError, MemberState, Wait},
};

use super::Target;
use crate::{progress::Progress, say::say};

/// Pause between attempts to reach a sidecar that may just be starting.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long the last question may take, that for the reason.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct WaitArgs {
    /// The role to wait for
    #[arg(long)]
    role: Name,
    /// At least so many ready nodes [default: 1, or 0 with --max 0]
    #[arg(long)]
    min: Option<u32>,
    /// At most so many ready nodes, and none draining
    #[arg(long)]
    max: Option<u32>,
    /// Only nodes with this tag count; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// Wait also until every live consumer of the role in the cluster has applied that; there must be one
    #[arg(long)]
    visible: bool,
    /// Give up after this time, also on a sidecar that is not there
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = feed::time::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

impl WaitArgs {
    fn min(&self) -> u32 {
        self.min.unwrap_or_else(|| self.max.map_or(1, |max| max.min(1)))
    }

    /// How many there shall be, in words.
    fn expected(&self) -> String {
        match (self.min(), self.max) {
            (min, None) => format!("at least {min}"),
            (0, Some(max)) => format!("at most {max}"),
            (min, Some(max)) if min == max => format!("exactly {min}"),
            (min, Some(max)) => format!("{min} to {max}"),
        }
    }
}

/// Waits until a role has as many ready nodes as were wished for.
pub(crate) async fn wait(args: WaitArgs) -> anyhow::Result<ExitCode> {
    if let Some(max) = args.max.filter(|max| *max < args.min()) {
        bail!("--min {} --max {max}: no number is both", args.min());
    }
    let tags = Tags::new(args.tags.clone())?;
    let wish = Wait {
        role: args.role.clone(),
        min: args.min(),
        max: args.max,
        visible: false,
        everywhere: args.visible,
        tags: tags.clone(),
    };
    let started = Instant::now();
    let mut unreachable = None;
    let waited = async {
        loop {
            match once(&args.target, wish.clone()).await {
                Ok(FromSidecar::Waited { .. }) => return Ok(()),
                Ok(_) => bail!("the sidecar answered something else than that the wait is over"),
                Err(error) if matches!(error.downcast_ref(), Some(FeedError::Refused(_))) => {
                    return Err(error);
                }
                Err(error) => unreachable = Some(error),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    let tagged = if args.tags.is_empty() { "" } else { " with these tags" };
    let progress = Progress::waiting(format!("{} ready {}{tagged}", args.expected(), args.role));
    if let Ok(outcome) = progress.during(tokio::time::timeout(args.timeout, waited)).await {
        outcome?;
        let is = if args.max == Some(0) { "gone" } else { "ready" };
        say!("{} {is} after {} ms", args.role, started.elapsed().as_millis());
        return Ok(ExitCode::SUCCESS);
    }
    let WaitArgs { role, timeout, .. } = &args;
    match tokio::time::timeout(COUNT_TIMEOUT, count_ready(&args.target, role, tags)).await {
        Ok(Ok(count)) => {
            let is_right = count >= args.min() && args.max.is_none_or(|max| count <= max);
            let not_yet = if is_right { ", which not every consumer acts on" } else { "" };
            let nodes = if count == 1 { "node" } else { "nodes" };
            bail!(
                "timed out after {timeout:?}: {role} has {count} ready {nodes}{not_yet}, expected {}",
                args.expected()
            )
        }
        _ => match unreachable {
            Some(error) => bail!("timed out after {timeout:?}: {error:#}"),
            None => bail!("timed out after {timeout:?}: the sidecar does not answer"),
        },
    }
}

async fn once(target: &Target, wish: Wait) -> anyhow::Result<FromSidecar> {
    Ok(target.ask(ToSidecar::Wait(wish)).await?.next().await?)
}

async fn count_ready(target: &Target, role: &Name, tags: Tags) -> anyhow::Result<u32> {
    let question = ToSidecar::Members { role: Some(role.clone()), tags };
    let FromSidecar::Members(members) = target.ask(question).await?.next().await? else {
        bail!("the sidecar answered something else than members");
    };
    let ready = members.iter().filter(|member| member.state == MemberState::Ready);
    Ok(u32::try_from(ready.count())?)
}
