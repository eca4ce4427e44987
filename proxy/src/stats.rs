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
    /// Lines that the access log had no room for, or could not write.
    pub(crate) log_dropped: Counter,
    refusals: Refusals,
}

#[derive(Debug)]
struct Refusals([Counter; Refusal::COUNT]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Stats {
    pub(crate) fn note_refusal(&self, refusal: Refusal) {
        self.refusals.0[refusal.index()].add(1);
    }

    /// The sum over workers in one line, for the log: `… refused bare-lf=3 no-upstream=1`, each reason that there was.
    pub(crate) fn summary<'a>(workers: &(impl Iterator<Item = &'a Self> + Clone)) -> String {
        let sum =
            |counter: fn(&Self) -> &Counter| -> u64 { workers.clone().map(|w| counter(w).read()).sum() };
        let refused =
            |refusal: Refusal| -> u64 { workers.clone().map(|w| w.refusals.0[refusal.index()].read()).sum() };
        let reasons: Vec<_> = Refusal::all().map(|refusal| (refusal.word(), refused(refusal))).collect();
        let refusals: u64 = reasons.iter().map(|(_, count)| count).sum();
        let mut summary = format!(
            "clients={} clients_refused={} requests={} connects={} retries={} retries_denied={} refusals={refusals} truncated={} clients_gone={} log_dropped={}",
            sum(|w| &w.clients),
            sum(|w| &w.clients_refused),
            sum(|w| &w.requests),
            sum(|w| &w.connects),
            sum(|w| &w.retries),
            sum(|w| &w.retries_denied),
            sum(|w| &w.truncated),
            sum(|w| &w.clients_gone),
            sum(|w| &w.log_dropped),
        );
        if refusals > 0 {
            summary.push_str(" refused");
        }
        for (word, count) in reasons.into_iter().filter(|(_, count)| *count > 0) {
            summary.extend([" ", word, "=", &count.to_string()]);
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Reject;

    #[test]
    fn every_refusal_is_told_apart_and_what_did_not_happen_is_not_told() {
        let workers = [Stats::default(), Stats::default()];
        assert!(Stats::summary(&workers.iter()).ends_with("log_dropped=0"));
        workers[0].note_refusal(Refusal::Request(Reject::BareLineEnd));
        workers[1].note_refusal(Refusal::Request(Reject::BareLineEnd));
        workers[1].note_refusal(Refusal::Response(Reject::BareLineEnd));
        workers[1].note_refusal(Refusal::NoUpstream);
        let summary = Stats::summary(&workers.iter());
        assert!(summary.contains(" refusals=4 "), "{summary}");
        assert!(summary.ends_with(" refused bare-lf=2 response-bare-lf=1 no-upstream=1"), "{summary}");
    }
}
