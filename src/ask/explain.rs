//! `concertina explain` and `concertina force-leave`: what a node believes of a member, and how to change that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use feed::{
    FromSidecar, Name, ToSidecar,
    explain::{Evidence, Explanation},
};

use super::{Target, request::RequestArgs};
use crate::say::{escaped, say};

#[derive(clap::Args)]
pub(crate) struct ForceLeaveArgs {
    /// The member
    name: Name,
    #[command(flatten)]
    target: Target,
}

/// Has a member forgotten as left.
pub(crate) async fn force_leave(args: ForceLeaveArgs) -> anyhow::Result<()> {
    let question = ToSidecar::ForceLeave { name: args.name };
    let FromSidecar::Forgotten { name, was } = args.target.ask(question).await?.next().await? else {
        bail!("the sidecar answered something else than that the member is forgotten");
    };
    say!("{name} is marked as left; it was {}", was.as_str());
    Ok(())
}

#[derive(clap::Args)]
#[command(
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "concertina explain [OPTIONS] <NAME>\n       concertina explain [OPTIONS] request <URL|ID>"
)]
pub(crate) struct ExplainArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// The member; one that is called `request` goes behind `--`
    #[arg(required = true)]
    name: Option<Name>,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Subcommand)]
enum What {
    /// What the node's proxy would do with a request, and why: listener, routes, role, and the choice among its endpoints. Nothing is sent.
    /// By an id: what has become of a request, at all proxies and fronts that keep something of it
    Request(RequestArgs),
}

/// Prints what the sidecar knows of a member and why.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let name = match (args.what, args.name) {
        (Some(What::Request(request)), None) => {
            return super::request::request(request, args.json, &args.target).await;
        }
        (None, Some(name)) => name,
        _ => bail!("expected the name of a member, or `request` and a URL or an id"),
    };
    let question = ToSidecar::Explain { name };
    let FromSidecar::Explained(explanation) = args.target.ask(question).await?.next().await? else {
        bail!("the sidecar answered something else than an explanation");
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print_explanation(&explanation);
    }
    Ok(())
}

fn print_explanation(explanation: &Explanation) {
    let Explanation { by, member, since_ms, evidence, advert, heard_ms_ago, lifeline, twins, drain, alone } =
        explanation;
    let (name, state, instance) = (&member.name, member.state.as_str(), member.instance);
    say!("{name} is {state} to {by}, since {}: {}", ago(*since_ms), words(*evidence));
    say!(
        "  gossip {}, role {}, port {}, instance {instance}, started {}",
        member.addr,
        member.role,
        member.port,
        ago(instance)
    );
    if let Some(protocol) = member.protocol {
        say!("  claims to speak {protocol}");
    }
    if !member.tags.is_empty() {
        say!("  tags {}", escaped(&member.tags.to_string()));
    }
    if let Some(why) = &member.check {
        say!("  its check fails: {}", escaped(why));
    }
    if let Some(why) = alone {
        say!("  has found nobody: {why}");
    }
    match advert {
        None => say!("  no advert"),
        Some(advert) => {
            let relay = advert.relay.map(|relay| format!(" by {relay}")).unwrap_or_default();
            say!("  advert version {}: {}{relay}", advert.version, words(advert.via));
        }
    }
    match heard_ms_ago {
        Some(ms) => say!("  last datagram {ms} ms ago"),
        None => say!("  no datagram from it"),
    }
    say!("  {}", if *lifeline { "held by a lifeline from here" } else { "no lifeline from here" });
    for twin in twins {
        say!(
            "  twin: the node at {} is called {name}, too; of the two, the later start is served",
            twin.addr
        );
    }
    if let Some(drain) = drain {
        match drain.in_flight {
            Some(count) => say!("  draining: {count} in flight from here"),
            None => say!("  draining: nothing reported from here"),
        }
        for name in &drain.held_up_by {
            say!("  draining: waits for {name}");
        }
    }
}

fn words(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Itself => "it is this node",
        Evidence::Announcement => "it said so itself",
        Evidence::Gossip => "another member passed it on",
        Evidence::Sync => "learned from another's whole state",
        Evidence::Lifeline => "its lifeline ended and it accepts no connection",
        Evidence::Probe => "it answered no probe",
        Evidence::ForceLeave => "an operator had it forgotten",
    }
}

fn ago(unix_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let passed = now.saturating_sub(Duration::from_millis(unix_ms));
    format!("{}.{:03} s ago", passed.as_secs(), passed.subsec_millis())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Cli {
        #[command(flatten)]
        args: ExplainArgs,
    }

    #[test]
    fn a_member_and_a_request_are_told_apart() {
        let read = |line: &str| {
            let args = Cli::try_parse_from(line.split_whitespace()).ok()?.args;
            Some((args.what.is_some(), args.name.map(|name| name.to_string()), args.json))
        };
        let member = |name: &str, json| Some((false, Some(name.to_owned()), json));
        assert_eq!(read("app1"), member("app1", false));
        assert_eq!(read("help --json"), member("help", true));
        assert_eq!(read("-- request"), member("request", false));
        assert_eq!(read("--json --node app1 -- request"), member("request", true));
        assert_eq!(read("request http://a --from ::1"), Some((true, None, false)));
        assert_eq!(read("request http://a --json --node app1"), Some((true, None, true)));
        assert_eq!(read("--node app1 --json request http://a"), Some((true, None, true)));
        for bad in ["", "request", "app1 app2", "request http://a b"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
