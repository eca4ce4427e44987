//! One worker's view of a role: its upstreams, and leases on them.

use std::{
    cell::{Ref, RefCell},
    collections::HashMap,
    num::NonZeroU32,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Instant,
};

use feed::{EndpointId, EndpointProtocol, EndpointState, Name};
use tokio::sync::Notify;

use super::{
    avoided::Avoided,
    budget::Budget,
    dice::Dice,
    directory::{Endpoint, Listing, Role},
    health::Epoch,
    pick::{Census, Field, Panic, Picked, Terms, Unpicked, pick, prospect},
    pool::Pool,
    queue::{Queue, Ticket},
    ramp::Ramp,
};
use crate::{
    config::{Balance, UpstreamRules},
    error::{Fault, Refusal},
    stats::{Answers, Latencies},
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
    /// The role's name.
    pub(crate) name: Rc<str>,
    rules: RefCell<Rc<RoleRules>>,
    known: RefCell<Known>,
    panic: Panic,
    census: Census,
    sweeper: Arc<Notify>,
    retries: Budget,
    queue: Rc<Queue>,
    pub(crate) answers: Arc<Answers>,
    pub(crate) latencies: Arc<Latencies>,
}

/// What holds for the role, until another plan says otherwise.
#[derive(Debug)]
struct RoleRules {
    upstream: UpstreamRules,
    balance: Balance,
    /// None: what each endpoint claims.
    protocol: Option<EndpointProtocol>,
}

impl RoleRules {
    fn new(rules: &UpstreamRules, role: &str) -> Rc<Self> {
        let told = rules.balance.iter().find(|told| told.role.as_str() == role);
        let balance = told.map_or_else(Balance::default, |told| told.balance.clone());
        let told = rules.protocol.iter().find(|told| told.role.as_str() == role);
        let protocol = told.map(|told| told.protocol);
        Rc::new(Self { upstream: rules.clone(), balance, protocol })
    }

    /// Most uses of one upstream at a time.
    fn in_flight_max(&self) -> u32 {
        self.upstream.upstream_connections_max.map_or(u32::MAX, NonZeroU32::get)
    }
}

/// The newest listing, and what this worker has of its endpoints, in their order.
#[derive(Debug, Default)]
struct Known {
    listing: Arc<Listing>,
    upstreams: Vec<Rc<Upstream>>,
    ramp: Ramp,
}

/// One use of an upstream; it counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) upstream: Rc<Upstream>,
    /// When it was given, as far as the upstream's health is concerned.
    epoch: Epoch,
    /// The same, as far as somebody looks at how long answers take.
    pub(crate) timed_from: Option<Instant>,
    /// Who may wait for it to end.
    queue: Option<Rc<Queue>>,
}

