//! What a client of HTTP/2 may not go on with: each has a word, by which it is counted and told.

/// One kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// What `h2` does not bear for a reason that has no word here yet.
    Library,
    /// Streams that it resets before anybody has looked at them (rapid reset, CVE-2023-44487).
    RapidResets,
    /// Streams that have to be reset for its faults (MadeYouReset, CVE-2025-8671).
    ForcedResets,
    /// Streams beyond those that it may have at a time.
    Streams,
    /// Heads far longer than any may be, packed or unpacked.
    Fields,
    /// Heads that nothing answers: of streams that are over.
    Heads,
    /// Goodbyes, and it stays.
    Goodbyes,
    /// Streams that it resets while they are under way.
    Resets,
    /// Parts of heads (CVE-2024-27316).
    Continuations,
    /// Data of no bytes, or hardly any (CVE-2019-9518).
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
    pub(crate) const ALL: [Self; 17] = [
        Self::Library,
        Self::RapidResets,
        Self::ForcedResets,
        Self::Streams,
        Self::Fields,
        Self::Heads,
        Self::Goodbyes,
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
            Self::RapidResets => "rapid_resets",
            Self::ForcedResets => "forced_resets",
            Self::Streams => "streams",
            Self::Fields => "fields",
            Self::Heads => "heads",
            Self::Goodbyes => "goodbyes",
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
    fn the_document_tells_of_each_and_of_no_other() {
        let document = include_str!("../../docs/metrics.md");
        let section = document.split("## Floods of HTTP/2").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let words: Vec<&str> = rows.map_while(|row| row.strip_prefix("| ")?.split(" |").next()).collect();
        assert_eq!(words, Flood::ALL.map(Flood::word));
    }

    #[test]
    fn each_has_a_place_and_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Flood::ALL.into_iter().map(Flood::word).collect();
        assert_eq!(words.len(), Flood::ALL.len());
        assert!(Flood::ALL.into_iter().map(Flood::index).eq(0..Flood::ALL.len()));
    }
}
