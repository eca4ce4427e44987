//! What the kernel knows of a process: its time, its memory, its descriptors.

use std::{fs, time::Duration};

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// Time on processors, its own and the kernel's for it.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    /// When it started, since the machine did.
    started: Duration,
    /// None where the kernel does not count them (before Linux 6.2).
    pub(crate) descriptors: Option<u64>,
}

impl Usage {
    /// That of a process, unless it is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut usage =
            parse_stat(&stat, rustix::param::clock_ticks_per_second(), rustix::param::page_size())?;
        let descriptors = fs::metadata(format!("/proc/{pid}/fd")).map(|dir| dir.len()).ok();
        usage.descriptors = descriptors.filter(|count| *count > 0);
        Some(usage)
    }

    /// When it started, if the machine has been up for so long at this time since the Unix epoch.
    pub(crate) fn started_seconds(&self, uptime: Duration, now: Duration) -> f64 {
        (now.saturating_sub(uptime) + self.started).as_secs_f64()
    }
}

/// How long the machine has been up.
pub(crate) fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

/// The fields of proc(5), counted from behind the name, which may hold anything.
fn parse_stat(stat: &str, ticks_per_second: u64, page_bytes: usize) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_secs(ticks) / u32::try_from(ticks_per_second).unwrap_or(1).max(1);
    Some(Usage {
        cpu: time(field(14)?.saturating_add(field(15)?)),
        started: time(field(22)?),
        resident_bytes: field(24)?.saturating_mul(page_bytes as u64),
        descriptors: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_anything_in_it_moves_no_field() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1200 9000000 300 18446744073709551615 1";
        let usage = parse_stat(stat, 100, 4096).unwrap();
        assert_eq!((usage.cpu, usage.resident_bytes), (Duration::from_secs(2), 300 * 4096));
        let (uptime, now) = (Duration::from_secs(20), Duration::from_secs(1000));
        assert_eq!(usage.started_seconds(uptime, now), 992.0);
        for odd in ["", "7 (a) S", "7 (a S 1 2", "7 (a) S x x x x x x x x x x x x x x x x x x x x x x x"] {
            assert_eq!(parse_stat(odd, 100, 4096), None, "{odd:?}");
        }
    }

    #[test]
    fn this_process_is_there_and_one_without_a_number_is_not() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 0 && uptime().unwrap() > usage.started);
        assert_eq!(Usage::of(0), None);
    }
}