/// What a request asks of a roster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Endpoints that failed it before.
    pub(crate) avoid: &'a Avoided,
    /// By which the choice is made, where the role is balanced so.
    pub(crate) key: Option<u64>,
    /// On the worker's clock.
    pub(crate) now_ms: u64,
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
    /// The roster of a role at the worker of this position; `sweeper` is told of idle connections that have news.
    pub(crate) fn new(rules: &UpstreamRules, role: &Role, worker: usize, sweeper: Arc<Notify>) -> Self {
        Self {
            name: role.name.as_str().into(),
            retries: Budget::new(rules.retry_percent),
            panic: Panic::new(rules.eject_panic_percent),
            rules: RefCell::new(RoleRules::new(rules, role.name.as_str())),
            known: RefCell::default(),
            census: Census::default(),
            sweeper,
            queue: Queue::new(role.turns.clone(), worker),
            answers: role.answers[worker].clone(),
            latencies: role.latencies[worker].clone(),
        }
    }

    /// From now on these rules hold.
    pub(crate) fn apply_rules(&self, rules: &UpstreamRules) {
        self.rules.replace(RoleRules::new(rules, &self.name));
        self.retries.set_percent(rules.retry_percent);
        self.panic.set_percent(rules.eject_panic_percent);
        self.census.forget();
        // There may be no limit any more.
        self.queue.wake_all();
    }

    /// By what upstreams are chosen.
    pub(crate) fn balance(&self) -> Ref<'_, Balance> {
        Ref::map(self.rules.borrow(), |rules| &rules.balance)
    }

    /// What all of its upstreams are said to speak, whatever they claim.
    #[inline]
    pub(crate) fn protocol(&self) -> Option<EndpointProtocol> {
        self.rules.borrow().protocol
    }

    /// The requests that wait; somebody may where upstreams have a limit.
    pub(crate) fn queue(&self) -> &Rc<Queue> {
        &self.queue
    }

    /// Takes a new listing. Upstreams that may still be chosen keep their idle connections, all others lose them now; one
    /// that is ready again begins anew.
    pub(crate) fn apply_listing(&self, listing: &Arc<Listing>, now_ms: u64) {
        let mut known = self.known.borrow_mut();
        let before = std::mem::take(&mut *known);
        let before = before.upstreams.iter().enumerate().map(|(position, upstream)| {
            let since_ms = before.ramp.since_ms(position);
            (Arc::as_ptr(&upstream.endpoint.health), (upstream.pool.clone(), since_ms))
        });
        let mut before: HashMap<_, _> = before.filter(|(_, (pool, _))| !pool.is_closed()).collect();
        let upstream = |endpoint: &Arc<Endpoint>| {
            let new = || (Rc::new(Pool::new(self.sweeper.clone())), None);
            let (pool, since_ms) = before.remove(&Arc::as_ptr(&endpoint.health)).unwrap_or_else(new);
            if endpoint.state == EndpointState::Draining {
                pool.close();
            }
            // A suspect that is ready again has been there all the time.
            let since_ms = since_ms.or_else(|| endpoint.is_ready().then_some(now_ms));
            (Rc::new(Upstream { endpoint: endpoint.clone(), pool }), since_ms)
        };
        let (upstreams, since_ms): (_, Vec<_>) = listing.endpoints.iter().map(upstream).unzip();
        *known = Known { listing: listing.clone(), upstreams, ramp: Ramp::new(since_ms.into_iter()) };
        before.into_values().for_each(|(pool, _)| pool.close());
        self.panic.forget();
        self.census.forget();
        self.queue.wake_first();
    }

    /// Whether somebody would be chosen now who is as good as any, has room, and keeps nobody waiting.
    pub(crate) fn has_better(&self, wanted: Wanted<'_>) -> bool {
        let in_flight_max = self.rules.borrow().in_flight_max();
        let is_better = |e: &Endpoint| {
            let health = &e.health;
            e.is_ready()
                && !health.is_lost()
                && !wanted.avoid.contains(e.id)
                && !health.is_refusing(wanted.now_ms)
                && !health.is_ejected(wanted.now_ms)
                && health.in_flight.load(Ordering::Acquire) < in_flight_max
        };
        self.queue.waiting() == 0
            && self.known.borrow().listing.endpoints.iter().any(|endpoint| is_better(endpoint))
    }

    /// Whether somebody is ready.
    pub(crate) fn has_ready(&self) -> bool {
        self.known.borrow().listing.by_weight.len() > 0
    }

    /// Counts a use of the upstream of this node; none if it is not as good as any, or at its limit.
    pub(crate) fn lease_of_node(&self, node_hash: u64, wanted: Wanted<'_>) -> Option<Lease> {
        let known = self.known.borrow();
        let upstream = known.upstreams.iter().find(|upstream| {
            let (e, health) = (&upstream.endpoint, &upstream.endpoint.health);
            e.node_hash == node_hash
                && e.is_ready()
                && !wanted.avoid.contains(e.id)
                && !health.is_refusing(wanted.now_ms)
                && !health.is_ejected(wanted.now_ms)
        })?;
        let lease = self.lease_of(upstream)?;
        if wanted.avoid.is_empty() {
            self.retries.apply_request(wanted.now_ms);
        }
        Some(lease)
    }

    /// Chooses an upstream, or waits for one where all are at their limit; `ticket` is this request's place in the queue.
    pub(crate) fn poll_lease(
        &self,
        context: &Context<'_>,
        wanted: Wanted<'_>,
        ticket: &mut Option<Ticket>,
        dice: &mut Dice,
    ) -> Poll<Result<(Lease, Picked), Refusal>> {
        if self.rules.borrow().upstream.upstream_connections_max.is_none() {
            *ticket = None;
            return Poll::Ready(self.lease(wanted, dice).map_err(|_| Refusal::NoUpstream));
        }
        let queue = &self.queue;
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
            let pending_max = self.rules.borrow().upstream.upstream_pending_max;
            *ticket = queue.join(context, pending_max.unwrap_or(u32::MAX));
            if ticket.is_none() {
                return Poll::Ready(Err(Refusal::QueueFull));
            }
            // The last lease may have been given back between the look and the joining.
            is_turn = queue.waiting() == 1;
        }
    }

    /// Counts a use of this upstream; none if it is at its limit.
    pub(crate) fn lease_of(&self, upstream: &Rc<Upstream>) -> Option<Lease> {
        let epoch = upstream.endpoint.health.begin(self.rules.borrow().in_flight_max())?;
        Some(self.leased(upstream, epoch))
    }

    /// Chooses an upstream and counts a use of it.
    pub(crate) fn lease(&self, wanted: Wanted<'_>, dice: &mut Dice) -> Result<(Lease, Picked), Unpicked> {
        let known = self.known.borrow();
        let field = Field { listing: &known.listing, ramp: &known.ramp, panic: &self.panic };
        let in_flight_max = self.rules.borrow().in_flight_max();
        let mut terms = Terms { avoid: wanted.avoid, key: wanted.key, in_flight_max, now_ms: wanted.now_ms };
        let among = self.census.read(&known.listing, &terms);
        loop {
            let two = match pick(field, &terms, dice) {
                // Waiting for another one than the last would hold up all those behind.
                Err(Unpicked::Full) if !terms.avoid.is_empty() => {
                    terms.avoid = Avoided::NOBODY;
                    continue;
                }
                two => two?,
            };
            let chosen = &known.upstreams[two.chosen];
            // Another worker may have taken the last one since the look.
            if let Some(epoch) = chosen.endpoint.health.begin(in_flight_max) {
                if wanted.avoid.is_empty() {
                    self.retries.apply_request(wanted.now_ms);
                }
                return Ok((self.leased(chosen, epoch), two.picked(field, &terms, among)));
            }
        }
    }

    /// The node of an endpoint, if it is listed.
    pub(crate) fn node_of(&self, id: EndpointId) -> Option<Name> {
        let known = self.known.borrow();
        known.listing.all().find(|endpoint| endpoint.id == id).map(|endpoint| endpoint.node.clone())
    }

    /// Visits the nodes that drain.
    pub(crate) fn for_each_draining(&self, visit: impl FnMut(&Name)) {
        let known = self.known.borrow();
        let draining = known.listing.endpoints.iter().filter(|e| e.state == EndpointState::Draining);
        draining.map(|endpoint| &endpoint.node).for_each(visit);
    }

    /// The choice that would be made for such a request now; nobody is given anything.
    pub(crate) fn prospect(&self, wanted: Wanted<'_>, dice: &mut Dice) -> feed::request::Choice {
        let known = self.known.borrow();
        let field = Field { listing: &known.listing, ramp: &known.ramp, panic: &self.panic };
        let in_flight_max = self.rules.borrow().in_flight_max();
        let terms = Terms { avoid: wanted.avoid, key: wanted.key, in_flight_max, now_ms: wanted.now_ms };
        let mut told = prospect(field, &terms, dice);
        for candidate in told.endpoints.iter_mut() {
            if let Some(protocol) = self.protocol() {
                (candidate.protocol, candidate.is_protocol_claimed) = (protocol, false);
            }
        }
        feed::request::Choice { waiting: self.queue.waiting(), ..told }
    }

    fn leased(&self, upstream: &Rc<Upstream>, epoch: Epoch) -> Lease {
        let is_limited = self.rules.borrow().upstream.upstream_connections_max.is_some();
        let queue = is_limited.then(|| self.queue.clone());
        Lease { upstream: upstream.clone(), epoch, timed_from: None, queue }
    }

    /// Whether a request that failed may be sent to another upstream; counts as done.
    pub(crate) fn take_retry(&self, now_ms: u64) -> bool {
        self.retries.take(now_ms)
    }

    /// Something failed that is the upstream's to answer for.
    pub(crate) fn apply_fault(&self, lease: &Lease, fault: Fault, now_ms: u64) {
        let health = &lease.upstream.endpoint.health;
        let rules = self.rules.borrow().clone();
        let rules = &rules.upstream;
        let failures_max = match fault {
            Fault::Refused => {
                self.census.note_change();
                return health.apply_refused(lease.epoch, now_ms);
            }
            Fault::AcceptTimeout => return self.eject(lease, now_ms),
            Fault::ServerError => rules.eject_5xx,
            Fault::Closed | Fault::ResponseTimeout | Fault::Truncated | Fault::Malformed => {
                // Whoever wants 5xx responses counted wants no more of what is worse.
                let either = NonZeroU32::new(rules.eject_failures).into_iter().chain(rules.eject_5xx);
                either.min()
            }
        };
        if failures_max.is_some_and(|max| health.apply_failure(lease.epoch, max.get())) {
            self.eject(lease, now_ms);
        }
    }

    /// A response with this status came whole.
    pub(crate) fn apply_response(&self, lease: &Lease, status: u16) {
        if !self.is_error(status) {
            self.apply_success(lease);
        }
    }

    /// The head of a response came.
    pub(crate) fn apply_status(&self, lease: &Lease, status: u16, now_ms: u64) {
        let tally = &lease.upstream.endpoint.health.tally;
        if let Some(from) = lease.timed_from {
            let us = u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX);
            tally.note_time(us);
        }
        if status >= 500 {
            tally.note_failure();
        }
        if self.is_error(status) {
            self.apply_fault(lease, Fault::ServerError, now_ms);
        }
    }

    /// A connection was accepted that is not asked for more, or a request answered.
    pub(crate) fn apply_success(&self, lease: &Lease) {
        if lease.upstream.endpoint.health.apply_success(lease.epoch) {
            self.panic.forget();
            self.census.note_change();
        }
    }

    fn is_error(&self, status: u16) -> bool {
        status >= 500 && self.rules.borrow().upstream.eject_5xx.is_some()
    }

    /// Ejects, unless too many are already. Two workers may do so at the same moment: the panic threshold covers that.
    fn eject(&self, lease: &Lease, now_ms: u64) {
        let health = &*lease.upstream.endpoint.health;
        let known = self.known.borrow();
        let all = known.listing.endpoints.iter().filter(|e| e.is_ready());
        let is_other_ejected =
            |e: &&Arc<Endpoint>| !std::ptr::eq(&*e.health, health) && e.health.is_ejected(now_ms);
        let others = all.clone().filter(is_other_ejected).count();
        if others == 0
            || (others + 1) * 100 <= all.count() * usize::from(self.rules.borrow().upstream.eject_percent_max)
        {
            health.eject(lease.epoch, now_ms);
            self.panic.forget();
            self.census.note_change();
        }
    }

    /// The idle connections of all upstreams.
    pub(crate) fn for_each_pool(&self, mut visit: impl FnMut(&Pool)) {
        self.known.borrow().upstreams.iter().for_each(|upstream| visit(&upstream.pool));
    }
}

#[cfg(test)]
mod shares;
#[cfg(test)]
mod tests;
