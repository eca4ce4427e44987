//! The role's process: started with what is kept for it, started again, followed by another of a new program, stopped, reaped.
//!
//! What listens is kept here (`held.rs`): the process hands its sockets over by `FDSTORE=1` of `sd_notify(3)`, and its next start has them by
//! `LISTEN_FDS`. So the kernel's queues outlive every process, and an old and a new one accept from the same.

mod held;
mod notices;
mod succession;

use std::{collections::BTreeMap, io, os::fd::OwnedFd, process::Command, time::Duration};

use feed::{FromSidecar, frame::Upgraded};
use program::{
    listen_fds,
    notify::{Keeping, Message, SOCKET_VARIABLE, Starter},
    process,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use self::{
    held::Held,
    notices::{Notice, Notices},
    succession::{Succession, Turn},
};
use crate::{
    config::Restart,
    node::supervise::{Children, Exit, StopSignal, die_with_parent, lead_session},
};

/// What the node has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News {
    /// The process failed; it is started again after a pause.
    Down,
    /// It serves again.
    Up,
    /// It ended for good.
    Over(Exit),
}

/// What to run, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Nothing where it is empty.
    pub(crate) command: Vec<String>,
    pub(crate) envs: Vec<(&'static str, String)>,
    pub(crate) restart: Restart,
    pub(crate) stop_signal: StopSignal,
}

/// Somebody who waits for what comes of an upgrade.
type Asker = mpsc::UnboundedSender<FromSidecar>;

/// The role's processes, and every orphan that the kernel hands to process 1 of a container.
#[derive(Debug)]
pub(crate) struct Role {
    plan: Plan,
    begun: Instant,
    succession: Succession,
    held: Held,
    notices: Notices,
    /// Whoever started the sidecar, if they want to know when the role is ready.
    starter: Option<Starter>,
    child_changed: SignalStream,
    others: Children,
    /// Who asked for the upgrade that is under way.
    asker: Option<Asker>,
    /// Who asked for those before, while the old process drains, and since when it does.
    retiring: BTreeMap<i32, (Asker, Instant)>,
}

impl Role {
    /// Starts the command, or nothing for an empty one. What this process was given to listen on is its.
    pub(crate) fn start(plan: Plan) -> io::Result<Self> {
        let mut role = Self {
            begun: Instant::now(),
            succession: Succession::new(plan.restart),
            held: Held::default(),
            notices: Notices::open()?,
            starter: Starter::from_env().unwrap_or_default(),
            child_changed: signal(SignalKind::child())?,
            others: Children::default(),
            asker: None,
            retiring: BTreeMap::new(),
            plan,
        };
        for (name, socket) in listen_fds::take().map_err(io::Error::other)? {
            let name = name.parse().map_err(io::Error::other)?;
            role.held.keep(name, socket, None).map_err(io::Error::other)?;
        }
        if !role.plan.command.is_empty() {
            let pid = role.spawn()?;
            role.succession.handle_started(pid, Duration::ZERO);
        }
        Ok(role)
    }

    #[cfg(test)]
    pub(crate) fn without_process() -> Self {
        let stop_signal = "TERM".parse().unwrap();
        Self::start(Plan { command: vec![], envs: vec![], restart: Restart::Never, stop_signal }).unwrap()
    }

    /// Where to wait for the ends of other children: they are reaped here.
    pub(crate) fn others(&self) -> Children {
        self.others.clone()
    }

    /// The process passes a check that it could fail.
    pub(crate) fn handle_serving(&mut self) {
        self.succession.handle_serving();
    }

