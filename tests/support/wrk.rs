//! `wrk` beside what is tested: a load that is not ours, from before something happens until after it, counted and judged
//! by a program that knows nothing of the test.

use std::{
    fmt, fs,
    io::Read,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    skip,
    wait::{DEADLINE, look_for},
};

/// Few: they keep a core busy as it is, and the machine is needed for what happens meanwhile.
const CONNECTIONS: usize = 8;

/// Longer than any proof. It is also the end of what a test leaves behind that is itself killed.
const TIME_MAX: &str = "1800s";

/// SIGINT in the masks of `/proc/PID/status`.
const INTERRUPT: u64 = 1 << 1;

static IS_THERE: LazyLock<bool> = LazyLock::new(|| Command::new("wrk").arg("--version").output().is_ok());

/// A running `wrk`, which ends with this value.
#[derive(Debug)]
pub(crate) struct Wrk {
    child: Child,
}

impl Wrk {
    /// Whether it is installed.
    pub(crate) fn is_there() -> bool {
        *IS_THERE
    }

    /// What [`start`](Self::start) takes, itself or wrapped in what becomes it. An answer that takes longer than `patience`
    /// counts as failed.
    pub(crate) fn command(addr: SocketAddr, patience: Duration) -> Command {
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", TIME_MAX]);
        command.args(["--timeout", &format!("{}s", patience.as_secs())]).arg(format!("http://{addr}/hello"));
        command
    }

    /// Starts it and waits until it is at work. None: it is not installed.
    pub(crate) fn start(mut command: Command) -> Option<Self> {
        if !Self::is_there() {
            skip::part("wrk");
            return None;
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut wrk = Self { child: command.spawn().unwrap() };
        let started = look_for(DEADLINE, || {
            if let Some(status) = wrk.child.try_wait().unwrap() {
                panic!("wrk ended with {status}: {}", wrk.said());
            }
            // Until it catches SIGINT it ignores it, and would go on after it was told to end.
            catches_interrupt(wrk.child.id()).then_some(())
        });
        assert!(started.is_some(), "not within {DEADLINE:?}: wrk is at work");
        Some(wrk)
    }

    /// Ends it, and prints what it saw while this happened. Nothing may have failed, and so many requests must have been
    /// answered.
    pub(crate) fn assert_lossless(self, while_this: &str, requests_min: u64) {
        let report = self.end();
        println!("{while_this}: {report}");
        assert_eq!(report.failed(), 0, "{while_this}: {report}");
        assert!(report.requests >= requests_min, "{while_this}: {report}, expected at least {requests_min}");
    }

    /// Tells it to end; what it saw.
    fn end(mut self) -> Report {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("wrk ended too early, with {status}: {}", self.said());
        }
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let status = look_for(DEADLINE, || self.child.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("not within {DEADLINE:?}: wrk ends after SIGINT"));
        let said = self.said();
        assert!(status.success(), "wrk ended with {status}: {said}");
        Report::parse(&said).unwrap_or_else(|| panic!("no summary of wrk: {said}"))
    }

    /// Everything that it said, of one that has ended. It says less than fits into a pipe.
    fn said(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut said).unwrap();
        }
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        said
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn catches_interrupt(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & INTERRUPT != 0)
}

/// What `wrk` saw. Requests that had no answer yet at its end are in none of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Report {
    /// Answered, whatever the answer.
    requests: u64,
    /// Connections that could not be made, reads and writes that failed, and answers that came too late.
    connect: u64,
    read: u64,
    write: u64,
    timeout: u64,
    /// Statuses from 400 on.
    status: u64,
}

impl Report {
    /// Reads the summary. Lines of errors are there only if there were any.
    fn parse(text: &str) -> Option<Self> {
        let requests = text.lines().find_map(|line| line.trim_start().split_once(" requests in "));
        let mut report = Self { requests: requests?.0.parse().ok()?, ..Self::default() };
        for line in text.lines().map(str::trim_start) {
            if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses: ") {
                report.status = count.parse().ok()?;
            }
            for error in line.strip_prefix("Socket errors: ").into_iter().flat_map(|rest| rest.split(", ")) {
                let (name, count) = error.split_once(' ')?;
                let counter = match name {
                    "connect" => &mut report.connect,
                    "read" => &mut report.read,
                    "write" => &mut report.write,
                    "timeout" => &mut report.timeout,
                    _ => return None,
                };
                *counter = count.parse().ok()?;
            }
        }
        Some(report)
    }

    fn failed(&self) -> u64 {
        self.connect + self.read + self.write + self.timeout + self.status
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, connect, read, write, timeout, status } = self;
        write!(f, "{requests} requests by wrk, {} failed (connect {connect}, read {read}, ", self.failed())?;
        write!(f, "write {write}, timeout {timeout}, non-2xx {status})")
    }
}

#[test]
fn the_summary_of_wrk_is_read_with_its_errors() {
    let text = "Running 30m test @ http://127.0.0.1:8080/hello\n  1 threads and 8 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency    64.97us   62.06us   2.85ms   99.22%\n  \
        87793 requests in 6.51s, 3.35MB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
        Non-2xx or 3xx responses: 5\nRequests/sec:  13494.12\nTransfer/sec:    527.11KB\n";
    let report = Report { requests: 87793, connect: 1, read: 2, write: 3, timeout: 4, status: 5 };
    assert_eq!(Report::parse(text), Some(report));
    assert_eq!(report.failed(), 15);
}

#[test]
fn a_summary_of_wrk_without_errors_has_none_and_half_of_one_is_none() {
    let text = "  33717 requests in 1.30s, 1.29MB read\nRequests/sec:  25927.64\n";
    assert_eq!(Report::parse(text), Some(Report { requests: 33717, ..Report::default() }));
    for bad in ["", "unable to connect", "many requests in 1s", "1 requests in 1s\nSocket errors: sleep 1"] {
        assert_eq!(Report::parse(bad), None, "{bad:?}");
    }
}
