//! `concertina keys`: the keys that a cluster's gossip is sealed with.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, bail};
use feed::{
    FromSidecar, ToSidecar,
    keys::{KeysAt, KeysOrder},
};
use sidecar::wire::keyring::{Fingerprint, Key};

use crate::{
    ask::Target,
    progress::Progress,
    say::{escaped, say},
};

#[derive(clap::Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a new key: a line for the key file
    Generate,
    /// Which keys the members have, by fingerprint
    List(ListArgs),
    /// Have every member open what is sealed with a new key
    Install(InstallArgs),
    /// Have every member seal with a key that all have
    Use(NamedArgs),
    /// Have every member forget a key that nobody seals with
    Remove(NamedArgs),
}

#[derive(clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct InstallArgs {
    /// The key, as `keys generate` prints it, or - to read it from the standard input
    #[arg(value_parser = parse_key)]
    key: String,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct NamedArgs {
    /// The fingerprint of the key, as `keys list` shows it, or the key, or - to read that from the standard input
    #[arg(value_parser = parse_named)]
    key: String,
    #[command(flatten)]
    target: Target,
}

fn parse_key(text: &str) -> Result<String, String> {
    if text != "-" {
        text.parse::<Key>().map_err(|error| error.to_string())?;
    }
    Ok(text.to_owned())
}

fn parse_named(text: &str) -> Result<String, String> {
    if text.parse::<Fingerprint>().is_ok() {
        return Ok(text.to_owned());
    }
    parse_key(text).map_err(|error| format!("{error}; or a fingerprint of 16 hex digits"))
}

pub(crate) async fn keys(command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Generate => {
            say!("{}", Key::generate().context("the system has no randomness")?.encode());
            Ok(ExitCode::SUCCESS)
        }
        KeysCommand::List(args) => {
            let members = ask(&args.target, KeysOrder::List {}).await?;
            print_keys(&members);
            Ok(name_failures(&members))
        }
        KeysCommand::Install(args) => {
            change(&args.target, "installed", KeysOrder::Install { key: read(args.key, parse_key)? }).await
        }
        KeysCommand::Use(args) => {
            change(&args.target, "used", KeysOrder::Use { key: read(args.key, parse_named)? }).await
        }
        KeysCommand::Remove(args) => {
            change(&args.target, "removed", KeysOrder::Remove { key: read(args.key, parse_named)? }).await
        }
    }
}

/// The standard input is not seen by who lists this machine's processes.
fn read(key: String, parse: fn(&str) -> Result<String, String>) -> anyhow::Result<String> {
    if key != "-" {
        return Ok(key);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read the key from the standard input")?;
    parse(line.trim()).map_err(anyhow::Error::msg)
}

async fn ask(target: &Target, order: KeysOrder) -> anyhow::Result<Vec<KeysAt>> {
    let progress = Progress::waiting("every member to say which keys it has");
    let answered = async { Ok::<_, anyhow::Error>(target.ask(ToSidecar::Keys(order)).await?.next().await?) };
    match progress.during(answered).await? {
        FromSidecar::Keys(members) => Ok(members),
        _ => bail!("the sidecar answered something else than keys"),
    }
}

async fn change(target: &Target, done: &str, order: KeysOrder) -> anyhow::Result<ExitCode> {
    let members = ask(target, order).await?;
    let applied = members.iter().filter(|member| member.applied).count();
    say!("{done} at {applied} of {} members", members.len());
    for member in &members {
        if let Some(unsaved) = &member.unsaved {
            say!("{}: not saved, a restart will not know it: {}", member.node, escaped(unsaved));
        }
    }
    Ok(name_failures(&members))
}

fn print_keys(members: &[KeysAt]) {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for member in members {
        for (at, key) in member.keys.iter().enumerate() {
            let (held, sealing) = counts.entry(key).or_default();
            *held += 1;
            *sealing += usize::from(at == 0);
        }
    }
    for (key, (held, sealing)) in counts {
        say!("{} at {held} of {} members, seals at {sealing}", escaped(key), members.len());
    }
}

fn name_failures(members: &[KeysAt]) -> ExitCode {
    for member in members {
        if let Some(why) = &member.why {
            program::stderr().insist(&format!("{}: {}", member.node, escaped(why)));
        }
    }
    if members.iter().all(|member| member.applied) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
