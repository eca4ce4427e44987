//! What is waited for, in one line on the terminal: once that takes longer than a second, until it is over. Then the line is gone.
//!
//! It is written to the standard error stream, and only if that is a terminal. Lines that are printed meanwhile take its place
//! (`say`), and it is below them again.

use std::{
    cell::RefCell,
    io::{IsTerminal, stderr, stdout},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Who waits for less need not be told why.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// How often the time is told anew.
const PERIOD: Duration = Duration::from_millis(100);
/// Where a terminal does not say how wide it is.
const WIDTH_USUAL: usize = 80;

/// To the begin of the line, and nothing in it.
const ERASED: &str = "\r\x1b[K";

/// There was a line in this process, and it may be there still: streams are written to by threads of their own.
static WAS_SHOWN: AtomicBool = AtomicBool::new(false);

/// What a line that is printed on the standard output begins with, so that it takes the place of this one.
pub(crate) fn place() -> &'static str {
    if WAS_SHOWN.load(Ordering::Relaxed) && stdout().is_terminal() { ERASED } else { "" }
}

/// See the module.
pub(crate) struct Progress {
    is_seen: bool,
    awaited: RefCell<(String, Instant)>,
}

impl Progress {
    /// What is waited for is told as `waiting for …`.
    pub(crate) fn waiting(awaited: impl Into<String>) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self {
            is_seen: stderr().is_terminal() && !is_dumb,
            awaited: RefCell::new((awaited.into(), Instant::now())),
        }
    }

    /// Something else is waited for from now on.
    pub(crate) fn now_for(&self, awaited: impl Into<String>) {
        let (awaited, mut now) = (awaited.into(), self.awaited.borrow_mut());
        if now.0 != awaited {
            *now = (awaited, Instant::now());
        }
    }

    /// Tells of it while this is under way.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        if !self.is_seen {
            return work.await;
        }
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(PERIOD);
        let _shown = Shown;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = ticks.tick() => self.show(),
            }
        }
    }

    fn show(&self) {
        let (awaited, since) = &*self.awaited.borrow();
        let width = rustix::termios::tcgetwinsize(stderr()).map_or(0, |size| size.ws_col.into());
        if let Some(line) = line(awaited, since.elapsed(), if width == 0 { WIDTH_USUAL } else { width }) {
            WAS_SHOWN.store(true, Ordering::Relaxed);
            program::stderr().push(format!("{ERASED}{line}").as_bytes());
        } else {
            erase();
        }
    }
}

/// The line goes with it.
struct Shown;

impl Drop for Shown {
    fn drop(&mut self) {
        erase();
    }
}

fn erase() {
    if WAS_SHOWN.load(Ordering::Relaxed) {
        program::stderr().push(ERASED.as_bytes());
    }
}

/// The line, if it is time for it. It leaves the last column free, so that no terminal breaks it.
fn line(awaited: &str, passed: Duration, width: usize) -> Option<String> {
    if passed < QUIET_PERIOD {
        return None;
    }
    let time = format!(" ({}.{} s)", passed.as_secs(), passed.subsec_millis() / 100);
    let room = width.saturating_sub(time.len() + 1);
    let text = format!("waiting for {awaited}");
    let text = if text.chars().count() <= room {
        text
    } else {
        text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
    };
    Some((text + &time).chars().take(width.saturating_sub(1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_second_is_told_on_one_line_of_the_terminal() {
        let told = |ms, width| line("app2 to pass its check", Duration::from_millis(ms), width);
        assert_eq!(told(999, 80), None);
        assert_eq!(told(1000, 80).as_deref(), Some("waiting for app2 to pass its check (1.0 s)"));
        assert_eq!(told(61_490, 80).as_deref(), Some("waiting for app2 to pass its check (61.4 s)"));
        assert_eq!(told(1000, 43).as_deref(), Some("waiting for app2 to pass its check (1.0 s)"));
        assert_eq!(told(1000, 42).as_deref(), Some("waiting for app2 to pass its che… (1.0 s)"));
        for width in 0..50 {
            let told = told(1000, width).unwrap();
            assert!(told.chars().count() < width.max(1), "{width}: {told}");
        }
    }
}
