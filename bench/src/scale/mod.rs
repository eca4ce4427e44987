//! `bench scale`: clusters of the real membership on a virtual clock, from ten nodes to thousands.
//!
//! ```text
//! for each size: mass start ─▶ one joins ─▶ mass stop; a bad network that heals ─▶ report (CSV, Markdown, SVG)
//! ```
//!
//! The simulator and the scenes are those of the tests of `sidecar`. Times are of the virtual clock; what the simulation itself takes
//! is told apart. Beside them is the formula that memberlist's authors give for the spread of one rumour.

mod memory;
mod plot;
mod report;
#[path = "../../../sidecar/tests/sim/mod.rs"]
#[expect(clippy::unwrap_used, dead_code, reason = "a simulator for tests, which use more of it")]
mod sim;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use self::sim::scenes::{Churn, churn, heal, memberlist_seconds};

/// `bench scale`: simulates clusters and writes a report.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many nodes; a list
    #[arg(long, value_delimiter = ',', default_value = "10,32,100,316,1000", value_parser = clap::value_parser!(u16).range(4..=20_000))]
    nodes: Vec<u16>,
    /// What the random choices follow from
    #[arg(long, default_value_t = 51)]
    seed: u64,
    /// Up to how many nodes the bad network is simulated, too
    #[arg(long, default_value_t = 316)]
    heal_up_to: u16,
    /// Where scale.csv, scale.md and scale.svg are written
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    out: PathBuf,
}

/// One size.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: u16,
    churn: Churn,
    /// None: not simulated.
    healed: Option<Duration>,
    memberlist_s: f64,
    /// What the simulation took.
    took: Duration,
}

/// Simulates, and writes the report after each size.
///
/// # Errors
/// More nodes than there is memory for, or a file that cannot be written. A claim that does not hold is a panic: see the scenes.
pub fn run(args: &Args) -> anyhow::Result<()> {
    memory::check(args.nodes.iter().copied().max().unwrap_or_default())?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let mut sizes = Vec::new();
    for &nodes in &args.nodes {
        let since = Instant::now();
        let churn = churn(nodes, args.seed);
        let healed = (nodes <= args.heal_up_to).then(|| heal(nodes, args.seed));
        let size =
            Size { nodes, churn, healed, memberlist_s: memberlist_seconds(nodes), took: since.elapsed() };
        eprintln!("{}", report::csv_line(&size));
        sizes.push(size);
        let write = |name: &str, text: String| {
            let path = args.out.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("scale.csv", report::csv(&sizes))?;
        write("scale.md", report::markdown(&sizes, args.seed))?;
        if sizes.len() > 1 {
            write("scale.svg", plot::svg(&sizes)?)?;
        }
    }
    println!("{}", report::markdown(&sizes, args.seed));
    Ok(())
}
