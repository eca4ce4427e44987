//! How well this node itself is, judged by how its probes go (Lifeguard's local health: Dadgar, Phillips, Currey 2018, section
//! IV-A, as memberlist has it).
//!
//! Who gets no answers from anybody is more likely ill than surrounded by the dead. Each probe that fails, each suspicion of itself
//! that it has to object to, and each stall make it slower to probe and more patient with answers; each probe that succeeds
//! takes one of these back. Lifeguard also counts missing refusals of indirect probes, which foca does not send.

use std::time::Duration;

use foca::Timer;

/// At worst, probes are slower by this, and one time more: memberlist's bound.
const SCORE_MAX: u32 = 8;

/// The score: 0 for a node that is well.
#[derive(Debug, Default)]
pub(crate) struct Health {
    score: u32,
}

impl Health {
    /// Something that a healthy node would not see.
    pub(crate) fn note_trouble(&mut self) {
        self.score = (self.score + 1).min(SCORE_MAX);
    }

    /// A probe was answered.
    pub(crate) fn note_answer(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// How long after it was made this timer is due. foca does not let its probe periods be changed, but its timers are ours.
    pub(crate) fn stretch<T>(&self, timer: &Timer<T>, after: Duration) -> Duration {
        match timer {
            Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => after * (self.score + 1),
            _ => after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probes_are_stretched_and_not_beyond_the_limit() {
        let mut health = Health::default();
        let (probe, gossip) = (Timer::<()>::ProbeRandomMember(1), Timer::<()>::PeriodicGossip(1));
        let second = Duration::from_secs(1);
        assert_eq!(health.stretch(&probe, second), second);
        for score in 1..=SCORE_MAX + 1 {
            health.note_trouble();
            assert_eq!(health.stretch(&probe, second), second * (score.min(SCORE_MAX) + 1));
            assert_eq!(health.stretch(&gossip, second), second);
        }
        (0..SCORE_MAX).for_each(|_| health.note_answer());
        assert_eq!(health.stretch(&probe, second), second, "one answer makes good for one trouble");
        health.note_answer();
        assert_eq!(health.stretch(&probe, second), second);
    }
}
