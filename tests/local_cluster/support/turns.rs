//! How many clusters run at a time: a starved sidecar takes others for failed, which is not what is tested.

use std::sync::{Condvar, Mutex, PoisonError};

/// Shares of the machine.
const SHARES: usize = 3;

static FREE: Mutex<usize> = Mutex::new(SHARES);
static RETURNED: Condvar = Condvar::new();

/// A part of the machine, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn(usize);

impl Turn {
    /// Waits for room for one more.
    pub(crate) fn one() -> Self {
        Self::take(1)
    }

    /// Waits until nothing else runs.
    pub(crate) fn alone() -> Self {
        Self::take(SHARES)
    }

    fn take(shares: usize) -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            RETURNED.wait_while(free, |free| *free < shares).unwrap_or_else(PoisonError::into_inner);
        *free -= shares;
        Self(shares)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        RETURNED.notify_all();
    }
}
