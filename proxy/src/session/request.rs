//! The request's way: from the client's socket through its head to the upstream's socket.

use std::{
    cell::OnceCell,
    task::{Context, Poll, ready},
};

use super::{
    client::Session,
    exchange::{Broken, Exchange, Outcome, RequestSide, Step},
};
use crate::{
    buffer::Buffer,
    config::{Balance, RequestIds},
    error::Refusal,
    http1::{
        Body, BodyKind, Parse, Reject, RequestId, Trace,
        head::{Asked, Hop, is_complete, parse_routed},
    },
    limits::{DISCARDED_BYTES_MAX, HEAD_BYTES_MAX},
    link::Link,
    log::record::Text,
    route::Verdict,
    stream::Transport,
    upstream::hash,
    worker::Worker,
};

impl RequestSide {
    /// By which its upstream is chosen, where the role is balanced so.
    pub(super) fn key(&self, session: &Session) -> Option<u64> {
        match &*session.worker.roster(session.role).balance() {
            Balance::P2c => None,
            Balance::HashClient => session.peer_ip().map(hash::client_key),
            Balance::HashHeader(name) => {
                hash::field_key(self.half.buffer.as_ref()?.filled().get(..self.half.head?.bytes)?, name)
            }
        }
    }
}

/// What a request is called, if it is called anything.
fn request_id(how: RequestIds, asked: &Asked<'_>, worker: &Worker) -> Option<RequestId> {
    let sent = || RequestId::of_values(asked.values("x-request-id"));
    match how {
        RequestIds::Off => None,
        RequestIds::Make => Some(worker.ids.make()),
        RequestIds::Keep => Some(sent().unwrap_or_else(|| worker.ids.make())),
    }
}

