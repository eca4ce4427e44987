//! Which upstream a request goes to: of two random ones, the one with less to do for its share.
//!
//! Power of two choices needs no state beyond the in-flight counts and avoids the herd that "least of all" makes when
//! counts are a moment old. How two are compared, so that weights hold under load, is said in [`feed::load`].
//!
//! Where nearly all are well, a choice costs the same however many there are: it is drawn from a table, and drawn again if whom it
//! falls on cannot be chosen or is new. What a few draws do not find is looked for among all, with the same probabilities.

use std::{cell::Cell, sync::atomic::Ordering};

use feed::{EndpointId, load::Load, recall::Among};

use super::{
    avoided::Avoided,
    dice::Dice,
    directory::{Endpoint, Listing},
    hash::score,
    ramp::Ramp,
};

/// How often is drawn before all are looked at. With half of a role spared, one choice in a hundred gets so far.
const DRAWS_COUNT_MAX: u64 = 8;

/// What a choice is made among.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) listing: &'a Listing,
    pub(crate) ramp: &'a Ramp,
    pub(crate) panic: &'a Panic,
}

/// What a choice goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Endpoints that failed this request before.
    pub(crate) avoid: &'a Avoided,
    /// By which the choice is made instead of by load.
    pub(crate) key: Option<u64>,
    /// Most leases of one endpoint at a time.
    pub(crate) in_flight_max: u32,
    /// On the worker's clock.
    pub(crate) now_ms: u64,
}

/// A choice, as it is told to whoever asks why a request went where it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picked {
    pub(crate) by: By,
    /// Of the table that was chosen from; 0: of none.
    pub(crate) generation: u64,
    /// How all of that table stood.
    pub(crate) among: Option<Among>,
    /// How good a choice those are that were drawn: there were none better.
    pub(crate) tier: Tier,
    /// The chosen one among them, unless the choice was by a key.
    pub(crate) drawn: [Option<Drawn>; 2],
}

/// By what an upstream is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Load,
    Key,
    /// The request names the node.
    Cookie,
    /// The client's connection is bound to one of the upstream.
    Connection,
}

/// An endpoint as it was when it was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) id: EndpointId,
    pub(crate) in_flight: u32,
    pub(crate) weight: u16,
    pub(crate) grown_percent: u8,
    /// It had failed, and not served since.
    pub(crate) is_ejected: bool,
}

impl Picked {
    /// Without a choice among others.
    pub(crate) fn by(by: By) -> Self {
        Self { by, generation: 0, among: None, tier: Tier::Healthy, drawn: [None; 2] }
    }
}

/// Why nobody was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unpicked {
    /// There is nobody.
    Nobody,
    /// Those that would be chosen from are at their limit.
    Full,
}

/// How good a choice an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Not to be given work.
    Never,
    Avoided,
    Suspect,
    /// Refusing or ejected.
    Spared,
    Healthy,
}

/// Whether so many are ejected that this is taken for a mistake, and ignored. Worked out once a tick, where somebody is ejected.
#[derive(Debug)]
pub(crate) struct Panic {
    /// Of the ready ones; more is too many.
    percent: Cell<u8>,
    known: Cell<Option<Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    at_ms: u64,
    is_panic: bool,
}

impl Panic {
    pub(crate) fn new(percent: u8) -> Self {
        Self { percent: Cell::new(percent), known: Cell::new(None) }
    }

    /// From now on more than this is too many.
    pub(crate) fn set_percent(&self, percent: u8) {
        self.percent.set(percent);
        self.forget();
    }

    /// Somebody was ejected, is no more, or has come or gone.
    pub(crate) fn forget(&self) {
        self.known.set(None);
    }

    fn is_on(&self, listing: &Listing, now_ms: u64) -> bool {
        if let Some(known) = self.known.get().filter(|known| known.at_ms == now_ms) {
            return known.is_panic;
        }
        let all = listing.endpoints.iter().filter(|endpoint| endpoint.is_ready());
        let ejected = all.clone().filter(|endpoint| endpoint.health.is_ejected(now_ms));
        let is_panic = ejected.count() * 100 > all.count() * usize::from(self.percent.get());
        self.known.set(Some(Known { at_ms: now_ms, is_panic }));
        is_panic
    }
}

