//! The role's process: started, bound to the life of its parent, stopped, reaped.

use std::{
    cell::RefCell, collections::BTreeMap, io, os::unix::process::CommandExt, process::Command, rc::Rc,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, wait};
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    sync::oneshot,
};

/// How long a stopped process may take to end by itself. With the drain and the farewells before it, the whole stop stays
/// inside the ten seconds that Docker grants.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

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

/// The supervised process, and every orphan that the kernel hands to process 1 of a container.
#[derive(Debug)]
pub(crate) struct Role {
    /// None: there is no process, or it has ended.
    pid: Option<Pid>,
    child_changed: SignalStream,
    others: Children,
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

    fn tell(&self, pid: Pid, status: WaitStatus) {
        if let Some(told) = self.0.borrow_mut().remove(&pid.as_raw_nonzero().get()) {
            // Whoever waited may have given up.
            let _ = told.send(status);
        }
    }
}

/// How a process ended.
pub(crate) fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown".to_owned(),
    }
}

impl Role {
    /// Starts the command, or nothing for an empty one.
    pub(crate) fn start(command: &[String], envs: &[(&str, String)]) -> io::Result<Self> {
        let child_changed = signal(SignalKind::child())?;
        let pid = match command.split_first() {
            None => None,
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).envs(envs.iter().map(|(k, v)| (*k, v.as_str())));
                die_with_parent(&mut command);
                Some(Pid::from_child(&command.spawn()?))
            }
        };
        Ok(Self { pid, child_changed, others: Children::default() })
    }

    /// Where to wait for the ends of other children: they are reaped here.
    pub(crate) fn others(&self) -> Children {
        self.others.clone()
    }

    /// Waits for the end of the process; for ever if there is none. Reaps whatever else ends meanwhile.
    pub(crate) async fn ended(&mut self) -> WaitStatus {
        loop {
            // Of whatever process group: `waitpid(None)` would leave out handlers, and orphans that made one of their own.
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                if Some(pid) == self.pid {
                    self.pid = None;
                    return status;
                }
                self.others.tell(pid, status);
            }
            self.child_changed.recv().await;
        }
    }

    /// SIGTERM, and SIGKILL when that does not help in time.
    pub(crate) async fn stop(&mut self) {
        let Some(pid) = self.pid else { return };
        // No error matters: the process is not reaped before `ended` says so, so the id cannot be another's.
        let _ = kill_process(pid, Signal::TERM);
        // A stopped process (SIGSTOP) hears nothing until it is continued.
        let _ = kill_process(pid, Signal::CONT);
        if tokio::time::timeout(STOP_TIMEOUT, self.ended()).await.is_err() {
            tracing::warn!(after = ?STOP_TIMEOUT, "the role's process did not stop, killing it");
            let _ = kill_process(pid, Signal::KILL);
            self.ended().await;
        }
    }
}
