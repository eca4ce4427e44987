//! How TLS handshakes with clients have ended: a closed list.

use super::Counter;

/// How one has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// TLS 1.2 is spoken,
    Full12,
    /// or goes on from a session before.
    Resumed12,
    /// The same of TLS 1.3.
    Full13,
    Resumed13,
    /// What came is no TLS,
    NoTls,
    /// but a request without it.
    PlainHttp,
    /// Both know no version, no cipher or nothing to speak inside.
    Incompatible,
    /// The client has refused, as whoever does not trust the certificate.
    Alert,
    /// The client's part was not what belongs there.
    Broken,
    /// The client went away.
    Gone,
    /// It took too long.
    Timeout,
    /// Too many were under way, and it had begun first.
    Evicted,
}

impl Handshake {
    pub(crate) const ALL: [Self; 12] = [
        Self::Full12,
        Self::Resumed12,
        Self::Full13,
        Self::Resumed13,
        Self::NoTls,
        Self::PlainHttp,
        Self::Incompatible,
        Self::Alert,
        Self::Broken,
        Self::Gone,
        Self::Timeout,
        Self::Evicted,
    ];

    /// The values of its labels: the version, whether it was resumed, and the result.
    pub(crate) fn labels(self) -> [&'static str; 3] {
        match self {
            Self::Full12 => ["1.2", "no", "done"],
            Self::Resumed12 => ["1.2", "yes", "done"],
            Self::Full13 => ["1.3", "no", "done"],
            Self::Resumed13 => ["1.3", "yes", "done"],
            // Mostly before both had agreed on anything.
            Self::NoTls => ["", "", "no_tls"],
            Self::PlainHttp => ["", "", "plain_http"],
            Self::Incompatible => ["", "", "incompatible"],
            Self::Alert => ["", "", "alert"],
            Self::Broken => ["", "", "broken"],
            Self::Gone => ["", "", "gone"],
            Self::Timeout => ["", "", "timeout"],
            Self::Evicted => ["", "", "evicted"],
        }
    }
}

/// Those of one worker.
#[derive(Debug, Default)]
pub(crate) struct Handshakes([Counter; Handshake::ALL.len()]);

impl Handshakes {
    /// One has ended.
    pub(crate) fn note(&self, ended: Handshake) {
        self.0[ended as usize].add(1);
    }

    /// How many have ended so.
    pub(crate) fn of(&self, ended: Handshake) -> u64 {
        self.0[ended as usize].read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_a_counter_and_labels_of_its_own() {
        let ended = Handshakes::default();
        for (at, end) in Handshake::ALL.into_iter().enumerate() {
            assert_eq!((end as usize, ended.of(end)), (at, 0));
            ended.note(end);
            let alike = Handshake::ALL.into_iter().filter(|other| other.labels() == end.labels());
            assert_eq!((alike.count(), ended.of(end)), (1, 1), "{end:?}");
        }
    }
}
