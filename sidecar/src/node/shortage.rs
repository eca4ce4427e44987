//! What this process, or its machine, is short of: that says nothing about whoever it wanted to reach.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::io::Errno;

/// How often one kind of trouble is logged at most.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// Whether an error is our own shortage: of descriptors, sockets, ports, memory, processes.
pub(crate) fn is_own(error: &io::Error) -> bool {
    let shortages = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        // Of a fork: no more processes.
        Errno::AGAIN,
    ];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Lets at most one line a second into the log of what may come by the thousand.
#[derive(Debug, Default)]
pub(crate) struct LogPace {
    next: Option<Instant>,
    held_back_count: u64,
}

impl LogPace {
    /// Whether to log now, and how many times it was not since the last time.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.held_back_count += 1;
            return None;
        }
        self.next = Some(now + LOG_PERIOD);
        Some(std::mem::take(&mut self.held_back_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_passes_and_says_how_many_did_not() {
        let (mut pace, start) = (LogPace::default(), Instant::now());
        let mut pass = |ms| pace.pass(start + Duration::from_millis(ms));
        assert_eq!(
            [pass(0), pass(1), pass(999), pass(1000), pass(2000)],
            [Some(0), None, None, Some(2), Some(0)]
        );
    }

    #[test]
    fn a_refusal_is_no_shortage_of_ours() {
        assert!(is_own(&Errno::MFILE.into()) && !is_own(&Errno::CONNREFUSED.into()));
    }
}
