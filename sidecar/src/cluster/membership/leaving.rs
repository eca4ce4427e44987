//! Leaving: drain, barrier, farewells; and what this node tells others that drain.

use std::time::Duration;

use feed::{Name, frame::MemberState};

use super::{Membership, Phase, millis};
use crate::{
    cluster::{
        drain::{Barrier, Outcome, Report, endpoint_of},
        effect::Effect,
    },
    wire::packet::Kind,
};

/// Farewells and the pause between them: one lost datagram must not turn a departure into a failure. The first ones only carry the
/// last advert, the later ones leave the gossip: foca drops the packets of whom it knows to be down, broadcasts included, so that
/// a member that has heard of the death first would not hear the reason from here.
const FAREWELLS: u32 = 8;
const FAREWELLS_AS_MEMBER: u32 = 4;
const FAREWELL_PERIOD: Duration = Duration::from_millis(25);

impl Membership {
    pub(super) fn handle_leave(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::Member => self.begin_drain(now, true),
            Phase::Draining(barrier) if !barrier.leaves => {
                barrier.leave(now, self.config.drain_timeout);
                self.recheck_barrier = true;
            }
            _ => {}
        }
    }

    pub(super) fn handle_drain(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Member) {
            self.begin_drain(now, false);
        }
    }

    fn begin_drain(&mut self, now: Duration, leaves: bool) {
        self.phase = Phase::Draining(Barrier::new(now, self.config.drain_timeout, leaves));
        self.recheck_barrier = true;
        self.readvertise(now, |own| own.state = MemberState::Draining);
    }

    /// Who holds up the drain that is under way, if one is.
    pub fn drain_held_up_by(&self) -> Option<Vec<Name>> {
        match &self.phase {
            Phase::Draining(barrier) if !barrier.is_at_rest() => Some(self.held_up_by(barrier)),
            _ => None,
        }
    }

    /// What is not over now is waited for no longer.
    pub(super) fn handle_leave_now(&mut self, now: Duration) {
        self.handle_leave(now);
        if let Phase::Draining(barrier) = &mut self.phase {
            barrier.deadline = barrier.deadline.min(now);
        }
    }

    pub(super) fn check_barrier(&mut self, now: Duration) {
        let Phase::Draining(barrier) = &self.phase else { return };
        // Looking at all members at every packet would be most of what a large cluster does while half of it stops.
        let is_due = barrier.next_deadline().is_some_and(|deadline| now >= deadline);
        if !std::mem::take(&mut self.recheck_barrier) && !is_due {
            return;
        }
        let (held_up_by, is_told) = (self.held_up_by(barrier), barrier.outcome.is_some());
        if !held_up_by.is_empty() && !is_due {
            return;
        }
        let after = now.saturating_sub(barrier.since);
        let outcome = if held_up_by.is_empty() { Outcome::Released } else { Outcome::TimedOut };
        if !is_told {
            self.effects.push_back(Effect::Drained { after, held_up_by });
        }
        match &mut self.phase {
            Phase::Draining(barrier) if !barrier.leaves => {
                barrier.outcome.get_or_insert(outcome);
            }
            _ => {
                self.apply_farewell(MemberState::Left, now);
                self.say_farewell(now);
            }
        }
    }

    /// The live consumers of the own role that have not let go.
    pub(super) fn held_up_by(&self, barrier: &Barrier) -> Vec<Name> {
        let followers = self.followers(&self.config.id.role).into_iter();
        followers.filter(|id| !barrier.is_released_by(id.addr, id.instance)).map(|id| id.node).collect()
    }

    pub(super) fn apply_farewell(&mut self, state: MemberState, now: Duration) {
        self.own.state = state;
        self.own.changed_ms = self.config.id.instance + millis(now);
        self.phase = Phase::Leaving { farewells: FAREWELLS, next_at: now };
    }

    pub(super) fn say_farewell(&mut self, now: Duration) {
        let Phase::Leaving { farewells, next_at } = &mut self.phase else { return };
        if now < *next_at {
            return;
        }
        if *farewells == 0 || self.foca.num_members() == 0 {
            self.phase = Phase::Left;
            self.effects.push_back(Effect::Left);
            return;
        }
        let said = FAREWELLS - *farewells;
        *farewells -= 1;
        *next_at = now + FAREWELL_PERIOD;
        match said {
            // Anew each time: a broadcast is sent so many times and no more.
            ..FAREWELLS_AS_MEMBER => self.spread_own(),
            FAREWELLS_AS_MEMBER => {
                let outcome = self.foca.leave_cluster(&mut self.runtime);
                self.note(outcome);
            }
            _ => {
                let outcome = self.foca.gossip(&mut self.runtime);
                self.note(outcome);
            }
        }
    }

    /// Tells draining members what the consumers here still have in flight with them.
    pub(super) fn report(&mut self, now: Duration) {
        let Some(counts) = self.reports.poll_due(now) else { return };
        for listed in self.picture.listed().filter(|l| l.member.state == MemberState::Draining) {
            let member = &listed.member;
            if let Some(&in_flight) = counts.get(&endpoint_of(member)) {
                let report = Report {
                    from: self.config.id.addr,
                    from_instance: self.config.id.instance,
                    instance: member.instance,
                    in_flight,
                };
                let bytes = self.envelope.encode(Kind::Drain, &report.encode()).into();
                self.effects.push_back(Effect::Send { to: member.addr, bytes });
            }
        }
    }
}
