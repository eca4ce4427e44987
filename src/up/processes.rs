//! The processes of a node.

use std::{
    fs,
    time::{Duration, Instant},
};

use program::process;
use rustix::process::{Pid, Signal, kill_process_group};

/// Longest wait for killed processes to go: whoever inherits them may not care.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_millis(200);
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Signals a node's group, and then those of what it started: a role leads a session of its own.
pub(super) fn signal_all(sidecar: Pid, signal: Signal) -> rustix::io::Result<()> {
    let started = children(sidecar);
    kill_process_group(sidecar, signal)?;
    for child in started {
        // It may have ended meanwhile, or with the sidecar.
        let _ = kill_process_group(child, signal);
    }
    Ok(())
}

/// The role's process of a node, which leads a session, and whatever it starts is in its group unless that leaves it.
pub(super) fn role(sidecar: Pid) -> Option<Pid> {
    children(sidecar).into_iter().find(|child| process::session(*child) == Some(*child))
}

/// Ends what a role's process left behind that has ended, which may hold its port: what a shell had started. While anybody is in the group, its
/// number is nobody else's; and if nobody is, the number comes again only after all others.
pub(super) async fn end_leftovers(role: Pid) {
    let started = Instant::now();
    while kill_process_group(role, Signal::KILL).is_ok() && started.elapsed() < LEFTOVERS_TIMEOUT {
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// The processes whose parent is this one.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| Pid::from_raw(process.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| process::parent(*pid) == Some(parent)).collect()
}
