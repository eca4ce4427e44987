//! The command line: its tree, and what holds for every flag in it.

mod check;
mod complaint;
#[cfg(feature = "manual")]
mod manual;
mod proxy;
mod variables;

use std::{env, ffi::OsString, process::ExitCode};

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "top")]
use crate::top;
#[cfg(feature = "local")]
use crate::up;
use crate::{ask, container, keys};

pub(crate) use check::{CheckArgs, check};
#[cfg(feature = "manual")]
pub(crate) use manual::{CompletionsArgs, ManArgs, completions, man};
pub(crate) use proxy::{ProxyArgs, proxy};

/// What clap ends with where it does not understand a command line.
const USAGE_EXIT_CODE: u8 = 2;

/// An elastic front door for containers that come and go
#[derive(Parser)]
#[command(name = "concertina", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a whole cluster on this machine, each node on its own loopback address (the default command)
    #[cfg(feature = "local")]
    Up(up::Args),
    /// Change how many nodes of a role the local cluster has
    #[cfg(feature = "local")]
    Scale(up::ScaleArgs),
    /// Start, stop, restart, kill, pause or resume a node of the local cluster
    #[cfg(feature = "local")]
    #[command(subcommand)]
    Node(up::NodeCommand),
    /// Print what nodes of the local cluster and their programs say
    #[cfg(feature = "local")]
    Logs(up::LogsArgs),
    /// Run a node: gossip, the feed, and supervision of one role process
    Sidecar(Box<sidecar::Args>),
    /// Route HTTP, TLS, TCP and UDP to roles
    Proxy(Box<ProxyArgs>),
    /// Answer DNS from live membership
    Dns(dns::Args),
    /// The front service of the example: says hello through an app
    Front(app::FrontArgs),
    /// The app service of the example: says hello
    App(app::AppArgs),
    /// List the members of the cluster
    Members(ask::MembersArgs),
    /// List the routes that services claim, and who has them
    Routes(ask::RoutesArgs),
    /// Show or change the tags of one node
    Tags(ask::TagsArgs),
    /// Tell every live member something, once
    Event(ask::EventArgs),
    /// Ask members something and print their answers
    Query(ask::QueryArgs),
    /// Print every member, then every change and event from now on
    Monitor(ask::MonitorArgs),
    /// Show the whole cluster in the terminal, live: rates, latencies, errors, drains
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Wait until a role has enough ready nodes
    Wait(ask::WaitArgs),
    /// Show what a node's sidecar sent, received and dropped
    Stats(ask::StatsArgs),
    /// Say whether a node is ready, and if not, why: for a container's health check
    Health(ask::HealthArgs),
    /// Drain one node and have it leave the cluster
    Leave(ask::LeaveArgs),
    /// Mark a member as left on every node; if it is alive, it rejoins by itself
    ForceLeave(ask::ForceLeaveArgs),
    /// Show what a node knows of a member, and why
    Explain(ask::ExplainArgs),
    /// Make, list and replace the keys that seal the gossip
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Check a command line of a program, its variables and key file, without starting it
    Check(CheckArgs),
    /// Print a shell's completions, e.g. for ~/.local/share/bash-completion/completions/concertina
    #[cfg(feature = "manual")]
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    #[cfg(feature = "manual")]
    Man(ManArgs),
}

/// Reads this process's command line. If that is no command, it is answered, and the process is to end with the code.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    let mut words = container::unfold(env::args_os().collect(), &Cli::command());
    if words.iter().skip(1).all(|word| word == "--") {
        let usual = if cfg!(feature = "local") { "up" } else { "--help" };
        words = vec!["concertina".into(), usual.into()];
    }
    let matches = match command().try_get_matches_from(&words) {
        Ok(matches) => matches,
        // Help and versions are what was asked for: they may wait for who reads them.
        Err(answer) if !answer.use_stderr() => answer.exit(),
        Err(error) => return Err(refuse(&error, &words)),
    };
    if let Some(program) = matches.subcommand_name() {
        for former in variables::former_in_use(program) {
            tracing::warn!("{} is called {} now", former.old, former.new);
        }
    }
    match Cli::from_arg_matches(&matches) {
        Ok(Cli { command: Some(command) }) => Ok(command),
        Ok(Cli { command: None }) => unreachable!("there is a word, and every word is a command"),
        Err(error) => Err(refuse(&error, &words)),
    }
}

/// Says what is wrong with these words.
fn refuse(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let words: Vec<String> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    program::stderr().insist(complaint::about(error, &command(), &words).trim_end());
    ExitCode::from(USAGE_EXIT_CODE)
}

/// The tree, with what holds for all of it.
pub(crate) fn command() -> clap::Command {
    prepared(Cli::command())
}

fn prepared(command: clap::Command) -> clap::Command {
    let name = command.get_name().to_owned();
    { command }.mut_args(|arg| variables::named(&name, forgiving(arg))).mut_subcommands(prepared)
}

fn forgiving(arg: Arg) -> Arg {
    if !arg.get_action().takes_values() || arg.is_positional() {
        return arg;
    }
    // A default that is empty stands for those in the text.
    let is_told = arg.get_default_values().iter().all(|value| !value.is_empty());
    // "-1" is a bad value of its flag, and no unknown flag.
    arg.allow_negative_numbers(true).hide_default_value(!is_told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent_and_every_command_says_what_it_does() {
        fn assert_tells(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(assert_tells);
        }
        command().debug_assert();
        assert_tells(&command());
    }

    #[test]
    fn a_default_that_is_empty_is_not_shown() {
        let help = { command() }.find_subcommand_mut("proxy").unwrap().render_long_help().to_string();
        assert!(help.contains("--timeouts") && !help.contains("[default: \"\"]"), "{help}");
    }
}
