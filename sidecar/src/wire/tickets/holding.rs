//! What one sidecar holds of the secret that tickets are sealed by: one lineage, and what still opens of those that it gave up.
//!
//! ```text
//! nothing ──take──▶ lineage ──take a better one──▶ lineage, and for an epoch what opens of the former
//!         ──draw──▶         ──a clock that leapt──▶ nothing
//! ```
//!
//! Which of two lineages stays follows from their ids alone, so that all who meet, in whatever order, end with the same.

use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{
    TicketEpoch,
    lineage::{EpochSecret, Lineage, LineageId},
};

/// Most secrets of lineages that were given up: of two with three epochs each. More meet only while a cluster starts, and have sealed little.
const FORMER_COUNT_MAX: usize = 6;

/// How somebody counts epochs, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) length_ms: u64,
    pub(crate) epoch: u64,
}

impl Count {
    /// The count at this moment.
    pub(crate) fn at(length: TicketEpoch, now_ms: u64) -> Self {
        Self { length_ms: length.length_ms(), epoch: length.number(now_ms) }
    }

    /// Whether two have tickets in common: their clocks differ by less than an epoch.
    pub(crate) fn is_near(self, other: Self) -> bool {
        self.length_ms == other.length_ms && self.epoch.abs_diff(other.epoch) <= 1
    }
}

/// A lineage that stands more than an epoch away from the time here. To take it would be to follow somebody's wrong clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it stands at epoch {theirs}, here it is {here}")]
pub(crate) struct FarAway {
    theirs: u64,
    here: u64,
}

/// What a sidecar holds.
#[derive(Debug)]
pub(crate) struct Holding {
    length: TicketEpoch,
    lineage: Option<Lineage>,
    /// The latest last.
    former: Vec<EpochSecret>,
}

impl Holding {
    pub(crate) fn new(length: TicketEpoch) -> Self {
        Self { length, lineage: None, former: Vec::new() }
    }

    /// The count of epochs here, at this moment.
    pub(crate) fn count(&self, now_ms: u64) -> Count {
        Count::at(self.length, now_ms)
    }

    /// The lineage as it stands at this moment. What is over is forgotten. A lineage that a wrong clock has led too far, or from which a clock
    /// has leapt away, is given up: nobody else stands there.
    pub(crate) fn standing(&mut self, now_ms: u64) -> Option<&Lineage> {
        let now = self.length.number(now_ms);
        self.former.retain(|of| of.epoch.abs_diff(now) <= 1);
        let stays = |lineage: &mut Lineage| lineage.epoch() <= now.saturating_add(1) && lineage.advance(now);
        self.lineage = self.lineage.take().and_then(|mut lineage| stays(&mut lineage).then_some(lineage));
        self.lineage.as_ref()
    }

    /// Which one that is.
    pub(crate) fn id(&mut self, now_ms: u64) -> Option<LineageId> {
        self.standing(now_ms).map(Lineage::id)
    }

    /// Draws a lineage of its own, if there is none.
    pub(crate) fn draw(&mut self, random: &mut impl CryptoRng, now_ms: u64) {
        let epoch = self.length.number(now_ms);
        self.lineage.get_or_insert_with(|| Lineage::draw(random, now_ms, epoch));
    }

    /// Takes what another sidecar has handed over, if it is better than what there is; whether it was.
    ///
    /// # Errors
    /// It is of another time.
    pub(crate) fn take(&mut self, other: Lineage, now_ms: u64) -> Result<bool, FarAway> {
        let here = self.length.number(now_ms);
        if other.epoch().abs_diff(here) > 1 {
            return Err(FarAway { theirs: other.epoch(), here });
        }
        if self.id(now_ms).is_some_and(|id| id <= other.id()) {
            return Ok(false);
        }
        if let Some(former) = self.lineage.replace(other) {
            self.former.extend(former.secrets());
            self.former.drain(..self.former.len().saturating_sub(FORMER_COUNT_MAX));
        }
        Ok(true)
    }

