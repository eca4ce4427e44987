//! One request and its response, as a state machine that lives in a pooled box: no allocation for a request, and nothing of
//! it in the memory of an idle connection.
//!
//! ```text
//! Head ─▶ Pick ─▶ Connect ─▶ Relay ─▶ Rest ─▶ next request, or close
//!   │      ▲ └── pooled ──────▲ │       │
//!   │      └──── safe to retry ─┤       │
//!   └──────────▶ Refuse ◀───────┘─▶ Linger ─▶ close
//! ```
//!
//! While relaying, request and response move independently: a response may come, and end, before its request has. What is left of the
//! request then goes on to the upstream, or is thrown away, in `Rest`: the client's next request is behind it.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::task::coop::has_budget_remaining;

use super::{
    attempts::Attempts,
    awaited::{Awaited, Backlog},
    client::{Routed, Session},
    timing::Timing,
};
use crate::{
    config::{HalfClosed, Timeouts},
    error::{AttemptFailure, Fault, Refusal},
    half::Half,
    http1::{
        Reject, RequestId, Trace,
        head::{Method, RequestHead, ResponseHead},
        verb::Verb,
    },
    link::Link,
    log::Record,
    recall::Notes,
    stream::Transport,
    upstream::{Lease, Ticket},
    worker::Worker,
};

/// How long a refused client may go on sending before its connection is closed.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of the client's connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Another exchange.
    Next,
    /// There was none: nothing has come, or empty lines.
    Idle {
        /// There were empty lines.
        is_blank: bool,
    },
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
    Rest,
    Refuse,
    Linger,
}

/// Where a stage leads.
pub(super) enum Step {
    Pick,
    Connect,
    Relay,
    Rest,
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
    /// It is a success where only a switch of protocols would be one.
    NotSwitched,
    /// The upstream closed or reset the connection.
    Upstream,
}

/// The request's way to the upstream.
#[derive(Debug, Default)]
pub(super) struct RequestSide {
    pub(super) half: Half<RequestHead>,
    /// What its route says of it.
    pub(super) routed: Routed,
    /// Part of the request is no longer in the buffer: it cannot be sent again.
    pub(super) is_streamed: bool,
    /// The client will send nothing more.
    pub(super) is_last: bool,
    /// The upstream wants the body.
    pub(super) is_continued: bool,
    /// What of it nobody was there to take.
    pub(super) discarded_bytes: usize,
    /// The client was told something by a rule of its route, and may ask something else.
    pub(super) is_answered_by_rule: bool,
}

/// The response's way to the client.
#[derive(Debug, Default)]
pub(super) struct ResponseSide {
    /// Its head is the final one; interim ones pass without being kept.
    pub(super) half: Half<ResponseHead>,
    /// Anything came from the upstream.
    pub(super) is_begun: bool,
}

/// One request and its response.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    stage: Stage,
    pub(super) request: RequestSide,
    pub(super) response: ResponseSide,
    pub(super) upstream: Option<Link>,
    pub(super) lease: Option<Lease>,
    /// Its place among those that wait for an upstream.
    pub(super) ticket: Option<Ticket>,
    pub(super) attempts: Attempts,
    /// The upstream's connection has served others before.
    pub(super) is_reused: bool,
    /// It is this client's alone.
    pub(super) is_bound: bool,
    /// Of the peer for whose room it waits.
    pub(super) backlog: Backlog,
    pub(super) timing: Timing,
    /// For whoever asks later.
    pub(super) notes: Notes,
    /// What the request is called, where requests have ids.
    pub(super) id: Option<RequestId>,
    /// The trace that it is a part of, where requests are traced.
    pub(super) trace: Option<Trace>,
    /// What the access log is to know; none without one.
    pub(super) record: Option<Record>,
}

