//! `concertina check`: what a program would say of its command line, before it is started for real.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;
use clap::FromArgMatches;

use super::{Cli, Command, command, refuse};
use crate::say::say;

#[derive(clap::Args)]
pub(crate) struct CheckArgs {
    /// The command line, such as: proxy --listen http://0.0.0.0:80=billing
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

/// Reads a command line as the program would.
pub(crate) fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let mut words: Vec<OsString> = args.words;
    words.insert(0, "concertina".into());
    let checked = command().try_get_matches_from(&words).and_then(|matches| Cli::from_arg_matches(&matches));
    let checked = match checked {
        Ok(cli) => cli.command,
        Err(error) => return Ok(refuse(&error, &words)),
    };
    match checked {
        Some(Command::Proxy(args)) => drop(args.plan()?),
        Some(Command::Sidecar(args)) => {
            sidecar::admin_token(&args)?;
            feed::Tags::new(args.tags).context("--tag")?;
            args.key_file.as_deref().map(sidecar::node::key_file::load).transpose()?;
        }
        #[cfg(feature = "local")]
        Some(Command::Up(args)) => args.check()?,
        _ => {}
    }
    say!("ok");
    Ok(ExitCode::SUCCESS)
}
