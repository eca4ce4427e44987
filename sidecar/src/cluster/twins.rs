//! Names that several nodes claim: only one of them is served, so people have to be told.
//!
//! A node that is started again is there beside its predecessor for a moment, until that is known to be dead. So it is told late, and
//! once for each node that claims a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use feed::Name;

/// How long a name must have several claims: longer than a death takes to be known.
pub(crate) const TWIN_PERIOD: Duration = Duration::from_secs(5);

/// A name, and who claims it; the last of them has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contest {
    pub(crate) name: Name,
    pub(crate) addrs: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Known {
    addrs: BTreeSet<SocketAddr>,
    /// Since when they have been these, or fewer.
    since: Duration,
    is_told: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Twins(BTreeMap<Name, Known>);

impl Twins {
    /// Takes what names have several claims now, and returns what is to be told.
    pub(crate) fn apply(&mut self, contests: impl Iterator<Item = Contest>, now: Duration) -> Vec<Contest> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for contest in contests {
            let addrs: BTreeSet<SocketAddr> = contest.addrs.iter().copied().collect();
            let known = before.remove(&contest.name).filter(|known| addrs.is_subset(&known.addrs));
            let mut known = known.unwrap_or(Known { addrs, since: now, is_told: false });
            if !known.is_told && now >= known.since + TWIN_PERIOD {
                known.is_told = true;
                due.push(contest.clone());
            }
            self.0.insert(contest.name, known);
        }
        due
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let untold = self.0.values().filter(|known| !known.is_told);
        untold.map(|known| known.since + TWIN_PERIOD).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_several_claims_is_told_once_it_lasts_and_again_when_one_more_comes() {
        let contest = |count: u8| {
            let addrs = (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 7946))).collect();
            Contest { name: "dup".parse().unwrap(), addrs }
        };
        let mut twins = Twins::default();
        let (start, moment) = (Duration::from_secs(1), Duration::from_millis(1));
        assert!(twins.apply([contest(2)].into_iter(), start).is_empty());
        assert_eq!(twins.next_deadline(), Some(start + TWIN_PERIOD));
        assert!(twins.apply([contest(2)].into_iter(), start + TWIN_PERIOD - moment).is_empty());
        assert_eq!(twins.apply([contest(2)].into_iter(), start + TWIN_PERIOD), [contest(2)]);
        assert_eq!(twins.next_deadline(), None);
        let later = start + 2 * TWIN_PERIOD;
        assert!(twins.apply([contest(3)].into_iter(), later).is_empty());
        assert_eq!(twins.apply([contest(3)].into_iter(), later + TWIN_PERIOD), [contest(3)]);
        assert!(
            twins.apply([contest(2)].into_iter(), later + 3 * TWIN_PERIOD).is_empty(),
            "fewer are no news"
        );
        assert!(twins.apply([].into_iter(), later + 3 * TWIN_PERIOD).is_empty());
        assert!(twins.apply([contest(2)].into_iter(), later + 4 * TWIN_PERIOD).is_empty(), "anew");
        assert!(twins.next_deadline().is_some());
    }
}