    /// What tickets are sealed by at this moment, then what only opens them; nothing without a lineage.
    pub(crate) fn secrets(&mut self, now_ms: u64) -> Vec<EpochSecret> {
        let now = self.length.number(now_ms);
        let Some(lineage) = self.standing(now_ms) else { return Vec::new() };
        let mut secrets: Vec<EpochSecret> =
            lineage.secrets().filter(|of| of.epoch.abs_diff(now) <= 1).collect();
        // This one seals, then come those whose clocks are elsewhere, and the lineages of before.
        secrets.sort_by_key(|of| of.epoch.abs_diff(now));
        secrets.extend(self.former.iter().rev().cloned());
        secrets
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::{super::lineage::tests::drawn, *};
    use crate::wire::tickets::lineage::STEPS_MAX;

    pub(crate) const HOUR_MS: u64 = 3_600_000;
    const EPOCH_MS: u64 = 8 * HOUR_MS;
    /// An hour into an epoch.
    pub(crate) const NOW: u64 = 1_763_820_000_000 / EPOCH_MS * EPOCH_MS + HOUR_MS;
    const EPOCH: u64 = NOW / EPOCH_MS;

    fn empty() -> Holding {
        Holding::new("8h".parse().unwrap())
    }

    pub(crate) fn holding(seed: u64, now_ms: u64) -> Holding {
        let mut holding = empty();
        holding.draw(&mut StdRng::seed_from_u64(seed), now_ms);
        holding
    }

    /// One asks the other and takes what it says, if its clock permits; whether it has the other's now.
    pub(crate) fn meet(asker: &mut Holding, asker_ms: u64, other: &mut Holding, other_ms: u64) -> bool {
        let given = other.standing(other_ms).cloned();
        given.is_some_and(|given| asker.take(given, asker_ms) == Ok(true))
    }

    /// Whether the one opens what the other seals.
    fn opens(one: &mut Holding, one_ms: u64, other: &mut Holding, other_ms: u64) -> bool {
        one.secrets(one_ms).contains(&other.secrets(other_ms)[0])
    }

    #[test]
    fn what_one_seals_all_open_whose_clocks_are_less_than_an_epoch_apart() {
        for (behind, is_opened) in [(0, true), (9, true), (10, false), (-14, true), (-15, false)] {
            let at = NOW.checked_add_signed(-behind * 3_600_000).unwrap();
            let (mut here, mut there) = (holding(1, NOW), empty());
            assert_eq!(meet(&mut there, at, &mut here, NOW), is_opened, "{behind} hours behind");
            if is_opened {
                assert!(opens(&mut here, NOW, &mut there, at), "{behind} hours behind");
                assert!(opens(&mut there, at, &mut here, NOW), "{behind} hours behind");
            }
        }
    }

    #[test]
    fn a_newcomer_opens_what_was_sealed_an_epoch_before_it_came() {
        let (mut here, mut newcomer) = (holding(1, NOW), empty());
        let sealing = here.secrets(NOW)[0].clone();
        assert!(meet(&mut newcomer, NOW + EPOCH_MS, &mut here, NOW + EPOCH_MS));
        assert!(newcomer.secrets(NOW + EPOCH_MS).contains(&sealing));
        assert!(!newcomer.secrets(NOW + 2 * EPOCH_MS).contains(&sealing));
    }

    #[test]
    fn a_ticket_is_opened_for_an_epoch_at_least_and_its_secret_forgotten_after_two() {
        let last = NOW / EPOCH_MS * EPOCH_MS + EPOCH_MS - 1;
        let mut here = holding(1, last);
        let sealing = here.secrets(last)[0].clone();
        assert!(here.secrets(last + EPOCH_MS).contains(&sealing));
        assert!(!here.secrets(last + EPOCH_MS + 1).contains(&sealing), "the second epoch is over");
        assert!(
            !here.secrets(last).contains(&sealing),
            "and a clock that is put back does not bring it back"
        );
    }

    #[test]
    fn of_two_lineages_the_first_born_stays_then_the_lesser_and_the_other_opens_for_an_epoch() {
        let (mut old, mut young) = (holding(1, NOW), holding(2, NOW + 1));
        let sealing = young.secrets(NOW + 1)[0].clone();
        assert!(!meet(&mut old, NOW + 1, &mut young, NOW + 1));
        assert!(meet(&mut young, NOW + 1, &mut old, NOW + 1));
        assert!(!meet(&mut young, NOW + 1, &mut old, NOW + 1), "it has it");
        assert_eq!(young.secrets(NOW)[..3], old.secrets(NOW), "the same first");
        let last = (EPOCH + 2) * EPOCH_MS - 1;
        assert!(young.secrets(last).contains(&sealing));
        assert!(!young.secrets(last + 1).contains(&sealing));
        let (mut a, mut b) = (holding(3, NOW), holding(4, NOW));
        assert_ne!(meet(&mut a, NOW, &mut b, NOW), meet(&mut b, NOW, &mut a, NOW), "one of them");
    }

    #[test]
    fn two_lineages_that_were_given_up_open_and_the_one_before_does_not() {
        let mut holdings: Vec<Holding> = (0..4).map(|n| holding(n, NOW + n)).collect();
        let mut here = holdings.pop().unwrap();
        let mut sealing = vec![here.secrets(NOW)[0].clone()];
        for better in holdings.iter_mut().rev() {
            sealing.push(better.secrets(NOW)[0].clone());
            assert!(meet(&mut here, NOW, better, NOW));
        }
        let secrets = here.secrets(NOW);
        assert_eq!(secrets.len(), 3 + FORMER_COUNT_MAX);
        let opened: Vec<bool> = sealing.iter().map(|sealing| secrets.contains(sealing)).collect();
        assert_eq!(opened, [false, true, true, true]);
        assert_eq!(secrets[0], sealing[3]);
    }

    #[test]
    fn whose_clock_is_years_ahead_takes_nobody_along_and_is_back_when_its_clock_is() {
        let (mut here, mut ahead, later) = (holding(1, NOW), empty(), NOW + 5 * 365 * 24 * HOUR_MS);
        assert!(meet(&mut ahead, NOW, &mut here, NOW));
        assert_eq!(ahead.id(later), None, "beyond what it is led on by: it has to draw its own");
        ahead.draw(&mut StdRng::seed_from_u64(9), later);
        let sealing = here.secrets(NOW);
        let wrong = here.take(ahead.standing(later).unwrap().clone(), NOW);
        assert_eq!(wrong, Err(FarAway { theirs: later / EPOCH_MS, here: EPOCH }));
        assert!(ahead.take(here.standing(NOW).unwrap().clone(), later).is_err());
        assert_eq!(here.secrets(NOW), sealing);
        assert_eq!(ahead.id(NOW), None, "nobody is where its clock was");
        assert!(meet(&mut ahead, NOW, &mut here, NOW));
        assert_eq!(ahead.secrets(NOW), here.secrets(NOW));
        // The same by less than it is led on by: it has the cluster's lineage, and nobody takes it from there.
        let later = NOW + 100 * EPOCH_MS;
        let wrong = here.take(ahead.standing(later).unwrap().clone(), NOW);
        assert_eq!(wrong, Err(FarAway { theirs: EPOCH + 100, here: EPOCH }));
        assert_eq!(ahead.id(NOW), None);
    }

    #[test]
    fn what_one_epoch_off_is_taken_and_two_are_not() {
        for (epoch, is_taken) in
            [(EPOCH - 2, false), (EPOCH - 1, true), (EPOCH + 1, true), (EPOCH + 2, false), (u64::MAX, false)]
        {
            let taken = empty().take(drawn(1, 0, epoch), NOW);
            let far = FarAway { theirs: epoch, here: EPOCH };
            assert_eq!(taken, if is_taken { Ok(true) } else { Err(far) });
        }
    }

    #[test]
    fn a_machine_that_slept_for_so_long_goes_on_and_for_longer_asks_anew() {
        for (epochs, goes_on) in [(STEPS_MAX, true), (STEPS_MAX + 1, false)] {
            assert_eq!(holding(1, NOW).id(NOW + epochs * EPOCH_MS).is_some(), goes_on);
        }
    }

    #[test]
    fn at_the_ends_of_time_there_are_secrets_too() {
        for at in [0, u64::MAX] {
            assert_eq!(holding(1, at).secrets(at).len(), 2 + usize::from(at > 0));
            assert!(meet(&mut empty(), at, &mut holding(1, at), at));
        }
    }

    proptest! {
        /// Who starts when, and whose clock is off by how much, does not matter: everybody ends with the same.
        #[test]
        fn any_order_of_meetings_that_reaches_everybody_ends_with_one_lineage(
            clocks in prop::collection::vec(0..EPOCH_MS, 2..9),
            drawn in prop::collection::vec(any::<bool>(), 9),
            meetings in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
            period in 0..EPOCH_MS,
        ) {
            let mut nodes: Vec<Holding> = Vec::new();
            for ((n, clock), is_drawn) in (0..).zip(&clocks).zip(drawn) {
                nodes.push(if is_drawn { holding(n, NOW + clock) } else { empty() });
            }
            let mut time = 0;
            let mut meeting = |nodes: &mut Vec<Holding>, a: usize, b: usize| {
                time += period / 40;
                if a != b {
                    let [asker, other] = nodes.get_disjoint_mut([a, b]).unwrap();
                    meet(asker, NOW + clocks[a] + time, other, NOW + clocks[b] + time);
                }
            };
            let count = nodes.len();
            for (a, b) in meetings {
                meeting(&mut nodes, a.index(count), b.index(count));
            }
            // Then everybody asks a neighbour, and so on until it is once around.
            for _ in 0..count {
                (0..count).for_each(|n| meeting(&mut nodes, n, (n + 1) % count));
            }
            let ids: std::collections::BTreeSet<_> = nodes.iter().map(|node| node.lineage.as_ref().map(Lineage::id)).collect();
            prop_assert_eq!(ids.len(), 1);
        }
    }
}
