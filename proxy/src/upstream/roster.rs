//! One worker's view of a role: its upstreams, and leases on them.

use std::{
    cell::RefCell,
    collections::HashMap,
    num::NonZeroU32,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use feed::EndpointState;

use super::{
    budget::Budget,
    directory::{Endpoint, Listing, Role},
    pick::{Dice, Now, Terms, Unpicked, pick},
    pool::Pool,
    queue::{Queue, Ticket},
};
use crate::{
    config::{Balance, UpstreamRules},
    error::{AttemptFailure, Refusal},
};

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
    pub(crate) balance: Balance,
    upstreams: RefCell<Vec<Rc<Upstream>>>,
    retries: Budget,
    /// Where upstreams have a limit.
    queue: Option<Rc<Queue>>,
}

/// One use of an upstream; it counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) upstream: Rc<Upstream>,
    /// Who may wait for it to end.
    queue: Option<Rc<Queue>>,
}

/// What a request asks of a roster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Instances that failed it before.
    pub(crate) avoid: &'a [u64],
    /// By which the choice is made, where the role is balanced so.
    pub(crate) key: Option<u64>,
    pub(crate) now: Now,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.endpoint.health.in_flight.fetch_sub(1, Ordering::AcqRel);
        if let Some(queue) = &self.queue {
            queue.handle_room();
        }
    }
}

impl Roster {
    /// The roster of a role at the worker of this position.
    pub(crate) fn new(rules: UpstreamRules, role: &Role, worker: usize) -> Self {
        let queue = rules.upstream_connections_max.map(|_| Queue::new(role.turns.clone(), worker));
        let balance = rules.balance.iter().find(|balance| balance.role == role.name);
        Self {
            balance: balance.map_or_else(Balance::default, |found| found.balance.clone()),
            retries: Budget::new(rules.retry_percent),
            rules,
            upstreams: RefCell::default(),
            queue,
        }
    }

    /// The requests that wait, where upstreams have a limit.
    pub(crate) fn queue(&self) -> Option<&Rc<Queue>> {
        self.queue.as_ref()
    }

    /// Takes a new listing. Upstreams that may still be chosen keep their idle connections, all others lose them now; one
    /// that is ready again begins anew.
    pub(crate) fn apply_listing(&self, listing: &Listing) {
        let mut upstreams = self.upstreams.borrow_mut();
        let before = std::mem::take(&mut *upstreams);
        let pools = before.iter().filter(|upstream| !upstream.pool.is_closed());
        let mut pools: HashMap<_, _> =
            pools.map(|u| (Arc::as_ptr(&u.endpoint.health), u.pool.clone())).collect();
        let upstream = |endpoint: &Arc<Endpoint>| {
            let pool = pools.remove(&Arc::as_ptr(&endpoint.health)).unwrap_or_default();
            if endpoint.state == EndpointState::Draining {
                pool.close();
            }
            Rc::new(Upstream { endpoint: endpoint.clone(), pool })
        };
        *upstreams = listing.endpoints.iter().map(upstream).collect();
        pools.into_values().for_each(|pool| pool.close());
        if let Some(queue) = &self.queue {
            queue.wake_first();
        }
    }

    /// Whether somebody would be chosen now who is as good as any, has room, and keeps nobody waiting.
    pub(crate) fn has_better(&self, wanted: Wanted<'_>) -> bool {
        let in_flight_max = self.rules.upstream_connections_max.map_or(u32::MAX, NonZeroU32::get);
        let is_better = |e: &Endpoint| {
            let health = &e.health;
            e.is_ready()
                && !health.is_lost()
                && !wanted.avoid.contains(&e.instance)
                && !health.is_refusing(wanted.now.ms)
                && !health.is_ejected(wanted.now.ms)
                && health.in_flight.load(Ordering::Acquire) < in_flight_max
        };
        self.queue.as_ref().is_none_or(|queue| queue.waiting() == 0)
            && self.upstreams.borrow().iter().any(|upstream| is_better(&upstream.endpoint))
    }

    /// Chooses an upstream, or waits for one where all are at their limit; `ticket` is this request's place in the queue.
    pub(crate) fn poll_lease(
        &self,
        context: &Context<'_>,
        wanted: Wanted<'_>,
        ticket: &mut Option<Ticket>,
        dice: &mut Dice,
    ) -> Poll<Result<Lease, Refusal>> {
        let Some(queue) = &self.queue else {
            return Poll::Ready(self.lease(wanted, dice).map_err(|_| Refusal::NoUpstream));
        };
        // Whoever comes while others wait, here or at another worker, does not overtake them.
        let mut is_turn = ticket.as_ref().map_or_else(|| queue.waiting() == 0, Ticket::is_first);
        loop {
            if is_turn {
                match self.lease(wanted, dice) {
                    Err(Unpicked::Full) => {}
                    done => {
                        *ticket = None;
                        return Poll::Ready(done.map_err(|_| Refusal::NoUpstream));
                    }
                }
            }
            if let Some(ticket) = ticket {
                ticket.set_waker(context);
                return Poll::Pending;
            }
            *ticket = queue.join(context, self.rules.upstream_pending_max.unwrap_or(u32::MAX));
            if ticket.is_none() {
                return Poll::Ready(Err(Refusal::QueueFull));
            }
            // The last lease may have been given back between the look and the joining.
            is_turn = queue.waiting() == 1;
        }
    }

    fn lease(&self, wanted: Wanted<'_>, dice: &mut Dice) -> Result<Lease, Unpicked> {
        let upstreams = self.upstreams.borrow();
        let endpoint = |i: usize| &*upstreams[i].endpoint;
        let in_flight_max = self.rules.upstream_connections_max.map_or(u32::MAX, NonZeroU32::get);
        let mut terms = Terms {
            avoid: wanted.avoid,
            key: wanted.key,
            in_flight_max,
            panic_percent: self.rules.eject_panic_percent,
            now: wanted.now,
        };
        loop {
            let chosen = match pick(endpoint, upstreams.len(), &terms, dice) {
                // Waiting for another one than the last would hold up all those behind.
                Err(Unpicked::Full) if !terms.avoid.is_empty() => {
                    terms.avoid = &[];
                    continue;
                }
                chosen => &upstreams[chosen?],
            };
            // Another worker may have taken the last one since the look.
            if chosen.endpoint.health.begin(in_flight_max) {
                if wanted.avoid.is_empty() {
                    self.retries.apply_request(wanted.now.ms);
                }
                return Ok(Lease { upstream: chosen.clone(), queue: self.queue.clone() });
            }
        }
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
        let all = upstreams.iter().map(|u| &*u.endpoint).filter(|e| e.is_ready());
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
mod tests;
