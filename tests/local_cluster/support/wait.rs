//! Waiting with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// For what takes moments. Only reached when something is broken, so it can grant a busy machine plenty.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Looks until there is something; none: not within `time`.
pub(crate) fn look_for<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        // Read before the look: the last look is after the deadline, however long this thread was not run.
        let over = started.elapsed() > time;
        let found = look();
        if found.is_some() || over {
            return found;
        }
        thread::sleep(LOOK_PERIOD);
    }
}

/// Looks until there is something.
///
/// # Panics
/// There is nothing before the [`DEADLINE`].
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    look_for(DEADLINE, look).unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}"))
}
