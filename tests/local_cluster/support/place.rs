//! A directory for a cluster, which shows its logs when the test fails and outlives no process of the cluster.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::wait::{DEADLINE, look_for};

/// Longest that a process is on its way out: one of which only the first thread has ended is so for ever.
const ENDING_TIME: Duration = Duration::from_secs(2);

/// See the module. It must be dropped after what runs there.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("concertina-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Every process that this directory's path was given to, on the command line or in the environment: launcher and
    /// sidecars have it there, role processes here.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes_about(self.path())
    }

    /// Waits until no process is left; those that are.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        look_for(DEADLINE, || self.processes().is_empty().then(Vec::new)).unwrap_or_else(|| self.processes())
    }

    fn print_logs(&self) {
        let mut logs: Vec<PathBuf> =
            fs::read_dir(self.path()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension() == Some(OsStr::new("log")));
        logs.sort();
        for log in logs {
            eprintln!("--- {}\n{}", log.display(), fs::read_to_string(&log).unwrap_or_default());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs();
        }
        // What was killed just now may still write here.
        self.left_behind();
    }
}

fn processes_about(dir: &Path) -> Vec<String> {
    let about =
        |bytes: &[u8]| bytes.windows(dir.as_os_str().len()).any(|part| part == dir.as_os_str().as_bytes());
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        // Whose it is cannot be seen any more, and until it is over it may hold sockets and files.
        let _ = look_for(ENDING_TIME, || (!is_ending(&process)).then_some(()));
        // Other users' processes cannot be read, and are not ours. Processes that have ended have no command line.
        let read = |name| fs::read(process.join(name)).unwrap_or_default();
        let command_line = read("cmdline");
        if !command_line.is_empty() && (about(&command_line) || about(&read("environ"))) {
            found.push(format!("{} {}", process.display(), String::from_utf8_lossy(&command_line)));
        }
    }
    found
}

/// Whether a process is on its way out: it has lost its memory, and its command line with it, and perhaps not its sockets yet. One that
/// nobody has waited for has lost everything.
fn is_ending(process: &Path) -> bool {
    /// Of a process's flags, as the kernel's `PF_EXITING`.
    const EXITING: u64 = 4;
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Behind the name: the state, and the flags as the sixth after it.
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let (state, flags) = (fields.next().unwrap_or_default(), fields.nth(5));
    let is_exiting =
        flags.and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0);
    // The first thread may be over before the others.
    let has_threads = || fs::read_dir(process.join("task")).is_ok_and(|threads| threads.count() > 1);
    is_exiting && (!matches!(state, "Z" | "X") || has_threads())
}
