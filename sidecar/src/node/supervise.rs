//! What all children of the sidecar share: bound to the life of their parent, stopped by some signal, ended in some way.

use std::{
    cell::RefCell, collections::BTreeMap, fmt, io, os::unix::process::CommandExt, process::Command, rc::Rc,
    str::FromStr,
};

use rustix::process::{Pid, Signal, WaitStatus, getpid, getppid, setsid};
use tokio::sync::oneshot;

/// The signals that a role's process may want to be stopped by.
const STOP_SIGNALS: [(&str, Signal); 8] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("KILL", Signal::KILL),
];

/// The signal that stops a role's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(Signal);

impl StopSignal {
    pub(crate) fn signal(self) -> Signal {
        self.0
    }
}

impl FromStr for StopSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = STOP_SIGNALS.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| Self(signal)).ok_or_else(|| {
            let known = STOP_SIGNALS.map(|(known, _)| format!("SIG{known}")).join(", ");
            format!("{text:?} is not a signal to stop by: expected one of {known}")
        })
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = STOP_SIGNALS.into_iter().find(|(_, signal)| *signal == self.0);
        write!(f, "SIG{}", known.map_or("", |(known, _)| known))
    }
}

/// Lets the kernel kill the process when the thread that starts it ends, however it ends. Start it from a thread that lives
/// as long as the program.
#[expect(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
pub fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let bind_life = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was set; then nobody would send it.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: after fork only async-signal-safe work is allowed. The closure makes two plain system calls and builds
    // errors from numbers: it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(bind_life);
    }
}

/// Makes the process the leader of a session of its own. What a terminal or a script sends to this process's group, Ctrl-C above all, is not
/// for the role, which is told when the drain is over. And a role that reads the terminal is not stopped for that, as one in a
/// background group would be: it has no controlling terminal.
#[expect(unsafe_code, reason = "a session can only be made between fork and exec")]
pub(crate) fn lead_session(command: &mut Command) {
    // SAFETY: after fork only async-signal-safe work is allowed. The closure makes one plain system call and builds an error from a
    // number.
    unsafe {
        command.pre_exec(|| Ok(setsid().map(drop)?));
    }
}

/// Other children whose end somebody waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Rc<RefCell<BTreeMap<i32, oneshot::Sender<WaitStatus>>>>);

impl Children {
    /// Tells the end of this child, which was started just now and must not have been waited for.
    pub(crate) fn watch(&self, pid: Pid) -> oneshot::Receiver<WaitStatus> {
        let (told, ended) = oneshot::channel();
        self.0.borrow_mut().insert(pid.as_raw_nonzero().get(), told);
        ended
    }

    /// This child has ended.
    pub(crate) fn tell(&self, pid: Pid, status: WaitStatus) {
        if let Some(told) = self.0.borrow_mut().remove(&pid.as_raw_nonzero().get()) {
            // Whoever waited may have given up.
            let _ = told.send(status);
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    Unknown,
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (_, Some(signal)) => Self::Signal(signal),
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Exit {
    /// Whether a process that was to stop ended as it should.
    pub(crate) fn is_clean(self) -> bool {
        let asked = [Signal::TERM, Signal::INT, Signal::QUIT].map(|signal| Self::Signal(signal.as_raw()));
        self == Self::Code(0) || asked.contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_with_or_without_their_prefix_and_others_are_refused_by_name() {
        for (name, signal) in STOP_SIGNALS {
            for text in [name.to_owned(), format!("SIG{name}"), name.to_lowercase()] {
                assert_eq!(text.parse(), Ok(StopSignal(signal)), "{text}");
            }
            assert_eq!(StopSignal(signal).to_string(), format!("SIG{name}"));
        }
        for text in ["", "SIG", "STOP", "15", "TERM "] {
            let why = text.parse::<StopSignal>().unwrap_err();
            assert!(why.contains(&format!("{text:?}")) && why.contains("SIGTERM, SIGINT"), "{why}");
        }
    }
}
