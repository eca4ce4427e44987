//! One request and its response, as a state machine that lives in a pooled box: no allocation for a request, and nothing of
//! it in the memory of an idle connection.
//!
//! ```text
//! Head ─▶ Pick ─▶ Connect ─▶ Relay ─▶ next request, or close
//!   │      ▲ └── pooled ──────▲ │
//!   │      └──── safe to retry ─┤
//!   └──────────▶ Refuse ◀───────┘─▶ Linger ─▶ close
//! ```
//!
//! While relaying, request and response move independently: a response may come, and end, before its request has.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    http::Session,
    transfer::{poll_fill, poll_flush},
};
use crate::{
    buffer::Buffer,
    config::HalfClosed,
    error::{AttemptFailure, Refusal},
    http1::{
        Body, Pieces, Reject,
        head::{Method, RequestHead, ResponseHead},
    },
    limits::{ATTEMPTS_COUNT_MAX, LINGER_BYTES_MAX},
    log::Record,
    pipe::Pipe,
    socket::Socket,
    upstream::{Lease, Ticket},
    worker::Worker,
};

/// How long a refused client may go on sending before its connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of the client's connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Another exchange.
    Next,
    /// Nothing more.
    Close,
    /// Nothing more, and the client must see that what it got is not whole.
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Head,
    Pick,
    Connect,
    Relay,
    Refuse,
    Linger,
}

/// Where a stage leads.
pub(super) enum Step {
    Pick,
    Connect,
    Relay,
    Refuse(Refusal),
    Linger,
    End(Outcome),
}

/// Why relaying stopped.
pub(super) enum Broken {
    /// The client went away.
    Client,
    /// The client's body breaks the rules.
    Request(Reject),
    /// The upstream's response does.
    Response(Reject),
    /// The upstream closed or reset the connection.
    Upstream,
}

/// The request's way to the upstream.
#[derive(Debug, Default)]
pub(super) struct RequestSide {
    /// What came from the client, the next requests included.
    pub(super) buffer: Option<Buffer>,
    /// How much of an incomplete head was searched for its end.
    pub(super) scanned: usize,
    pub(super) head: Option<RequestHead>,
    pub(super) body: Body,
    pub(super) pieces: Pieces,
    /// How much of the buffer the pieces cover.
    pub(super) covered: usize,
    /// What the rest of a large body goes through.
    pub(super) pipe: Option<Pipe>,
    /// Part of the request is no longer in the buffer: it cannot be sent again.
    pub(super) is_streamed: bool,
    /// The upstream does not take any more of it.
    pub(super) is_cut: bool,
    /// The client will send nothing more.
    pub(super) is_last: bool,
}

/// The response's way to the client.
#[derive(Debug, Default)]
pub(super) struct ResponseSide {
    pub(super) buffer: Option<Buffer>,
    pub(super) scanned: usize,
    /// The final head; interim ones pass without being kept.
    pub(super) head: Option<ResponseHead>,
    pub(super) body: Body,
    pub(super) pieces: Pieces,
    pub(super) covered: usize,
    /// What the rest of a large body goes through.
    pub(super) pipe: Option<Pipe>,
    /// Anything came from the upstream.
    pub(super) is_begun: bool,
}

/// One request and its response.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    stage: Stage,
    pub(super) request: RequestSide,
    pub(super) response: ResponseSide,
    pub(super) upstream: Option<Socket>,
    pub(super) lease: Option<Lease>,
    /// Its place among those that wait for an upstream.
    pub(super) ticket: Option<Ticket>,
    /// The connections of the pool are not to be trusted for this one.
    pub(super) needs_fresh: bool,
    /// An upstream had it before, perhaps.
    pub(super) is_repeated: bool,
    pub(super) attempts: u8,
    pub(super) failed: [u64; ATTEMPTS_COUNT_MAX as usize],
    lingered_bytes: usize,
    /// What the access log is to know; none without one.
    pub(super) record: Option<Record>,
}

