//! The response's way: from the upstream's socket through its head to the client's socket.

use std::task::{Context, Poll, ready};

use super::{
    client::Session,
    exchange::{Broken, Exchange},
};
use crate::{
    buffer::Buffer,
    http1::{
        Body, BodyKind, Framing, Parse, Reject, Version,
        head::{Exchanged, Method, ResponseHead, is_complete, parse_response},
    },
    limits::{DISCARDED_BYTES_MAX, HEAD_BYTES_MAX},
    link::Link,
    route::Stickiness,
    stream::Transport,
};

impl Exchange {
    /// Moves what there is of the response to the client; ready when all of it has left.
    pub(super) fn poll_response(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let half = &mut self.response.half;
            if ready!(half.poll_flush(context, &mut session.client)).is_err() {
                return Poll::Ready(Err(Broken::Client));
            }
            half.consume();
            if let Some(head) = half.head.filter(|_| half.is_done()) {
                // The client must have it before the response counts as whole: without it, its end proves nothing.
                if !head.client_keep_alive && ready!(half.poll_end(context, &mut session.client)).is_err() {
                    return Poll::Ready(Err(Broken::Client));
                }
                return Poll::Ready(Ok(()));
            }
            if session.client.raw().is_some()
                && self.upstream.as_ref().is_none_or(Link::is_plain)
                && half.is_piped(&session.worker.pipes)
            {
                if let Some(buffer) = half.buffer.take() {
                    session.worker.responses.put(buffer);
                }
                let Some(upstream) = self.upstream.as_mut().and_then(Link::raw) else {
                    return Poll::Ready(Err(Broken::Upstream));
                };
                match ready!(half.poll_fill_pipe(context, upstream)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Upstream)),
                    Ok(_) => continue,
                }
            }
            if self.advance_response(session)? {
                continue;
            }
            if !ready!(self.poll_read_upstream(context, session))? {
                self.handle_upstream_end(session)?;
            }
        }
    }

    /// Turns bytes at hand into pieces; false when there are too few.
    fn advance_response(&mut self, session: &Session) -> Result<bool, Broken> {
        let half = &mut self.response.half;
        if half.buffer.as_ref().is_none_or(Buffer::is_empty) {
            return Ok(false);
        }
        if half.head.is_some() {
            half.scan().map_err(Broken::Response)?;
            return Ok(true);
        }
        let is_undecided = self.is_undecided();
        let rules = self.request.routed.rules.clone();
        let cookie = rules.as_ref().and_then(|rules| self.new_cookie(rules.sticky.as_ref()?));
        let half = &mut self.response.half;
        let Some(buffer) = &mut half.buffer else { return Ok(false) };
        let Some(request) = self.request.half.head else { return Ok(false) };
        let (settings, date) = (session.worker.settings(), session.worker.date.get());
        let exchanged = Exchanged {
            to_head: request.method == Method::Head,
            client: request.version,
            upgrade: request.upgrade && self.request.half.has_left(),
            keep_alive: request.keep_alive && !session.worker.is_draining() && !is_undecided,
            is_rest_long: is_rest_long(self.request.half.kind()),
            is_http2: self.upstream.as_ref().is_some_and(Link::is_http2),
            via: settings.via.as_deref(),
            date: Some(&date),
            fields: rules.as_ref().map(|rules| rules.response(session.client.scheme())),
            cookie: cookie.as_deref().map(str::as_bytes),
            request_id: self.id.as_ref(),
        };
        // A head must fit behind its first byte, wherever an interim response before it ended.
        buffer.compact();
        let bytes = buffer.filled_mut();
        let is_worth_it =
            half.scanned == 0 || is_complete(bytes, half.scanned) || bytes.len() >= HEAD_BYTES_MAX;
        if is_worth_it {
            let parsed = parse_response(bytes, exchanged, &mut half.pieces).map_err(Broken::Response)?;
            if let Parse::Done(head) = parsed {
                // RFC 8441 5: to the client of a stream every success says that its WebSocket is open.
                if session.client.is_http2() && request.upgrade && (200..300).contains(&head.status) {
                    return Err(Broken::NotSwitched);
                }
                half.scanned = 0;
                self.apply_response_head(head, request.version, session).map_err(Broken::Response)?;
                return Ok(true);
            }
        }
        half.scanned = bytes.len();
        Ok(false)
    }

    /// The cookie that names the upstream of this exchange, if the request did not name it.
    fn new_cookie(&self, sticky: &Stickiness) -> Option<String> {
        let node = self.lease.as_ref()?.upstream.endpoint.node_hash;
        (self.request.routed.stuck_to != Some(node)).then(|| sticky.set_cookie(node))
    }

    fn apply_response_head(
        &mut self,
        head: ResponseHead,
        client: Version,
        session: &Session,
    ) -> Result<(), Reject> {
        let half = &mut self.response.half;
        if head.is_interim() {
            half.cover(head.bytes);
            self.request.is_continued |= head.status == 100;
            if client == Version::Http10 {
                // RFC 9110 15.2: a 1.0 client has no idea of interim responses.
                half.pieces.clear();
            }
            return Ok(());
        }
        let keep_framing = !(head.framing == Framing::Chunked && client == Version::Http10);
        let mut body = Body::new(head.framing, keep_framing).with_trailers(head.trailers).padded();
        if head.status == 101 {
            // From here on both directions are bytes until each ends by itself (RFC 9110 7.8).
            body = Body::new(Framing::UntilClose, true);
            self.request.half.become_tunnel(body);
        }
        half.begin_body(body, head.bytes)?;
        // Only now: until the first bytes of the body are found good, the client can still be told that they are not.
        half.head = Some(head);
        session.worker.note_answer(session.role, self.verb(), head.status);
        if let Some(lease) = &self.lease {
            session.worker.note_status(session.role, lease, head.status);
        }
        Ok(())
    }

    /// Reads once; false at the end. A buffer is taken only when there is something to read, and given back when there is
    /// not: those that wait for slow upstreams hold none.
    fn poll_read_upstream(
        &mut self,
        context: &mut Context<'_>,
        session: &Session,
    ) -> Poll<Result<bool, Broken>> {
        let (worker, half) = (&session.worker, &mut self.response.half);
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(Broken::Upstream)) };
        if upstream.poll_recv_ready(context).is_pending() {
            if let Some(buffer) = half.buffer.take_if(|buffer| buffer.is_empty()) {
                worker.responses.put(buffer);
            }
            return Poll::Pending;
        }
        half.buffer.get_or_insert_with(|| worker.responses.take());
        let count = ready!(half.poll_fill(context, upstream)).map_err(|_| Broken::Upstream)?;
        if count > 0 && !self.response.is_begun {
            self.response.is_begun = true;
            self.note_first_byte(session);
        }
        Poll::Ready(Ok(count > 0))
    }

    /// The upstream closed in order: that ends what has no other end, and breaks everything else.
    fn handle_upstream_end(&mut self, session: &mut Session) -> Result<(), Broken> {
        let half = &mut self.response.half;
        let Some(head) = half.head.filter(|_| half.kind() == BodyKind::UntilClose) else {
            return Err(Broken::Upstream);
        };
        if head.status == 101 {
            let _ = session.client.finish();
        }
        half.end_body();
        Ok(())
    }
}

/// Whether what has not come of a request may be more than is thrown away for the sake of a connection.
fn is_rest_long(kind: BodyKind) -> bool {
    match kind {
        BodyKind::Done => false,
        BodyKind::Length(bytes) => bytes > DISCARDED_BYTES_MAX as u64,
        BodyKind::Chunked(_) | BodyKind::UntilClose => true,
    }
}
