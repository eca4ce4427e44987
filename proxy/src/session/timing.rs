//! When began what is timed of an exchange.

use std::time::{Duration, Instant};

use crate::stats::Phase;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// It itself; none when it is over.
    pub(super) started: Option<Instant>,
    /// What it waits for.
    pub(super) wait: Option<(Phase, Instant)>,
    /// It is answered by the proxy.
    pub(super) is_refused: bool,
    /// How long an answered one took.
    pub(super) whole: Option<Duration>,
}

impl Timing {
    /// Of an exchange that begins now.
    pub(super) fn begin(now: Instant) -> Self {
        Self { started: Some(now), ..Self::default() }
    }
}
