//! One run of an operator's program: a handler's, or a check's.
//!
//! No shell. What it says on stdout is kept up to a limit. It ends with its time, and what it has started and left behind does not keep
//! anybody waiting.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use feed::event::ANSWER_BYTES_MAX;
use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use crate::node::supervise::{Children, die_with_parent};

/// How long after the program's end something may hold its stdout: what it said just before is in the pipe, and what it left in
/// the background would hold it for ever.
const LEFTOVER_TIMEOUT: Duration = Duration::from_millis(100);

/// What to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) command: &'a [String],
    pub(crate) envs: &'a [(&'static str, String)],
    /// Shorter than what a fresh pipe takes at once.
    pub(crate) stdin: &'a [u8],
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    Ended(WaitStatus),
    /// Not in time: it was killed.
    Overdue,
    /// Nobody saw how.
    Unseen,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: End,
    pub(crate) said: Vec<u8>,
}

impl Program<'_> {
    /// Runs it, for so long at most.
    pub(crate) async fn run(&self, limit: Duration, children: &Children) -> io::Result<Ran> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).envs(self.envs.iter().map(|(k, v)| (*k, v.as_str())));
        // A group of its own, so that what the program starts ends with it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        die_with_parent(&mut command);
        program::limits::restore_descriptors(&mut command);
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let mut ended = children.watch(pid);
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read it may do without.
            let _ = stdin.write_all(self.stdin);
        }
        let stdout = child.stdout.take().map(|out| pipe::Receiver::from_owned_fd(out.into())).transpose()?;
        let mut said = Vec::new();
        let end = {
            let mut reading = std::pin::pin!(read(stdout, &mut said));
            let mut is_read = false;
            let whole = async {
                loop {
                    tokio::select! {
                        status = &mut ended => break status,
                        () = &mut reading, if !is_read => is_read = true,
                    }
                }
            };
            match timeout(limit, whole).await {
                Ok(status) => {
                    if !is_read && timeout(LEFTOVER_TIMEOUT, reading).await.is_err() {
                        // Whoever is left in the group keeps its number from being used again. If nobody is, the number comes again only after
                        // all others have: so soon there is no other group of this number.
                        let _ = kill_process_group(pid, Signal::KILL);
                    }
                    status.map_or(End::Unseen, End::Ended)
                }
                Err(_) => {
                    // Not reaped before somebody was told, so the number is still the program's.
                    let _ = kill_process_group(pid, Signal::KILL);
                    End::Overdue
                }
            }
        };
        Ok(Ran { end, said })
    }
}

/// Keeps what comes, up to the limit. What is over it is read all the same: a program that cannot write would fail.
async fn read(stdout: Option<pipe::Receiver>, said: &mut Vec<u8>) {
    let Some(mut stdout) = stdout else { return };
    // An error ends it as an end does: what was said so far was said.
    if (&mut stdout).take(ANSWER_BYTES_MAX as u64).read_to_end(said).await.is_ok() {
        let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
    }
}

/// Held to write by tests that start programs, to read by those that close a socket and expect the kernel to notice: a child has a copy of
/// every descriptor until it is what it is to be.
#[cfg(test)]
pub(crate) static FORKS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
