//! Uses of upstreams: given, tried again, and what became of them.

use std::task::{Context, Poll};

use super::Worker;
use crate::{
    error::{Fault, Refusal},
    stats::Retry,
    upstream::{Avoided, Lease, Ticket, Wanted, pick::Picked},
};

impl Worker {
    /// Chooses an upstream of a role and counts a use of it; waits where all are at their limit.
    pub(crate) fn poll_lease(
        &self,
        context: &Context<'_>,
        role: usize,
        (avoid, key): (&Avoided, Option<u64>),
        ticket: &mut Option<Ticket>,
    ) -> Poll<Result<(Lease, Picked), Refusal>> {
        let wanted = self.wanted(avoid, key);
        let roster = &self.rosters.borrow()[role];
        let leased = roster.poll_lease(context, wanted, ticket, &mut self.dice.borrow_mut());
        leased.map_ok(|(lease, picked)| (self.timed(lease), picked))
    }

    /// Whom such a request of a role would be given to; nothing where this worker has not heard of the role yet.
    pub(crate) fn prospect(&self, role: usize, key: Option<u64>) -> Option<feed::request::Choice> {
        let wanted = self.wanted(Avoided::NOBODY, key);
        let roster = self.rosters.borrow().get(role).cloned()?;
        Some(roster.prospect(wanted, &mut self.dice.borrow_mut()))
    }

    /// Counts a use of the upstream of this node, by the hash of its name; none if it is not to be chosen, or full.
    pub(crate) fn lease_of_node(&self, role: usize, node_hash: u64, avoid: &Avoided) -> Option<Lease> {
        self.roster(role).lease_of_node(node_hash, self.wanted(avoid, None)).map(|lease| self.timed(lease))
    }

    /// A lease that has just been given, and when, if somebody looks at how long answers take.
    fn timed(&self, mut lease: Lease) -> Lease {
        lease.timed_from = self.times_answers.get().then(std::time::Instant::now);
        lease
    }

    /// Something failed that an upstream of a role is to answer for.
    pub(crate) fn note_fault(&self, role: usize, lease: &Lease, fault: Fault) {
        lease.upstream.endpoint.health.tally.note_failure();
        self.rosters.borrow()[role].apply_fault(lease, fault, self.deadlines.now_ms());
    }

    /// Whether the role's budget has another retry; counts it as done, or as denied.
    pub(crate) fn take_retry(&self, role: usize, why: Retry) -> bool {
        let is_granted = self.rosters.borrow()[role].take_retry(self.deadlines.now_ms());
        if is_granted {
            self.note_retry(role, why);
        } else {
            self.stats.retries_denied.add(1);
        }
        is_granted
    }

    /// Counts a further attempt for a request of this role.
    pub(crate) fn note_retry(&self, role: usize, why: Retry) {
        self.stats.retries.add(1);
        self.stats.retried.note(why);
        self.rosters.borrow()[role].answers.note_retry();
    }

    /// Whether a request that waits can wait at another upstream instead, and the role's budget has a retry for it. It is not denied one
    /// by this: it waits on.
    pub(crate) fn take_move(&self, role: usize, avoid: &Avoided) -> bool {
        let roster = self.roster(role);
        let is_granted =
            roster.has_better(self.wanted(avoid, None)) && roster.take_retry(self.deadlines.now_ms());
        if is_granted {
            self.note_retry(role, Retry::Lost);
        }
        is_granted
    }

    fn wanted<'a>(&self, avoid: &'a Avoided, key: Option<u64>) -> Wanted<'a> {
        Wanted { avoid, key, now_ms: self.deadlines.now_ms() }
    }

    /// An upstream of a role has begun to answer.
    pub(crate) fn note_status(&self, role: usize, lease: &Lease, status: u16) {
        self.rosters.borrow()[role].apply_status(lease, status, self.deadlines.now_ms());
    }

    /// An upstream of a role has answered to the end.
    pub(crate) fn note_response(&self, role: usize, lease: &Lease, status: u16) {
        self.rosters.borrow()[role].apply_response(lease, status);
    }

    /// An upstream of a role has accepted a connection, which is all that is asked of it.
    pub(crate) fn note_accepted(&self, role: usize, lease: &Lease) {
        self.rosters.borrow()[role].apply_success(lease);
    }
}
