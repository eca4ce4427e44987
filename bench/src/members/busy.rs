//! Agents on a machine that has no time for them: nobody may be declared dead.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{
    cluster::Cluster,
    contender::{Found, News},
};

/// Keeps every core busy and counts who was said to have failed.
pub(super) fn run(found: &Found, agents_count: u8, subnet: [u8; 2], time: Duration) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(found, subnet)?;
    for _ in 0..agents_count {
        cluster.start_one()?;
    }
    cluster.settle()?;
    let since = Instant::now();
    let cores = thread::available_parallelism()?.get();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        thread::sleep(time);
        is_over.store(true, Ordering::Relaxed);
    });
    let failed: usize = cluster.agents.iter().map(|agent| agent.count(since, News::Failed)).sum();
    println!(
        "{} agents of {}, {cores} cores busy for {} s: {failed} times `failed`",
        cluster.agents.len(),
        found.title(),
        time.as_secs(),
    );
    ensure!(failed == 0, "agents that ran were said to have failed");
    Ok(())
}
