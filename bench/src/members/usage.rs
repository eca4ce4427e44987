//! What a process has used, read from `/proc`.

use std::{fs, io};

/// The unit of the times in `/proc/PID/stat`; Linux shows 100 a second to programs, whatever the kernel counts in.
const TICKS_PER_S: f64 = 100.0;

/// Megabytes of 1,000,000 bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    /// All pages that are resident.
    pub(super) rss_mb: f64,
    /// The same, a page that processes share divided among them.
    pub(super) pss_mb: f64,
}

/// User and system time. Unlike the threads' own numbers it includes threads that have ended.
pub(super) fn processor_s(pid: u32) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    ticks(&text).map(|ticks| ticks / TICKS_PER_S).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

pub(super) fn memory(pid: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let found = megabytes(&status, "VmRSS:").zip(megabytes(&rollup, "Pss:"));
    found.map(|(rss_mb, pss_mb)| Memory { rss_mb, pss_mb }).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Fields 14 and 15; the name, which may have spaces, ends with the last parenthesis.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn megabytes(text: &str, key: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: f64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_the_kernels_files() {
        let stat = "4242 (a b) c) S 1 4242 4242 0 -1 4194304 1500 0 0 0 17 25 0 0 20 0 4 0 123 0";
        assert_eq!(ticks(stat), Some(42.0));
        let status = "Name:\tserf\nVmHWM:\t  99 kB\nVmRSS:\t    1000 kB\nThreads:\t7\n";
        assert_eq!(megabytes(status, "VmRSS:"), Some(1.024));
        assert_eq!(megabytes(status, "Pss:"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss_mb > 0.1 && memory.pss_mb > 0.1, "{memory:?}");
        assert!(processor_s(std::process::id()).unwrap() >= 0.0);
    }
}