impl Exchange {
    /// Goes on until the exchange is over or waits for one of the sockets.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Outcome> {
        loop {
            let step = if session.deadline.is_over() {
                self.handle_timeout(session)
            } else {
                match self.stage {
                    Stage::Head => ready!(self.poll_head(context, session)),
                    Stage::Pick => ready!(self.poll_pick(context, session)),
                    Stage::Connect => ready!(self.poll_connect(context, session)),
                    Stage::Relay => ready!(self.poll_relay(context, session)),
                    Stage::Refuse => ready!(self.poll_refuse(context, session)),
                    Stage::Linger => ready!(self.poll_linger(context, session)),
                }
            };
            self.note_step(&step, session);
            let timeouts = &session.worker.settings.timeouts;
            let (stage, timeout) = match step {
                Step::Pick => (Stage::Pick, timeouts.queue),
                Step::Connect => (Stage::Connect, timeouts.connect),
                Step::Relay => (Stage::Relay, timeouts.response),
                Step::Refuse(_) => (Stage::Refuse, LINGER_TIMEOUT),
                Step::Linger => (Stage::Linger, LINGER_TIMEOUT),
                Step::End(outcome) => return Poll::Ready(outcome),
            };
            self.stage = stage;
            session.deadline.set(timeout);
        }
    }

    /// Whether bytes of the next request are here already.
    pub(crate) fn has_more(&self) -> bool {
        self.request.buffer.as_ref().is_some_and(|buffer| !buffer.is_empty())
    }

    /// Makes ready for the next request on the same connection.
    pub(crate) fn next(&mut self) {
        self.stage = Stage::Head;
        (self.needs_fresh, self.is_repeated) = (false, false);
        self.attempts = 0;
        self.lingered_bytes = 0;
        let RequestSide {
            scanned,
            head,
            body,
            pieces,
            covered,
            is_streamed,
            is_cut,
            is_last,
            buffer,
            pipe: _,
        } = &mut self.request;
        (*scanned, *head, *body, *covered) = (0, None, Body::default(), 0);
        (*is_streamed, *is_cut, *is_last) = (false, false, false);
        pieces.clear();
        if let Some(buffer) = buffer {
            buffer.compact();
        }
        let ResponseSide { buffer: _, scanned, head, body, pieces, covered, is_begun, pipe: _ } =
            &mut self.response;
        (*scanned, *head, *body, *covered, *is_begun) = (0, None, Body::default(), 0, false);
        pieces.clear();
    }

    /// Gives everything back that it holds.
    pub(crate) fn reset(&mut self, worker: &Worker) {
        self.drop_upstream(worker);
        if let Some(buffer) = self.request.buffer.take() {
            worker.requests.put(buffer);
        }
        self.next();
    }

    pub(super) fn drop_upstream(&mut self, worker: &Worker) {
        self.upstream = None;
        self.lease = None;
        self.ticket = None;
        if let Some(buffer) = self.response.buffer.take() {
            worker.responses.put(buffer);
        }
        for pipe in [self.request.pipe.take(), self.response.pipe.take()].into_iter().flatten() {
            worker.pipes.put(pipe);
        }
    }

    pub(super) fn method(&self) -> Method {
        self.request.head.map_or(Method::Other, |head| head.method)
    }

    /// The client has seen a part of an answer, or is about to: no other can take its place.
    pub(super) fn is_answering(&self) -> bool {
        self.stage == Stage::Relay && (self.response.head.is_some() || self.response.pieces.is_begun())
    }

    fn is_tunnel(&self) -> bool {
        self.response.head.is_some_and(|head| head.status == 101)
    }

    /// The upstream has all of the request that has come, and there is more to come.
    fn awaits_client(&self) -> bool {
        let request = &self.request;
        let is_flushed = request.pieces.is_written() && request.pipe.as_ref().is_none_or(Pipe::is_empty);
        !request.body.is_done() && is_flushed && !request.is_cut
    }

    fn poll_relay(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let was_tunnel = self.is_tunnel();
        let request = self.poll_request(context, session);
        match request {
            Poll::Ready(Err(Broken::Upstream)) => self.request.is_cut = true,
            Poll::Ready(Err(broken)) => return Poll::Ready(self.handle_broken(&broken, session)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let response = self.poll_response(context, session);
        let request_over = matches!(request, Poll::Ready(_));
        match response {
            Poll::Ready(Err(broken)) => Poll::Ready(self.handle_broken(&broken, session)),
            // The request's way is a new one, on which nothing has been looked at and nothing would wake.
            _ if self.is_tunnel() && !was_tunnel => self.poll_relay(context, session),
            Poll::Ready(Ok(())) if self.is_tunnel() && !request_over => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(self.finish(session)),
            Poll::Pending if request_over && !self.is_tunnel() => {
                match self.poll_client_gone(context, session) {
                    Poll::Pending => self.poll_leave(session),
                    gone => gone,
                }
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Notices a client that goes away while its answer is pending, and takes in what it sends of its next requests.
    pub(super) fn poll_client_gone(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Step> {
        let Some(buffer) = &mut self.request.buffer else { return Poll::Pending };
        if !session.client.is_watched() && session.deadline.now_ms() == session.since_ms {
            // Its answer will hardly take longer than a tick: to watch it until then costs more than it tells.
            session.deadline.wake_at_next_tick();
            return Poll::Pending;
        }
        while buffer.has_spare() && !self.request.is_last {
            match ready!(poll_fill(context, &mut session.client, buffer)) {
                Ok(0) if session.worker.settings.half_closed == HalfClosed::Keep => {
                    self.request.is_last = true;
                }
                Ok(0) | Err(_) => return Poll::Ready(self.handle_broken(&Broken::Client, session)),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    fn handle_broken(&mut self, broken: &Broken, session: &Session) -> Step {
        let stats = &session.worker.stats;
        if matches!(broken, Broken::Client) {
            stats.clients_gone.add(1);
            // It may have closed its sending side only: then a clean end would be that of a response without a length.
            return Step::End(if self.is_answering() { Outcome::Abort } else { Outcome::Close });
        }
        if self.is_answering() {
            stats.truncated.add(1);
            return Step::End(Outcome::Abort);
        }
        match *broken {
            Broken::Request(reject) => self.refuse(Refusal::Request(reject), session),
            Broken::Response(reject) => self.refuse(Refusal::Response(reject), session),
            _ if self.response.is_begun => self.refuse(Refusal::UpstreamClosed, session),
            _ => self.handle_failure(AttemptFailure::Closed, session),
        }
    }

    /// The response has been sent whole.
    fn finish(&mut self, session: &Session) -> Step {
        let worker = &session.worker;
        let Some(head) = self.response.head else { return Step::End(Outcome::Close) };
        let request = &mut self.request;
        let is_whole = request.body.is_done() && request.pieces.is_written() && !request.is_cut;
        if let Some(buffer) = &mut request.buffer {
            buffer.consume(std::mem::take(&mut request.covered));
        }
        let is_surplus = self.response.buffer.as_ref().is_some_and(|buffer| !buffer.is_empty());
        let upstream = self.upstream.take();
        if let (true, Some(stream), Some(lease)) =
            (head.upstream_keep_alive && is_whole && !is_surplus, upstream, &self.lease)
        {
            let now_ms = worker.deadlines.now_ms();
            worker.with_sweeper(|sweeper| lease.upstream.pool.put(stream, now_ms, sweeper));
        }
        self.drop_upstream(worker);
        if is_whole && head.client_keep_alive && !worker.is_draining() {
            return Step::End(Outcome::Next);
        }
        // Who has not announced the close may be sending still.
        let is_sending = !self.request.is_last && self.request.head.is_some_and(|head| head.keep_alive);
        if is_whole && !is_sending { Step::End(Outcome::Close) } else { Step::Linger }
    }

    /// Answers the client instead of an upstream.
    pub(super) fn refuse(&mut self, refusal: Refusal, session: &Session) -> Step {
        session.worker.stats.note_refusal(refusal);
        tracing::debug!(role = %session.role_name, word = refusal.word(), "refused");
        self.drop_upstream(&session.worker);
        // A head that was refused says what it is by its first bytes only.
        let is_head = |buffer: &Buffer| buffer.filled().starts_with(b"HEAD ");
        let to_head = self.method() == Method::Head || self.request.buffer.as_ref().is_some_and(is_head);
        let pieces = &mut self.response.pieces;
        pieces.clear();
        let fits = pieces.add(refusal.response(&session.role_name, to_head).as_bytes());
        debug_assert!(fits.is_ok(), "a refusal is shorter than the room for added bytes");
        Step::Refuse(refusal)
    }

    fn poll_refuse(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let timed = (&session.deadline, LINGER_TIMEOUT);
        let sent = ready!(poll_flush(context, &mut session.client, &mut self.response.pieces, &[], timed));
        Poll::Ready(if sent.is_ok() { Step::Linger } else { Step::End(Outcome::Close) })
    }

    /// Closing with bytes unread would reset the connection, and the reset may overtake the answer (RFC 9112 9.6).
    fn poll_linger(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let end = Poll::Ready(Step::End(Outcome::Close));
        if session.client.finish().is_err() {
            return end;
        }
        let buffer = self.request.buffer.get_or_insert_with(|| session.worker.requests.take());
        while self.lingered_bytes < LINGER_BYTES_MAX {
            buffer.clear();
            match ready!(poll_fill(context, &mut session.client, buffer)) {
                Ok(0) | Err(_) => break,
                Ok(count) => self.lingered_bytes += count,
            }
        }
        buffer.clear();
        end
    }

    fn handle_timeout(&mut self, session: &Session) -> Step {
        // Armed anew first: the step that follows must not time out by the old deadline.
        session.deadline.set(LINGER_TIMEOUT);
        match self.stage {
            Stage::Head => self.refuse(Refusal::HeaderTimeout, session),
            Stage::Pick => self.refuse(Refusal::QueueTimeout, session),
            Stage::Connect => self.handle_failure(AttemptFailure::ConnectTimeout, session),
            Stage::Relay if self.is_answering() => self.handle_broken(&Broken::Upstream, session),
            Stage::Relay if self.awaits_client() => self.refuse(Refusal::BodyTimeout, session),
            Stage::Relay => self.refuse(Refusal::ResponseTimeout, session),
            Stage::Refuse | Stage::Linger => Step::End(Outcome::Close),
        }
    }
}
