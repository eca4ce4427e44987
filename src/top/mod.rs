//! `concertina top`: the whole cluster in the terminal, live.
//!
//! ```text
//! admin port of a node ─▶ source ─▶ look, look ─▶ picture ─▶ table ─▶ draw ─▶ terminal
//!                                           keys ─▶ screen ──────────▶
//! ```
//!
//! `whom` says which node is asked, another where one is gone. Everything but `source` and `terminal` is pure: tests need neither a
//! cluster nor a terminal.

mod details;
mod draw;
mod lines;
mod look;
mod picture;
mod plain;
mod screen;
mod source;
mod summary;
mod table;
mod terminal;
mod whom;
mod words;

#[cfg(test)]
mod tests;

use std::{process::ExitCode, time::Duration};

use picture::Picture;
use source::At;

use crate::{ask::Target, progress::Progress, say::say};

/// Within less, nodes tell the same again, and rates would be guesses.
const EVERY_MIN: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct TopArgs {
    /// The admin port of any node, such as 10.0.0.7:9790 [default: that of the node whose feed is found, or 127.0.0.1:9790]
    #[arg(value_name = "HOST:PORT", conflicts_with = "node")]
    at: Option<At>,
    /// Time between two looks, from 500ms on
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_every)]
    every: Duration,
    /// Print it once as text, after two looks, and end
    #[arg(long)]
    once: bool,
    /// The same as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn parse_every(text: &str) -> Result<Duration, String> {
    let time = feed::time::parse_duration(text)?;
    if time < EVERY_MIN {
        return Err(format!("{text:?} is too short: expected at least {EVERY_MIN:?}"));
    }
    Ok(time)
}

/// Shows the cluster until somebody has seen enough, or prints it once.
pub(crate) async fn top(args: TopArgs) -> anyhow::Result<ExitCode> {
    let is_once = args.once || args.json;
    if !is_once {
        terminal::check()?;
    }
    let at = match args.at {
        Some(at) => at,
        None => source::find(&args.target).await?,
    };
    if !is_once {
        return terminal::show(at, args.every).await;
    }
    let looking = async {
        let first = source::look(&at).await?;
        tokio::time::sleep(args.every).await;
        Ok::<_, anyhow::Error>(Picture::of(Some(&first), &source::look(&at).await?))
    };
    let picture = Progress::waiting("the second of two looks").during(looking).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&picture)?);
    } else {
        say!("{}", plain::text(&picture));
    }
    Ok(ExitCode::SUCCESS)
}
