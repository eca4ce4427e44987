//! The lines of the access log on their way to whoever prints them, many at a time. Nothing here waits but for the last of them.

use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use super::{Record, format::Format, printer::Order};
use crate::stats::Stats;

/// Bytes of lines that are handed over at once, however many more there are.
const BATCH_BYTES: usize = 64 * 1024;

pub(super) struct Lines {
    format: Format,
    queue: SyncSender<Order>,
    stats: Arc<Stats>,
    /// Whole lines, and how many.
    text: Vec<u8>,
    count: u64,
    /// The file is to be opened anew, and there was no room to say so yet.
    to_reopen: bool,
}

impl Lines {
    /// `stats` counts what there was no room for.
    pub(super) fn new(format: Format, queue: SyncSender<Order>, stats: Arc<Stats>) -> Self {
        Self { format, queue, stats, text: Vec::new(), count: 0, to_reopen: false }
    }

    pub(super) fn reopen(&mut self) {
        self.to_reopen = true;
    }

    /// Adds the line of a request that started at a time since the Unix epoch.
    pub(super) fn add(&mut self, record: &Record, role: &str, started: Duration) {
        if self.text.len() >= BATCH_BYTES {
            self.hand_over(false);
        }
        if self.text.len() >= BATCH_BYTES {
            self.stats.log_dropped.add(1);
            return;
        }
        self.format.line(record, role, started, &mut self.text);
        self.count += 1;
    }

    /// Hands all of them over, if there is room; else they stay. Who is the last waits for it.
    pub(super) fn hand_over(&mut self, is_last: bool) {
        if self.to_reopen {
            self.to_reopen = self.queue.try_send(Order::Reopen).is_err();
        }
        if self.text.is_empty() {
            return;
        }
        let print = Order::Print { text: std::mem::take(&mut self.text), count: self.count };
        let refused = if is_last {
            self.queue.send(print).err().map(|refused| refused.0)
        } else {
            self.queue.try_send(print).err().map(|refused| match refused {
                TrySendError::Full(print) | TrySendError::Disconnected(print) => print,
            })
        };
        match refused {
            Some(Order::Print { text, .. }) => self.text = text,
            _ => self.count = 0,
        }
    }
}
