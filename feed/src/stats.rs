//! What a sidecar counts: its traffic, and what it did not believe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counted since the sidecar started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// What came to the gossip port, dropped packets included.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
    /// Packets that were dropped, by cause; a cause that is missing did not occur.
    pub dropped: BTreeMap<String, u64>,
}

/// Packets of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes, without the headers of IP and UDP.
    pub datagram_bytes: u64,
    /// Packets by stream.
    pub stream_packets: u64,
    /// Their bytes.
    pub stream_bytes: u64,
}

impl Traffic {
    /// Counts a datagram.
    pub fn add_datagram(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.datagram_bytes += bytes as u64;
    }

    /// Counts a packet by stream.
    pub fn add_stream_packet(&mut self, bytes: usize) {
        self.stream_packets += 1;
        self.stream_bytes += bytes as u64;
    }
}
