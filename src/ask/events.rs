//! `concertina event` and `concertina query`: what people say to and ask of the members.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use feed::{
    FromSidecar, Name, Tag, Tags, ToSidecar,
    event::{Answer, Outcome, Query, UserEvent},
};

use super::Target;
use crate::say::say;

#[derive(clap::Args)]
pub(crate) struct EventArgs {
    /// What it is called; sidecars run their --handler event:NAME=…
    name: Name,
    /// What it says, up to 512 bytes
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
    say!("{:<20} event origin={origin} time={time} payload={payload:?}", name.as_str());
}

#[derive(clap::Args)]
pub(crate) struct QueryArgs {
    /// What is asked: ping, uptime, version, or what sidecars have a --handler query:NAME=… for
    name: Name,
    /// And in more words, up to 512 bytes
    #[arg(default_value = "")]
    payload: String,
    /// Longest wait for answers, up to 60s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = feed::time::parse_duration)]
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
    loop {
        let frame = answers.next().await?;
        if args.json {
            say!("{}", serde_json::to_string(&frame)?);
        }
        match frame {
            FromSidecar::Answer(answer) if !args.json => print_answer(&answer),
            FromSidecar::Answered(tally) => {
                if !args.json {
                    say!("{} of {} answered", tally.answered, tally.asked);
                }
                let all = tally.answered == tally.asked && tally.asked > 0;
                return Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            _ => {}
        }
    }
}

fn print_answer(answer: &Answer) {
    let (word, text) = match &answer.outcome {
        Outcome::Payload(text) => ("", text),
        Outcome::Error(text) => ("error: ", text),
    };
    say!("{:<20} {:>5} ms  {word}{text}", answer.node.as_str(), answer.after_ms);
}
