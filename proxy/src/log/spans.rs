//! The spans of requests on their way to a collector, many at a time. Nothing here waits: what there is no room for is dropped, and counted.

use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use super::{Record, otlp};
use crate::{limits::SPANS_BATCH_COUNT_MAX, stats::Stats};

/// How long a span may wait for others to be sent with.
const BATCH_PERIOD: Duration = Duration::from_secs(1);

/// How long nothing more is said of spans that are lost.
const TOLD_PERIOD: Duration = Duration::from_secs(60);

/// Spans that are sent together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In JSON, with a comma between any two.
    pub(super) text: Vec<u8>,
    pub(super) count: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.count >= SPANS_BATCH_COUNT_MAX
    }
}

/// The writer's end of the way.
pub(super) struct Spans {
    batch: Batch,
    /// When the first of the batch came.
    since: Option<Instant>,
    queue: SyncSender<Batch>,
    stats: Arc<Stats>,
    /// When it was said that spans are dropped.
    told: Option<Instant>,
}

impl Spans {
    /// `stats` counts what there was no room for.
    pub(super) fn new(queue: SyncSender<Batch>, stats: Arc<Stats>) -> Self {
        Self { batch: Batch::default(), since: None, queue, stats, told: None }
    }

    /// Adds the span of a request of a role that started at a time since the Unix epoch, if it has one.
    pub(super) fn add(&mut self, record: &Record, role: &str, started: Duration, now: Instant) {
        let Some(trace) = record.trace.filter(|trace| trace.is_recorded) else { return };
        if self.batch.is_full() {
            self.hand_over();
        }
        if self.batch.is_full() {
            self.stats.spans_dropped.add(1);
            if is_due(&mut self.told, now) {
                tracing::error!("spans are dropped: the collector takes them too slowly");
            }
            return;
        }
        if self.batch.count > 0 {
            self.batch.text.push(b',');
        }
        otlp::push_span(record, &trace, role, started, &mut self.batch.text);
        self.batch.count += 1;
        self.since.get_or_insert(now);
    }

    /// Hands over what has waited for long enough, or all at the end.
    pub(super) fn hand_over_due(&mut self, now: Instant, is_last: bool) {
        let has_waited = self.since.is_some_and(|since| now.saturating_duration_since(since) >= BATCH_PERIOD);
        if has_waited || is_last || self.batch.is_full() {
            self.hand_over();
        }
        if is_last {
            self.stats.spans_dropped.add(std::mem::take(&mut self.batch).count as u64);
        }
    }

    /// Hands the batch over, if there is room; else it stays.
    fn hand_over(&mut self) {
        if self.batch.count == 0 {
            return;
        }
        match self.queue.try_send(std::mem::take(&mut self.batch)) {
            Ok(()) => self.since = None,
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => self.batch = batch,
        }
    }
}

/// Whether it is time to say something again.
pub(super) fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = told.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_PERIOD);
    if is_due {
        *told = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{
        http1::{SpanId, Trace, TraceId},
        limits::SPANS_BATCHES_COUNT_MAX,
    };

    fn record(is_sampled: bool) -> Record {
        let (trace, span) = (TraceId::of_bits(0, 1).unwrap(), SpanId::of_bits(1).unwrap());
        let trace = Some(Trace::begun(trace, span, is_sampled, true));
        Record { trace, ..Record::new(None, 0, Instant::now()) }
    }

    fn spans() -> (Spans, mpsc::Receiver<Batch>, Arc<Stats>) {
        let (queue, batches) = mpsc::sync_channel(SPANS_BATCHES_COUNT_MAX);
        let stats = Arc::<Stats>::default();
        (Spans::new(queue, stats.clone()), batches, stats)
    }

    #[test]
    fn there_is_room_for_the_limit_and_what_is_more_is_dropped_and_counted() {
        let (mut spans, batches, stats) = spans();
        let now = Instant::now();
        let room = SPANS_BATCH_COUNT_MAX * (SPANS_BATCHES_COUNT_MAX + 1);
        for _ in 0..room {
            spans.add(&record(true), "", Duration::ZERO, now);
        }
        assert_eq!(stats.spans_dropped.read(), 0);
        spans.add(&record(true), "", Duration::ZERO, now);
        assert_eq!(stats.spans_dropped.read(), 1);
        // As soon as there is room, they go on.
        assert_eq!(batches.recv().unwrap().count, SPANS_BATCH_COUNT_MAX);
        spans.add(&record(true), "", Duration::ZERO, now);
        spans.hand_over_due(now, false);
        assert_eq!(batches.try_iter().map(|batch| batch.count).sum::<usize>(), SPANS_BATCH_COUNT_MAX * 4);
        spans.hand_over_due(now + BATCH_PERIOD, false);
        assert_eq!(batches.recv().unwrap().count, 1);
        assert_eq!(stats.spans_dropped.read(), 1);
    }

    #[test]
    fn a_span_waits_for_others_only_so_long_and_at_the_end_not_at_all() {
        let (mut spans, batches, stats) = spans();
        let now = Instant::now();
        spans.add(&record(true), "", Duration::ZERO, now);
        spans.add(&record(false), "", Duration::ZERO, now);
        spans.add(&record(true), "", Duration::ZERO, now + BATCH_PERIOD / 2);
        spans.hand_over_due(now + BATCH_PERIOD - Duration::from_nanos(1), false);
        assert!(batches.try_recv().is_err());
        spans.hand_over_due(now + BATCH_PERIOD, false);
        let batch = batches.recv().unwrap();
        let list = [b"[", &batch.text[..], b"]"].concat();
        let list: Vec<serde_json::Value> = serde_json::from_slice(&list).unwrap();
        assert_eq!((list.len(), batch.count), (2, 2), "the one that is not sampled has none");
        spans.add(&record(true), "", Duration::ZERO, now);
        spans.hand_over_due(now, true);
        assert_eq!(batches.recv().unwrap().count, 1);
        drop(batches);
        spans.add(&record(true), "", Duration::ZERO, now);
        spans.hand_over_due(now, true);
        assert_eq!(stats.spans_dropped.read(), 1, "nobody is there any more");
    }

    #[test]
    fn what_goes_on_is_said_once_a_minute() {
        let (mut told, now) = (None, Instant::now());
        assert!(is_due(&mut told, now) && !is_due(&mut told, now + TOLD_PERIOD - Duration::from_nanos(1)));
        assert!(is_due(&mut told, now + TOLD_PERIOD));
    }
}
