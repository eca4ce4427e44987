//! How the endpoints of a role stand, told with each choice.

use std::{cell::Cell, sync::atomic::Ordering};

use feed::{EndpointState, recall::Among};

use super::Terms;
use crate::{deadline::TICK, upstream::directory::Listing};

/// Endpoints that are counted in a tick: a look at each costs two cache lines, at all of them some microseconds. More are counted as much
/// more rarely, so that a choice costs the same however many there are.
const COUNTED_A_TICK_MAX: usize = 256;

/// The last count.
#[derive(Debug, Default)]
pub(crate) struct Census(Cell<Option<Counted>>);

#[derive(Debug, Clone, Copy)]
struct Counted {
    /// Before then it holds, on the worker's clock.
    until_ms: u64,
    among: Among,
}

impl Census {
    /// There are others now.
    pub(crate) fn forget(&self) {
        self.0.set(None);
    }

    /// Somebody stands otherwise now. Of many that shows later: many may fail at a time.
    pub(crate) fn note_change(&self) {
        let is_cheap = |counted: Counted| counted.among.endpoints as usize <= COUNTED_A_TICK_MAX;
        if self.0.get().is_some_and(is_cheap) {
            self.forget();
        }
    }

    /// How they stand.
    #[inline]
    pub(crate) fn read(&self, listing: &Listing, terms: &Terms<'_>) -> Among {
        match self.0.get() {
            Some(counted) if terms.now_ms < counted.until_ms => counted.among,
            _ => self.count(listing, terms),
        }
    }

    #[cold]
    fn count(&self, listing: &Listing, terms: &Terms<'_>) -> Among {
        let (all, now_ms) = (&listing.endpoints, terms.now_ms);
        let mut among = Among { endpoints: u32::try_from(all.len()).unwrap_or(u32::MAX), ..Among::default() };
        for endpoint in all {
            let health = &endpoint.health;
            among.draining += u32::from(endpoint.state == EndpointState::Draining);
            if endpoint.is_eligible() {
                among.spared += u32::from(health.is_refusing(now_ms) || health.is_ejected(now_ms));
                among.full += u32::from(health.in_flight.load(Ordering::Relaxed) >= terms.in_flight_max);
            }
        }
        let more_ticks = (all.len().saturating_sub(1) / COUNTED_A_TICK_MAX) as u64;
        let tick_ms = u64::from(TICK.subsec_millis());
        self.0.set(Some(Counted { until_ms: now_ms + 1 + more_ticks * tick_ms, among }));
        among
    }
}

#[cfg(test)]
mod tests {
    use feed::RoleTable;

    use super::*;
    use crate::{
        certificates::Origins,
        upstream::{avoided::Avoided, directory::Directory},
    };

    const NOW_MS: u64 = 1_000_000;

    #[test]
    fn endpoints_are_counted_once_a_tick_and_of_very_many_more_rarely() {
        let most = u16::try_from(COUNTED_A_TICK_MAX).unwrap();
        for (count, is_late) in [(most, false), (most + 1, true)] {
            let directory = Directory::sample("app", count);
            let role = &directory.roles()[0];
            let listing = role.listing();
            let census = Census::default();
            let read = |now_ms| {
                let terms = Terms { avoid: Avoided::NOBODY, key: None, in_flight_max: 2, now_ms };
                census.read(&listing, &terms)
            };
            let well = Among { endpoints: count.into(), ..Among::default() };
            assert_eq!(read(NOW_MS), well);
            listing.endpoints[0].health.eject_now(2 * NOW_MS);
            listing.endpoints[1].health.refuse_now(2 * NOW_MS);
            listing.endpoints[2].health.in_flight.store(1, Ordering::Relaxed);
            listing.endpoints[3].health.in_flight.store(2, Ordering::Relaxed);
            let now = Among { spared: 2, full: 1, ..well };
            assert_eq!(read(NOW_MS), well, "it was looked at in this tick");
            census.note_change();
            assert_eq!(read(NOW_MS), if is_late { well } else { now });
            assert_eq!(read(NOW_MS + 100), if is_late { well } else { now });
            assert_eq!(read(NOW_MS + 101), now);
        }
    }

    #[test]
    fn those_that_drain_are_told_apart_and_are_neither_spared_nor_full() {
        let mut table = Vec::new();
        for n in 1..4_u16 {
            let state = if n == 1 { EndpointState::Draining } else { EndpointState::Ready };
            let node = format!("n{n}").parse().unwrap();
            table.push(feed::Endpoint {
                node,
                instance: n.into(),
                addr: ([127, 0, 0, 1], n).into(),
                state,
                weight: 100,
                since: 0.0,
                gossip_port: 1,
                tags: feed::Tags::default(),
                routes: feed::Routes::default(),
                protocol: None,
            });
        }
        let directory = Directory::sample("app", 3);
        let role = &directory.roles()[0];
        role.publish(&RoleTable::new(role.name.clone(), 2, table), &Origins::default());
        let listing = role.listing();
        listing.endpoints.iter().for_each(|endpoint| endpoint.health.eject_now(2 * NOW_MS));
        let terms = Terms { avoid: Avoided::NOBODY, key: None, in_flight_max: 1, now_ms: NOW_MS };
        let told = Census::default().read(&listing, &terms);
        assert_eq!(told, Among { endpoints: 3, spared: 2, full: 0, draining: 1 });
    }
}
