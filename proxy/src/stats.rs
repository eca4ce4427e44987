//! What a worker counts. Only its own thread writes; anybody may read.

mod answers;
mod handshakes;
mod latencies;
mod retries;

pub(crate) use program::metrics::Counter;

pub(crate) use self::{
    answers::Answers,
    handshakes::{Handshake, Handshakes},
    latencies::{Latencies, Phase},
    retries::{Retries, Retry},
};

use crate::{error::Refusal, flood::Flood};

/// The counters of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Stats {
    pub(crate) clients: Counter,
    /// What a worker has room for so many of: connections, and streams of HTTP/2. Those that began,
    pub(crate) counted: Counter,
    /// and those that have ended.
    pub(crate) counted_ended: Counter,
    /// Connections that were closed because what has to come before their protocol did not.
    pub(crate) clients_unheard: Counter,
    /// How often a client had to wait for another to go.
    pub(crate) clients_held: Counter,
    pub(crate) requests: Counter,
    pub(crate) connects: Counter,
    pub(crate) retries: Counter,
    /// The same by why.
    pub(crate) retried: Retries,
    pub(crate) retries_denied: Counter,
    pub(crate) truncated: Counter,
    pub(crate) clients_gone: Counter,
    /// Lines that the access log had no room for, or could not write.
    pub(crate) log_dropped: Counter,
    /// Spans that a collector has taken,
    pub(crate) spans_sent: Counter,
    /// that there was no room for,
    pub(crate) spans_dropped: Counter,
    /// and that no collector took. The thread that posts them writes this and the first.
    pub(crate) spans_failed: Counter,
    /// Handshakes of TLS that ended for newer ones.
    pub(crate) handshakes_evicted: Counter,
    pub(crate) handshakes: Handshakes,
    /// Flows of datagrams that began,
    pub(crate) flows: Counter,
    /// that ended for others, though they had not been answered or might have gone on,
    pub(crate) flows_evicted: Counter,
    /// and that went on at another upstream.
    pub(crate) flows_moved: Counter,
    /// From clients,
    pub(crate) datagrams_in: Counter,
    /// to clients,
    pub(crate) datagrams_out: Counter,
    /// and, either way, those that nobody was there for, or for which there was no room.
    pub(crate) datagrams_dropped: Counter,
    /// Of the bodies of requests and of TCP clients, counted as each ends,
    pub(crate) bytes_in: Counter,
    /// and of what they were answered.
    pub(crate) bytes_out: Counter,
    /// Those of requests that are no role's.
    pub(crate) answers: Answers,
    pub(crate) latencies: Latencies,
    refusals: Refusals,
    /// Connections and streams of HTTP/2 that ended for what their clients went on with.
    floods: [Counter; Flood::ALL.len()],
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

    /// How often this was the answer.
    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals.0[refusal.index()].read()
    }

    pub(crate) fn note_flood(&self, flood: Flood) {
        self.floods[flood.index()].add(1);
    }

    /// How often this was the end.
    pub(crate) fn flooded(&self, flood: Flood) -> u64 {
        self.floods[flood.index()].read()
    }

    /// The sum over workers in one line, for the log: `… refused bare-lf=3 no-upstream=1`, each reason that there was.
    pub(crate) fn summary<'a>(workers: &(impl Iterator<Item = &'a Self> + Clone)) -> String {
        let sum =
            |counter: fn(&Self) -> &Counter| -> u64 { workers.clone().map(|w| counter(w).read()).sum() };
        let refused = |refusal: Refusal| -> u64 { workers.clone().map(|w| w.refused(refusal)).sum() };
        let reasons: Vec<_> = Refusal::all().map(|refusal| (refusal.word(), refused(refusal))).collect();
        let refusals: u64 = reasons.iter().map(|(_, count)| count).sum();
        let mut summary = format!(
            "clients={} clients_held={} clients_unheard={} requests={} connects={} retries={} retries_denied={} refusals={refusals} truncated={} clients_gone={} log_dropped={}",
            sum(|w| &w.clients),
            sum(|w| &w.clients_held),
            sum(|w| &w.clients_unheard),
            sum(|w| &w.requests),
            sum(|w| &w.connects),
            sum(|w| &w.retries),
            sum(|w| &w.retries_denied),
            sum(|w| &w.truncated),
            sum(|w| &w.clients_gone),
            sum(|w| &w.log_dropped),
        );
        if sum(|w| &w.handshakes_evicted) > 0 {
            summary.push_str(&format!(" handshakes_evicted={}", sum(|w| &w.handshakes_evicted)));
        }
        let spans = [sum(|w| &w.spans_sent), sum(|w| &w.spans_dropped), sum(|w| &w.spans_failed)];
        if let [sent, dropped, failed] = spans
            && spans.iter().any(|count| *count > 0)
        {
            summary.push_str(&format!(" spans={sent} spans_dropped={dropped} spans_failed={failed}"));
        }
        let flooded = |flood: Flood| -> u64 { workers.clone().map(|w| w.flooded(flood)).sum() };
        for flood in Flood::ALL.into_iter().filter(|flood| flooded(*flood) > 0) {
            summary.push_str(&format!(" h2_floods_{}={}", flood.word(), flooded(flood)));
        }
        if sum(|w| &w.datagrams_in) > 0 {
            summary.push_str(&format!(
                " flows={} flows_evicted={} flows_moved={} datagrams_in={} datagrams_out={} datagrams_dropped={}",
                sum(|w| &w.flows),
                sum(|w| &w.flows_evicted),
                sum(|w| &w.flows_moved),
                sum(|w| &w.datagrams_in),
                sum(|w| &w.datagrams_out),
                sum(|w| &w.datagrams_dropped),
            ));
        }
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
        workers[0].note_flood(Flood::Pings);
        workers[1].note_flood(Flood::Pings);
        let summary = Stats::summary(&workers.iter());
        assert!(summary.contains(" refusals=4 ") && summary.contains(" h2_floods_pings=2 "), "{summary}");
        assert!(summary.ends_with(" refused bare-lf=2 response-bare-lf=1 no-upstream=1"), "{summary}");
    }
}
