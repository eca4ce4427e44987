//! What a client of HTTP/2 may not go on with: each has a word, by which it is counted and told.

/// One kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// What `h2` itself does not bear, and does not tell apart: resets of streams that wait (rapid reset, CVE-2023-44487), streams that it has to
    /// reset (MadeYouReset, CVE-2025-8671), parts of one head (CVE-2024-27316), fields that are far longer unpacked than packed, and data
    /// of hardly any bytes (CVE-2019-9518).
    Library,
    /// Streams that it resets while they are under way.
    Resets,
    /// Parts of heads.
    Continuations,
    /// Data without any bytes.
    Data,
    /// Pings (CVE-2019-9512), and settings (CVE-2019-9515): each has to be answered.
    Pings,
    Settings,
    /// Room that is granted in crumbs (CVE-2019-9511).
    Windows,
    /// Priorities (CVE-2019-9513).
    Priorities,
    /// Frames that no standard knows.
    Unknown,
    /// A frame or a head that does not end in time.
    Head,
    /// An answer for which it makes no room in time (CVE-2019-9517).
    Stall,
}

impl Flood {
    pub(crate) const ALL: [Self; 11] = [
        Self::Library,
        Self::Resets,
        Self::Continuations,
        Self::Data,
        Self::Pings,
        Self::Settings,
        Self::Windows,
        Self::Priorities,
        Self::Unknown,
        Self::Head,
        Self::Stall,
    ];

    /// Position in a table of counters.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Resets => "resets",
            Self::Continuations => "continuations",
            Self::Data => "data",
            Self::Pings => "pings",
            Self::Settings => "settings",
            Self::Windows => "windows",
            Self::Priorities => "priorities",
            Self::Unknown => "unknown",
            Self::Head => "head",
            Self::Stall => "stall",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_and_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Flood::ALL.into_iter().map(Flood::word).collect();
        assert_eq!(words.len(), Flood::ALL.len());
        assert!(Flood::ALL.into_iter().map(Flood::index).eq(0..Flood::ALL.len()));
    }
}
