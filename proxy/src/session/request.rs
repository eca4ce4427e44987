//! The request's way: from the client's socket through its head to the upstream's socket.

use std::task::{Context, Poll, ready};

use super::{
    exchange::{Broken, Exchange, Outcome, RequestSide, Step},
    http::Session,
    transfer::{Side, poll_fill, poll_flush, poll_splice, take_pipe},
};
use crate::{
    config::Balance,
    error::Refusal,
    http1::{
        Body, BodyKind, Parse, Reject,
        head::{Hop, is_complete, parse_request},
    },
    limits::HEAD_BYTES_MAX,
    upstream::hash,
};

impl RequestSide {
    /// By which its upstream is chosen, where the role is balanced so.
    pub(super) fn key(&self, session: &Session) -> Option<u64> {
        match &session.worker.rosters[session.role].balance {
            Balance::P2c => None,
            Balance::HashClient => Some(hash::client_key(session.peer.ip())),
            Balance::HashHeader(name) => {
                hash::field_key(self.buffer.as_ref()?.filled().get(..self.head?.bytes)?, name)
            }
        }
    }
}

impl Exchange {
    /// Reads and parses the request's head.
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        loop {
            match self.parse_head(session) {
                Ok(Parse::Done(())) => return Poll::Ready(Step::Pick),
                Ok(Parse::NeedMore) => {}
                Err(reject) => return Poll::Ready(self.refuse(Refusal::Request(reject), session)),
            }
            let buffer = self.request.buffer.get_or_insert_with(|| session.worker.requests.take());
            match poll_fill(context, &mut session.client, buffer) {
                // Empty lines at most: the connection is idle, and holds nothing.
                Poll::Pending if buffer.is_empty() => return Poll::Ready(Step::End(Outcome::Next)),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Step::End(Outcome::Close)),
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    fn parse_head(&mut self, session: &Session) -> Result<Parse<()>, Reject> {
        let request = &mut self.request;
        let Some(buffer) = &mut request.buffer else { return Ok(Parse::NeedMore) };
        // RFC 9112 2.2: empty lines before a request are ignored; some clients end a body with one too many.
        while buffer.filled().starts_with(b"\r\n") {
            buffer.consume(2);
            request.scanned = 0;
        }
        let bytes = buffer.filled_mut();
        if bytes.is_empty() {
            return Ok(Parse::NeedMore);
        }
        let is_worth_it =
            request.scanned == 0 || is_complete(bytes, request.scanned) || bytes.len() == HEAD_BYTES_MAX;
        let settings = &session.worker.settings;
        let hop = Hop {
            host: &session.role_name,
            peer: session.peer.ip(),
            forwarding: settings.forwarding,
            via: settings.via.as_deref(),
        };
        if is_worth_it && let Parse::Done(head) = parse_request(bytes, hop, &mut request.pieces)? {
            request.head = Some(head);
            request.body = Body::new(head.framing, true).limited(settings.body_bytes_max)?;
            request.covered = request.body.scan(bytes, head.bytes, &mut request.pieces)?;
            session.worker.stats.requests.add(1);
            return Ok(Parse::Done(()));
        }
        request.scanned = bytes.len();
        buffer.compact();
        Ok(Parse::NeedMore)
    }

    /// Moves what there is of the request to the upstream; ready when all of it is there.
    pub(super) fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Result<(), Broken>> {
        let request = &mut self.request;
        let (Some(buffer), Some(upstream)) = (&mut request.buffer, &mut self.upstream) else {
            return Poll::Ready(Ok(()));
        };
        if request.is_cut {
            return Poll::Ready(Ok(()));
        }
        let timeouts = &session.worker.settings.timeouts;
        loop {
            let timeout = match request.body.kind() {
                BodyKind::Done => timeouts.response,
                BodyKind::UntilClose => timeouts.tunnel,
                BodyKind::Length(_) | BodyKind::Chunked(_) => timeouts.body,
            };
            let timed = (&session.deadline, timeout);
            if ready!(poll_flush(context, upstream, &mut request.pieces, buffer.filled(), timed)).is_err() {
                return Poll::Ready(Err(Broken::Upstream));
            }
            if request.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            buffer.consume(std::mem::take(&mut request.covered));
            request.pieces.clear();
            request.is_streamed = true;
            if buffer.is_empty()
                && let Some(pipe) = take_pipe(&mut request.pipe, &request.body, &session.worker.pipes)
            {
                let sockets = (&mut session.client, &mut *upstream);
                match ready!(poll_splice(context, sockets, pipe, &mut request.body, timed)) {
                    Ok(()) => session.deadline.set(timeouts.response),
                    Err(Side::From) => return Poll::Ready(Err(Broken::Client)),
                    Err(Side::To) => return Poll::Ready(Err(Broken::Upstream)),
                }
                continue;
            }
            if buffer.is_empty() {
                let is_tunnel = request.body.kind() == BodyKind::UntilClose;
                match ready!(poll_fill(context, &mut session.client, buffer)) {
                    Ok(0) if is_tunnel => {
                        // The other direction may go on: only this one is over.
                        let _ = upstream.finish();
                        request.body.end();
                        return Poll::Ready(Ok(()));
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Client)),
                    Ok(_) => session.deadline.set(timeout),
                }
            }
            match request.body.scan(buffer.filled(), 0, &mut request.pieces) {
                Ok(covered) => request.covered = covered,
                Err(reject) => return Poll::Ready(Err(Broken::Request(reject))),
            }
            if request.body.is_done() {
                session.deadline.set(timeouts.response);
            }
        }
    }
}
