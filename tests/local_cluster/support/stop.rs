//! Ends what goes on beside a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// Says so when it is dropped, so that a test that fails meanwhile ends its clients, too.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
