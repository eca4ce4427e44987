//! What every program of the project shares: how it speaks, what the machine grants it, how it ends.
//!
//! ```text
//! tracing ─▶ log ─▶ stderr() ─▶ thread ─▶ fd 2          nobody who logs ever waits
//! ```
//!
//! Only the `main` of a program calls [`start`]: a library, or a test of one, must not end its process.

pub mod advice;
pub mod file;
pub mod limits;
pub mod lines;
pub mod listen_fds;
mod log;
pub mod metrics;
pub mod network;
pub mod notify;
mod panic;
pub mod process;

use std::{
    io,
    sync::OnceLock,
    time::{Duration, Instant},
};

pub use lines::Lines;
pub use log::{FORMAT_VARIABLE, LOG_VARIABLE};
pub use panic::PANIC_EXIT_CODE;

/// How long the end of a program waits for its last lines. Who reads them at all reads them within it.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Prepares the process: a panic of any thread or task ends it, the log is on, and its limit of descriptors is raised.
pub fn start() {
    panic::end_process();
    log::start();
    limits::raise_descriptors();
}

/// The standard error stream, for the log and for last words.
pub fn stderr() -> &'static Lines {
    static STDERR: OnceLock<Lines> = OnceLock::new();
    STDERR.get_or_init(|| Lines::to(io::stderr()))
}

/// The standard output stream, for what a long-lived program announces beside its work.
pub fn stdout() -> &'static Lines {
    static STDOUT: OnceLock<Lines> = OnceLock::new();
    STDOUT.get_or_init(|| Lines::to(io::stdout()))
}

/// Waits until what was said is written, but not for long: the last call of a program.
pub fn flush() {
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    stderr().flush_until(deadline);
    stdout().flush_until(deadline);
}
