//! One agent: its process, and what it has written so far, each line with the time it came.

use std::{
    io::{BufRead as _, BufReader, PipeReader},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use super::{
    contender::{Contender, Found, News},
    usage::{self, Memory},
};

/// How much of what an agent wrote is quoted in an error.
const LOG_LINES: usize = 5;

/// What an agent said of a member, and when.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) at: Instant,
    pub(super) news: News,
    pub(super) name: String,
}

#[derive(Default)]
struct Log {
    lines: Vec<(Instant, String)>,
    events: Vec<Event>,
}

/// A running agent; its process ends with this value.
pub(super) struct Agent {
    pub(super) name: String,
    child: Child,
    log: Arc<Mutex<Log>>,
    started: Instant,
}

impl Agent {
    pub(super) fn start(
        found: &Found,
        name: &str,
        ip: Ipv4Addr,
        seed: Option<Ipv4Addr>,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        // One pipe for both: Serf logs to stdout, Concertina to stderr, and the order within an agent is kept.
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = found.command(name, ip, seed, dir);
        command.current_dir(dir).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        // However the comparison ends, no agent is left behind.
        sidecar::node::supervise::die_with_parent(&mut command);
        let started = Instant::now();
        let child =
            command.spawn().with_context(|| format!("cannot start {}", found.executable.display()))?;
        let log = Arc::new(Mutex::new(Log::default()));
        let contender = found.contender;
        let written = Arc::clone(&log);
        // It ends with the pipe, which the agent alone has once `command` is gone.
        std::thread::spawn(move || read(contender, reader, &written));
        Ok(Self { name: name.to_owned(), child, log, started })
    }

    /// When its process was asked for.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// The first of this news about a member since then.
    pub(super) fn first(&self, name: &str, since: Instant, wanted: &[News]) -> Option<Event> {
        let log = self.log();
        let is_it = |event: &&Event| event.at >= since && event.name == name && wanted.contains(&event.news);
        log.events.iter().find(is_it).cloned()
    }

    /// What it said last of a member.
    pub(super) fn last(&self, name: &str) -> Option<News> {
        self.log().events.iter().rev().find(|event| event.name == name).map(|event| event.news)
    }

    /// How often it said that about anybody.
    pub(super) fn count(&self, since: Instant, news: News) -> usize {
        self.log().events.iter().filter(|event| event.at >= since && event.news == news).count()
    }

    /// Everything that it wrote, with the seconds since it was started.
    pub(super) fn text(&self) -> String {
        let line = |(at, line): &(Instant, String)| {
            format!("{:>10.4} {line}\n", at.saturating_duration_since(self.started).as_secs_f64())
        };
        self.log().lines.iter().map(line).collect()
    }

    /// The end of what it wrote, for an error's message.
    pub(super) fn last_words(&self) -> String {
        let log = self.log();
        let lines = log.lines[log.lines.len().saturating_sub(LOG_LINES)..].iter();
        lines.map(|(_, line)| format!("    {}\n", line.trim())).collect()
    }

    /// The processor time that it has used, in seconds.
    pub(super) fn processor_s(&self) -> anyhow::Result<f64> {
        usage::processor_s(self.child.id()).with_context(|| format!("{} is gone", self.name))
    }

    pub(super) fn memory(&self) -> anyhow::Result<Memory> {
        usage::memory(self.child.id()).with_context(|| format!("{} is gone", self.name))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A stopped process is killed as well as any other.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(contender: Contender, reader: PipeReader, log: &Mutex<Log>) {
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        let at = Instant::now();
        let event = contender.news(&line).map(|(news, name)| Event { at, news, name: name.to_owned() });
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.events.extend(event);
        log.lines.push((at, line));
    }
}
