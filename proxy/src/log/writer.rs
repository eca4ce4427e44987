//! The thread that formats and writes what the workers have put into their rings, in batches.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;

use super::{Asked, Record, format::Format};
use crate::stats::Stats;

/// How long a line may wait for others to be written with.
const BATCH_PERIOD: Duration = Duration::from_millis(100);

/// Bytes of lines that are written at once, however many more there are.
const BATCH_BYTES: usize = 64 * 1024;

/// Where lines go.
pub(super) enum Output {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Output {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let file = open(path).with_context(|| {
            format!("--access-log-file {}: expected a file that can be appended to", path.display())
        })?;
        Ok(Self::File { path: path.to_owned(), file })
    }

    fn reopen(&mut self) {
        let Self::File { path, file } = self else { return };
        match open(path) {
            Ok(new) => *file = new,
            // Lines in a renamed file are better than none.
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the access log stays in its old file");
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text).and_then(|()| stdout.flush())
            }
            Self::File { file, .. } => file.write_all(text),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

pub(super) struct Writer {
    rings: Vec<rtrb::Consumer<Record>>,
    format: Format,
    output: Output,
    asked: Arc<Asked>,
    stats: Arc<Stats>,
    /// Whole lines, and how many.
    text: Vec<u8>,
    lines: u64,
    /// The last write failed, and somebody was told.
    is_failing: bool,
}

impl Writer {
    pub(super) fn new(
        rings: Vec<rtrb::Consumer<Record>>,
        format: Format,
        output: Output,
        asked: Arc<Asked>,
        stats: Arc<Stats>,
    ) -> Self {
        let text = Vec::with_capacity(BATCH_BYTES);
        Self { rings, format, output, asked, stats, text, lines: 0, is_failing: false }
    }

    /// Writes until it is asked to stop.
    pub(super) fn run(mut self) {
        loop {
            // Asked before the rings are looked at: what was pushed before the stop is written.
            let is_last = self.asked.to_stop.load(Ordering::Acquire);
            if self.asked.to_reopen.swap(false, Ordering::AcqRel) {
                self.output.reopen();
            }
            self.drain();
            if is_last {
                return;
            }
            std::thread::park_timeout(BATCH_PERIOD);
        }
    }

    fn drain(&mut self) {
        // Both clocks together, once: workers read only the cheaper one, and a clock that is set moves no line but the next.
        let (now, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        for position in 0..self.rings.len() {
            while let Ok(record) = self.rings[position].pop() {
                let started = wall.saturating_sub(now.saturating_duration_since(record.started));
                self.format.line(&record, started, &mut self.text);
                self.lines += 1;
                if self.text.len() >= BATCH_BYTES {
                    self.write();
                }
            }
        }
        self.write();
    }

    fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let written = self.output.write(&self.text);
        if let Err(error) = &written {
            self.stats.log_dropped.add(self.lines);
            if !self.is_failing {
                tracing::error!(%error, "the access log cannot be written");
            }
        }
        self.is_failing = written.is_err();
        self.text.clear();
        self.lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_file_is_found_again_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut producer, consumer) = rtrb::RingBuffer::new(8);
        let output = Output::open(Some(&path)).unwrap();
        let stats = Arc::<Stats>::default();
        let mut writer = Writer::new(vec![consumer], Format::Common, output, Arc::default(), stats.clone());
        let mut put = |count: usize| {
            for _ in 0..count {
                let record = Record::new("127.0.0.1:1".parse().unwrap(), 0, Instant::now());
                producer.push(record).unwrap();
            }
        };
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        put(2);
        writer.drain();
        let renamed = folder.path().join("access.log.1");
        std::fs::rename(&path, &renamed).unwrap();
        put(1);
        writer.drain();
        assert_eq!(lines(&renamed), 3, "until it is told");
        writer.output.reopen();
        put(1);
        writer.drain();
        assert_eq!((lines(&renamed), lines(&path)), (3, 1));
        // A file that is open for reading only fails as a full disk does.
        writer.output = Output::File { path: path.clone(), file: File::open(&path).unwrap() };
        put(3);
        writer.drain();
        assert_eq!(stats.log_dropped.read(), 3);
        writer.output.reopen();
        put(1);
        writer.drain();
        assert_eq!((lines(&path), stats.log_dropped.read()), (2, 3));
    }
}