/// Chooses among endpoints: ready ones that are neither avoided, refusing nor ejected, else those that are either, else suspects, else
/// avoided ones. That the better ones are at their limit is no reason to choose among worse.
pub(crate) fn pick(field: Field<'_>, terms: &Terms<'_>, dice: &mut Dice) -> Result<Two, Unpicked> {
    let healthy = Choice { field, terms, tier: Tier::Healthy };
    let quick = match terms.key {
        None => healthy.two(dice, Choice::draw),
        Some(key) => healthy.owner(key).map(|owner| healthy.only(owner)),
    };
    quick.map_or_else(|| pick_among_all(field, terms, dice), Ok)
}

/// The same, looking at each.
fn pick_among_all(field: Field<'_>, terms: &Terms<'_>, dice: &mut Dice) -> Result<Two, Unpicked> {
    let anybody = Choice { field, terms, tier: Tier::Never };
    let tiers = (0..anybody.count()).map(|i| anybody.tier_of(i));
    let tier = tiers.max().filter(|tier| *tier > Tier::Never).ok_or(Unpicked::Nobody)?;
    let best = Choice { tier, ..anybody };
    let chosen = match terms.key {
        None => best.two(dice, Choice::draw_among_all),
        Some(key) => best.highest(key).map(|highest| best.only(highest)),
    };
    chosen.ok_or(Unpicked::Full)
}

/// What a choice was made between: positions, and what they had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Two {
    first: (usize, Load),
    second: Option<(usize, Load)>,
    tier: Tier,
    pub(crate) chosen: usize,
}

impl Two {
    /// The same for people.
    #[inline]
    pub(crate) fn picked(&self, field: Field<'_>, terms: &Terms<'_>, among: Among) -> Picked {
        let drawn = |(position, load): (usize, Load)| {
            let endpoint = &field.listing.endpoints[position];
            // 100 at most, and a weight of 0 is never drawn.
            let grown = load.share / u32::from(endpoint.weight).max(1);
            Drawn {
                id: endpoint.id,
                in_flight: load.in_flight,
                weight: endpoint.weight,
                grown_percent: u8::try_from(grown).unwrap_or(100),
                is_ejected: endpoint.health.is_doubtful(),
            }
        };
        Picked {
            by: if terms.key.is_some() { By::Key } else { By::Load },
            generation: field.listing.generation,
            among: Some(among),
            tier: self.tier,
            drawn: [Some(drawn(self.first)), self.second.map(drawn)],
        }
    }
}

/// A choice among those of one tier that are below their limit.
#[derive(Clone, Copy)]
struct Choice<'a> {
    field: Field<'a>,
    terms: &'a Terms<'a>,
    tier: Tier,
}

impl<'a> Choice<'a> {
    fn count(&self) -> usize {
        self.field.listing.endpoints.len()
    }

