//! The lines of the access log, written many at a time.

use std::{sync::Arc, time::Duration};

use super::{Record, format::Format, output::Output};
use crate::stats::Stats;

/// Bytes of lines that are written at once, however many more there are.
const BATCH_BYTES: usize = 64 * 1024;

pub(super) struct Lines {
    format: Format,
    pub(super) output: Output,
    stats: Arc<Stats>,
    /// Whole lines, and how many.
    text: Vec<u8>,
    count: u64,
    /// The last write failed, and somebody was told.
    is_failing: bool,
}

impl Lines {
    /// `stats` counts what could not be written.
    pub(super) fn new(format: Format, output: Output, stats: Arc<Stats>) -> Self {
        let text = Vec::with_capacity(BATCH_BYTES);
        Self { format, output, stats, text, count: 0, is_failing: false }
    }

    pub(super) fn reopen(&mut self) {
        self.output.reopen();
    }

    /// Adds the line of a request that started at a time since the Unix epoch.
    pub(super) fn add(&mut self, record: &Record, role: &str, started: Duration) {
        self.format.line(record, role, started, &mut self.text);
        self.count += 1;
        if self.text.len() >= BATCH_BYTES {
            self.write();
        }
    }

    /// Writes all of them.
    pub(super) fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let written = self.output.write(&self.text);
        if let Err(error) = &written {
            self.stats.log_dropped.add(self.count);
            if !self.is_failing {
                tracing::error!(%error, "the access log cannot be written");
            }
        }
        self.is_failing = written.is_err();
        self.text.clear();
        self.count = 0;
    }
}
