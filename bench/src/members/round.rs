//! One round of one contender: everything that happens to an agent, once.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::Signal;

use super::{
    cluster::{Cluster, Seen},
    contender::{Contender, Found, News},
};

/// How long the processor time of idle agents is counted.
const IDLE: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) number: u32,
    pub(super) contender: Contender,
    pub(super) start_s: f64,
    pub(super) kill_s: f64,
    pub(super) leave_s: f64,
    pub(super) stop_s: f64,
    pub(super) continue_s: f64,
    pub(super) idle_percent: f64,
    pub(super) rss_mb: f64,
    pub(super) pss_mb: f64,
    /// How many took the agent that left for a failed one.
    pub(super) odd: usize,
}

impl Round {
    pub(super) const CSV_HEADER: &str =
        "round,contender,start_s,kill_s,leave_s,stop_s,continue_s,idle_percent,rss_mb,pss_mb,failed_not_left";

    pub(super) fn csv(&self) -> String {
        let Self { start_s, kill_s, leave_s, stop_s, continue_s, idle_percent, rss_mb, pss_mb, .. } = self;
        format!(
            "{},{},{start_s:.4},{kill_s:.4},{leave_s:.4},{stop_s:.4},{continue_s:.4},{idle_percent:.4},\
             {rss_mb:.2},{pss_mb:.2},{}",
            self.number,
            self.contender.key(),
            self.odd,
        )
    }

    /// Measures; the logs of agents that took a leave for a failure are kept in `out`.
    pub(super) fn measure(
        number: u32,
        found: &Found,
        agents_count: u8,
        subnet: [u8; 2],
        out: &Path,
    ) -> anyhow::Result<Self> {
        let contender = found.contender;
        let mut cluster = Cluster::new(found, subnet)?;
        for _ in 1..agents_count {
            cluster.start_one()?;
        }
        cluster.settle().context("starting")?;
        cluster.start_one()?;
        let start_s = cluster.wait_known().context("start of one more")?.after.as_secs_f64();
        cluster.settle().context("after the start of one more")?;
        let (idle_percent, rss_mb, pss_mb) = usage(&cluster)?;

        let last = cluster.agents.len() - 1;
        let stop = signal(&cluster, last, Signal::STOP, News::Failed, &[])?;
        let carry_on = signal(&cluster, last, Signal::CONT, News::Joined, &[])?;
        cluster.settle().context("after SIGCONT")?;

        // An agent that was never stopped: what the last one has behind it should not matter here.
        let victim = last - 1;
        let kill = signal(&cluster, victim, Signal::KILL, News::Failed, &[])?;
        cluster.agents.remove(victim);
        cluster.settle().context("after SIGKILL")?;

        // The one that was stopped and came back: its leave must be told from a failure all the same.
        let leaver = last - 1;
        let leave = signal(&cluster, leaver, contender.leave_signal(), News::Left, &[News::Failed])?;
        keep_logs(&cluster, number, contender, leaver, &leave, out)?;
        Ok(Self {
            number,
            contender,
            start_s,
            kill_s: kill.after.as_secs_f64(),
            leave_s: leave.after.as_secs_f64(),
            stop_s: stop.after.as_secs_f64(),
            continue_s: carry_on.after.as_secs_f64(),
            idle_percent,
            rss_mb,
            pss_mb,
            odd: leave.odd.len(),
        })
    }
}

fn signal(
    cluster: &Cluster<'_>,
    subject: usize,
    signal: Signal,
    wanted: News,
    others: &[News],
) -> anyhow::Result<Seen> {
    let since = Instant::now();
    cluster.agents[subject].signal(signal)?;
    cluster.wait_for(subject, since, wanted, others).with_context(|| format!("{signal:?}"))
}

/// The mean agent: percent of a core while nothing happens, and memory after it.
fn usage(cluster: &Cluster<'_>) -> anyhow::Result<(f64, f64, f64)> {
    let processor_s = || cluster.agents.iter().map(|agent| agent.processor_s()).sum::<anyhow::Result<f64>>();
    let (before, since) = (processor_s()?, Instant::now());
    std::thread::sleep(IDLE);
    let (used, time) = (processor_s()? - before, since.elapsed());
    let memories = cluster.agents.iter().map(|agent| agent.memory()).collect::<anyhow::Result<Vec<_>>>()?;
    #[expect(clippy::cast_precision_loss, reason = "a few agents")]
    let count = memories.len() as f64;
    let rss_mb = memories.iter().map(|memory| memory.rss_mb).sum::<f64>() / count;
    let pss_mb = memories.iter().map(|memory| memory.pss_mb).sum::<f64>() / count;
    Ok((used * 100.0 / time.as_secs_f64() / count, rss_mb, pss_mb))
}

fn keep_logs(
    cluster: &Cluster<'_>,
    number: u32,
    contender: Contender,
    leaver: usize,
    leave: &Seen,
    out: &Path,
) -> anyhow::Result<()> {
    if leave.odd.is_empty() {
        return Ok(());
    }
    let leaver = &cluster.agents[leaver];
    let names = leave.odd.join(", ");
    eprintln!("{}: {} left, and {names} said that it failed", contender.key(), leaver.name);
    let odd = cluster.agents.iter().filter(|agent| leave.odd.contains(&agent.name));
    for agent in odd.chain([leaver]) {
        let path = out.join(format!("members-{}-{number}-{}.log", contender.key(), agent.name));
        fs::write(&path, agent.text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
