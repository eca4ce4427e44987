//! A connection to an upstream that one client has for itself.
//!
//! NTLM and Negotiate authenticate a connection instead of a request (RFC 4559 6): on one that another client has authenticated, the next
//! would be taken for that one. Such a connection never goes to a pool; it serves its client's requests as long as both last.

use std::{rc::Rc, task::Context};

use crate::{
    half::Settled,
    link::Link,
    upstream::{Lease, Upstream},
    worker::Worker,
};

/// The connection, between two exchanges.
#[derive(Debug)]
pub(super) struct Bound {
    link: Link,
    upstream: Rc<Upstream>,
    /// Position of the role in the directory.
    role: usize,
}

impl Bound {
    /// Keeps the connection for the client.
    pub(super) fn new(settled: Settled, lease: &Lease, role: usize) -> Box<Self> {
        Box::new(Self { link: settled.into_link(), upstream: lease.upstream.clone(), role })
    }

    /// Takes it for another request to the role; none if the upstream has closed it, is not to be given any more work, or is full.
    pub(super) fn take(
        mut self,
        context: &mut Context<'_>,
        role: usize,
        worker: &Worker,
    ) -> Option<(Link, Lease)> {
        let is_usable = self.role == role
            && !self.upstream.pool.is_closed()
            && self.link.is_sealed_by(worker.seal(role, &self.upstream).as_ref())
            && self.link.is_quiet(context);
        let lease = is_usable.then(|| worker.roster(role).lease_of(&self.upstream))??;
        Some((self.link, lease))
    }
}
