//! How long an exchange waits for what is to move next.

use super::{
    awaited::{Awaited, Backlog},
    client::Session,
    exchange::Exchange,
};
use crate::link::Link;

impl Exchange {
    /// What moves next, of a request and a response that are both as far as they can be.
    pub(super) fn awaited(&self) -> Awaited {
        let (request, response) = (&self.request.half, &self.response.half);
        if self.is_tunnel() {
            Awaited::Tunnel
        } else if !response.is_flushed() {
            Awaited::ClientRoom
        } else if response.head.is_some() && !response.is_done() {
            Awaited::Stream
        } else if response.head.is_none() && (request.has_left() || request.is_cut()) {
            Awaited::Answer
        } else if request.is_flushed() && self.is_undecided() {
            // The client does nothing wrong.
            Awaited::Answer
        } else if !request.is_flushed() && !request.is_cut() {
            Awaited::UpstreamRoom
        } else {
            Awaited::Client
        }
    }

    /// Gives more time to whoever is waited for, if anything has moved.
    pub(super) fn rearm(&mut self, session: &Session) {
        if self.request.half.take_moved() | self.response.half.take_moved() {
            self.backlog = Backlog::default();
            session.deadline.set(self.awaited().timeout(&self.timeouts(session)));
        }
    }

    /// Whether the peer for whose room it waits may still be taking what is queued for it, and has more time then. A kernel takes
    /// megabytes, and says that there is room again when a third of them has left: by that alone, a client that reads 25 kB/s has not
    /// moved for a minute.
    pub(super) fn is_taken(&mut self, session: &Session) -> bool {
        if !self.is_moving() {
            return false;
        }
        let awaited = self.awaited();
        let taker = match awaited {
            Awaited::ClientRoom => session.client.unacknowledged_bytes(),
            Awaited::UpstreamRoom => self.upstream.as_ref().and_then(Link::unacknowledged_bytes),
            _ => None,
        };
        let Some(bytes) = taker else { return false };
        let is_taken = self.backlog.note(bytes);
        if is_taken {
            if self.backlog.is_stuck {
                match awaited {
                    Awaited::ClientRoom => session.client.make_room(),
                    _ => self.upstream.iter().for_each(Link::make_room),
                }
            }
            session.deadline.set(awaited.timeout(&self.timeouts(session)));
        }
        is_taken
    }
}
