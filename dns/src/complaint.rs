//! A complaint that may have a reason many times a second, and is made once in that time.

use std::time::{Duration, Instant};

/// How often it is made: often enough to be seen, and no log is filled by it.
const PERIOD: Duration = Duration::from_secs(1);

/// When it was made last, and how often it was not.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    made: Option<Instant>,
    held_back: u64,
}

impl Complaint {
    /// There is a reason again. Gives how many there were since the last time, if it is to be made now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        self.held_back += 1;
        if self.made.is_some_and(|made| now < made + PERIOD) {
            return None;
        }
        self.made = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_made_once_a_second_and_counts_its_reasons() {
        let start = Instant::now();
        let mut complaint = Complaint::default();
        let made: Vec<u64> =
            (0..2_500).filter_map(|ms| complaint.due(start + Duration::from_millis(ms))).collect();
        assert_eq!(made, [1, 1000, 1000]);
    }
}
