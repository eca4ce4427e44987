//! `bench compare`: the proxy beside others on this machine.
//!
//! ```text
//! for each round, load, contender:
//!   generator ──▶ contender ──▶ origin  contender alone on one core, the others on the other
//!                 └─ /proc: processor time before and after
//! runs ──summary──▶ medians, ratios ──▶ report (Markdown), plot (SVG)
//! ```
//!
//! Contenders take turns within a round, so that what drifts on the machine meets all of them.

mod client;
pub(crate) mod contender;
mod generator;
mod h2load;
mod handshakes;
mod load;
pub(crate) mod machine;
mod plot;
mod process;
mod report;
mod run;
mod sealing;
pub(crate) mod summary;
mod wrk;

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::ValueEnum as _;
use rustix::process::Resource;

use self::{
    contender::{Contender, Found, find_in_path},
    generator::Programs,
    load::{Load, Way},
    report::{Report, number},
    run::{Bench, PORTS, Run},
};

/// Descriptors that a process may need: two for each of 4096 connections, and some. HAProxy insists on
/// twice its `maxconn`.
const DESCRIPTORS_COUNT: u64 = 10_000;

/// `bench compare`: measures the proxy and others and writes a report.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often everything is measured; the report has medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Only these loads
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<Load>,
    /// Only these proxies
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    proxies: Vec<Contender>,
    /// Another HAProxy beside the one in the PATH
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Another build of concertina, to be measured in turns with this one
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// Envoy [default: envoy in the PATH]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// The core of the proxy, and that of wrk and the origin
    #[arg(long, value_name = "PROXY,LOAD", default_value = "0,1", value_parser = parse_cores)]
    cores: (usize, usize),
    /// Where compare.csv, compare.md and compare.svg are written
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    out: PathBuf,
}

fn parse_cores(text: &str) -> Result<(usize, usize), String> {
    let cores = text.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match cores {
        Some((proxy, load)) if proxy != load => Ok((proxy, load)),
        _ => Err(format!("{text:?}: expected two different cores, such as 0,1")),
    }
}

/// Measures, and writes the report.
///
/// # Errors
/// A program that is missing, does not start or does not answer as the origin does; a file that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "a debug build measures nothing of interest: cargo build --release, then cargo run --release -p bench -- compare"
    );
    let wrk = find_in_path("wrk").context("wrk is not in the PATH: apt-get install wrk")?;
    let bench = std::env::current_exe().context("cannot find this program's own file")?;
    let found = find_all(args, &bench)?;
    let mut loads = chosen(&args.only, Load::value_variants());
    let h2load = find_in_path("h2load");
    if h2load.is_none() {
        loads.retain(|load| !matches!(load.shape().way, Way::Http2 { .. }));
        eprintln!("skipped HTTP/2: h2load is not in the PATH; apt-get install nghttp2-client");
    }
    ensure!(!loads.is_empty(), "there is nothing to measure");
    let programs = Programs { wrk, h2load };
    raise_descriptor_limit()?;
    let facts = facts(args, &found, &programs)?;
    let (proxy_core, load_core) = args.cores;
    // Comparisons that run one after the other begin at different ports.
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of ports")]
    let port = PORTS.start + (std::process::id() % PORTS.len() as u32) as u16;
    let time = Duration::from_secs(args.seconds);
    let bench = Bench { bench, programs, proxy_core, load_core, time, next_port: port.into() };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let mut runs = Vec::new();
    let outcome = measure_all(args, &bench, &loads, &found, &mut runs);
    if runs.is_empty() {
        return outcome;
    }
    // What was measured before a failure is worth a report.
    let report = Report { runs: &runs, loads: &loads, found: &found, facts: &facts };
    write(&args.out.join("compare.md"), &report.markdown())?;
    write(&args.out.join("compare.svg"), &plot::svg(&runs, &loads, &found)?)?;
    eprintln!("written: {}/compare.{{csv,md,svg}}", args.out.display());
    outcome
}

