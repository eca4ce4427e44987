//! Attempts: an upstream, a connection to it, and what is done when either fails before the first byte of a response.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use super::{
    exchange::{Exchange, Step},
    http::Session,
};
use crate::{
    error::AttemptFailure, limits::ATTEMPTS_COUNT_MAX, socket::Socket, upstream::Lease, worker::Worker,
};

impl Exchange {
    /// Chooses an upstream and a connection to it, or waits for one.
    pub(super) fn poll_pick(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let wanted = (&self.failed[..usize::from(self.attempts)], self.request.key(session));
        match session.worker.poll_lease(context, session.role, wanted, &mut self.ticket) {
            Poll::Ready(Ok(lease)) => Poll::Ready(self.use_lease(lease, context, session)),
            Poll::Ready(Err(refusal)) => Poll::Ready(self.refuse(refusal, session)),
            Poll::Pending => self.poll_client_gone(context, session),
        }
    }

    fn use_lease(&mut self, lease: Lease, context: &mut Context<'_>, session: &Session) -> Step {
        let worker = &session.worker;
        if !self.needs_fresh
            && let Some(stream) = lease.upstream.pool.take(context)
        {
            self.upstream = Some(stream);
            self.lease = Some(lease);
            return Step::Relay;
        }
        worker.stats.connects.add(1);
        let connecting = start_connect(lease.upstream.endpoint.addr);
        self.lease = Some(lease);
        match connecting {
            Ok(stream) => {
                self.upstream = Some(stream);
                Step::Connect
            }
            Err(_) => self.handle_failure(AttemptFailure::Connect, session),
        }
    }

    pub(super) fn poll_connect(&mut self, context: &mut Context<'_>, session: &Session) -> Poll<Step> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Step::Pick) };
        let is_ready = ready!(upstream.poll_send_ready(context)).is_ok();
        let error = upstream.options().map(|options| options.take_error());
        Poll::Ready(match error {
            Some(Ok(None)) if is_ready => Step::Relay,
            _ => self.handle_failure(AttemptFailure::Connect, session),
        })
    }

    /// An attempt failed before the first byte of a response: another one, if that is safe.
    pub(super) fn handle_failure(&mut self, failure: AttemptFailure, session: &Session) -> Step {
        let worker = &session.worker;
        let nothing_sent = failure != AttemptFailure::Closed;
        if let Some(lease) = &self.lease {
            worker.note_failure(session.role, lease, failure);
        }
        // RFC 9110 9.2.2: what is not idempotent is not sent twice, unless it is known that the first was never received; and
        // what is, not thrice, for it may be what ends them.
        let is_safe = nothing_sent || (self.is_repeatable() && !self.is_repeated);
        if !is_safe || self.is_last_attempt() || !worker.take_retry(session.role) {
            return self.refuse(failure.refusal(), session);
        }
        self.is_repeated |= !nothing_sent;
        self.pick_another(worker)
    }

    /// The upstream has not answered, and by the tables it may never do so: another one is asked, if that is safe and somebody is there.
    /// All else waits on, for a frozen process may thaw and a cut network heal.
    pub(super) fn poll_leave(&mut self, session: &Session) -> Poll<Step> {
        let is_lost = self.lease.as_ref().is_some_and(|lease| lease.upstream.endpoint.health.is_lost());
        if !is_lost || self.response.is_begun || !self.is_repeatable() || self.is_last_attempt() {
            return Poll::Pending;
        }
        let (worker, failed) = (&session.worker, &self.failed[..usize::from(self.attempts)]);
        if !worker.take_move(session.role, failed) {
            session.deadline.wake_at_next_tick();
            return Poll::Pending;
        }
        self.is_repeated = true;
        Poll::Ready(self.pick_another(worker))
    }

    fn is_repeatable(&self) -> bool {
        self.request.body.is_done() && !self.request.is_streamed && self.method().is_repeatable()
    }

    fn is_last_attempt(&self) -> bool {
        self.attempts + 1 == ATTEMPTS_COUNT_MAX
    }

    fn pick_another(&mut self, worker: &Worker) -> Step {
        if let Some(lease) = &self.lease {
            self.failed[usize::from(self.attempts)] = lease.upstream.endpoint.instance;
        }
        self.attempts += 1;
        self.drop_upstream(worker);
        self.request.pieces.rewind();
        self.request.is_cut = false;
        // Where one connection of a pool was dead, the others may be: the upstream has just gone.
        self.needs_fresh = true;
        Step::Pick
    }
}

/// Begins to connect; the socket becomes writable when that is done, well or badly.
fn start_connect(addr: SocketAddr) -> io::Result<Socket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM.nonblocking(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(Socket::unwatched(socket.into())),
    }
}
