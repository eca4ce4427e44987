//! The choice that would be made, told with all that it goes by.

use std::sync::atomic::Ordering;

use feed::request::{Candidate, Choice as Told};

use super::{Choice, Field, Terms, Tier};
use crate::upstream::{dice::Dice, directory::Endpoint};

impl Tier {
    /// What it is called where choices are told.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Avoided => "avoided",
            Self::Suspect => "suspect",
            Self::Spared => "spared",
            Self::Healthy => "healthy",
        }
    }
}

/// Draws as [`super::pick`] does, and nobody is given anything.
pub(crate) fn prospect(field: Field<'_>, terms: &Terms<'_>, dice: &mut Dice) -> Told {
    let any = Choice { field, terms, tier: Tier::Never };
    let best = (0..any.count()).map(|position| any.tier_of(position)).max().unwrap_or(Tier::Never);
    let among = Choice { tier: best, ..any };
    let (drawn, chosen) = match terms.key {
        _ if best == Tier::Never => (Vec::new(), None),
        Some(key) => {
            let owner = among.owner(key).filter(|_| best == Tier::Healthy).or_else(|| among.highest(key));
            (owner.into_iter().collect(), owner)
        }
        None => {
            let draw = if best == Tier::Healthy { Choice::draw } else { Choice::draw_among_all };
            let two = among.two(dice, draw);
            let drawn = two.iter().flat_map(|two| std::iter::once(two.first).chain(two.second));
            (drawn.map(|(position, _)| position).collect(), two.map(|two| two.chosen))
        }
    };
    let listed = (0..any.count()).map(|position| {
        let grown = field.ramp.grown(position, terms.now_ms).percent;
        candidate(any.endpoint(position), any.tier_of(position), grown)
    });
    Told {
        generation: field.listing.generation,
        endpoints: listed.collect(),
        drawn,
        chosen,
        ..Told::default()
    }
}

fn candidate(endpoint: &Endpoint, tier: Tier, grown_percent: u64) -> Candidate {
    let claimed = endpoint.claim.as_ref().map(|claim| claim.protocol);
    Candidate {
        node: endpoint.node.clone(),
        addr: endpoint.addr.to_string(),
        protocol: claimed.unwrap_or_default(),
        is_protocol_claimed: claimed.is_some(),
        state: endpoint.state,
        tier: tier.word().to_owned(),
        weight: endpoint.weight,
        grown_percent,
        in_flight: endpoint.health.in_flight.load(Ordering::Relaxed),
        is_ejected: endpoint.health.is_doubtful(),
    }
}
