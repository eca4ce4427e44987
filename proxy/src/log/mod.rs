//! The access log: a line for each HTTP request that was answered, refused or lost. Not the place for what happens to the
//! proxy itself, which goes to `tracing`.
//!
//! ```text
//! session ─▶ Record ─▶ Tap ══ ring of a worker ══▶ writer thread ─▶ format ─▶ file or stdout
//! ```
//!
//! A worker never waits for a disk: its ring is bounded and takes what it has room for, the rest is counted. Off, a request
//! costs one look at an empty option for each of its stages.

mod format;
pub(crate) mod record;
mod ring;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::Thread,
    time::Duration,
};

use anyhow::Context;

pub(crate) use record::Record;
pub(crate) use ring::Tap;

use crate::{
    config::{AccessLog, Fixed},
    limits::LOG_RING_COUNT_MAX,
    stats::Stats,
    upstream::directory::Directory,
};

/// How long a stopping proxy waits for its last lines: an output that is stuck must not keep it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the writer is asked to do.
#[derive(Debug, Default)]
struct Asked {
    to_stop: AtomicBool,
    to_reopen: AtomicBool,
}

/// The writer thread, from outside.
pub(crate) struct Log {
    asked: Arc<Asked>,
    writer: Thread,
    /// Closed when the thread ends.
    ended: mpsc::Receiver<()>,
}

impl Log {
    /// Opens the log and starts its writer, if there is to be one; a tap for each worker. `stats` counts what could not be
    /// written.
    ///
    /// # Errors
    /// A file that cannot be opened; the message names it.
    pub(crate) fn start(
        plan: &Fixed,
        directory: Arc<Directory>,
        workers: usize,
        stats: Arc<Stats>,
    ) -> anyhow::Result<Option<(Self, Vec<Tap>)>> {
        let format = match plan.access_log {
            AccessLog::Off => return Ok(None),
            AccessLog::Common => format::Format::Common,
            AccessLog::Json => format::Format::Json { directory },
        };
        let output = writer::Output::open(plan.access_log_file.as_deref())?;
        let (producers, rings) = (0..workers).map(|_| rtrb::RingBuffer::new(LOG_RING_COUNT_MAX)).unzip();
        let asked = Arc::<Asked>::default();
        let (ended_tx, ended) = mpsc::channel();
        let writer = writer::Writer::new(rings, format, output, asked.clone(), stats);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let _ended = ended_tx;
            writer.run();
        });
        let writer = thread.context("cannot start the access log's thread")?.thread().clone();
        let producers: Vec<_> = producers;
        let taps = producers.into_iter().map(|producer| Tap::new(producer, writer.clone())).collect();
        Ok(Some((Self { asked, writer, ended }, taps)))
    }

    /// Asks the writer to open its file anew: the old one has been renamed.
    pub(crate) fn reopen(&self) {
        self.asked.to_reopen.store(true, Ordering::Release);
        self.writer.unpark();
    }

    /// Waits until everything is written that was pushed before, within [`FLUSH_TIMEOUT`].
    pub(crate) fn stop(self) {
        self.asked.to_stop.store(true, Ordering::Release);
        self.writer.unpark();
        if self.ended.recv_timeout(FLUSH_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the access log's output is stuck: its last lines are lost");
        }
    }
}