impl Exchange {
    /// Reads and parses the request's head.
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>, session: &mut Session) -> Poll<Step> {
        let mut is_blank = false;
        loop {
            let half = &mut self.request.half;
            // RFC 9112 2.2: empty lines before a request are ignored; some clients end a body with one too many.
            if let Some(buffer) = &mut half.buffer {
                while buffer.filled().starts_with(b"\r\n") {
                    buffer.consume(2);
                    (half.scanned, is_blank) = (0, true);
                }
            }
            match self.parse_head(session) {
                Ok(Parse::Done(())) => return Poll::Ready(self.lead(session)),
                Ok(Parse::NeedMore) => {}
                Err(reject) => return Poll::Ready(self.refuse(Refusal::Request(reject), session)),
            }
            let half = &mut self.request.half;
            half.buffer.get_or_insert_with(|| session.worker.requests.take());
            match half.poll_fill(context, &mut session.client) {
                // Empty lines at most: the connection is idle, and holds nothing.
                Poll::Pending if half.buffer.as_ref().is_none_or(Buffer::is_empty) => {
                    // A part of a record is like an empty line: not yet a request, and its time runs.
                    let is_blank = is_blank || session.client.has_part();
                    return Poll::Ready(Step::End(Outcome::Idle { is_blank }));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Step::End(Outcome::Close)),
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Where the route leads.
    fn lead(&mut self, session: &Session) -> Step {
        match self.request.routed.told.take().map(|told| *told) {
            None | Some(Verdict::Role(_)) => Step::Pick,
            Some(Verdict::Refused(refusal)) => self.refuse(refusal, session),
            Some(Verdict::Redirected { location, is_permanent }) => {
                let refusal =
                    if is_permanent { Refusal::PermanentRedirect } else { Refusal::TemporaryRedirect };
                self.tell(refusal, Some(&location), session)
            }
        }
    }

    fn parse_head(&mut self, session: &mut Session) -> Result<Parse<()>, Reject> {
        let half = &mut self.request.half;
        let Some(buffer) = half.buffer.as_mut().filter(|buffer| !buffer.is_empty()) else {
            return Ok(Parse::NeedMore);
        };
        let bytes = buffer.filled_mut();
        let is_worth_it =
            half.scanned == 0 || is_complete(bytes, half.scanned) || bytes.len() == HEAD_BYTES_MAX;
        let settings = session.worker.settings();
        if is_worth_it {
            let (routed, id, trace) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
            let record = &mut self.record;
            let parsed = parse_routed(bytes, &mut half.pieces, |asked| {
                // Before its route: what has none is told and logged by the same names.
                let id = id.get_or_init(|| request_id(settings.request_ids, &asked, &session.worker));
                let trace = trace.get_or_init(|| Some(settings.traces?.trace(&asked, &session.worker.ids)));
                if let (Some(record), Some(Trace { is_recorded: true, .. })) = (record, trace) {
                    record.host = Text::new(asked.host);
                }
                let found = session.route(asked)?;
                let rules = routed.get_or_init(|| found).rules.as_ref();
                Ok(Hop {
                    host: &session.role_name,
                    peer: session.peer_ip(),
                    scheme: session.client.scheme(),
                    is_http2: session.client.is_http2(),
                    forwarding: settings.forwarding,
                    via: settings.via.as_deref(),
                    fields: rules.map(|rules| &rules.request),
                    path: rules.and_then(|rules| rules.path.as_ref()),
                    request_id: id.as_ref(),
                    trace: trace.as_ref(),
                })
            });
            (self.id, self.trace) = (id.into_inner().flatten(), trace.into_inner().flatten());
            if let Parse::Done(head) = parsed? {
                half.head = Some(head);
                let routed = routed.into_inner().unwrap_or_default();
                let bytes_max = routed.rules.as_ref().map_or(settings.body_bytes_max, |r| r.body_bytes_max);
                self.request.routed = routed;
                let body = Body::new(head.framing, true).with_trailers(head.trailers);
                half.begin_body(body.limited(bytes_max)?, head.bytes)?;
                session.worker.stats.requests.add(1);
                self.begin_notes(session);
                return Ok(Parse::Done(()));
            }
        }
        if half.scanned == 0 && bytes == b"\r" {
            // The half of an empty line is no first byte: one after the other would renew the time for ever.
            session.deadline.hasten(settings.timeouts.header);
        } else if half.scanned == 0 {
            // From its first byte on the time of a head runs, however the others trickle (slowloris).
            session.deadline.set(settings.timeouts.header);
        }
        half.scanned = bytes.len();
        buffer.compact();
        Ok(Parse::NeedMore)
    }

    /// Moves what there is of the request to the upstream; ready when all of it has left, or nobody takes the rest.
    pub(super) fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
    ) -> Poll<Result<(), Broken>> {
        let half = &mut self.request.half;
        loop {
            if let Some(upstream) = &mut self.upstream
                && ready!(half.poll_flush(context, upstream)).is_err()
            {
                return Poll::Ready(Err(Broken::Upstream));
            }
            // Before anything is answered, what was cut may be needed for another upstream.
            let is_over = half.is_cut()
                && (self.response.half.head.is_none() || self.request.discarded_bytes >= DISCARDED_BYTES_MAX);
            if half.is_done() || is_over {
                return Poll::Ready(Ok(()));
            }
            if let Some(buffer) = half.buffer.as_ref().filter(|_| self.id.is_some()) {
                // The last time that all of its head is there.
                let received = buffer.filled();
                self.notes.note_line(received, |host, target| session.routes_of(host, target));
            }
            half.consume();
            self.request.is_streamed = true;
            if let Some(client) = session.client.raw()
                && self.upstream.as_ref().is_none_or(Link::is_plain)
                && half.is_piped(&session.worker.pipes)
            {
                match ready!(half.poll_fill_pipe(context, client)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Client)),
                    Ok(_) => continue,
                }
            }
            if half.buffer.as_ref().is_none_or(Buffer::is_empty) {
                half.buffer.get_or_insert_with(|| session.worker.requests.take());
                match ready!(half.poll_fill(context, &mut session.client)) {
                    Ok(0) if half.kind() == BodyKind::UntilClose => {
                        // The other direction may go on: only this one is over.
                        let _ = self.upstream.as_mut().map(Transport::finish);
                        half.end_body();
                        // Over when that has left, too.
                        continue;
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Client)),
                    Ok(count) if half.is_cut() => self.request.discarded_bytes += count,
                    Ok(_) => {}
                }
            }
            if let Err(reject) = half.scan() {
                return Poll::Ready(Err(Broken::Request(reject)));
            }
        }
    }
}
