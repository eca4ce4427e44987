//! The thread that takes what the workers have put into their rings, in batches: lines are formatted and written, spans are passed on.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Asked, Record, lines::Lines, spans::Spans};
use crate::upstream::directory::Directory;

/// How long a line may wait for others to be written with.
const BATCH_PERIOD: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    rings: Vec<rtrb::Consumer<Record>>,
    /// Where the names of the roles are.
    directory: Arc<Directory>,
    lines: Option<Lines>,
    spans: Option<Spans>,
    asked: Arc<Asked>,
}

impl Writer {
    pub(super) fn new(
        rings: Vec<rtrb::Consumer<Record>>,
        directory: Arc<Directory>,
        lines: Option<Lines>,
        spans: Option<Spans>,
        asked: Arc<Asked>,
    ) -> Self {
        Self { rings, directory, lines, spans, asked }
    }

    /// Writes until it is asked to stop.
    pub(super) fn run(mut self) {
        loop {
            // Asked before the rings are looked at: what was pushed before the stop is written.
            let is_last = self.asked.to_stop.load(Ordering::Acquire);
            if self.asked.to_reopen.swap(false, Ordering::AcqRel)
                && let Some(lines) = &mut self.lines
            {
                lines.reopen();
            }
            self.drain(is_last);
            if is_last {
                return;
            }
            std::thread::park_timeout(BATCH_PERIOD);
        }
    }

    fn drain(&mut self, is_last: bool) {
        // Both clocks together, once: workers read only the cheaper one, and a clock that is set moves no line but the next.
        let (now, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        for ring in &mut self.rings {
            while let Ok(record) = ring.pop() {
                let started = wall.saturating_sub(now.saturating_duration_since(record.started));
                let roles = self.directory.roles();
                let role = roles.get(record.role).map_or("", |role| role.name.as_str());
                if let Some(lines) = &mut self.lines {
                    lines.add(&record, role, started);
                }
                if let Some(spans) = &mut self.spans {
                    spans.add(&record, role, started, now);
                }
            }
        }
        // Spans first: at the end, lines are waited for.
        if let Some(spans) = &mut self.spans {
            spans.hand_over_due(now, is_last);
        }
        if let Some(lines) = &mut self.lines {
            lines.hand_over(is_last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{
        log::{format::Format, printer::Order},
        stats::Stats,
    };

    #[test]
    fn lines_that_nobody_takes_are_dropped_and_counted_and_nobody_waits_for_them() {
        const COUNT: u64 = 4096;
        let (mut producer, consumer) = rtrb::RingBuffer::new(64);
        let (queue, orders) = mpsc::sync_channel(1);
        let stats = Arc::<Stats>::default();
        let lines = Lines::new(Format::Json, queue, stats.clone());
        let directory = Arc::new(Directory::new(&[], 1, |_| false));
        let mut writer = Writer::new(vec![consumer], directory, Some(lines), None, Arc::default());
        for _ in 0..COUNT {
            producer.push(Record::new("127.0.0.1:1".parse().ok(), 0, Instant::now())).unwrap();
            writer.drain(false);
        }
        let dropped = stats.log_dropped.read();
        assert!(dropped > 0, "more than fit in a batch");
        writer.asked.to_reopen.store(true, Ordering::Release);
        // Whoever took them all the time would have had all.
        let taking = std::thread::spawn(move || {
            let mut counts = (0, 0);
            for order in orders {
                match order {
                    Order::Print { text, count } => {
                        counts.0 += count;
                        assert_eq!(memchr::memchr_iter(b'\n', &text).count() as u64, count);
                    }
                    Order::Reopen => counts.1 += 1,
                }
            }
            counts
        });
        writer.asked.to_stop.store(true, Ordering::Release);
        writer.run();
        assert_eq!(taking.join().unwrap().0, COUNT - dropped);
    }
}