/// All of them, unless some were named; in their own order and once each.
fn chosen<T: Copy + PartialEq>(named: &[T], all: &[T]) -> Vec<T> {
    all.iter().copied().filter(|one| named.is_empty() || named.contains(one)).collect()
}

fn find_all(args: &Args, bench: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for contender in chosen(&args.proxies, Contender::value_variants()) {
        let executable = match contender {
            Contender::Relay => Some(bench.to_owned()),
            Contender::Concertina => {
                let concertina = bench.with_file_name("concertina");
                ensure!(concertina.is_file(), "{} is missing: cargo build --release", concertina.display());
                Some(concertina)
            }
            Contender::Before => args.before.clone(),
            Contender::Haproxy => find_in_path("haproxy"),
            Contender::Haproxy2 => args.haproxy.clone(),
            Contender::Nginx => find_in_path("nginx"),
            Contender::Envoy => args.envoy.clone().or_else(|| find_in_path("envoy")),
        };
        match executable {
            Some(executable) => {
                let version = contender.version(&executable)?;
                found.push(Found { contender, executable, version });
            }
            None => eprintln!("skipped {}: {}", contender.key(), contender.advice()),
        }
    }
    ensure!(!found.is_empty(), "there is nothing to compare");
    Ok(found)
}

/// Children inherit the limit.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let is_enough = limit.maximum.is_none_or(|most| most >= DESCRIPTORS_COUNT);
    ensure!(is_enough, "{DESCRIPTORS_COUNT} descriptors are needed: ulimit -Hn is less");
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).context("cannot raise the limit of descriptors")
}

fn facts(args: &Args, found: &[Found], programs: &Programs) -> anyhow::Result<Vec<String>> {
    let (proxy_core, load_core) = args.cores;
    let mut facts = machine::describe();
    facts.push(format!(
        "{} rounds of {} s; the proxy on core {proxy_core}, wrk and the origin on core {load_core}",
        args.rounds, args.seconds
    ));
    facts.push(format!("wrk: {}", contender::version_line(&programs.wrk, "-v")?));
    if let Some(h2load) = &programs.h2load {
        facts.push(format!("h2load: {}", contender::version_line(h2load, "--version")?));
    }
    facts.extend(found.iter().map(|found| format!("{}: {}", found.contender.key(), found.version)));
    Ok(facts)
}

fn measure_all(
    args: &Args,
    bench: &Bench,
    loads: &[Load],
    found: &[Found],
    runs: &mut Vec<Run>,
) -> anyhow::Result<()> {
    let path = args.out.join("compare.csv");
    let mut csv = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(csv, "{}", Run::CSV_HEADER)?;
    for round in 1..=args.rounds {
        for &load in loads {
            // Another one begins in every round: whoever follows a heavy run is not always the same.
            let first = round as usize % found.len();
            let in_turn = found[first..].iter().chain(&found[..first]);
            for found in in_turn.filter(|found| found.contender.takes(load.shape().way)) {
                let run = bench.measure(round, load, found)?;
                writeln!(csv, "{}", run.csv())?;
                eprintln!(
                    "round {round}/{}  {:<9} {:<18} {:>6} µs/request {:>7.0} requests/s  p99 {:>6.0} µs  {} errors",
                    args.rounds,
                    load.key(),
                    found.title(),
                    number(run.cpu_us()),
                    run.requests_per_s(),
                    run.p99_us(),
                    run.report.errors,
                );
                runs.push(run);
            }
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_named_is_left_out_and_nobody_comes_twice() {
        let all = Contender::value_variants();
        assert_eq!(chosen(&[], all), all);
        let named = [Contender::Nginx, Contender::Relay, Contender::Nginx];
        assert_eq!(chosen(&named, all), [Contender::Relay, Contender::Nginx]);
    }

    #[test]
    fn proxy_and_load_have_a_core_each() {
        assert_eq!(parse_cores("2,5"), Ok((2, 5)));
        for bad in ["1,1", "1", "a,b", ""] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }
}
