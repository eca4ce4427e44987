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
    /// From a member's change of its advert until a consumer beside this sidecar had applied it, by consumer. Clocks of two
    /// machines count into it.
    #[serde(default)]
    pub applied: BTreeMap<String, Histogram>,
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

/// Upper bounds of [`Histogram`]'s buckets in milliseconds; what is over the last counts as longer.
pub const HISTOGRAM_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000];

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many.
    pub count: u64,
    /// All of them together, in milliseconds.
    pub sum_ms: u64,
    /// How many took at most so many milliseconds and more than the bound before. Empty ones are left out.
    pub at_most_ms: BTreeMap<u64, u64>,
    /// How many took longer than all bounds.
    pub longer: u64,
}

impl Histogram {
    /// Adds one.
    pub fn record(&mut self, ms: u64) {
        match HISTOGRAM_BOUNDS_MS.into_iter().find(|bound| ms <= *bound) {
            Some(bound) => *self.at_most_ms.entry(bound).or_default() += 1,
            None => self.longer += 1,
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_at_a_bound_is_below_it_and_one_more_is_above() {
        let mut histogram = Histogram::default();
        for ms in [0, 1, 2, 10_000, 10_001, u64::MAX] {
            histogram.record(ms);
        }
        assert_eq!(histogram.at_most_ms, BTreeMap::from([(1, 2), (2, 1), (10_000, 1)]));
        assert_eq!((histogram.longer, histogram.count, histogram.sum_ms), (2, 6, u64::MAX));
    }
}
