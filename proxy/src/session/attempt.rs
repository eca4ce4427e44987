//! Attempts: an upstream, a connection to it, and what is done when either fails before the first byte of a response.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{
    client::Session,
    exchange::{Exchange, Step},
};
use crate::{
    config::Address,
    dial::connect,
    error::{AttemptFailure, TlsFailure},
    http2::connections::Origin,
    link::Link,
    recall::Failure,
    socket::Socket,
    upstream::{
        Lease,
        pick::{By, Picked},
    },
    worker::Worker,
};

impl Exchange {
    /// Chooses an upstream and a connection to it, or waits for one.
    pub(super) fn poll_pick(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        if self.attempts.is_paused(session.deadline.now_ms()) {
            session.deadline.wake_at_next_tick();
            return self.poll_client_gone(context, session);
        }
        if let Some(bound) = session.bound.take()
            && let Some((link, lease)) = bound.take(context, session.role, &session.worker)
        {
            (self.upstream, self.lease) = (Some(link), Some(lease));
            (self.is_reused, self.is_bound) = (true, true);
            self.notes.picked = Some(Picked::by(By::Connection));
            return Poll::Ready(Step::Relay);
        }
        if let Some(node) = self.request.routed.stuck_to
            && let Some(lease) = session.worker.lease_of_node(session.role, node, self.attempts.avoid())
        {
            self.ticket = None;
            self.notes.picked = Some(Picked::by(By::Cookie));
            return Poll::Ready(self.use_lease(lease, context, session));
        }
        let wanted = (self.attempts.avoid(), self.request.key(session));
        match session.worker.poll_lease(context, session.role, wanted, &mut self.ticket) {
            Poll::Ready(Ok((lease, picked))) => {
                self.notes.picked = Some(picked);
                Poll::Ready(self.use_lease(lease, context, session))
            }
            Poll::Ready(Err(refusal)) => Poll::Ready(self.refuse(refusal, session)),
            Poll::Pending => {
                self.note_queued();
                self.poll_client_gone(context, session)
            }
        }
    }

    fn use_lease(&mut self, lease: Lease, context: &mut Context<'_>, session: &Session) -> Step {
        let worker = &session.worker;
        let protocol = worker.protocol(session.role, &lease.upstream);
        let seal = worker.seal(session.role, &lease.upstream);
        if protocol.is_sealed() && seal.is_none() {
            // Nobody is trusted: rather no answer than one from anybody. Another endpoint may claim what can be spoken.
            self.lease = Some(lease);
            return self.handle_failure(AttemptFailure::Tls(TlsFailure::Untrusted), session);
        }
        if protocol.is_http2() {
            let origin = Origin {
                addr: lease.upstream.endpoint.addr.clone(),
                seal,
                shelf: worker.sealed.clone(),
                patience: worker.settings().timeouts.connect,
                now_ms: worker.deadlines.now_ms(),
                stats: worker.stats.clone(),
            };
            self.upstream = Some(lease.upstream.pool.streams().open(origin));
            self.lease = Some(lease);
            return Step::Connect;
        }
        if !self.attempts.needs_fresh
            && let Some(link) = lease.upstream.pool.take(context, seal.as_ref())
        {
            self.upstream = Some(link);
            self.lease = Some(lease);
            self.is_reused = true;
            return Step::Relay;
        }
        worker.stats.connects.add(1);
        self.is_reused = false;
        let connecting = start_connect(&lease.upstream.endpoint.addr, worker)
            .and_then(|socket| Link::begin(socket, seal.as_ref(), &worker.sealed));
        self.lease = Some(lease);
        match connecting {
            Ok(link) => {
                self.upstream = Some(link);
                Step::Connect
            }
            Err(failure) => self.handle_failure(failure, session),
        }
    }

    pub(super) fn poll_connect(&mut self, context: &mut Context<'_>, session: &Session) -> Poll<Step> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Step::Pick) };
        Poll::Ready(match ready!(upstream.poll_connected(context)) {
            Ok(()) => {
                self.is_reused = upstream.is_shared();
                Step::Relay
            }
            Err(failure) => {
                if failure == AttemptFailure::Descriptors {
                    session.worker.close_idle();
                }
                self.handle_failure(failure, session)
            }
        })
    }

    /// An attempt failed before the first byte of a response: another one, if that is safe.
    pub(super) fn handle_failure(&mut self, failure: AttemptFailure, session: &Session) -> Step {
        let Some(lease) = self.lease.take() else { return self.refuse(failure.refusal(), session) };
        let failure = match failure {
            AttemptFailure::Closed if self.upstream.as_ref().is_some_and(Link::is_unprocessed) => {
                AttemptFailure::Unprocessed
            }
            AttemptFailure::Closed if self.upstream.as_ref().is_some_and(Link::is_silent) => {
                AttemptFailure::Silent
            }
            AttemptFailure::Closed
                if self.is_reused && !self.upstream.as_ref().is_some_and(Link::is_reset) =>
            {
                AttemptFailure::Stale
            }
            other => other,
        };
        let is_repeatable = match failure {
            // Whatever it asks for: nobody has looked at it.
            AttemptFailure::Unprocessed => self.is_whole(),
            _ => self.is_repeatable(),
        };
        self.note_failed(&lease, Failure::Of(failure), session);
        match self.attempts.apply_failure(failure, is_repeatable, &lease, (session.role, &session.worker)) {
            Ok(()) => self.pick_another(&session.worker),
            Err(refusal) => self.refuse(refusal, session),
        }
    }

    /// The upstream has not answered, and by the tables it may never do so: another one is asked, if that is safe and somebody is there.
    /// All else waits on, for a frozen process may thaw and a cut network heal.
    pub(super) fn poll_leave(&mut self, session: &Session) -> Poll<Step> {
        let Some(lease) = &self.lease else { return Poll::Pending };
        if !lease.upstream.endpoint.health.is_lost()
            || self.response.is_begun
            || !self.is_repeatable()
            || !self.attempts.may_move()
        {
            return Poll::Pending;
        }
        if !session.worker.take_move(session.role, self.attempts.avoid()) {
            session.deadline.wake_at_next_tick();
            return Poll::Pending;
        }
        self.attempts.note_move(lease);
        if let Some(lease) = self.lease.take() {
            self.note_failed(&lease, Failure::Lost, session);
        }
        Poll::Ready(self.pick_another(&session.worker))
    }

    fn is_repeatable(&self) -> bool {
        let is_retried = self.request.routed.rules.as_ref().is_none_or(|rules| rules.is_retried);
        is_retried && self.is_whole() && self.method().is_repeatable()
    }

    /// All of the request is in the buffer.
    fn is_whole(&self) -> bool {
        self.request.half.is_done() && !self.request.is_streamed
    }

    fn pick_another(&mut self, worker: &Worker) -> Step {
        self.drop_upstream(worker);
        self.request.half.rewind();
        Step::Pick
    }
}

/// Begins to connect. Idle connections make room where descriptors are short.
pub(super) fn start_connect(addr: &Address, worker: &Worker) -> Result<Socket, AttemptFailure> {
    let failure = |error: io::Error| AttemptFailure::of_connect(&error);
    match connect(addr).map_err(failure) {
        Err(AttemptFailure::Descriptors) => {
            worker.close_idle();
            connect(addr).map_err(failure)
        }
        started => started,
    }
}
