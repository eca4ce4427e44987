//! What is told of each HTTP request that was answered, refused or lost: a line in the access log, a span for a collector. Not the place for
//! what happens to the proxy itself, which goes to `tracing`.
//!
//! ```text
//! session ─▶ Record ─▶ Tap ══ ring of a worker ══▶ writer thread ─▶ format ══ queue of batches ══▶ printer thread ─▶ file or stdout
//!                                                        └─▶ otlp ══ queue of batches ══▶ exporter thread ─▶ collector
//! ```
//!
//! A worker never waits for a disk, and neither for a collector, nor one of these for the other: its ring is bounded and takes what it has
//! room for, the rest is counted. So are the queues. Off, a request costs one look at an empty option for each of its stages.

mod export;
mod format;
mod lines;
mod otlp;
mod output;
mod printer;
pub(crate) mod record;
mod ring;
mod spans;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{JoinHandle, Thread},
    time::Duration,
};

use anyhow::Context;

pub(crate) use record::Record;
pub(crate) use ring::Tap;

use crate::{
    config::{AccessLog, Fixed},
    limits::{LOG_BATCHES_COUNT_MAX, LOG_RING_COUNT_MAX, SPANS_BATCHES_COUNT_MAX},
    stats::Stats,
    upstream::follow::Sources,
};

/// How long a stopping proxy waits for its last lines and spans: who is stuck must not keep it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the writer is asked to do.
#[derive(Debug, Default)]
struct Asked {
    to_stop: AtomicBool,
    to_reopen: AtomicBool,
}

/// The writer thread, and those of the printer and the exporter, from outside.
pub(crate) struct Log {
    asked: Arc<Asked>,
    writer: Thread,
    /// Closed when all have ended.
    ended: mpsc::Receiver<()>,
}

impl Log {
    /// Opens the log and starts whoever writes it and posts spans, if there is to be any of it; a tap for each worker. `stats` counts what
    /// could not be written.
    ///
    /// # Errors
    /// A file that cannot be opened; the message names it.
    pub(crate) fn start(
        plan: &Fixed,
        sources: &Arc<Sources>,
        workers: usize,
        stats: &Arc<Stats>,
    ) -> anyhow::Result<Option<(Self, Vec<Tap>)>> {
        let collector = export::Collector::of(plan)?;
        let (ended_tx, ended) = mpsc::channel();
        let lines = start_printer(plan, stats, &ended_tx)?;
        if lines.is_none() && collector.is_none() {
            return Ok(None);
        }
        let exporting = |collector| start_exporter(collector, sources, stats, ended_tx.clone());
        let spans = collector.map(exporting).transpose()?;
        let has_lines = lines.is_some();
        let (producers, rings): (Vec<_>, _) =
            (0..workers).map(|_| rtrb::RingBuffer::new(LOG_RING_COUNT_MAX)).unzip();
        let asked = Arc::<Asked>::default();
        let writer = writer::Writer::new(rings, sources.directory().clone(), lines, spans, asked.clone());
        let writer = spawn("access-log", ended_tx, || writer.run())?.thread().clone();
        let taps =
            producers.into_iter().map(|producer| Tap::new(producer, writer.clone(), has_lines)).collect();
        Ok(Some((Self { asked, writer, ended }, taps)))
    }

    /// Whether what a plan says of a collector could be begun with; no file of lines is opened.
    ///
    /// # Errors
    /// What could not.
    pub(crate) fn check(plan: &Fixed) -> anyhow::Result<()> {
        export::Collector::of(plan).map(drop)
    }

    /// Asks the writer to open its file anew: the old one has been renamed.
    pub(crate) fn reopen(&self) {
        self.asked.to_reopen.store(true, Ordering::Release);
        self.writer.unpark();
    }

    /// Waits until everything is written and posted that was pushed before, within [`FLUSH_TIMEOUT`].
    pub(crate) fn stop(self) {
        self.asked.to_stop.store(true, Ordering::Release);
        self.writer.unpark();
        if self.ended.recv_timeout(FLUSH_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!(
                "the access log's output or the collector is stuck: the last lines or spans are lost"
            );
        }
    }
}

/// Opens the log and starts the thread that prints it, if there is to be one; whoever makes its lines.
fn start_printer(
    plan: &Fixed,
    stats: &Arc<Stats>,
    ended: &mpsc::Sender<()>,
) -> anyhow::Result<Option<lines::Lines>> {
    let format = match plan.access_log {
        AccessLog::Off => return Ok(None),
        AccessLog::Common => format::Format::Common,
        AccessLog::Json => format::Format::Json,
    };
    let output = output::Output::open(plan.access_log_file.as_deref())?;
    let (queue, orders) = mpsc::sync_channel(LOG_BATCHES_COUNT_MAX);
    let printer = printer::Printer::new(output, orders, stats.clone());
    spawn("log-printer", ended.clone(), || printer.run())?;
    Ok(Some(lines::Lines::new(format, queue, stats.clone())))
}

/// Starts the thread that posts spans; the end of its queue that takes them.
fn start_exporter(
    collector: export::Collector,
    sources: &Arc<Sources>,
    stats: &Arc<Stats>,
    ended: mpsc::Sender<()>,
) -> anyhow::Result<spans::Spans> {
    let (queue, batches) = mpsc::sync_channel(SPANS_BATCHES_COUNT_MAX);
    let exporter = export::Exporter::new(collector, sources.clone(), batches, stats.clone());
    spawn("spans", ended, || exporter.run())?;
    Ok(spans::Spans::new(queue, stats.clone()))
}

/// A thread that holds one end of a channel for as long as it runs.
fn spawn(
    name: &str,
    ended: mpsc::Sender<()>,
    run: impl FnOnce() + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let run = move || {
        let _ended = ended;
        run();
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .with_context(|| format!("cannot start the thread of {name}"))
}
