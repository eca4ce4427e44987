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
        if let Some(lines) = &mut self.lines {
            lines.write();
        }
        if let Some(spans) = &mut self.spans {
            spans.hand_over_due(now, is_last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        log::{format::Format, output::Output},
        stats::Stats,
    };

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_file_is_found_again_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut producer, consumer) = rtrb::RingBuffer::new(8);
        let (output, stats) = (Output::open(Some(&path)).unwrap(), Arc::<Stats>::default());
        let directory = Arc::new(Directory::new(&[], 1, |_| false));
        let lines = Lines::new(Format::Common, output, stats.clone());
        let mut writer = Writer::new(vec![consumer], directory, Some(lines), None, Arc::default());
        let mut put = |count: usize| {
            for _ in 0..count {
                let record = Record::new("127.0.0.1:1".parse().ok(), 0, Instant::now());
                producer.push(record).unwrap();
            }
        };
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        put(2);
        writer.drain(false);
        let renamed = folder.path().join("access.log.1");
        std::fs::rename(&path, &renamed).unwrap();
        put(1);
        writer.drain(false);
        assert_eq!(lines(&renamed), 3, "until it is told");
        writer.lines.as_mut().unwrap().output.reopen();
        put(1);
        writer.drain(false);
        assert_eq!((lines(&renamed), lines(&path)), (3, 1));
        writer.lines.as_mut().unwrap().output.break_off(&path);
        put(3);
        writer.drain(false);
        assert_eq!(stats.log_dropped.read(), 3);
        writer.lines.as_mut().unwrap().output.reopen();
        put(1);
        writer.drain(false);
        assert_eq!((lines(&path), stats.log_dropped.read()), (2, 3));
    }
}
