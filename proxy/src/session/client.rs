//! A client's connection: what is known of it, whatever is spoken on it.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use feed::Route;

use super::bound::Bound;
use crate::{
    deadline::Deadline,
    http1::{Reject, head::Asked},
    listen::target::Target,
    route::{self, Key, Rules, Verdict},
    stream::Stream,
    worker::{Counted, Worker},
};

/// What is known of a request by its route; nothing where that only names a role.
#[derive(Debug, Default)]
pub(super) struct Routed {
    pub(super) rules: Option<Arc<Rules>>,
    /// What the client is told instead of an upstream's answer.
    pub(super) told: Option<Box<Verdict>>,
    /// The node that it stays at, by the hash of its name.
    pub(super) stuck_to: Option<u64>,
}

/// What lives as long as the client's connection. An idle one holds nothing else: every byte here counts.
pub(crate) struct Session {
    pub(crate) client: Stream,
    /// The client's address; one of version 4 is never written as one of version 6. None: it is at a Unix socket, and nobody has said it.
    pub(crate) peer: Option<SocketAddr>,
    /// When it was accepted, on the workers' clock.
    pub(crate) since_ms: u64,
    pub(crate) deadline: Deadline,
    pub(crate) worker: Rc<Worker>,
    /// Position of the role in the directory; of the last request's where each is routed.
    pub(crate) role: usize,
    pub(crate) role_name: Rc<str>,
    /// The listener names no role: each request goes where its host and path lead.
    is_routed: bool,
    /// A connection to an upstream that no other client may use.
    pub(super) bound: Option<Box<Bound>>,
    /// Held, not read.
    _counted: Counted,
}

impl Session {
    /// A client that was accepted just now.
    pub(crate) fn new(
        (client, peer): (Stream, Option<SocketAddr>),
        counted: Counted,
        target: Target,
    ) -> Self {
        let worker = counted.worker().clone();
        let deadline = worker.deadlines.register(Waker::noop());
        let since_ms = worker.deadlines.now_ms();
        let Target { role, role_name, is_routed } = target;
        let bound = None;
        Self {
            client,
            peer,
            since_ms,
            deadline,
            worker,
            role,
            role_name,
            is_routed,
            bound,
            _counted: counted,
        }
    }

    /// Finds the role that serves a request, and what holds for it.
    ///
    /// # Errors
    /// There is none, or the path leads somewhere else than it says.
    pub(super) fn route(&mut self, asked: Asked<'_>) -> Result<Routed, Reject> {
        if self.client.certificate().is_some_and(|certificate| !certificate.covers_authority(asked.host)) {
            return Err(Reject::Misdirected);
        }
        if !self.is_routed {
            return Ok(Routed::default());
        }
        let key = Key::new(asked.host, asked.target).map_err(|_| Reject::Target)?;
        let rules = match self.worker.route(&key) {
            Some(route::Target::Role(role)) => {
                self.note_role(role);
                return Ok(Routed::default());
            }
            Some(route::Target::Ruled(rules)) => rules,
            None => {
                (self.role, self.role_name) = (usize::MAX, "".into());
                return Err(Reject::NoRoute);
            }
        };
        let told = match self.worker.judge(&rules, (self.peer_ip(), self.client.scheme()), &asked) {
            Verdict::Role(role) => {
                self.note_role(role);
                None
            }
            verdict => {
                (self.role, self.role_name) = (usize::MAX, "".into());
                Some(Box::new(verdict))
            }
        };
        let stuck_to = rules.sticky.as_ref().and_then(|sticky| sticky.read(asked.values("cookie")));
        Ok(Routed { rules: Some(rules), told, stuck_to })
    }

    /// The route by which such a request goes, where each is routed, and the next best.
    pub(super) fn routes_of(&self, host: &[u8], target: &[u8]) -> [Option<Route>; 2] {
        let key = Key::new(host, target).ok().filter(|_| self.is_routed);
        key.map_or([None, None], |key| self.worker.routes_of(&key))
    }

    /// The client's address without its port.
    pub(super) fn peer_ip(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }

    fn note_role(&mut self, role: usize) {
        if self.role != role {
            self.role = role;
            self.role_name = self.worker.roster(role).name.clone();
        }
    }

    /// Waits for a first byte without a buffer; false when the connection is to be closed.
    pub(super) fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        // Before all else: a request that has come is answered, even by a proxy that is asked to stop.
        if self.client.poll_recv_ready(context).is_ready() {
            return Poll::Ready(true);
        }
        let is_over = self.worker.ends_idle() || self.deadline.is_over();
        // A task that has used up its budget sees no bytes where there are some; it is polled again soon.
        if is_over && self.client.is_quiet(context) { Poll::Ready(false) } else { Poll::Pending }
    }
}
