//! The thread that writes lines to where they go. It may wait, be the disk full or the pipe stuck; the writer, who has spans to pass on too,
//! does not wait for it.

use std::sync::{Arc, mpsc};

use super::output::Output;
use crate::stats::Stats;

/// What it is told.
pub(super) enum Order {
    /// Whole lines, and how many.
    Print { text: Vec<u8>, count: u64 },
    /// The file has been renamed.
    Reopen,
}

pub(super) struct Printer {
    output: Output,
    queue: mpsc::Receiver<Order>,
    stats: Arc<Stats>,
    /// The last write failed, and somebody was told.
    is_failing: bool,
}

impl Printer {
    /// `stats` counts what could not be written.
    pub(super) fn new(output: Output, queue: mpsc::Receiver<Order>, stats: Arc<Stats>) -> Self {
        Self { output, queue, stats, is_failing: false }
    }

    /// Prints until nobody is there from whom more could come.
    pub(super) fn run(mut self) {
        while let Ok(order) = self.queue.recv() {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Reopen => self.output.reopen(),
            Order::Print { text, count } => {
                let written = self.output.write(&text);
                if let Err(error) = &written {
                    self.stats.log_dropped.add(count);
                    if !self.is_failing {
                        tracing::error!(%error, "the access log cannot be written");
                    }
                }
                self.is_failing = written.is_err();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_file_is_found_again_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (output, stats) = (Output::open(Some(&path)).unwrap(), Arc::<Stats>::default());
        let mut printer = Printer::new(output, mpsc::channel().1, stats.clone());
        let print =
            |count: u64| Order::Print { text: b"line\n".repeat(usize::try_from(count).unwrap()), count };
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        printer.obey(print(2));
        let renamed = folder.path().join("access.log.1");
        std::fs::rename(&path, &renamed).unwrap();
        printer.obey(print(1));
        assert_eq!(lines(&renamed), 3, "until it is told");
        printer.obey(Order::Reopen);
        printer.obey(print(1));
        assert_eq!((lines(&renamed), lines(&path)), (3, 1));
        printer.output.break_off(&path);
        printer.obey(print(3));
        assert_eq!(stats.log_dropped.read(), 3);
        printer.obey(Order::Reopen);
        printer.obey(print(1));
        assert_eq!((lines(&path), stats.log_dropped.read()), (2, 3));
    }
}
