//! What an exchange has to remember for whoever asks later why it went as it did. Of one that goes well nothing is written down but the
//! numbers of its choice.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use feed::recall::Cause;

use super::{client::Session, exchange::Exchange};
use crate::{
    buffer::Buffer,
    error::Refusal,
    log::record::End,
    recall::{Draining, Failure, Kept, Tried},
    upstream::Lease,
};

impl Exchange {
    /// The request's head is there, and it has its id.
    #[inline]
    pub(super) fn begin_notes(&mut self, session: &Session) {
        if let Some(id) = &self.id {
            self.notes.begin(id);
            if self.notes.is_sampled {
                self.note_line(session);
            }
        }
    }

    /// Takes note of what it asks for, as long as that is at hand.
    pub(super) fn note_line(&mut self, session: &Session) {
        if self.id.is_some() {
            let received = self.request.half.buffer.as_ref().map_or(&[][..], Buffer::filled);
            self.notes.note_line(received, |host, target| session.routes_of(host, target));
        }
    }

    /// The upstream that it was given to has failed it.
    pub(super) fn note_failed(&mut self, lease: &Lease, failure: Failure, session: &Session) {
        self.note_line(session);
        let at = self.timing.started.map(|started| started.elapsed()).unwrap_or_default();
        self.note_tried(lease, Some((failure, at)), session);
    }

    /// It is about to let go of the upstream that it was given to last.
    pub(super) fn note_last(&mut self, session: &Session) {
        if let Some(lease) = self.lease.take() {
            self.note_tried(&lease, None, session);
            self.lease = Some(lease);
        }
    }

    /// Once for each choice.
    fn note_tried(&mut self, lease: &Lease, failure: Option<(Failure, Duration)>, session: &Session) {
        let Some(picked) = self.notes.picked.take().filter(|_| self.id.is_some()) else { return };
        let (endpoint, roster) = (&lease.upstream.endpoint, session.worker.roster(session.role));
        let name = |id| if id == endpoint.id { Some(endpoint.node.clone()) } else { roster.node_of(id) };
        self.notes.tries.push(Tried {
            node: endpoint.node.clone(),
            addr: endpoint.addr.clone(),
            instance: endpoint.id.instance,
            picked,
            names: picked.drawn.map(|drawn| name(drawn?.id)),
            is_reused: self.is_reused,
            failure,
        });
    }

    /// An answer is about to be let go of with its upstream: who it came from is noted if it is to be kept.
    #[inline]
    pub(super) fn note_settled(&mut self, session: &Session) {
        let is_error = self.response.half.head.is_some_and(|head| head.status >= 500);
        if is_error || self.notes.is_sampled || self.notes.tries.has_failed {
            self.note_line(session);
            self.note_last(session);
        }
    }

    /// Keeps what was noted, if there is a reason. `unless_whole` is what became of a request that was neither answered whole nor refused.
    #[inline]
    pub(super) fn keep(&mut self, started: Instant, unless_whole: End, session: &Session) {
        let end = match self.notes.refusal {
            Some(refusal) => End::Refused(refusal),
            None if self.is_answered() => End::Done,
            None => unless_whole,
        };
        if let Some(cause) = self.cause(end) {
            self.keep_for(cause, end, started, session);
        }
    }

    /// The same of one that has not come to its end.
    pub(crate) fn end_notes(&mut self, unless_whole: End, session: &Session) {
        if let Some(started) = self.timing.started.take() {
            self.keep(started, unless_whole, session);
        }
    }

    fn status(&self) -> Option<u16> {
        let refused = self.notes.refusal.map(|refusal| refusal.status().0);
        refused.or_else(|| self.response.half.head.map(|head| head.status))
    }

    #[inline]
    fn cause(&self, end: End) -> Option<Cause> {
        self.id?;
        let is_error = self.status().is_some_and(|status| status >= 500);
        Some(match end {
            _ if is_error || self.notes.tries.has_failed => Cause::Failed,
            End::Truncated | End::Stopped => Cause::Failed,
            End::ClientGone => Cause::Refused,
            End::Refused(Refusal::TemporaryRedirect | Refusal::PermanentRedirect) | End::Done => {
                return self.notes.is_sampled.then_some(Cause::Sampled);
            }
            End::Refused(_) => Cause::Refused,
        })
    }

    #[cold]
    fn keep_for(&mut self, cause: Cause, end: End, started: Instant, session: &Session) {
        self.note_line(session);
        self.note_last(session);
        let Some(id) = self.id else { return };
        let whole = self.timing.whole.unwrap_or_else(|| started.elapsed());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut draining = Draining::default();
        let role = if self.request.half.head.is_some() { session.role_name.clone() } else { "".into() };
        if !role.is_empty() {
            session.worker.roster(session.role).for_each_draining(|name| draining.push(name));
        }
        let kept = Kept {
            id,
            cause,
            began: now.saturating_sub(started.elapsed()),
            client: session.peer,
            role,
            status: self.status(),
            whole,
            end,
            draining,
            line: self.notes.line.take(),
            tries: std::mem::take(&mut self.notes.tries),
            times: self.notes.times,
        };
        session.worker.memory.keep(kept);
    }
}
