//! Waiting where the time is what is claimed.

use std::{thread, time::Duration};

const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Looks until there is something; none: not within `time`. That passes no faster than this thread is run: a machine that is busy with
/// other things grants whoever is waited for as much more as it takes from both.
pub(crate) fn look_for<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let mut passed = Duration::ZERO;
    loop {
        let found = look();
        if found.is_some() || passed > time {
            return found;
        }
        thread::sleep(LOOK_PERIOD);
        passed += LOOK_PERIOD;
    }
}
