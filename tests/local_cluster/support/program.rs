//! The program under test: run to its end, or run until the test ends.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::wait::{DEADLINE, look_for, until};

/// `concertina` with these arguments, unimpressed by the environment of whoever runs the tests.
pub(crate) fn concertina<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_concertina"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"CONCERTINA_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The reason of a failure: one line, the only one.
    pub(crate) fn why(&self) -> &str {
        let lines = (self.stdout.lines().count(), self.stderr.lines().count());
        assert_eq!((self.code, lines), (Some(1), (0, 1)), "a failure in one line: {self:?}");
        self.stderr.trim_end()
    }
}

/// Runs a program to its end. It says less than fits into a pipe.
pub(crate) fn run(mut command: Command) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = look_for(DEADLINE, || child.try_wait().unwrap());
    if ended.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let said = Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(ended.is_some(), "{command:?} did not end: {said:?}");
    said
}

/// A program that runs for as long as this value lives. What it says is appended to a file.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    /// Where in the file it began to speak.
    log_start: usize,
}

impl Running {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let log_start = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log, log_start }
    }

    /// The same where nobody reads what it says.
    pub(crate) fn start_unheard(command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Self::start_into(command, writer, Stdio::null())
    }

    /// The same with these streams instead of the file.
    pub(crate) fn start_into(
        mut command: Command,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child, log: PathBuf::from("/dev/null"), log_start: 0 }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap().split_off(self.log_start)
    }

    /// Waits until it says these words; what comes after them in the line.
    pub(crate) fn hear(&mut self, words: &str) -> String {
        until(&format!("{words:?} in {}", self.log.display()), || {
            // Asked before reading: of a program that has ended, everything is there.
            let ended = self.child.try_wait().unwrap();
            let said = self.said();
            let whole = said.rfind('\n').map_or("", |end| &said[..end]);
            let rest = whole.lines().find_map(|line| line.split_once(words));
            assert!(rest.is_some() || ended.is_none(), "{ended:?} before {words:?}: {said}");
            rest.map(|(_, rest)| rest.to_owned())
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The same to all of its process group, as a terminal does. It must lead one.
    pub(crate) fn signal_group(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let status = look_for(DEADLINE, || self.child.try_wait().unwrap());
        status.unwrap_or_else(|| panic!("it still runs: {}", self.said()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
