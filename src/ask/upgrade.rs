//! `concertina proxy upgrade`: a new process in the place of a node's, with no connection lost.

use std::time::Duration;

use anyhow::bail;
use feed::{FromSidecar, ToSidecar, frame::Upgraded};

use super::Target;
use crate::{progress::Progress, say::say};

#[derive(clap::Args)]
pub(crate) struct UpgradeArgs {
    /// How long the new process may take until it serves; then it is killed, and the old one goes on
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = feed::time::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// Has the sidecar start its role's command anew, and says how that goes.
pub(crate) async fn upgrade(args: UpgradeArgs) -> anyhow::Result<()> {
    let timeout_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
    let mut answers = args.target.ask_node(ToSidecar::Upgrade { timeout_ms }).await?;
    let progress = Progress::waiting("the new process to start");
    loop {
        match progress.during(answers.next()).await? {
            FromSidecar::Upgrading { old, new } => {
                progress.now_for(format!("process {new} to serve"));
                say!("process {old} serves, process {new} starts");
            }
            FromSidecar::Upgraded(Upgraded { old, new, after_ms }) => {
                progress.now_for(format!("process {old} to drain"));
                say!("process {new} serves after {after_ms} ms, process {old} drains");
            }
            FromSidecar::Retired { old, after_ms } => {
                say!("process {old} has ended after {after_ms} ms");
                return Ok(());
            }
            _ => bail!("the sidecar answered something else than how the upgrade goes"),
        }
    }
}