    #[inline]
    fn endpoint(&self, position: usize) -> &'a Endpoint {
        &self.field.listing.endpoints[position]
    }

    #[inline]
    fn tier_of(&self, position: usize) -> Tier {
        let (endpoint, now_ms) = (self.endpoint(position), self.terms.now_ms);
        if !endpoint.is_eligible() {
            Tier::Never
        } else if self.terms.avoid.contains(endpoint.id) {
            Tier::Avoided
        } else if !endpoint.is_ready() {
            Tier::Suspect
        } else if endpoint.health.is_refusing(now_ms)
            || endpoint.health.is_ejected(now_ms) && !self.field.panic.is_on(self.field.listing, now_ms)
        {
            Tier::Spared
        } else {
            Tier::Healthy
        }
    }

    #[inline]
    fn can_have(&self, position: usize) -> bool {
        self.tier_of(position) == self.tier && self.in_flight(position) < self.terms.in_flight_max
    }

    #[inline]
    fn in_flight(&self, position: usize) -> u32 {
        self.endpoint(position).health.in_flight.load(Ordering::Relaxed)
    }

    /// The weight, less while the endpoint is new.
    #[inline]
    fn share(&self, position: usize) -> u32 {
        let grown = self.field.ramp.grown(position, self.terms.now_ms);
        // 65,535 times 100 at most.
        u32::from(self.endpoint(position).weight) * u32::try_from(grown.percent).unwrap_or(100)
    }

    #[inline]
    fn load(&self, position: usize) -> Load {
        Load { in_flight: self.in_flight(position), share: self.share(position) }
    }

    /// No choice.
    #[inline]
    fn only(&self, position: usize) -> Two {
        Two { first: (position, self.load(position)), second: None, tier: self.tier, chosen: position }
    }

    /// The one of two with less to do for its share. `draw` draws somebody else than this one, with a chance in proportion to the share.
    #[inline]
    fn two(
        &self,
        dice: &mut Dice,
        draw: impl Fn(&Self, Option<usize>, &mut Dice) -> Option<usize>,
    ) -> Option<Two> {
        let first = draw(self, None, dice)?;
        let only = self.only(first);
        if self.count() == 1 {
            return Some(only);
        }
        let with = |other: usize| (other, self.load(other));
        let second = draw(self, None, dice)?;
        if first != second {
            let second = with(second);
            let is_less = second.1.is_less(only.first.1, dice.roll() >> 32);
            return Some(Two {
                second: Some(second),
                chosen: if is_less { second.0 } else { first },
                ..only
            });
        }
        let second = draw(self, Some(first), dice).map(with);
        let better = second.filter(|other| other.1.is_clearly_less(only.first.1));
        Some(Two { second, chosen: better.map_or(first, |other| other.0), ..only })
    }

    /// Draws from the table; what is new is drawn in vain as often as its share is less than its weight.
    #[inline]
    fn draw(&self, except: Option<usize>, dice: &mut Dice) -> Option<usize> {
        let table = &self.field.listing.by_weight;
        if table.len() <= usize::from(except.is_some()) {
            return None;
        }
        for _ in 0..DRAWS_COUNT_MAX {
            let drawn = table.draw(dice)?;
            let grown = self.field.ramp.grown(drawn, self.terms.now_ms);
            let is_grown = grown.percent == grown.of || dice.below(grown.of) < grown.percent;
            if is_grown && Some(drawn) != except && self.can_have(drawn) {
                return Some(drawn);
            }
        }
        self.draw_among_all(except, dice)
    }

    fn draw_among_all(&self, except: Option<usize>, dice: &mut Dice) -> Option<usize> {
        let can_have = |&i: &usize| Some(i) != except && self.can_have(i);
        let candidates = (0..self.count()).filter(can_have);
        let total = candidates.clone().map(|i| u64::from(self.share(i))).sum::<u64>();
        let mut point = (total > 0).then(|| dice.below(total))?;
        candidates.into_iter().find(|&i| {
            let share = u64::from(self.share(i));
            let is_drawn = point < share;
            point = point.saturating_sub(share);
            is_drawn
        })
    }

    /// Whose key it is, or who has it while that one cannot. An endpoint's age does not count: keys that come late move twice.
    #[inline]
    fn owner(&self, key: u64) -> Option<usize> {
        let slots = self.field.listing.slots.as_ref()?;
        (0..DRAWS_COUNT_MAX).map_while(|turn| slots.owner(key, turn)).find(|&owner| self.can_have(owner))
    }

    fn highest(&self, key: u64) -> Option<usize> {
        let score = |i: usize| score(key, self.endpoint(i).node_hash, self.endpoint(i).weight);
        let scores = (0..self.count()).filter(|&i| self.can_have(i)).map(|i| (score(i), i));
        scores.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i)| i)
    }
}

mod census;
mod prospect;

pub(crate) use census::Census;
pub(crate) use prospect::prospect;

#[cfg(test)]
mod tests;
