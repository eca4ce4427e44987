//! What a worker counts. Only its own thread writes; anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Refusal;

/// One number.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// A load and a store, not a locked addition: there is one writer.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Stats {
    pub(crate) clients: Counter,
    pub(crate) clients_refused: Counter,
    pub(crate) requests: Counter,
    pub(crate) connects: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_denied: Counter,
    pub(crate) truncated: Counter,
    pub(crate) clients_gone: Counter,
    refusals: [Counter; Refusal::COUNT],
}

impl Stats {
    pub(crate) fn note_refusal(&self, refusal: Refusal) {
        self.refusals[refusal.index()].add(1);
    }

    /// The sum over workers in one line, for the log.
    pub(crate) fn summary<'a>(workers: &(impl Iterator<Item = &'a Self> + Clone)) -> String {
        let sum =
            |counter: fn(&Self) -> &Counter| -> u64 { workers.clone().map(|w| counter(w).read()).sum() };
        let refusals: u64 = workers.clone().flat_map(|w| &w.refusals).map(Counter::read).sum();
        format!(
            "clients={} clients_refused={} requests={} connects={} retries={} retries_denied={} refusals={refusals} truncated={} clients_gone={}",
            sum(|w| &w.clients),
            sum(|w| &w.clients_refused),
            sum(|w| &w.requests),
            sum(|w| &w.connects),
            sum(|w| &w.retries),
            sum(|w| &w.retries_denied),
            sum(|w| &w.truncated),
            sum(|w| &w.clients_gone),
        )
    }
}
