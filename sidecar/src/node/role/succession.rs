//! Which of a role's processes serves, which one is to follow it, and when one is started again. Pure: what happened and the time go in, and
//! what to do about it comes out.

use std::time::Duration;

use rustix::process::Pid;

use crate::{config::Restart, node::supervise::Exit};

/// The first pause before a process that failed is started again. Each failure doubles it, up to the longest: what cannot run is not
/// tried for ever at the pace of what stumbled.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A process that lived this long had not failed to start, and the pause is the shortest again; of one that said that it was ready, this
/// much is enough from then on.
const LIFE_MIN: Duration = Duration::from_secs(10);
const READY_LIFE_MIN: Duration = Duration::from_secs(1);

/// Most former processes that may still drain: each has a whole proxy's memory.
const RETIRING_COUNT_MAX: usize = 8;

/// What to do, or to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Start the process again now.
    Start,
    /// It serves again.
    Up,
    /// It failed, and is started again after this pause.
    Down(Exit, Duration),
    /// It ended, and so does the node.
    Over(Exit),
    /// The new process serves, after this time: have the old one drain.
    Succeeded { old: Pid, new: Pid, after: Duration },
    /// The new process does not serve: make sure that it has ended.
    Failed { new: Pid, why: Failure },
    /// The old process ended while the new one was starting, which takes its place.
    Promoted { old: Pid, new: Pid },
    /// A former process has ended.
    Retired(Pid),
}

/// Why a new process does not take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("it ended before it was ready: {0}")]
    Ended(Exit),
    #[error("it was not ready within {0:?}")]
    Overdue(Duration),
}

/// Why nobody may follow now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSuccessor {
    #[error("the role's process does not run")]
    Down,
    #[error("the role's process has not said that it is ready (READY=1, see sd_notify(3))")]
    Mute,
    #[error("another upgrade is under way")]
    UnderWay,
    #[error("{RETIRING_COUNT_MAX} former processes still drain")]
    Retiring,
    #[error("the node is leaving")]
    Leaving,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    since: Duration,
    ready_at: Option<Duration>,
}

impl Process {
    fn has_served(&self, now: Duration) -> bool {
        let is_past = |since: Duration, life: Duration| now.saturating_sub(since) >= life;
        is_past(self.since, LIFE_MIN) || self.ready_at.is_some_and(|at| is_past(at, READY_LIFE_MIN))
    }
}

#[derive(Debug)]
struct Candidate {
    pid: Pid,
    since: Duration,
    patience: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Succession {
    restart: Restart,
    current: Option<Process>,
    candidate: Option<Candidate>,
    retiring: Vec<Pid>,
    /// A process of this role has said that it is ready: the others will, too.
    speaks: bool,
    /// A process of this role has served. What fails at its very first start is wrong, and is not tried again.
    has_served: bool,
    /// It is waited for to serve again.
    is_down: bool,
    start_at: Option<Duration>,
    pause: Duration,
}

impl Succession {
    pub(crate) fn new(restart: Restart) -> Self {
        Self {
            restart,
            current: None,
            candidate: None,
            retiring: Vec::new(),
            speaks: false,
            has_served: false,
            is_down: false,
            start_at: None,
            pause: PAUSE_MIN,
        }
    }

    /// Whom signals are for.
    pub(crate) fn current(&self) -> Option<Pid> {
        self.current.as_ref().map(|process| process.pid)
    }

    /// All processes of the role.
    pub(crate) fn pids(&self) -> impl Iterator<Item = Pid> {
        let candidate = self.candidate.as_ref().map(|candidate| candidate.pid);
        self.current().into_iter().chain(candidate).chain(self.retiring.iter().copied())
    }

    /// Whether a new process may be started beside this one.
    pub(crate) fn may_be_followed(&self) -> Result<Pid, NoSuccessor> {
        let current = self.current().filter(|_| !self.is_down).ok_or(NoSuccessor::Down)?;
        if !self.speaks {
            return Err(NoSuccessor::Mute);
        }
        if self.candidate.is_some() {
            return Err(NoSuccessor::UnderWay);
        }
        if self.retiring.len() >= RETIRING_COUNT_MAX {
            return Err(NoSuccessor::Retiring);
        }
        Ok(current)
    }

    /// The process was started.
    pub(crate) fn handle_started(&mut self, pid: Pid, now: Duration) -> Option<Turn> {
        self.current = Some(Process { pid, since: now, ready_at: None });
        self.start_at = None;
        // Of one that does not speak, nobody will hear more.
        if self.speaks { None } else { self.rise() }
    }

    /// It could not be started.
    pub(crate) fn handle_start_failed(&mut self, now: Duration) {
        self.put_off(now);
    }

    /// A new process was started beside the old one.
    pub(crate) fn handle_candidate(&mut self, pid: Pid, patience: Duration, now: Duration) {
        self.candidate = Some(Candidate { pid, since: now, patience });
    }

