//! What an exchange may wait for, and how it is known that a peer takes nothing.

use std::time::Duration;

use crate::config::Timeouts;

/// What an exchange waits for: that says how long, and whose fault it is when it does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// More of the request.
    Client,
    /// The client, to take more of its answer.
    ClientRoom,
    /// The upstream, to take more of the request.
    UpstreamRoom,
    /// The upstream's answer.
    Answer,
    /// More of the answer.
    Stream,
    /// Either side of a tunnel.
    Tunnel,
}

impl Awaited {
    pub(super) fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Client => timeouts.body,
            // Half of it: half way, and at its end, the peer's kernel is asked whether it has taken anything.
            Self::ClientRoom | Self::UpstreamRoom => timeouts.body / 2,
            Self::Answer => timeouts.response,
            Self::Stream => timeouts.stream,
            Self::Tunnel => timeouts.tunnel,
        }
    }
}

/// What a peer had not acknowledged at the last look, of which there are two in its time.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Option<usize>,
    /// The last look found it as it had been before.
    pub(super) is_stuck: bool,
}

impl Backlog {
    /// False when the peer has taken nothing from one look to the next and the one after that. Two, because a receiver opens its window
    /// in steps of a sixteenth of its buffer: up to 400 kB.
    pub(super) fn note(&mut self, bytes: usize) -> bool {
        let (is_first, before) = (self.bytes.is_none(), self.bytes.replace(bytes));
        let is_same = before.is_none_or(|before| bytes >= before);
        let was_stuck = std::mem::replace(&mut self.is_stuck, is_same);
        is_first || !is_same || !was_stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_stuck_at_the_second_look_that_finds_it_as_it_was() {
        let stuck_after = |looks: &[usize]| {
            let mut backlog = Backlog::default();
            looks.iter().position(|bytes| !backlog.note(*bytes))
        };
        assert_eq!(stuck_after(&[9]), None);
        assert_eq!(stuck_after(&[9, 9]), Some(1), "it has taken nothing since the first look");
        assert_eq!(stuck_after(&[9, 8, 8]), None, "one step of its window may take so long");
        assert_eq!(stuck_after(&[9, 8, 8, 8]), Some(3));
        assert_eq!(stuck_after(&[9, 8, 8, 7, 7]), None);
    }
}
