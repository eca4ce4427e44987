//! How an exchange ends: what is left of its request, what becomes of both connections, and refusals.

use std::task::{Context, Poll, ready};

use super::{
    bound::Bound,
    client::Session,
    exchange::{Broken, Exchange, LINGER_TIMEOUT, Outcome, Step},
};
use crate::{
    buffer::Buffer,
    config::RequestIds,
    error::{Refusal, Told},
    half::Settled,
    http1::{
        Framing,
        head::{Method, is_head_line},
    },
    limits::DISCARDED_BYTES_MAX,
    stream::Transport,
};

impl Exchange {
    /// The response has left. Where the request has not, what is left of it goes the way of the rest: the origin may have answered
    /// before it has read all that it was sent, and the client's next request comes behind it.
    pub(super) fn finish(&mut self, session: &mut Session) -> Step {
        if self.request.half.has_left() || self.request.is_last || self.is_undecided() {
            return self.settle(session);
        }
        let Some((request, head)) = self.request.half.head.zip(self.response.half.head) else {
            return self.settle(session);
        };
        if head.framing.ends_with_close(request.version) {
            // The end of the connection is the end of the response, and the client waits for it.
            let _ = session.client.finish();
        }
        if self.request.half.is_cut() {
            self.abandon_upstream(session);
        }
        Step::Rest
    }

    /// Moves what is left of a request that has been answered.
    pub(super) fn poll_rest(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        loop {
            match self.poll_request(context, session) {
                Poll::Pending => {
                    self.rearm(session);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => return Poll::Ready(self.settle(session)),
                Poll::Ready(Err(Broken::Upstream)) => self.abandon_upstream(session),
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Linger),
            }
        }
    }

    /// The upstream takes no more of a request that it has answered.
    pub(super) fn abandon_upstream(&mut self, session: &Session) {
        self.request.half.cut();
        self.note_settled(session);
        self.drop_upstream(&session.worker);
    }

    /// Both ways are over: the upstream may serve another request if nothing is owed on its connection, and so may the client's
    /// connection if all of the request has come.
    fn settle(&mut self, session: &mut Session) -> Step {
        self.note_settled(session);
        let worker = &session.worker;
        let Some(head) = self.response.half.head else { return Step::End(Outcome::Close) };
        if let Some(lease) = &self.lease {
            worker.note_response(session.role, lease, head.status);
        }
        let upstream = self.upstream.take().filter(|_| head.upstream_keep_alive);
        let settled = upstream.and_then(|it| Settled::after(it, &self.request.half, &self.response.half));
        if let (Some(settled), Some(lease)) = (settled, &self.lease) {
            let is_bound = head.is_connection_bound
                || self.is_bound
                || self.request.half.head.is_some_and(|head| head.is_connection_bound);
            if is_bound {
                session.bound = Some(Bound::new(settled, lease, session.role));
            } else {
                lease.upstream.pool.put(settled, worker.deadlines.now_ms());
            }
        }
        let is_whole = self.request.half.is_done();
        if !is_whole {
            self.request.half.cut();
        }
        self.request.half.consume();
        self.drop_upstream(worker);
        if is_whole && head.client_keep_alive {
            return Step::End(Outcome::Next);
        }
        let Some(request) = self.request.half.head else { return Step::End(Outcome::Close) };
        // Who has not announced the close may be sending still; and some clients send an empty line behind a body (RFC 9112 2.2).
        let is_sending = !self.request.is_last
            && (request.keep_alive || request.framing != Framing::Empty || self.has_more());
        if is_whole && !is_sending { Step::End(Outcome::Close) } else { Step::Linger }
    }

    /// Answers the client instead of an upstream.
    pub(super) fn refuse(&mut self, refusal: Refusal, session: &Session) -> Step {
        self.tell(refusal, None, session)
    }

    /// The same, and sends it there.
    pub(super) fn tell(&mut self, refusal: Refusal, location: Option<&str>, session: &Session) -> Step {
        let worker = &session.worker;
        worker.stats.note_refusal(refusal);
        worker.note_answer(session.role, self.verb(), refusal.status().0);
        tracing::debug!(role = %session.role_name, word = refusal.word(), "refused");
        self.note_last(session);
        self.drop_upstream(worker);
        let request = &self.request.half;
        let begun = request.buffer.as_ref().map_or(&[][..], Buffer::filled);
        let to_head = request.head.map_or_else(|| is_head_line(begun), |head| head.method == Method::Head);
        // A head that was refused has none yet.
        if self.id.is_none() && worker.settings().request_ids != RequestIds::Off {
            self.id = Some(worker.ids.make());
        }
        self.note_line(session);
        let told = Told {
            role: &session.role_name,
            to_head,
            date: &worker.date.get(),
            location,
            request_id: self.id.as_ref(),
            is_last: !(refusal.is_by_rule() && self.may_ask_again(session)),
        };
        let response = refusal.response(told);
        let half = &mut self.response.half;
        let mut buffer = worker.responses.take();
        let bytes = response.len().min(buffer.spare_mut().len());
        buffer.spare_mut()[..bytes].copy_from_slice(&response.as_bytes()[..bytes]);
        buffer.fill(bytes);
        half.buffer = Some(buffer);
        half.pieces.clear();
        let fits = half.pieces.push(0..bytes);
        debug_assert!(fits.is_ok(), "one piece");
        self.request.is_answered_by_rule = !told.is_last;
        Step::Refuse(refusal)
    }

    /// All of the request is here, and its client may send another one.
    fn may_ask_again(&self, session: &Session) -> bool {
        let head = self.request.half.head;
        !session.worker.is_draining()
            && !self.request.is_last
            && head.is_some_and(|head| head.keep_alive && head.framing == Framing::Empty)
    }

    pub(super) fn poll_refuse(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let sent = self.response.half.poll_flush(context, &mut session.client);
        if sent.is_pending() && self.response.half.take_moved() {
            session.deadline.set(LINGER_TIMEOUT);
        }
        if ready!(sent).is_err() {
            return Poll::Ready(Step::End(Outcome::Close));
        }
        if !self.request.is_answered_by_rule {
            return Poll::Ready(Step::Linger);
        }
        self.request.half.cut();
        self.request.half.consume();
        self.drop_upstream(&session.worker);
        Poll::Ready(Step::End(Outcome::Next))
    }

    /// Closing with bytes unread would reset the connection, and the reset may overtake the answer (RFC 9112 9.6).
    pub(super) fn poll_linger(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let end = Poll::Ready(Step::End(Outcome::Close));
        if session.client.finish().is_err() {
            return end;
        }
        // It has a word of its own for the end, which may have to wait; what comes is read meanwhile all the same.
        let _ = session.client.poll_flush(context);
        let request = &mut self.request;
        request.half.buffer.get_or_insert_with(|| session.worker.requests.take());
        while request.discarded_bytes < DISCARDED_BYTES_MAX {
            if let Some(buffer) = &mut request.half.buffer {
                buffer.clear();
            }
            match ready!(request.half.poll_fill(context, &mut session.client)) {
                Ok(0) | Err(_) => break,
                Ok(count) => request.discarded_bytes += count,
            }
        }
        if let Some(buffer) = &mut request.half.buffer {
            buffer.clear();
        }
        end
    }
}
