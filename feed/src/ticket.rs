//! The keys of TLS session tickets, as a sidecar hands them to the proxy beside it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// All ticket keys that hold now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// Seconds for which each proxy of the cluster opens a ticket that is sealed now.
    pub lifetime_s: u32,
    /// The first seals, all of them open. None: the cluster has no keys.
    pub keys: Vec<TicketKey>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    /// What its tickets name it by: 16 bytes in hex. Nothing of the key can be learned from it.
    pub name: String,
    /// The key: 32 bytes in hex.
    pub key: String,
}

/// Without the key, which is nobody's business who reads a log.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey({})", self.name)
    }
}
