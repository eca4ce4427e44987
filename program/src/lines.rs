//! Lines for a stream that may be full, closed or stuck. Who writes one never waits and never fails.
//!
//! Lines wait in memory for a thread that writes them. What does not fit, or cannot be written, is dropped and counted,
//! and the stream says where and how many as soon as it can. (`tracing-appender` bounds the number of lines but not their
//! bytes, and does not count what failed to be written.)

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// Most bytes that wait for a stream: some thousands of lines of a log.
pub const WAITING_BYTES_MAX: usize = 256 * 1024;
/// Longest line; of a longer one the end is cut off. A stranger may have chosen what it says.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// What a line that was cut ends with.
const CUT: &[u8] = "…\n".as_bytes();
/// The writing thread calls nothing deep.
const STACK_BYTES: usize = 64 * 1024;

/// A stream that takes lines.
#[derive(Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or all of it is written.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    /// Of the waiting lines.
    bytes: usize,
    /// Dropped since the last entry.
    lost: u64,
    is_writing: bool,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// So many lines are missing here.
    Gap(u64),
}

impl Lines {
    /// Starts a thread that writes to this descriptor.
    pub fn to(stream: impl AsFd + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = thread::Builder::new().name("lines".to_owned()).stack_size(STACK_BYTES);
        // Without a thread, which a machine out of processes may refuse, the program does its work all the same, in silence.
        let _ = thread.spawn(move || of_thread.write_for_ever(&stream));
        Self(shared)
    }

    /// Takes a line, with its final newline. It is dropped where too much waits already.
    pub fn push(&self, line: &[u8]) {
        self.0.push(line, WAITING_BYTES_MAX);
    }

    /// Takes a line that must not be missing, whatever waits: the last words of a program.
    pub fn insist(&self, line: &str) {
        self.0.push(format!("{line}\n").as_bytes(), usize::MAX);
    }

    /// How many lines were dropped since the start.
    pub fn dropped_count(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written or dropped, at most until then.
    pub fn flush_until(&self, deadline: Instant) {
        let mut queue = self.0.lock();
        while !queue.is_idle() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One call of `write` is one line.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.lost == 0 && !self.is_writing
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.waiting.pop_front();
        if let Some(Entry::Line(line)) = &entry {
            self.bytes -= line.len();
        }
        entry.or_else(|| Some(Entry::Gap(mem::take(&mut self.lost))).filter(|gap| !gap.is_nothing()))
    }
}

impl Entry {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Gap(0))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8], bytes_max: usize) {
        let line = cut(line);
        let mut queue = self.lock();
        if queue.bytes.saturating_add(line.len()) > bytes_max {
            queue.lost += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            if queue.lost > 0 {
                let gap = mem::take(&mut queue.lost);
                queue.waiting.push_back(Entry::Gap(gap));
            }
            queue.bytes += line.len();
            queue.waiting.push_back(Entry::Line(line));
        }
        drop(queue);
        self.changed.notify_all();
    }

    fn write_for_ever(&self, stream: &impl AsFd) {
        let mut writer = Writer { stream, unsaid: 0, is_torn: false };
        loop {
            let failed = writer.write(self.next());
            self.dropped.fetch_add(failed, Ordering::Relaxed);
        }
    }

    fn next(&self) -> Entry {
        let mut queue = self.lock();
        queue.is_writing = false;
        loop {
            if let Some(entry) = queue.take() {
                queue.is_writing = true;
                return entry;
            }
            self.changed.notify_all();
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn cut(line: &[u8]) -> Vec<u8> {
    if line.len() <= LINE_BYTES_MAX {
        return line.to_vec();
    }
    [&line[..LINE_BYTES_MAX - CUT.len()], CUT].concat()
}

/// The thread's side.
struct Writer<'a, F> {
    stream: &'a F,
    /// Lines that are missing before the next one.
    unsaid: u64,
    /// The last line ended in its middle.
    is_torn: bool,
}

impl<F: AsFd> Writer<'_, F> {
    /// Writes one entry, and what is unsaid before it; how many lines failed.
    fn write(&mut self, entry: Entry) -> u64 {
        let line = match entry {
            Entry::Line(line) => line,
            Entry::Gap(count) => {
                self.unsaid += count;
                Vec::new()
            }
        };
        let mut bytes = Vec::new();
        if self.is_torn {
            bytes.push(b'\n');
        }
        if self.unsaid > 0 {
            bytes.extend(format!("{} lines dropped here\n", self.unsaid).bytes());
        }
        // One write, which a pipe keeps together with those of other processes up to PIPE_BUF (pipe(7)).
        bytes.extend_from_slice(&line);
        let failed = match write_all(self.stream, &bytes) {
            Ok(()) => {
                (self.unsaid, self.is_torn) = (0, false);
                0
            }
            Err(written) => {
                self.is_torn |= written > 0;
                u64::from(!line.is_empty())
            }
        };
        self.unsaid += failed;
        failed
    }
}