    /// A process says that it serves.
    pub(crate) fn handle_ready(&mut self, pid: Pid, now: Duration) -> Option<Turn> {
        (self.speaks, self.has_served) = (true, true);
        if let Some(Candidate { since, .. }) = self.candidate.take_if(|candidate| candidate.pid == pid) {
            let old = self.current.replace(Process { pid, since, ready_at: Some(now) })?.pid;
            self.retiring.push(old);
            return Some(Turn::Succeeded { old, new: pid, after: now.saturating_sub(since) });
        }
        let current = self.current.as_mut().filter(|process| process.pid == pid)?;
        current.ready_at.get_or_insert(now);
        self.rise()
    }

    /// The process passes a check that it could fail.
    pub(crate) fn handle_serving(&mut self) {
        self.has_served = true;
    }

    /// A process of the role, or another, ended.
    pub(crate) fn handle_end(
        &mut self,
        pid: Pid,
        status: Exit,
        is_leaving: bool,
        now: Duration,
    ) -> Option<Turn> {
        if let Some(position) = self.retiring.iter().position(|retiring| *retiring == pid) {
            self.retiring.remove(position);
            return Some(Turn::Retired(pid));
        }
        if self.candidate.take_if(|candidate| candidate.pid == pid).is_some() {
            return Some(Turn::Failed { new: pid, why: Failure::Ended(status) });
        }
        let ended = self.current.take_if(|current| current.pid == pid)?;
        if let Some(candidate) = self.candidate.take().filter(|_| !is_leaving) {
            let Candidate { pid, since, .. } = candidate;
            self.current = Some(Process { pid, since, ready_at: None });
            self.is_down = true;
            return Some(Turn::Promoted { old: ended.pid, new: pid });
        }
        if ended.has_served(now) {
            self.has_served = true;
            self.pause = PAUSE_MIN;
        }
        let is_over = is_leaving || self.restart == Restart::Never || !self.has_served;
        if is_over || status.is_clean() {
            return Some(Turn::Over(status));
        }
        self.is_down = true;
        Some(Turn::Down(status, self.put_off(now)))
    }

    /// What is due.
    pub(crate) fn poll(&mut self, now: Duration) -> Option<Turn> {
        if self.start_at.take_if(|at| *at <= now).is_some() {
            return Some(Turn::Start);
        }
        let is_overdue = |candidate: &mut Candidate| candidate.since + candidate.patience <= now;
        let Candidate { pid, patience, .. } = self.candidate.take_if(is_overdue)?;
        Some(Turn::Failed { new: pid, why: Failure::Overdue(patience) })
    }

    /// When something is due at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let overdue = self.candidate.as_ref().map(|candidate| candidate.since + candidate.patience);
        self.start_at.into_iter().chain(overdue).min()
    }

    /// Nothing is started any more.
    pub(crate) fn stop(&mut self) {
        self.start_at = None;
    }

    fn rise(&mut self) -> Option<Turn> {
        std::mem::take(&mut self.is_down).then_some(Turn::Up)
    }