impl Exchange {
    /// Goes on until the exchange is over or waits for one of the sockets.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Outcome> {
        loop {
            let polled = match self.stage {
                Stage::Head => self.poll_head(context, session),
                Stage::Pick => self.poll_pick(context, session),
                Stage::Connect => self.poll_connect(context, session),
                Stage::Relay => self.poll_relay(context, session),
                Stage::Rest => self.poll_rest(context, session),
                Stage::Refuse => self.poll_refuse(context, session),
                Stage::Linger => self.poll_linger(context, session),
            };
            let step = match polled {
                Poll::Ready(step) => step,
                // Only after the sockets: what came while the process stood still has come in time. A task that has used up its turn
                // sees nothing where there is something; it is polled again.
                Poll::Pending if session.deadline.is_over() && has_budget_remaining() => {
                    if self.is_taken(session) {
                        return Poll::Pending;
                    }
                    self.handle_timeout(session)
                }
                Poll::Pending => return Poll::Pending,
            };
            self.note_step(&step, session);
            let timeouts = self.timeouts(session);
            let (stage, timeout) = match step {
                Step::Pick => (Stage::Pick, timeouts.queue),
                Step::Connect => (Stage::Connect, timeouts.connect),
                Step::Relay => (Stage::Relay, timeouts.response),
                Step::Rest => (Stage::Rest, timeouts.body),
                Step::Refuse(_) => (Stage::Refuse, LINGER_TIMEOUT),
                Step::Linger => (Stage::Linger, LINGER_TIMEOUT),
                Step::End(outcome) => return Poll::Ready(outcome),
            };
            self.stage = stage;
            // Which is for how long once it is known what is waited for.
            self.request.half.note_moved();
            session.deadline.set(timeout);
        }
    }

    /// How long its phases may take.
    pub(super) fn timeouts(&self, session: &Session) -> Timeouts {
        let rules = self.request.routed.rules.as_ref();
        rules.map_or_else(|| session.worker.settings().timeouts, |rules| rules.timeouts)
    }

    /// Bytes of the next request are here already.
    pub(crate) fn has_more(&self) -> bool {
        self.request.half.buffer.as_ref().is_some_and(|buffer| !buffer.is_empty())
    }

    /// Makes ready for the next request on the same connection.
    pub(crate) fn next(&mut self) {
        self.stage = Stage::Head;
        self.attempts.reset();
        self.notes.reset();
        (self.is_bound, self.id, self.trace) = (false, None, None);
        self.request.half.reset();
        self.response.half.reset();
        self.request.routed = Routed::default();
        let request = &mut self.request;
        (request.is_streamed, request.is_last, request.is_continued) = (false, false, false);
        (request.discarded_bytes, request.is_answered_by_rule) = (0, false);
        self.response.is_begun = false;
        if let Some(buffer) = &mut self.request.half.buffer {
            buffer.compact();
        }
    }

    /// Gives everything back that it holds.
    pub(crate) fn reset(&mut self, worker: &Worker) {
        self.drop_upstream(worker);
        if let Some(buffer) = self.request.half.buffer.take() {
            worker.requests.put(buffer);
        }
        self.next();
    }

    pub(super) fn drop_upstream(&mut self, worker: &Worker) {
        self.upstream = None;
        self.lease = None;
        self.ticket = None;
        if let Some(buffer) = self.response.half.buffer.take() {
            worker.responses.put(buffer);
        }
        if let Some(pipe) = self.request.half.take_pipe() {
            worker.pipes.put(pipe);
        }
        if let Some(pipe) = self.response.half.take_pipe() {
            worker.pipes.put(pipe);
        }
    }

    pub(super) fn method(&self) -> Method {
        self.request.half.head.map_or(Method::Other, |head| head.method)
    }

    /// The same as it is counted.
    pub(super) fn verb(&self) -> Verb {
        self.request.half.head.map_or(Verb::Other, |head| head.verb)
    }

    /// The client has seen a part of an answer, or is about to: no other can take its place.
    pub(super) fn is_answering(&self) -> bool {
        let response = &self.response.half;
        self.stage == Stage::Relay && (response.head.is_some() || response.is_leaving())
    }

    /// The same, or the client has not taken all of what comes before it.
    pub(super) fn is_telling(&self) -> bool {
        self.is_answering() || self.stage == Stage::Relay && !self.response.half.is_flushed()
    }

    /// The client has all of an answer.
    pub(super) fn is_answered(&self) -> bool {
        self.response.half.head.is_some() && self.response.half.has_left()
    }

    /// Request or response are on their way.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self.stage, Stage::Relay | Stage::Rest)
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.response.half.head.is_some_and(|head| head.status == 101)
    }

    /// The upstream's node has left: its drain has waited for a tunnel as long as it does, and its process cannot stop in peace before
    /// the tunnel ends.
    fn is_released(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.upstream.endpoint.health.is_released())
    }

    /// The client waits to be told to send its body, and has sent nothing of it. Where it is told something final instead, nobody knows
    /// whether what comes next is the body after all or another request (RFC 9110 10.1.1): neither connection is used again.
    pub(super) fn is_undecided(&self) -> bool {
        let request = &self.request;
        request.half.head.is_some_and(|head| head.expects_continue)
            && !request.is_continued
            && request.half.data_bytes_in() == 0
            && !request.half.is_done()
    }

    pub(super) fn note_fault(&self, fault: Fault, session: &Session) {
        if let Some(lease) = &self.lease {
            session.worker.note_fault(session.role, lease, fault);
        }
    }

    fn poll_relay(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let was_tunnel = self.is_tunnel();
        let request = self.poll_request(context, session);
        match request {
            Poll::Ready(Err(Broken::Upstream)) => self.request.half.cut(),
            Poll::Ready(Err(broken)) => return Poll::Ready(self.handle_broken(&broken, session)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let response = self.poll_response(context, session);
        let request_over = matches!(request, Poll::Ready(_));
        let polled = match response {
            Poll::Ready(Err(broken)) => return Poll::Ready(self.handle_broken(&broken, session)),
            // The request's way is a new one, on which nothing has been looked at and nothing would wake.
            _ if self.is_tunnel() && !was_tunnel => return self.poll_relay(context, session),
            // What the client still sends has nobody to go to, and it is told so.
            Poll::Ready(Ok(())) if self.is_tunnel() && self.request.half.is_cut() => {
                return Poll::Ready(self.handle_broken(&Broken::Upstream, session));
            }
            Poll::Ready(Ok(())) if self.is_tunnel() && !request_over => Poll::Pending,
            Poll::Ready(Ok(())) => return Poll::Ready(self.finish(session)),
            Poll::Pending if request_over && !self.is_tunnel() => {
                match self.poll_client_gone(context, session) {
                    Poll::Pending => self.poll_leave(session),
                    gone => gone,
                }
            }
            Poll::Pending if self.is_tunnel() && self.is_released() => {
                return Poll::Ready(self.handle_broken(&Broken::Upstream, session));
            }
            Poll::Pending => Poll::Pending,
        };
        if polled.is_pending() {
            self.rearm(session);
        }
        polled
    }

    /// Notices a client that goes away while its answer is pending, and takes in what it sends of its next requests.
    pub(super) fn poll_client_gone(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Step> {
        let Some(buffer) = &mut self.request.half.buffer else { return Poll::Pending };
        if !session.client.is_watched() && session.deadline.now_ms() == session.since_ms {
            // Its answer will hardly take longer than a tick: to watch it until then costs more than it tells.
            session.deadline.wake_at_next_tick();
            return Poll::Pending;
        }
        while buffer.has_spare() && !self.request.is_last {
            // Not by the half: what it sends of other requests is no reason to wait longer for the answer to this one.
            match ready!(session.client.poll_recv(context, buffer.spare_mut())) {
                Ok(0) if session.worker.settings().half_closed == HalfClosed::Keep => {
                    self.request.is_last = true;
                }
                Ok(0) | Err(_) => return Poll::Ready(self.handle_broken(&Broken::Client, session)),
                Ok(count) => buffer.fill(count),
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
        match broken {
            Broken::Response(_) => self.note_fault(Fault::Malformed, session),
            Broken::Upstream if self.response.is_begun => self.note_fault(Fault::Truncated, session),
            _ => {}
        }
        if self.is_answering() {
            stats.truncated.add(1);
            return Step::End(Outcome::Abort);
        }
        match *broken {
            Broken::Request(reject) => self.refuse(Refusal::Request(reject), session),
            Broken::Response(reject) => self.refuse(Refusal::Response(reject), session),
            Broken::NotSwitched => self.refuse(Refusal::NotSwitched, session),
            _ if self.response.is_begun => self.refuse(Refusal::UpstreamClosed, session),
            _ => self.handle_failure(AttemptFailure::Closed, session),
        }
    }

    fn handle_timeout(&mut self, session: &Session) -> Step {
        // Armed anew first: the step that follows must not time out by the old deadline.
        session.deadline.set(LINGER_TIMEOUT);
        match self.stage {
            Stage::Head => self.refuse(Refusal::HeaderTimeout, session),
            Stage::Pick => self.refuse(Refusal::QueueTimeout, session),
            Stage::Connect => self.handle_failure(AttemptFailure::ConnectTimeout, session),
            // A client that takes nothing would not take a refusal either, and its upstream has done its part.
            Stage::Relay if self.is_telling() => {
                if self.awaited() == Awaited::Stream {
                    self.note_fault(Fault::Truncated, session);
                }
                session.worker.stats.truncated.add(1);
                Step::End(Outcome::Abort)
            }
            Stage::Relay if self.awaited() == Awaited::Client => self.refuse(Refusal::BodyTimeout, session),
            Stage::Relay => {
                self.note_fault(Fault::ResponseTimeout, session);
                self.refuse(Refusal::ResponseTimeout, session)
            }
            Stage::Rest if self.awaited() == Awaited::UpstreamRoom => {
                self.abandon_upstream(session);
                Step::Rest
            }
            Stage::Rest => Step::Linger,
            Stage::Refuse | Stage::Linger => Step::End(Outcome::Close),
        }
    }
}
