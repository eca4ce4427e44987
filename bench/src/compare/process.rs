//! Processes under test: started on their core, their time read from the kernel, ended by their number.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    process::{Pid, Signal},
    thread::CpuSet,
};

/// How long a process may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take to end once it is asked to; after that it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often to look.
const LOOK_PERIOD: Duration = Duration::from_millis(5);
/// How much of what a failed process wrote is quoted.
const LOG_LINES: usize = 8;

/// Keeps this thread, and everything that it starts from now on, on one core.
pub(super) fn stay_on(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        cores.set(core);
    }
    rustix::thread::sched_setaffinity(None, &cores).with_context(|| {
        format!("cannot use core {core}: the comparison needs two cores, named by --cores PROXY,LOAD")
    })
}

/// What a process has had of its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CoreTime {
    /// Time on it, user and system.
    pub(super) ran: Duration,
    /// Time that it was ready to run, and another was on it.
    pub(super) waited: Duration,
}

impl CoreTime {
    /// What was added since then.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { ran: self.ran.saturating_sub(earlier.ran), waited: self.waited.saturating_sub(earlier.waited) }
    }
}

impl std::iter::Sum for CoreTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::default(), |a, b| Self { ran: a.ran + b.ran, waited: a.waited + b.waited })
    }
}

/// A running process; it ends with this value, and so do its children.
pub(super) struct Process {
    child: Child,
    pid: Pid,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it on the core that the caller runs on and waits until it listens. What it writes goes to a file in `dir`.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        dir: &Path,
        addr: SocketAddr,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.current_dir(dir).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = Pid::from_child(&child);
        let mut process = Self { child, pid, name: name.to_owned(), log };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} ended with {status}; it wrote:\n{}", process.last_words());
            }
            if Instant::now() > deadline {
                bail!("{name} does not listen on {addr}; it wrote:\n{}", process.last_words());
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(process)
    }

    /// The time of the process and its children so far.
    pub(super) fn core_time(&self) -> anyhow::Result<CoreTime> {
        let tree = tree_of(self.pid.as_raw_nonzero().get());
        let time = tree.iter().map(|pid| core_time(*pid)).sum::<io::Result<CoreTime>>();
        time.with_context(|| format!("cannot read the processor time of {} from /proc", self.name))
    }

    /// The end of what it wrote, for an error's message.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: a master that is killed leaves its workers behind.
        let tree = tree_of(self.pid.as_raw_nonzero().get());
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                for pid in tree.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_PERIOD);
        }
    }
}

/// A process and its descendants.
fn tree_of(pid: i32) -> Vec<i32> {
    let children_of = |task: &PathBuf| fs::read_to_string(task.join("children")).unwrap_or_default();
    let children: Vec<i32> =
        tasks_of(pid).iter().map(children_of).flat_map(|text| parse_pids(&text)).collect();
    std::iter::once(pid).chain(children.into_iter().flat_map(tree_of)).collect()
}

fn tasks_of(pid: i32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    tasks.filter_map(|task| Some(task.ok()?.path())).collect()
}

/// Fails for a process that is gone, or while one of its threads ends: its time would be missing from the sum.
fn core_time(pid: i32) -> io::Result<CoreTime> {
    let of_task = |task: PathBuf| {
        let text = fs::read_to_string(task.join("schedstat"))?;
        parse_schedstat(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    match tasks_of(pid) {
        tasks if tasks.is_empty() => Err(io::ErrorKind::NotFound.into()),
        tasks => tasks.into_iter().map(of_task).sum(),
    }
}

/// The numbers in `/proc/PID/task/TID/children`.
fn parse_pids(text: &str) -> Vec<i32> {
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The first two of the three numbers in `/proc/PID/task/TID/schedstat`, in nanoseconds. Unlike the ticks of
/// `/proc/PID/stat` they are exact.
fn parse_schedstat(text: &str) -> Option<CoreTime> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok().map(Duration::from_nanos));
    Some(CoreTime { ran: numbers.next()??, waited: numbers.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_begins_with_time_on_and_time_in_front_of_a_processor() {
        let time = CoreTime { ran: Duration::from_nanos(1_234_567_890), waited: Duration::from_nanos(42) };
        assert_eq!(parse_schedstat("1234567890 42 17\n"), Some(time));
        for bad in ["", "1", "x 1 2", "1 x 2"] {
            assert_eq!(parse_schedstat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn children_are_numbers_with_blanks_between() {
        assert_eq!(parse_pids("12 345 \n"), [12, 345]);
        assert!(parse_pids("").is_empty());
    }

    #[test]
    fn a_process_has_a_time_while_it_runs_and_none_afterwards() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child).as_raw_nonzero().get();
        assert_eq!(tree_of(pid), [pid]);
        assert!(core_time(pid).is_ok());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(core_time(pid).is_err());
    }
}
