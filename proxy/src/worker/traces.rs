//! The traces that a worker's requests are parts of.

use super::Ids;
use crate::{
    config::{Plan, Sampling, TraceMode},
    http1::{Trace, Traceparent, head::Asked},
};

/// How requests are traced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traces {
    /// What clients say of a trace does not count.
    is_restarted: bool,
    sampling: Sampling,
    /// Somebody takes spans.
    has_spans: bool,
}

impl Traces {
    /// None: they are not.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let is_restarted = match plan.trace {
            TraceMode::Off => return None,
            TraceMode::Propagate => false,
            TraceMode::Restart => true,
        };
        Some(Self { is_restarted, sampling: plan.sampling, has_spans: plan.fixed.otlp_endpoint.is_some() })
    }

    /// The trace of a request. Whoever began it has decided whether it is sampled. One of which no span is made here passes as it is: it
    /// would go on from a span that nobody knows.
    pub(crate) fn trace(self, asked: &Asked<'_>, ids: &Ids) -> Trace {
        let sent = Traceparent::of_values(asked.values("traceparent"));
        match sent.filter(|_| !self.is_restarted) {
            Some(sent) if self.has_spans && sent.is_sampled() => Trace::recorded(sent, ids.make_span()),
            Some(sent) => Trace::passed(sent),
            None => {
                let trace = ids.make_trace();
                Trace::begun(trace, ids.make_span(), self.sampling.takes(trace), self.has_spans)
            }
        }
    }
}
