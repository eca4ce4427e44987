//! What was tried for one request, or one TCP client, and whether there is to be another attempt.

use std::time::Duration;

use crate::{
    error::{AttemptFailure, Refusal},
    limits::SENT_COUNT_MAX,
    upstream::{Avoided, Lease},
    worker::Worker,
};

/// How often the patience for one connection all attempts of a request may take that sent nothing.
const PATIENCE_COUNT: u64 = 3;

/// What was tried for one request, or one TCP client.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// Upstreams that failed it.
    failed: Avoided,
    /// Attempts of which the upstream may have received something.
    sent_count: u8,
    /// The connections of the pool are not to be trusted: where one was dead, the others may be.
    pub(super) needs_fresh: bool,
    /// When the first failed.
    since_ms: Option<u64>,
    /// For want of descriptors none is made before the clock has moved on from here.
    short_ms: Option<u64>,
}

impl Attempts {
    /// Makes ready for the next request.
    pub(super) fn reset(&mut self) {
        self.failed.clear();
        (self.sent_count, self.needs_fresh) = (0, false);
        (self.since_ms, self.short_ms) = (None, None);
    }

    /// Upstreams that are a last resort for it.
    pub(super) fn avoid(&self) -> &Avoided {
        &self.failed
    }

    /// Whether descriptors were short a moment ago, and nothing is tried until the next tick.
    pub(super) fn is_paused(&self, now_ms: u64) -> bool {
        self.short_ms == Some(now_ms)
    }

    /// An attempt failed before the first byte of a response: is there to be another one?
    ///
    /// An attempt that sent nothing is none. When most of a role dies at once, one upstream after another refuses, and the request
    /// finds those that live; it is time that bounds this, and that nobody is asked twice. What was sent may have been received:
    /// RFC 9110 9.2.2 has it sent again only if it `is_repeatable`, and here no more than once, for it may be what ends them.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn apply_failure(
        &mut self,
        failure: AttemptFailure,
        is_repeatable: bool,
        lease: &Lease,
        session: (usize, &Worker),
    ) -> Result<(), Refusal> {
        let (role, worker) = session;
        let refused = Err(failure.refusal());
        if let Some(fault) = failure.fault() {
            worker.note_fault(role, lease, fault);
        }
        self.needs_fresh |= matches!(failure, AttemptFailure::Stale | AttemptFailure::Closed);
        match failure {
            // Others will give some back, or make room: it waits as for an upstream that is at its limit.
            AttemptFailure::Descriptors | AttemptFailure::Full
                if self.passed_ms(worker) < millis(worker.settings().timeouts.queue) =>
            {
                self.short_ms = Some(worker.deadlines.now_ms());
                Ok(())
            }
            AttemptFailure::Descriptors | AttemptFailure::Full => refused,
            AttemptFailure::Ports
            | AttemptFailure::Connect
            | AttemptFailure::Handshake
            | AttemptFailure::Tls(_) => self.add_failed(failure, lease, role, worker),
            AttemptFailure::ConnectTimeout if worker.take_retry(role, failure.into()) => {
                self.add_failed(failure, lease, role, worker)
            }
            AttemptFailure::ConnectTimeout => refused,
            AttemptFailure::Stale | AttemptFailure::Closed | AttemptFailure::Silent
                if !is_repeatable || self.sent_count > 0 =>
            {
                refused
            }
            AttemptFailure::Stale => {
                // Whoever closes idle connections is well: it is asked again, and no worse off for it.
                self.sent_count += 1;
                worker.note_retry(role, failure.into());
                Ok(())
            }
            AttemptFailure::Unprocessed if !is_repeatable || self.sent_count + 1 >= SENT_COUNT_MAX => refused,
            AttemptFailure::Unprocessed => {
                self.sent_count += 1;
                self.failed.insert(lease.upstream.endpoint.id);
                worker.note_retry(role, failure.into());
                Ok(())
            }
            AttemptFailure::Closed | AttemptFailure::Silent if worker.take_retry(role, failure.into()) => {
                self.sent_count += 1;
                self.failed.insert(lease.upstream.endpoint.id);
                Ok(())
            }
            AttemptFailure::Closed | AttemptFailure::Silent => refused,
        }
    }

    /// Nothing was sent there: another is asked, unless all have been, or it takes too long.
    fn add_failed(
        &mut self,
        failure: AttemptFailure,
        lease: &Lease,
        role: usize,
        worker: &Worker,
    ) -> Result<(), Refusal> {
        let endpoint = lease.upstream.endpoint.id;
        let patience_ms = millis(worker.settings().timeouts.connect).saturating_mul(PATIENCE_COUNT);
        if self.failed.contains(endpoint) || self.passed_ms(worker) >= patience_ms {
            return Err(failure.refusal());
        }
        self.failed.insert(endpoint);
        if failure != AttemptFailure::ConnectTimeout {
            worker.note_retry(role, failure.into());
        }
        Ok(())
    }

    /// The time since the first failure.
    fn passed_ms(&mut self, worker: &Worker) -> u64 {
        let now_ms = worker.deadlines.now_ms();
        now_ms - *self.since_ms.get_or_insert(now_ms)
    }

    /// Whether a request that waits at an upstream may be sent to another all the same.
    pub(super) fn may_move(&self) -> bool {
        self.sent_count + 1 < SENT_COUNT_MAX
    }

    pub(super) fn note_move(&mut self, lease: &Lease) {
        self.sent_count += 1;
        self.needs_fresh = true;
        self.failed.insert(lease.upstream.endpoint.id);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
