//! The response's way: from the upstream's socket through its head to the client's socket.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    exchange::{Broken, Exchange},
    http::Session,
    transfer::{Side, poll_fill, poll_flush, poll_splice, take_pipe},
};
use crate::{
    http1::{
        Body, BodyKind, Framing, Parse, Reject, Version,
        head::{Exchanged, Method, ResponseHead, is_complete, parse_response},
    },
    limits::HEAD_BYTES_MAX,
};

impl Exchange {
    /// Moves what there is of the response to the client; ready when all of it is there.
    pub(super) fn poll_response(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let timed = (&session.deadline, self.response_timeout(session));
            let response = &mut self.response;
            if let Some(buffer) = &mut response.buffer {
                let (client, pieces) = (&mut session.client, &mut response.pieces);
                if ready!(poll_flush(context, client, pieces, buffer.filled(), timed)).is_err() {
                    return Poll::Ready(Err(Broken::Client));
                }
                buffer.consume(std::mem::take(&mut response.covered));
                response.pieces.clear();
            }
            if response.head.is_some() && response.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_splice_response(context, session))? {
                return Poll::Ready(Ok(()));
            }
            match self.advance_response(session) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(reject) => return Poll::Ready(Err(Broken::Response(reject))),
            }
            if !ready!(self.poll_read_upstream(context, session))? {
                self.handle_upstream_end(session)?;
            }
        }
    }

    /// Moves the rest of a large body past our own memory; false when there is no such rest.
    fn poll_splice_response(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Result<bool, Broken>> {
        let timed = (&session.deadline, self.response_timeout(session));
        let (response, worker) = (&mut self.response, &session.worker);
        if response.buffer.as_ref().is_some_and(|buffer| !buffer.is_empty()) {
            return Poll::Ready(Ok(false));
        }
        let Some(pipe) = take_pipe(&mut response.pipe, &response.body, &worker.pipes) else {
            return Poll::Ready(Ok(false));
        };
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(Broken::Upstream)) };
        if let Some(buffer) = response.buffer.take() {
            worker.responses.put(buffer);
        }
        let sockets = (upstream, &mut session.client);
        let moved = ready!(poll_splice(context, sockets, pipe, &mut response.body, timed));
        Poll::Ready(match moved {
            Ok(()) => Ok(true),
            Err(Side::From) => Err(Broken::Upstream),
            Err(Side::To) => Err(Broken::Client),
        })
    }

    /// How long the upstream may take for its next bytes, and the client to take them.
    fn response_timeout(&self, session: &Session) -> Duration {
        let timeouts = &session.worker.settings.timeouts;
        match self.response.head.map(|head| head.status) {
            None => timeouts.response,
            Some(101) => timeouts.tunnel,
            Some(_) => timeouts.body,
        }
    }

    /// Turns bytes at hand into pieces; false when there are too few.
    fn advance_response(&mut self, session: &Session) -> Result<bool, Reject> {
        let response = &mut self.response;
        let Some(buffer) = response.buffer.as_mut().filter(|buffer| !buffer.is_empty()) else {
            return Ok(false);
        };
        if response.head.is_some() {
            response.covered = response.body.scan(buffer.filled(), 0, &mut response.pieces)?;
            return Ok(true);
        }
        let Some(request) = self.request.head else { return Ok(false) };
        let exchanged = Exchanged {
            to_head: request.method == Method::Head,
            client: request.version,
            upgrade: request.upgrade && self.request.body.is_done() && self.request.pieces.is_written(),
            keep_alive: request.keep_alive && !session.worker.is_draining(),
            via: session.worker.settings.via.as_deref(),
        };
        // A head must fit behind its first byte, wherever an interim response before it ended.
        buffer.compact();
        let bytes = buffer.filled_mut();
        let is_worth_it =
            response.scanned == 0 || is_complete(bytes, response.scanned) || bytes.len() >= HEAD_BYTES_MAX;
        if is_worth_it && let Parse::Done(head) = parse_response(bytes, exchanged, &mut response.pieces)? {
            response.scanned = 0;
            self.apply_response_head(head, request.version, session)?;
            return Ok(true);
        }
        response.scanned = bytes.len();
        Ok(false)
    }

    fn apply_response_head(
        &mut self,
        head: ResponseHead,
        client: Version,
        session: &Session,
    ) -> Result<(), Reject> {
        let response = &mut self.response;
        let Some(buffer) = &response.buffer else { return Ok(()) };
        if head.is_interim() {
            response.covered = head.bytes;
            if client == Version::Http10 {
                // RFC 9110 15.2: a 1.0 client has no idea of interim responses.
                response.pieces.clear();
            }
            return Ok(());
        }
        let keep_framing = !(head.framing == Framing::Chunked && client == Version::Http10);
        response.body = Body::new(head.framing, keep_framing);
        if head.status == 101 {
            // From here on both directions are bytes until each ends by itself (RFC 9110 7.8).
            response.body = Body::new(Framing::UntilClose, true);
            self.request.body = Body::new(Framing::UntilClose, true);
        }
        response.covered = response.body.scan(buffer.filled(), head.bytes, &mut response.pieces)?;
        // Only now: until the first bytes of the body are found good, the client can still be told that they are not.
        response.head = Some(head);
        session.deadline.set(self.response_timeout(session));
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
        let worker = &session.worker;
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(Broken::Upstream)) };
        if upstream.poll_recv_ready(context).is_pending() {
            if let Some(buffer) = self.response.buffer.take_if(|buffer| buffer.is_empty()) {
                worker.responses.put(buffer);
            }
            return Poll::Pending;
        }
        let buffer = self.response.buffer.get_or_insert_with(|| worker.responses.take());
        let count = ready!(poll_fill(context, upstream, buffer)).map_err(|_| Broken::Upstream)?;
        if count > 0 && !self.response.is_begun {
            self.response.is_begun = true;
            self.note_first_byte();
        }
        if self.response.head.is_some() {
            session.deadline.set(self.response_timeout(session));
        }
        Poll::Ready(Ok(count > 0))
    }

    /// The upstream closed in order: that ends what has no other end, and breaks everything else.
    fn handle_upstream_end(&mut self, session: &Session) -> Result<(), Broken> {
        let response = &mut self.response;
        let Some(head) = response.head.filter(|_| response.body.kind() == BodyKind::UntilClose) else {
            return Err(Broken::Upstream);
        };
        if head.status == 101 {
            let _ = session.client.finish();
        }
        response.body.end();
        Ok(())
    }
}
