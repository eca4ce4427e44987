//! Another node's process, as a connection to it is told apart.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One end of a lifeline, as it introduces itself, and as it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Its gossip address.
    pub addr: SocketAddr,
    /// Its start.
    pub instance: u64,
}

impl Peer {
    pub(crate) fn encode(self) -> Vec<u8> {
        postcard::to_allocvec(&self).expect("a peer has no field that postcard cannot write")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((peer, [])) => Some(peer),
            _ => None,
        }
    }
}