    /// Waits for news; for ever if there is no process. Reaps whatever else ends meanwhile. Nothing is lost if this is dropped.
    pub(crate) async fn next(&mut self, is_leaving: bool) -> News {
        loop {
            if let Some(news) = self.look(is_leaving) {
                return news;
            }
            let deadline = self.succession.next_deadline().map(|at| self.begun + at);
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.child_changed.recv() => {}
                () = self.notices.readable() => {}
                () = due => {}
            }
        }
    }

    /// All that has happened, up to the first news.
    fn look(&mut self, is_leaving: bool) -> Option<News> {
        // Before the ends: what a process said last counts.
        while let Some(notice) = self.notices.take() {
            let turn = self.hear(notice);
            if let Some(news) = turn.and_then(|turn| self.carry_out(turn)) {
                return Some(news);
            }
        }
        // Of whatever process group: `waitpid(None)` would leave out handlers, and orphans that made one of their own.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let turn = self.succession.handle_end(pid, status.into(), is_leaving, self.begun.elapsed());
            if turn.is_none() {
                self.others.tell(pid, status);
            }
            if let Some(news) = turn.and_then(|turn| self.carry_out(turn)) {
                return Some(news);
            }
        }
        while let Some(turn) = self.succession.poll(self.begun.elapsed()) {
            if let Some(news) = self.carry_out(turn) {
                return Some(news);
            }
        }
        None
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.succession.current()
    }

    /// Passes a signal on; false if there is nobody to pass it to.
    pub(crate) fn pass(&self, signal: Signal) -> bool {
        self.succession.current().is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Starts the command beside its process; the asker hears what comes of it.
    pub(crate) fn upgrade(&mut self, patience: Duration, is_leaving: bool, asker: Asker) {
        let refuse = |why: String| {
            tracing::warn!(why, "no upgrade");
            // Who asked may have gone, here and below.
            let _ = asker.send(FromSidecar::Refused { why });
        };
        if is_leaving {
            return refuse(succession::NoSuccessor::Leaving.to_string());
        }
        let old = match self.succession.may_be_followed() {
            Ok(old) => old,
            Err(why) => return refuse(why.to_string()),
        };
        let new = match self.spawn() {
            Ok(new) => new,
            Err(error) => return refuse(format!("cannot run {}: {error}", self.plan.command[0])),
        };
        self.succession.handle_candidate(new, patience, self.begun.elapsed());
        let [old, new] = [old, new].map(number);
        tracing::info!(old, new, "upgrade: started a new process beside the role's");
        let _ = asker.send(FromSidecar::Upgrading { old, new });
        self.asker = Some(asker);
    }

    fn spawn(&self) -> io::Result<Pid> {
        let (program, arguments) = self.plan.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.plan.envs.iter().map(|(k, v)| (*k, v.as_str())));
        command.env(SOCKET_VARIABLE, self.notices.name());
        die_with_parent(&mut command);
        program::limits::restore_descriptors(&mut command);
        lead_session(&mut command);
        Ok(Pid::from_child(&listen_fds::spawn(command, &self.held.all())?))
    }

    /// Takes what one of the role's processes, or what that started, says. Others may find the name, too.
    fn hear(&mut self, Notice { from, message, descriptors }: Notice) -> Option<Turn> {
        let of = |pid: &Pid| *pid == from || process::session(from) == Some(*pid);
        let Some(pid) = self.succession.pids().find(of) else {
            tracing::warn!(from = number(from), "a notice of a process that is not the role's");
            return None;
        };
        let Message { is_ready, keeping } = message;
        match keeping {
            Some(Keeping::Store(name)) => {
                let keep = |descriptor: OwnedFd| self.held.keep(name.clone(), descriptor, Some(pid));
                if let Err(why) = descriptors.into_iter().try_for_each(keep) {
                    tracing::warn!(%name, %why, "a descriptor of the role's process is not kept");
                }
            }
            Some(Keeping::Remove(name)) => self.held.remove(&name),
            None => {}
        }
        if !is_ready {
            return None;
        }
        tracing::info!(pid = number(pid), "the role's process says that it is ready");
        if let Some(Err(error)) = self.starter.as_ref().map(|starter| starter.tell(&Message::READY, &[])) {
            tracing::debug!(%error, "cannot say that the role is ready");
        }
        self.succession.handle_ready(pid, self.begun.elapsed())
    }

    fn carry_out(&mut self, turn: Turn) -> Option<News> {
        match turn {
            Turn::Start => match self.spawn() {
                Ok(pid) => {
                    tracing::info!(pid = number(pid), "started the role's process again");
                    let turn = self.succession.handle_started(pid, self.begun.elapsed());
                    return turn.and_then(|turn| self.carry_out(turn));
                }
                Err(error) => {
                    tracing::error!(command = self.plan.command[0], %error, "cannot start the role's process again");
                    self.succession.handle_start_failed(self.begun.elapsed());
                }
            },
            Turn::Up => return Some(News::Up),
            Turn::Down(status, pause) => {
                tracing::error!(%status, ?pause, "the role's process ended, starting it again");
                return Some(News::Down);
            }
            Turn::Over(status) => return Some(News::Over(status)),
            Turn::Promoted { old, new } => {
                let (old, new) = (number(old), number(new));
                tracing::error!(
                    old,
                    new,
                    "the role's process ended during an upgrade, the new one takes its place"
                );
                self.answer(FromSidecar::Refused {
                    why: "the old process ended meanwhile, the new one takes its place".into(),
                });
                return Some(News::Down);
            }
            Turn::Succeeded { old, new, after } => self.succeed(old, new, after),
            Turn::Failed { new, why } => {
                // It leads the group. If it has been reaped, what is left of the group keeps its number from being used again.
                let _ = kill_process_group(new, Signal::KILL);
                self.held.remove_of(new);
                let new = number(new);
                tracing::error!(new, %why, "upgrade: the new process is none, the old one goes on");
                self.answer(FromSidecar::Refused { why: format!("process {new} does not take over: {why}") });
            }
            Turn::Retired(pid) => {
                tracing::info!(pid = number(pid), "upgrade: the old process has ended");
                if let Some((asker, since)) = self.retiring.remove(&pid.as_raw_nonzero().get()) {
                    let _ =
                        asker.send(FromSidecar::Retired { old: number(pid), after_ms: ms(since.elapsed()) });
                }
            }
        }
        None
    }

    fn succeed(&mut self, old: Pid, new: Pid, after: Duration) {
        let upgraded = Upgraded { old: number(old), new: number(new), after_ms: ms(after) };
        tracing::info!(
            old = upgraded.old,
            new = upgraded.new,
            ?after,
            "upgrade: the new process is ready, the old one drains"
        );
        stop_process(old, self.plan.stop_signal.signal());
        if let Some(asker) = self.asker.take() {
            let _ = asker.send(FromSidecar::Upgraded(upgraded));
            self.retiring.insert(old.as_raw_nonzero().get(), (asker, Instant::now()));
        }
    }

    fn answer(&mut self, frame: FromSidecar) {
        if let Some(asker) = self.asker.take() {
            let _ = asker.send(frame);
        }
    }

    /// The signal that stops all of them; SIGKILL, to all that they have not let go of, when that does not help in time or `now` comes before.
    pub(crate) async fn stop(&mut self, stop_timeout: Duration, now: impl Future<Output = ()>) {
        // Whoever comes from now on is refused, and does not wait for nobody.
        self.held.clear();
        self.succession.stop();
        let pids: Vec<Pid> = self.succession.pids().collect();
        if pids.is_empty() {
            return;
        }
        let signal = self.plan.stop_signal;
        pids.into_iter().for_each(|pid| stop_process(pid, signal.signal()));
        let mut now = std::pin::pin!(now);
        if self.ended_within(stop_timeout / 2, now.as_mut()).await {
            return;
        }
        if signal.signal() == Signal::TERM {
            // To PostgreSQL, and many others, the first asks to stop when their clients have gone and this one to stop at once, in
            // order; who is killed instead has to recover. To most others it is the same again.
            for pid in self.succession.pids() {
                let _ = kill_process(pid, Signal::INT);
            }
        }
        if self.ended_within(stop_timeout / 2, now).await {
            return;
        }
        tracing::warn!(%signal, after = ?stop_timeout, "the role's process did not stop, killing it");
        self.kill().await;
    }

    /// Whether none of them is left after this time. If `now` comes before, none is.
    async fn ended_within(&mut self, time: Duration, now: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = self.ended() => return true,
            () = tokio::time::sleep(time) => return false,
            () = now => tracing::warn!("asked to stop again, killing the role's process"),
        }
        self.kill().await;
        true
    }

    async fn kill(&mut self) {
        for pid in self.succession.pids() {
            // Each leads its group.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        self.ended().await;
    }

    /// Waits until none of them is left.
    async fn ended(&mut self) {
        while self.succession.pids().next().is_some() {
            if self.look(true).is_none() {
                self.child_changed.recv().await;
            }
        }
    }
}

/// A process that has not been reaped: the id cannot be another's, and no error matters.
fn stop_process(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
    // A stopped process (SIGSTOP) hears nothing until it is continued.
    let _ = kill_process(pid, Signal::CONT);
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
