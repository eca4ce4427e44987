//! How many descriptors the process may have.
//!
//! The soft limit is 1024 by custom, for programs that use select(2), which has no room for more; the hard limit is what the
//! machine means to grant. A program that knows poll and epoll raises the one to the other, and gives its children back what
//! it found, as systemd and Go do.

use std::{io, os::unix::process::CommandExt, process::Command, sync::OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process was started with, if it was changed.
static AT_START: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of descriptors to the hard one.
pub(crate) fn raise_descriptors() {
    let found = getrlimit(Resource::Nofile);
    if found.current == found.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: found.maximum, ..found }) {
        Ok(()) => {
            let _ = AT_START.set(found);
            tracing::debug!(from = ?found.current, to = ?found.maximum, "raised the limit of descriptors");
        }
        Err(error) => tracing::warn!(limit = ?found.current, %error, "cannot raise the limit of descriptors"),
    }
}

/// How many descriptors this process may have at a time.
pub fn descriptors_max() -> usize {
    // None is infinity.
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |count| count.try_into().unwrap_or(usize::MAX))
}

/// Has the command start with the soft limit that this process was started with: it may use select(2).
#[expect(unsafe_code, reason = "limits of a child can only be set between fork and exec")]
pub fn restore_descriptors(command: &mut Command) {
    let Some(limit) = AT_START.get() else { return };
    let restore = move || -> io::Result<()> { Ok(setrlimit(Resource::Nofile, *limit)?) };
    // SAFETY: after fork only async-signal-safe work is allowed. The closure copies two numbers and makes one system call: it
    // takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(restore);
    }
}
