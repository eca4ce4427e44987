//! One worker's view of a role: its upstreams, and leases on them.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use feed::EndpointState;

use super::{
    directory::{Endpoint, Listing},
    pick::{Dice, Now, pick},
    pool::Pool,
};

/// An endpoint and this worker's idle connections to it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) pool: Rc<Pool>,
}

/// The upstreams of one role.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    upstreams: RefCell<Vec<Rc<Upstream>>>,
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
        let chosen = pick(endpoint, upstreams.len(), |instance| avoid.contains(&instance), now, dice)?;
        Some(Lease::new(upstreams[chosen].clone()))
    }

    /// The idle connections of all upstreams.
    pub(crate) fn for_each_pool(&self, mut visit: impl FnMut(&Pool)) {
        self.upstreams.borrow().iter().for_each(|upstream| visit(&upstream.pool));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(state: EndpointState, health: &Arc<super::super::directory::Health>) -> Listing {
        let addr = "127.0.0.1:1".parse().unwrap();
        let endpoint =
            Endpoint { instance: 1, addr, state, weight: 100, since_ms: 0, health: health.clone() };
        Listing { version: 1, endpoints: vec![Arc::new(endpoint)] }
    }

    #[test]
    fn an_upstream_keeps_its_connections_while_it_is_ready_and_can_have_new_ones_when_it_is_again() {
        let (roster, health) = (Roster::default(), Arc::default());
        let pool = || roster.upstreams.borrow()[0].pool.clone();
        roster.apply_listing(&listing(EndpointState::Ready, &health));
        let first = pool();
        roster.apply_listing(&listing(EndpointState::Ready, &health));
        assert!(Rc::ptr_eq(&first, &pool()) && !first.is_closed());
        roster.apply_listing(&listing(EndpointState::Draining, &health));
        assert!(first.is_closed());
        roster.apply_listing(&listing(EndpointState::Ready, &health));
        assert!(!pool().is_closed());
        roster.apply_listing(&Listing::default());
        assert!(first.is_closed());
    }
}
