//! Whether a simulation fits into the machine's memory: better to know it now than from the kernel's out-of-memory killer after an hour.
//! A container's own limit is not looked at.

use std::fs;

use anyhow::{Context as _, ensure};

/// What is kept for each pair of nodes, in bytes, because every node has a state of every other: 2.08 GB for a thousand.
const PAIR_BYTES: u64 = 2_100;

/// Refuses more nodes than the machine has memory for.
///
/// # Errors
/// How much they would take, how much there is, and how many would fit.
pub(super) fn check(nodes: u16) -> anyhow::Result<()> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let available = available_bytes(&meminfo).context("no MemAvailable in /proc/meminfo")?;
    check_fits(nodes, available)
}

fn check_fits(nodes: u16, available: u64) -> anyhow::Result<()> {
    let needed = u64::from(nodes).pow(2) * PAIR_BYTES;
    ensure!(
        needed <= available,
        "--nodes {nodes}: to simulate them takes about {} GB of memory, and {} GB are available: expected at most {}",
        needed.div_ceil(1_000_000_000),
        available / 1_000_000_000,
        (available / PAIR_BYTES).isqrt(),
    );
    Ok(())
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_nodes_are_simulated_as_fit_and_no_more() {
        let available = 3000 * 3000 * PAIR_BYTES;
        assert!(check_fits(3000, available).is_ok());
        assert!(check_fits(3000, available - 1).is_err());
        let error = check_fits(10_000, available).unwrap_err().to_string();
        assert!(error.contains("about 210 GB") && error.ends_with("expected at most 3000"), "{error}");
    }

    #[test]
    fn the_memory_that_is_available_is_found_in_the_kernels_file() {
        let meminfo = "MemTotal:       24576000 kB\nMemFree:        1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(20_480_000_000));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
        assert!(check(4).is_ok());
    }
}
