//! `concertina event` and `concertina query`: what people say to and ask of the members.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use feed::{
    FromSidecar, Name, Tag, Tags, ToSidecar,
    event::{Answer, Outcome, Query, UserEvent},
};

use super::Target;
use crate::{
    progress::Progress,
    say::{escaped, say},
};

/// Longest wait that a sidecar grants.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct EventArgs {
    /// What the event is called; sidecars run their --handler event:NAME=…
    name: Name,
    /// What is told with it, up to 512 bytes
    #[arg(default_value = "")]
    payload: String,
    #[command(flatten)]
    target: Target,
}

/// Sends an event to every live member.
pub(crate) async fn event(args: EventArgs) -> anyhow::Result<()> {
    let question = ToSidecar::Event { name: args.name.clone(), payload: args.payload };
    let FromSidecar::Sent { time } = args.target.ask(question).await?.next().await? else {
        bail!("the sidecar answered something else than that the event is sent");
    };
    say!("{} sent, time={time}", args.name);
    Ok(())
}

pub(super) fn print_event(event: &UserEvent) {
    let UserEvent { name, payload, origin, time, .. } = event;
    say!("{:<20} event origin={origin} time={time} payload=\"{}\"", name.as_str(), escaped(payload));
}

#[derive(clap::Args)]
pub(crate) struct QueryArgs {
    /// What is asked: ping, uptime, version, or what sidecars have a --handler query:NAME=… for
    name: Name,
    /// What is handed to whoever answers, up to 512 bytes
    #[arg(default_value = "")]
    payload: String,
    /// Longest wait for answers, up to 60s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Ask only members of this role
    #[arg(long)]
    role: Option<Name>,
    /// Ask only this member
    #[arg(long, value_name = "NAME")]
    to: Option<Name>,
    /// Ask only members with this tag; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Asks members and prints each answer as it comes; fails unless all have answered.
pub(crate) async fn query(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let query = Query {
        name: args.name,
        payload: args.payload,
        timeout_ms: Some(u64::try_from(args.timeout.as_millis())?),
        role: args.role,
        node: args.to,
        tags: Tags::new(args.tags)?,
    };
    let mut answers = args.target.ask(ToSidecar::Query(query)).await?;
    let progress = Progress::waiting("answers");
    loop {
        let frame = progress.during(answers.next()).await?;
        if args.json {
            say!("{}", serde_json::to_string(&frame)?);
        }
        match frame {
            FromSidecar::Answer(answer) if !args.json => print_answer(&answer),
            FromSidecar::Answered(tally) => {
                if !args.json {
                    say!("{} of {} answered", tally.answered, tally.asked);
                }
                if tally.asked == 0 {
                    program::stderr().insist("no live member has this name, role and tags");
                }
                let all = tally.answered == tally.asked && tally.asked > 0;
                return Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            _ => {}
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = feed::time::parse_duration(text)?;
    if time > TIMEOUT_MAX {
        return Err(format!("{text:?} is too long: expected at most {TIMEOUT_MAX:?}"));
    }
    Ok(time)
}

fn print_answer(answer: &Answer) {
    let (word, text) = match &answer.outcome {
        Outcome::Payload(text) => ("", text),
        Outcome::Error(text) => ("error: ", text),
    };
    say!("{:<20} {:>5} ms  {word}{}", answer.node.as_str(), answer.after_ms, escaped(text));
}
