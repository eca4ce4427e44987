//! One worker's view of a role: its upstreams, and leases on them.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use feed::EndpointState;

use super::{
    budget::Budget,
    directory::{Endpoint, Listing},
    pick::{Dice, Now, pick},
    pool::Pool,
};
use crate::{config::UpstreamRules, error::AttemptFailure};

/// An endpoint and this worker's idle connections to it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) pool: Rc<Pool>,
}

/// The upstreams of one role.
#[derive(Debug)]
pub(crate) struct Roster {
    rules: UpstreamRules,
    upstreams: RefCell<Vec<Rc<Upstream>>>,
    retries: Budget,
}

/// One use of an upstream; it counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) upstream: Rc<Upstream>,
}

impl Lease {
    fn new(upstream: Rc<Upstream>) -> Self {
        upstream.endpoint.health.in_flight.fetch_add(1, Ordering::AcqRel);
        Self { upstream }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.endpoint.health.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Roster {
    pub(crate) fn new(rules: UpstreamRules) -> Self {
        Self { retries: Budget::new(rules.retry_percent), rules, upstreams: RefCell::default() }
    }

    /// Takes a new listing. Upstreams that are still ready keep their idle connections, all others lose them now; one that is
    /// ready again begins anew.
    pub(crate) fn apply_listing(&self, listing: &Listing) {
        let mut upstreams = self.upstreams.borrow_mut();
        let before = std::mem::take(&mut *upstreams);
        *upstreams = listing
            .endpoints
            .iter()
            .map(|endpoint| {
                let mut pools = before.iter().filter(|u| !u.pool.is_closed());
                let known = pools.find(|u| Arc::ptr_eq(&u.endpoint.health, &endpoint.health));
                let pool = known.map_or_else(Rc::default, |u| u.pool.clone());
                Rc::new(Upstream { endpoint: endpoint.clone(), pool })
            })
            .collect();
        for upstream in &*upstreams {
            if upstream.endpoint.state != EndpointState::Ready {
                upstream.pool.close();
            }
        }
        let kept = |gone: &Upstream| upstreams.iter().any(|u| Rc::ptr_eq(&u.pool, &gone.pool));
        before.iter().filter(|gone| !kept(gone)).for_each(|gone| gone.pool.close());
    }

    /// Chooses an upstream; `avoid` are instances that failed this request before.
    pub(crate) fn lease(&self, avoid: &[u64], now: Now, dice: &mut Dice) -> Option<Lease> {
        let upstreams = self.upstreams.borrow();
        let endpoint = |i: usize| &*upstreams[i].endpoint;
        let panic_percent = self.rules.eject_panic_percent;
        let chosen =
            pick(endpoint, upstreams.len(), |instance| avoid.contains(&instance), panic_percent, now, dice)?;
        if avoid.is_empty() {
            self.retries.apply_request(now.ms);
        }
        Some(Lease::new(upstreams[chosen].clone()))
    }

    /// Whether a request that failed may be sent to another upstream; counts as done.
    pub(crate) fn take_retry(&self, now_ms: u64) -> bool {
        self.retries.take(now_ms)
    }

    /// An attempt at an upstream failed.
    pub(crate) fn apply_failure(&self, endpoint: &Endpoint, failure: AttemptFailure, now_ms: u64) {
        match failure {
            AttemptFailure::Connect => endpoint.health.apply_refused(now_ms),
            AttemptFailure::ConnectTimeout => self.eject(endpoint, now_ms),
            // It had accepted: whether it is still there is for the next connection to find out.
            AttemptFailure::Closed => {}
        }
    }

    /// An upstream answered with this status.
    pub(crate) fn apply_status(&self, endpoint: &Endpoint, status: u16, now_ms: u64) {
        match self.rules.eject_5xx {
            Some(errors_max) if (500..600).contains(&status) => {
                if endpoint.health.apply_error(errors_max.get()) {
                    self.eject(endpoint, now_ms);
                }
            }
            _ => endpoint.health.apply_success(),
        }
    }

    /// Ejects, unless too many are already. Two workers may do so at the same moment: the panic threshold covers that.
    fn eject(&self, endpoint: &Endpoint, now_ms: u64) {
        let upstreams = self.upstreams.borrow();
        let all = upstreams.iter().map(|u| &*u.endpoint).filter(|e| e.is_eligible());
        let is_other_ejected =
            |e: &&Endpoint| !std::ptr::eq(&*e.health, &*endpoint.health) && e.health.is_ejected(now_ms);
        let others = all.clone().filter(is_other_ejected).count();
        if others == 0 || (others + 1) * 100 <= all.count() * usize::from(self.rules.eject_percent_max) {
            endpoint.health.eject(now_ms);
        }
    }

    /// The idle connections of all upstreams.
    pub(crate) fn for_each_pool(&self, mut visit: impl FnMut(&Pool)) {
        self.upstreams.borrow().iter().for_each(|upstream| visit(&upstream.pool));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::health::Health, *};

    fn listing(states: &[EndpointState], healths: &[Arc<Health>]) -> Listing {
        let endpoint = |(instance, (state, health)): (u64, (&EndpointState, &Arc<Health>))| Endpoint {
            instance,
            addr: "127.0.0.1:1".parse().unwrap(),
            state: *state,
            weight: 100,
            since_ms: 0,
            health: health.clone(),
        };
        let endpoints = (1..).zip(states.iter().zip(healths)).map(endpoint).map(Arc::new).collect();
        Listing { version: 1, endpoints }
    }

    /// A roster of so many ready endpoints.
    fn roster_of(count: usize, rules: UpstreamRules) -> Roster {
        let healths: Vec<_> = (0..count).map(|_| Arc::default()).collect();
        let roster = Roster::new(rules);
        roster.apply_listing(&listing(&vec![EndpointState::Ready; count], &healths));
        roster
    }

    fn endpoint(roster: &Roster, position: usize) -> Arc<Endpoint> {
        roster.upstreams.borrow()[position].endpoint.clone()
    }

    #[test]
    fn an_upstream_keeps_its_connections_while_it_is_ready_and_can_have_new_ones_when_it_is_again() {
        let (roster, health) = (Roster::new(UpstreamRules::default()), [Arc::default()]);
        let pool = || roster.upstreams.borrow()[0].pool.clone();
        roster.apply_listing(&listing(&[EndpointState::Ready], &health));
        let first = pool();
        roster.apply_listing(&listing(&[EndpointState::Ready], &health));
        assert!(Rc::ptr_eq(&first, &pool()) && !first.is_closed());
        roster.apply_listing(&listing(&[EndpointState::Draining], &health));
        assert!(first.is_closed());
        roster.apply_listing(&listing(&[EndpointState::Ready], &health));
        assert!(!pool().is_closed());
        roster.apply_listing(&Listing::default());
        assert!(first.is_closed());
    }

    #[test]
    fn errors_in_a_row_eject_only_where_that_is_asked_for() {
        let rules = UpstreamRules { eject_5xx: std::num::NonZeroU32::new(2), ..UpstreamRules::default() };
        let (roster, default) = (roster_of(2, rules), roster_of(2, UpstreamRules::default()));
        let (first, other) = (endpoint(&roster, 0), endpoint(&default, 0));
        for status in [500, 499, 599, 600, 503] {
            roster.apply_status(&first, status, 1000);
        }
        assert!(!first.health.is_ejected(1000), "never two in a row");
        roster.apply_status(&first, 503, 1000);
        assert!(first.health.is_ejected(1000));
        for _ in 0..100 {
            default.apply_status(&other, 500, 1000);
        }
        assert!(!other.health.is_ejected(1000));
    }

    #[test]
    fn no_more_than_a_share_of_a_role_is_ejected_but_always_one() {
        let timeout = AttemptFailure::ConnectTimeout;
        for (count, percent, ejected_max) in [(4, 50, 2), (5, 50, 2), (1, 50, 1), (4, 0, 1), (4, 100, 4)] {
            let roster =
                roster_of(count, UpstreamRules { eject_percent_max: percent, ..UpstreamRules::default() });
            let all: Vec<_> = (0..count).map(|i| endpoint(&roster, i)).collect();
            // Twice: one that is ejected already takes nobody's place.
            all.iter().chain(&all).for_each(|endpoint| roster.apply_failure(endpoint, timeout, 1000));
            let ejected = all.iter().filter(|endpoint| endpoint.health.is_ejected(1000)).count();
            assert_eq!(ejected, ejected_max, "{percent} percent of {count}");
            all.iter().for_each(|endpoint| roster.apply_failure(endpoint, AttemptFailure::Connect, 1000));
            assert!(all.iter().all(|endpoint| endpoint.health.is_refusing(1000)), "refusals are no opinion");
        }
    }
}