/// Writes all bytes; else says how many were written before it failed.
fn write_all(stream: impl AsFd, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(&stream, &bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            // Another process may have made the stream non-blocking for all who share it.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stream, PollFlags::OUT)], None);
            }
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{BufRead, BufReader, Read, pipe},
        time::Duration,
    };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn lines_arrive_in_order() {
        let (reader, writer) = pipe().unwrap();
        let lines = Lines::to(writer);
        (0..100).for_each(|n| lines.push(format!("{n}\n").as_bytes()));
        let mut reader = BufReader::new(reader).lines();
        (0..100).for_each(|n| assert_eq!(reader.next().unwrap().unwrap(), n.to_string()));
        lines.flush_until(soon());
        assert_eq!(lines.dropped_count(), 0);
    }

    #[test]
    fn a_stuck_stream_drops_what_does_not_fit_and_says_how_many() {
        let (reader, writer) = pipe().unwrap();
        let lines = Lines::to(writer);
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        let pushed = 2 * WAITING_BYTES_MAX / line.len();
        (0..pushed).for_each(|_| lines.push(&line));
        let dropped = lines.dropped_count();
        assert!(dropped > 0);
        lines.insist("last words");
        let (mut whole, mut missing) = (0, 0);
        let mut reader = BufReader::new(reader).lines().map(Result::unwrap);
        for line in reader.by_ref().take_while(|line| line != "last words") {
            // In one place or in several: the thread may begin when the queue is full already, and there is room for a while.
            match line.strip_suffix(" lines dropped here") {
                Some(count) => missing += count.parse::<u64>().unwrap(),
                None => whole += u64::from(line.len() == 1023),
            }
        }
        assert_eq!((whole, missing), (pushed as u64 - dropped, dropped));
    }

    #[test]
    fn the_end_waits_for_a_stuck_stream_only_until_its_deadline() {
        let (_reader, writer) = pipe().unwrap();
        let lines = Lines::to(writer);
        (0..WAITING_BYTES_MAX / LINE_BYTES_MAX).for_each(|_| lines.push(&[b'x'; LINE_BYTES_MAX]));
        let started = Instant::now();
        lines.flush_until(started + Duration::from_millis(50));
        assert!(started.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_full_disk_and_a_reader_that_went_away_only_cost_lines() {
        let (reader, closed) = pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for lines in [Lines::to(full), Lines::to(closed)] {
            (0..3).for_each(|_| lines.push(b"x\n"));
            lines.flush_until(soon());
            assert_eq!(lines.dropped_count(), 3);
        }
    }

    #[test]
    fn what_failed_is_counted_in_its_place_and_a_torn_line_is_ended() {
        let (mut reader, stream) = pipe().unwrap();
        let mut writer = Writer { stream: &stream, unsaid: 2, is_torn: true };
        assert_eq!(writer.write(Entry::Line(b"next\n".to_vec())), 0);
        assert_eq!(writer.write(Entry::Gap(5)), 0);
        drop(stream);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "\n2 lines dropped here\nnext\n5 lines dropped here\n");
    }

    #[test]
    fn only_what_is_over_the_longest_line_is_cut() {
        assert_eq!(cut(&[b'x'; LINE_BYTES_MAX]), [b'x'; LINE_BYTES_MAX]);
        let longer = cut(&[b'x'; LINE_BYTES_MAX + 1]);
        assert_eq!(longer.len(), LINE_BYTES_MAX);
        assert!(longer.ends_with(CUT));
    }

    #[test]
    fn a_stream_that_another_process_made_non_blocking_loses_nothing() {
        let (reader, writer) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let lines = Lines::to(writer);
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        let count = WAITING_BYTES_MAX / line.len();
        (0..count).for_each(|_| lines.push(&line));
        let mut reader = BufReader::new(reader).lines();
        (0..count).for_each(|_| assert_eq!(reader.next().unwrap().unwrap().len(), 1023));
        assert_eq!(lines.dropped_count(), 0);
    }
}
