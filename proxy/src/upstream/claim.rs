//! What endpoints say of themselves that a proxy goes by where its plan says nothing.

use std::sync::Arc;

use feed::{EndpointProtocol, Name};

use crate::certificates::{Origins, Terms};

/// What an endpoint says that it speaks.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) protocol: EndpointProtocol,
    /// By what it is spoken to, where that is over TLS. None: nobody is trusted, and it is not spoken to.
    pub(crate) terms: Option<Arc<Terms>>,
}

impl Claim {
    /// That of an endpoint of this role.
    pub(super) fn of(listed: &feed::Endpoint, role: &Name, origins: &Origins) -> Option<Self> {
        let protocol = listed.protocol?;
        let terms = protocol.is_sealed().then(|| origins.claimed(role, protocol)).flatten();
        Some(Self { protocol, terms })
    }
}
