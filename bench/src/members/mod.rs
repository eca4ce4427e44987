//! `bench members`: how fast many agents learn what happens to one of them, beside Serf, on this machine.
//!
//! ```text
//! for each round, contender:
//!   N agents ── pipes ──▶ lines, each with its time ──▶ when the last agent has said it
//!      └─ /proc: processor time and memory of the idle agents
//! rounds ──▶ medians, least, most ──▶ report (CSV, Markdown)
//! ```

mod agent;
mod busy;
mod cluster;
mod contender;
mod report;
mod round;
mod usage;

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use self::{
    contender::{Contender, Found},
    round::Round,
};
use crate::compare::{contender::find_in_path, machine};

/// `bench members`: measures the membership and Serf's and writes a report.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many agents a cluster has
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u8).range(4..=250))]
    agents: u8,
    /// How often everything is measured; the report has medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Serf [default: serf in the PATH]
    #[arg(long, value_name = "PATH")]
    serf: Option<PathBuf>,
    /// Concertina
    #[arg(long, value_name = "PATH", default_value = "target/release/concertina")]
    concertina: PathBuf,
    /// Where members.csv and members.md are written
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    out: PathBuf,
    /// Nothing of the above, but so long all cores kept busy: no agent of Concertina may say `failed`
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    busy: Option<u64>,
}

/// Measures, and writes the report.
///
/// # Errors
/// A program that is missing; a step that does not happen within a minute; a file that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let concertina = fs::canonicalize(&args.concertina);
    let concertina = concertina
        .with_context(|| format!("{} is missing: cargo build --release", args.concertina.display()))?;
    let ours = Found::new(Contender::Concertina, concertina)?;
    if let Some(seconds) = args.busy {
        return busy::run(&ours, args.agents, subnet(0), Duration::from_secs(seconds));
    }
    let serf = args.serf.clone().or_else(|| find_in_path("serf"));
    let serf = fs::canonicalize(serf.context("serf is not in the PATH: apt-get install serf")?)?;
    let found = [Found::new(Contender::Serf, serf)?, ours];
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let mut rounds = Vec::new();
    let outcome = measure_all(args, &found, &mut rounds);
    if rounds.is_empty() {
        return outcome;
    }
    // What was measured before a failure is worth a report.
    let mut facts = machine::describe();
    facts.push(format!("{} agents, {} rounds", args.agents, args.rounds));
    let report = report::markdown(&rounds, &found, &facts);
    let path = args.out.join("members.md");
    fs::write(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{report}");
    eprintln!("written: {}/members.{{csv,md}}", args.out.display());
    outcome
}

fn measure_all(args: &Args, found: &[Found; 2], rounds: &mut Vec<Round>) -> anyhow::Result<()> {
    let path = args.out.join("members.csv");
    let mut csv = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(csv, "{}", Round::CSV_HEADER)?;
    let mut clusters_count = 0;
    for number in 1..=args.rounds {
        // The other one begins in every round.
        let first = number as usize % found.len();
        for found in found[first..].iter().chain(&found[..first]) {
            let subnet = subnet(clusters_count);
            clusters_count += 1;
            let context = || format!("round {number}, {}", found.title());
            let round =
                Round::measure(number, found, args.agents, subnet, &args.out).with_context(context)?;
            writeln!(csv, "{}", round.csv())?;
            eprintln!("{}", round.csv());
            rounds.push(round);
        }
    }
    ensure!(!rounds.is_empty(), "nothing was measured");
    Ok(())
}

/// Addresses of its own for each cluster, so that no agent hears of one that was there before; runs that take place
/// side by side are apart, too.
fn subnet(cluster: u32) -> [u8; 2] {
    [64 + (std::process::id() % 128) as u8, (cluster % 250) as u8]
}
