//! `concertina proxy reload`: has the proxy beside a node's sidecar read its file again.

use std::process::ExitCode;

use anyhow::bail;
use feed::control::{self, Answer, PROXY, Question};

use super::{About, Target};
use crate::{progress::Progress, say::say};

#[derive(clap::Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    target: Target,
}

/// Asks it, and prints what is otherwise now.
pub(crate) async fn reload(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let dir = args.target.dir.path()?;
    let feed = args.target.socket(&dir, About::ItsNode)?;
    let progress = Progress::waiting("the proxy to read its file again");
    match progress.during(control::ask(&feed, PROXY, Question::Reload)).await {
        Ok(Answer::Done(difference)) => {
            say!("{}", difference.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Ok(Answer::Refused(why)) => bail!("not reloaded, the proxy goes on as before: {}", why.trim_end()),
        Err(_) if feed.exists() => bail!(
            "no proxy answers at {}: the sidecar at {} runs none",
            control::path(&feed, PROXY).display(),
            feed.display()
        ),
        Err(error) => bail!(
            "no proxy answers at {}: {error}; {}",
            control::path(&feed, PROXY).display(),
            args.target.advice(&dir)
        ),
    }
}
