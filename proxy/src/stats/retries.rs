//! Why there were further attempts: a closed list.

use super::Counter;
use crate::error::AttemptFailure;

/// Why a request is given to somebody once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Connect,
    ConnectTimeout,
    Handshake,
    Tls,
    /// For want of ports or descriptors here.
    Shortage,
    Stale,
    Unprocessed,
    Closed,
    Silent,
    /// By the tables it would have waited in vain.
    Lost,
}

impl Retry {
    pub(crate) const ALL: [Self; 10] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::Handshake,
        Self::Tls,
        Self::Shortage,
        Self::Stale,
        Self::Unprocessed,
        Self::Closed,
        Self::Silent,
        Self::Lost,
    ];

    /// What a label calls it: as attempts are told elsewhere.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Connect => AttemptFailure::Connect.word(),
            Self::ConnectTimeout => AttemptFailure::ConnectTimeout.word(),
            Self::Handshake => AttemptFailure::Handshake.word(),
            Self::Tls => "tls",
            Self::Shortage => "shortage",
            Self::Stale => AttemptFailure::Stale.word(),
            Self::Unprocessed => AttemptFailure::Unprocessed.word(),
            Self::Closed => AttemptFailure::Closed.word(),
            Self::Silent => AttemptFailure::Silent.word(),
            Self::Lost => "lost",
        }
    }
}

impl From<AttemptFailure> for Retry {
    fn from(failure: AttemptFailure) -> Self {
        match failure {
            AttemptFailure::Connect => Self::Connect,
            AttemptFailure::ConnectTimeout => Self::ConnectTimeout,
            AttemptFailure::Handshake => Self::Handshake,
            AttemptFailure::Tls(_) => Self::Tls,
            AttemptFailure::Unprocessed => Self::Unprocessed,
            AttemptFailure::Descriptors | AttemptFailure::Full | AttemptFailure::Ports => Self::Shortage,
            AttemptFailure::Stale => Self::Stale,
            AttemptFailure::Closed => Self::Closed,
            AttemptFailure::Silent => Self::Silent,
        }
    }
}

/// Those of one worker.
#[derive(Debug, Default)]
pub(crate) struct Retries([Counter; Retry::ALL.len()]);

impl Retries {
    /// There is another attempt.
    pub(crate) fn note(&self, why: Retry) {
        self.0[why as usize].add(1);
    }

    /// How many there were for this.
    pub(crate) fn of(&self, why: Retry) -> u64 {
        self.0[why as usize].read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_counter_and_a_word_of_its_own() {
        let retries = Retries::default();
        for (at, why) in Retry::ALL.into_iter().enumerate() {
            assert_eq!((why as usize, retries.of(why)), (at, 0));
            retries.note(why);
            let alike = Retry::ALL.into_iter().filter(|other| other.word() == why.word());
            assert_eq!((alike.count(), retries.of(why)), (1, 1), "{why:?}");
        }
    }
}
