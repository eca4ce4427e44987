//! Whether somebody looks at how long each endpoint takes to answer: only then workers read a clock for it, and add to what they share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How long after a question the next one is expected.
const PERIOD: Duration = Duration::from_secs(10);

/// Until when somebody looks.
#[derive(Debug)]
pub(crate) struct Attention {
    since: Instant,
    until_ms: AtomicU64,
}

impl Default for Attention {
    fn default() -> Self {
        Self { since: Instant::now(), until_ms: AtomicU64::new(0) }
    }
}

impl Attention {
    /// Somebody has asked.
    pub(crate) fn draw(&self) {
        self.until_ms.store(millis(self.since.elapsed() + PERIOD), Ordering::Relaxed);
    }

    /// Whether somebody has asked lately.
    pub(crate) fn is_drawn(&self) -> bool {
        let until_ms = self.until_ms.load(Ordering::Relaxed);
        until_ms > 0 && millis(self.since.elapsed()) < until_ms
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_before_somebody_has_asked() {
        let attention = Attention::default();
        assert!(!attention.is_drawn());
        attention.draw();
        assert!(attention.is_drawn());
        attention.until_ms.store(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        assert!(!attention.is_drawn(), "that was long ago");
    }
}