    fn put_off(&mut self, now: Duration) -> Duration {
        let pause = self.pause;
        self.start_at = Some(now + pause);
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    const KILLED: Exit = Exit::Signal(9);

    fn running(restart: Restart) -> Succession {
        let mut succession = Succession::new(restart);
        assert_eq!(succession.handle_started(pid(1), ms(0)), None);
        assert_eq!(succession.handle_ready(pid(1), ms(1)), None);
        succession
    }

    #[test]
    fn without_restarts_the_end_is_the_end() {
        let done = Exit::Code(0);
        assert_eq!(
            running(Restart::Never).handle_end(pid(1), KILLED, false, ms(9)),
            Some(Turn::Over(KILLED))
        );
        // What ends well, or because it was asked to, has not failed.
        let mut other = running(Restart::OnFailure);
        assert_eq!(other.handle_end(pid(1), done, false, ms(9)), Some(Turn::Over(done)));
        let mut leaving = running(Restart::OnFailure);
        assert_eq!(leaving.handle_end(pid(1), KILLED, true, ms(9)), Some(Turn::Over(KILLED)));
    }

    #[test]
    fn a_failure_is_followed_by_a_start_after_pauses_that_double_and_a_long_life_forgets_them() {
        let mut succession = running(Restart::OnFailure);
        let (mut now, mut pauses) = (ms(5), Vec::new());
        for number in 1..=9 {
            let Some(Turn::Down(_, pause)) = succession.handle_end(pid(number), KILLED, false, now) else {
                panic!("no restart")
            };
            pauses.push(pause);
            assert_eq!(succession.next_deadline(), Some(now + pause));
            assert_eq!(succession.poll(now + pause - ms(1)), None);
            now += pause;
            assert_eq!(succession.poll(now), Some(Turn::Start));
            assert_eq!(succession.handle_started(pid(number + 1), now), None, "it will say when it is ready");
            assert_eq!(succession.may_be_followed(), Err(NoSuccessor::Down));
            assert_eq!(succession.handle_ready(pid(number + 1), now), Some(Turn::Up));
        }
        assert_eq!(pauses[..3], [ms(100), ms(200), ms(400)]);
        assert_eq!(pauses[7..], [PAUSE_MAX, PAUSE_MAX]);
        let later = succession.handle_end(pid(10), KILLED, false, now + READY_LIFE_MIN);
        assert_eq!(later, Some(Turn::Down(KILLED, PAUSE_MIN)));
        succession.stop();
        assert_eq!(succession.poll(now + LIFE_MIN * 2), None);
    }

    #[test]
    fn a_process_that_never_spoke_serves_as_soon_as_it_runs() {
        let mut succession = Succession::new(Restart::OnFailure);
        assert_eq!(succession.handle_started(pid(1), ms(0)), None);
        assert_eq!(succession.may_be_followed(), Err(NoSuccessor::Mute));
        let mut now = LIFE_MIN;
        assert!(matches!(succession.handle_end(pid(1), KILLED, false, now), Some(Turn::Down(..))));
        now += PAUSE_MIN;
        assert_eq!(succession.poll(now), Some(Turn::Start));
        succession.handle_start_failed(now);
        now += PAUSE_MIN * 2;
        assert_eq!(succession.poll(now), Some(Turn::Start));
        assert_eq!(succession.handle_started(pid(2), now), Some(Turn::Up));
        now += LIFE_MIN - ms(1);
        let soon = succession.handle_end(pid(2), KILLED, false, now);
        assert_eq!(soon, Some(Turn::Down(KILLED, PAUSE_MIN * 4)));
        now += PAUSE_MIN * 4;
        assert_eq!(succession.poll(now), Some(Turn::Start));
        assert_eq!(succession.handle_started(pid(3), now), Some(Turn::Up));
        let later = succession.handle_end(pid(3), KILLED, false, now + LIFE_MIN);
        assert_eq!(later, Some(Turn::Down(KILLED, PAUSE_MIN)));
    }

    #[test]
    fn what_fails_at_its_very_first_start_is_not_tried_again() {
        let mut succession = Succession::new(Restart::OnFailure);
        succession.handle_started(pid(1), ms(0));
        let failed = succession.handle_end(pid(1), Exit::Code(1), false, LIFE_MIN - ms(1));
        assert_eq!(failed, Some(Turn::Over(Exit::Code(1))));
        succession.handle_started(pid(2), ms(0));
        succession.handle_serving();
        assert!(matches!(succession.handle_end(pid(2), Exit::Code(1), false, ms(1)), Some(Turn::Down(..))));
    }

    #[test]
    fn who_is_ready_takes_over_and_the_old_one_retires() {
        let mut succession = running(Restart::Never);
        assert_eq!(succession.may_be_followed(), Ok(pid(1)));
        succession.handle_candidate(pid(2), ms(1000), ms(10));
        assert_eq!(succession.may_be_followed(), Err(NoSuccessor::UnderWay));
        let taken = Turn::Succeeded { old: pid(1), new: pid(2), after: ms(20) };
        assert_eq!(succession.handle_ready(pid(2), ms(30)), Some(taken));
        assert_eq!(succession.current(), Some(pid(2)));
        assert_eq!(succession.next_deadline(), None);
        assert_eq!(succession.pids().collect::<Vec<_>>(), [pid(2), pid(1)]);
        let ended = succession.handle_end(pid(1), KILLED, false, ms(40));
        assert_eq!(ended, Some(Turn::Retired(pid(1))), "however it ends");
    }

    #[test]
    fn who_ends_or_is_not_ready_in_time_changes_nothing() {
        let mut succession = running(Restart::OnFailure);
        succession.handle_candidate(pid(2), ms(1000), ms(10));
        let failed = Turn::Failed { new: pid(2), why: Failure::Ended(KILLED) };
        assert_eq!(succession.handle_end(pid(2), KILLED, false, ms(11)), Some(failed));
        succession.handle_candidate(pid(3), ms(1000), ms(20));
        assert_eq!(succession.poll(ms(1019)), None);
        let failed = Turn::Failed { new: pid(3), why: Failure::Overdue(ms(1000)) };
        assert_eq!(succession.poll(ms(1020)), Some(failed));
        assert_eq!(succession.handle_ready(pid(3), ms(1021)), None, "too late");
        assert_eq!(succession.handle_end(pid(3), KILLED, false, ms(1022)), None);
        assert_eq!(succession.current(), Some(pid(1)));
    }

    #[test]
    fn a_new_process_takes_the_place_of_one_that_dies_meanwhile() {
        let mut succession = running(Restart::Never);
        succession.handle_candidate(pid(2), ms(1000), ms(10));
        let promoted = Turn::Promoted { old: pid(1), new: pid(2) };
        assert_eq!(succession.handle_end(pid(1), KILLED, false, ms(11)), Some(promoted));
        assert_eq!(succession.handle_ready(pid(2), ms(12)), Some(Turn::Up));
    }

    #[test]
    fn so_many_may_drain_at_a_time_and_no_more() {
        let mut succession = running(Restart::Never);
        for number in 0..RETIRING_COUNT_MAX {
            let new = pid(i32::try_from(number).unwrap() + 2);
            assert!(succession.may_be_followed().is_ok(), "{number}");
            succession.handle_candidate(new, ms(1000), ms(10));
            succession.handle_ready(new, ms(11));
        }
        assert_eq!(succession.may_be_followed(), Err(NoSuccessor::Retiring));
    }
}
