//! How long the phases of requests took: one column of a worker for each role.

use std::{sync::OnceLock, time::Duration};

use program::metrics::Times;

/// What takes a request its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To wait for an upstream where all are at their limit; of those that have to.
    Queue,
    /// To connect to an upstream; of those that do not find a connection.
    Connect,
    /// From its first byte to that of a response.
    FirstByte,
    /// From its first byte to the end of its answer.
    Whole,
}

impl Phase {
    pub(crate) const ALL: [Self; 4] = [Self::Queue, Self::Connect, Self::FirstByte, Self::Whole];

    /// What a label calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::FirstByte => "first_byte",
            Self::Whole => "whole",
        }
    }
}

/// The latencies of one role, at one worker: there is room for them from the first on, for most of a thousand roles may never be asked.
#[derive(Debug, Default)]
pub(crate) struct Latencies(OnceLock<Box<[Times; Phase::ALL.len()]>>);

impl Latencies {
    /// Counts one.
    pub(crate) fn note(&self, phase: Phase, time: Duration) {
        self.0.get_or_init(Box::default)[phase as usize].note(time);
    }

    /// Those of a phase, if there was anything.
    pub(crate) fn of(&self, phase: Phase) -> Option<&Times> {
        self.0.get().map(|times| &times[phase as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_nobody_asks_has_no_room_for_latencies() {
        let latencies = Latencies::default();
        assert!(latencies.of(Phase::Whole).is_none());
        latencies.note(Phase::Whole, Duration::from_millis(1));
        let counts = Phase::ALL.map(|phase| latencies.of(phase).map(Times::count));
        assert_eq!(counts, [Some(0), Some(0), Some(0), Some(1)]);
        assert!(size_of::<Latencies>() <= 16 && size_of::<Times>() < 1024);
    }
}
