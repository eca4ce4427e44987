//! What signals to the sidecar mean: some end the node, with a drain; the others are its role's.
//!
//! The handlers are the first thing of all: the kernel drops a signal that process 1 of a container has no handler for, and a
//! signal without one ends any other process without a drain.

use std::{
    fs::{self, File},
    future::poll_fn,
    io,
    task::Poll,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::Instant,
};

/// Those that stop a node: of people, of engines and service managers, and of images that are used to another than SIGTERM.
const STOPPING: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// Those that programs give a meaning of their own.
const PASSED: [Signal; 4] = [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH];

/// Whoever asks again this much later means it. What comes sooner is one wish on two ways: a terminal's to the whole process group,
/// and that of a parent which passes its own on.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Drain and stop.
    Stop,
    /// Stop without waiting any longer.
    StopNow,
    /// Tell the role's process.
    Pass(Signal),
}

/// All that have handlers.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(Signal, SignalStream)>,
    wishes: Wishes,
    /// Whether a terminal controlled this process at its start.
    had_terminal: bool,
}

impl Signals {
    /// Puts the handlers there. A signal that is ignored, as SIGHUP is under `nohup`, stays so.
    pub(crate) fn install() -> io::Result<Self> {
        let ignored = ignored();
        let passed = PASSED.into_iter().filter(|signal| !is_in(ignored, *signal));
        let stream = |of: Signal| Ok((of, signal(SignalKind::from_raw(of.as_raw()))?));
        let streams = STOPPING.into_iter().chain(passed).map(stream).collect::<io::Result<_>>()?;
        Ok(Self { streams, wishes: Wishes::default(), had_terminal: has_terminal() })
    }

    /// The next wish. Nothing is lost if this is dropped.
    pub(crate) async fn next(&mut self) -> Wish {
        loop {
            let signal = poll_fn(|cx| {
                let come = self.streams.iter_mut().find_map(|(signal, stream)| {
                    matches!(stream.poll_recv(cx), Poll::Ready(Some(()))).then_some(*signal)
                });
                come.map_or(Poll::Pending, Poll::Ready)
            });
            let signal = signal.await;
            // The terminal is gone, or the connection to it: nobody asks for a log to be opened anew.
            let hung_up = signal == Signal::HUP && self.had_terminal && !has_terminal();
            if let Some(wish) = self.wishes.apply(signal, hung_up, Instant::now()) {
                return wish;
            }
        }
    }

    /// Waits until somebody wants the node to stop.
    pub(crate) async fn stop(&mut self) {
        while let Wish::Pass(_) = self.next().await {}
    }

    /// Waits until somebody who wanted that already wants it at once.
    pub(crate) async fn stop_now(&mut self) {
        while self.next().await != Wish::StopNow {}
    }
}

/// What was wished so far.
#[derive(Debug, Default)]
struct Wishes {
    stop_at: Option<Instant>,
}

impl Wishes {
    fn apply(&mut self, signal: Signal, hung_up: bool, now: Instant) -> Option<Wish> {
        if !STOPPING.contains(&signal) && !hung_up {
            return Some(Wish::Pass(signal));
        }
        match self.stop_at {
            Some(at) if now < at + AGAIN_AFTER => None,
            Some(_) => {
                self.stop_at = Some(now);
                Some(Wish::StopNow)
            }
            None => {
                self.stop_at = Some(now);
                Some(Wish::Stop)
            }
        }
    }
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// The mask of the signals that this process ignores, bit 0 for signal 1.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(mask: u64, signal: Signal) -> bool {
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_wish_to_stop_hastens_only_if_it_comes_later() {
        let (mut wishes, start) = (Wishes::default(), Instant::now());
        let mut at = |ms, signal| wishes.apply(signal, false, start + Duration::from_millis(ms));
        assert_eq!(at(0, Signal::USR1), Some(Wish::Pass(Signal::USR1)));
        assert_eq!(at(0, Signal::INT), Some(Wish::Stop));
        assert_eq!(at(999, Signal::TERM), None);
        assert_eq!(at(1000, Signal::TERM), Some(Wish::StopNow));
        assert_eq!(at(1999, Signal::TERM), None);
        assert_eq!(at(2000, Signal::HUP), Some(Wish::Pass(Signal::HUP)));
        assert_eq!(at(2000, Signal::TERM), Some(Wish::StopNow));
    }

    #[test]
    fn a_terminal_that_hangs_up_stops_the_node() {
        assert_eq!(Wishes::default().apply(Signal::HUP, true, Instant::now()), Some(Wish::Stop));
    }

    #[test]
    fn ignored_signals_are_found_in_the_mask() {
        assert!(is_in(0b1, Signal::HUP) && !is_in(0b1, Signal::INT) && is_in(1 << 14, Signal::TERM));
    }
}
