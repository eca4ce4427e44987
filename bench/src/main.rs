//! `bench`: the proxy and the membership beside others, and the two servers that this takes.

use std::{convert::Infallible, io, net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// How fast the proxy is, beside others
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// An origin: `/` answers 35 bytes, `/64k` and `/1m` so much
    Origin(bench::origin::Args),
    /// A relay of bytes: what no proxy can be faster than
    Relay(bench::relay::Args),
    /// Measures the proxy and others on this machine and writes a report
    Compare(bench::compare::Args),
    /// Measures the membership of many agents and Serf's on this machine and writes a report
    Members(bench::members::Args),
    /// Simulates clusters of up to thousands of nodes and writes a report
    Scale(bench::scale::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Origin(args) => serving(args.listen, bench::origin::run(&args)),
        Command::Relay(args) => serving(args.listen, bench::relay::run(&args)),
        Command::Compare(args) => bench::compare::run(&args),
        Command::Members(args) => bench::members::run(&args),
        Command::Scale(args) => bench::scale::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serving(listen: SocketAddr, outcome: io::Result<Infallible>) -> anyhow::Result<()> {
    outcome.map(|never| match never {}).with_context(|| format!("cannot serve on {listen}"))
}
