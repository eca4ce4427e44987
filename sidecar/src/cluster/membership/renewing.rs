//! Coming back: what a node does when its cluster has it for dead.
//!
//! Down is final in SWIM, so who lives comes back under a later claim to its address. If that is contradicted, too, because another process
//! claims the address, or a stranger's one datagram did, the two would answer each other as fast as the network carries it, for ever:
//! foca renews whenever it is told that it is down. Here it never does; the node renews at its own pace, right beyond the rival if
//! an exchange of states has told of one, and listens to no gossip while it waits, because two that have each other for dead say so
//! to each other at every word.

use std::time::Duration;

use super::{Membership, Phase};
use crate::cluster::member_id::MemberId;

/// Renewals with less than this between them are a streak: something contradicts them.
const STREAK_PERIOD: Duration = Duration::from_secs(60);

/// So many of a streak are made at once: a partition that heals may need two.
const FREE_COUNT: u32 = 3;

/// The pause before the next one; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// By how many renewals the second of a streak leads; it doubles with each. A clock that is a year behind is made good by some twenty, even if
/// no exchange of states tells of the rival.
const LEAD_MIN: u32 = 60;

/// This node's renewals.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// How many came in a row, and when the last one did.
    streak: u32,
    last_at: Option<Duration>,
    due_at: Option<Duration>,
}

impl Renewals {
    /// The cluster has this node for dead.
    fn demand(&mut self, now: Duration) {
        if self.due_at.is_some() {
            return;
        }
        match self.last_at {
            Some(last_at) if now < last_at + STREAK_PERIOD => {
                let doubled = 1_u32.checked_shl(self.streak.saturating_sub(FREE_COUNT)).unwrap_or(u32::MAX);
                let pause = PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX);
                let is_free = self.streak < FREE_COUNT;
                self.due_at = Some(if is_free { now } else { now.max(last_at + pause) });
            }
            _ => (self.streak, self.due_at) = (0, Some(now)),
        }
    }

    /// By how many renewals to lead now, if it is time.
    fn take_due(&mut self, now: Duration) -> Option<u32> {
        self.due_at.take_if(|due_at| *due_at <= now)?;
        self.last_at = Some(now);
        let lead = match self.streak {
            0 => 1,
            more => LEAD_MIN.saturating_mul(1_u32.checked_shl(more - 1).unwrap_or(u32::MAX)),
        };
        self.streak += 1;
        Some(lead)
    }

    /// Whether one is needed and its time has not come.
    pub(super) fn is_waiting(&self) -> bool {
        self.due_at.is_some()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.due_at
    }
}

impl Membership {
    /// foca is told that the cluster has this node for dead, or has left it.
    pub(super) fn handle_defunct(&mut self, now: Duration) {
        self.suspects.forget_all();
        if matches!(self.phase, Phase::Member | Phase::Draining(_)) {
            self.renewals.demand(now);
        }
    }

    /// Comes back if it is time.
    pub(super) fn renew(&mut self, now: Duration) {
        let Some(lead) = self.renewals.take_due(now) else { return };
        let own_addr = self.config.id.addr;
        let others = self.foca.iter_membership_state().map(foca::Member::id);
        let rival = { others }.find(|id| id.addr == own_addr).cloned();
        let Some(id) = self.foca.identity().renewed(lead, rival.as_ref()) else {
            // It goes on listening to nobody: two that are dead to each other would not stop to say so.
            self.renewals.due_at = Some(now + PAUSE_MAX);
            if self.renewals.streak == 1 {
                tracing::error!(
                    ?rival,
                    "this node is taken for dead, and no claim can be later than the rival's"
                );
            }
            return;
        };
        self.say_renewed(rival.as_ref());
        let outcome = self.foca.change_identity(id, &mut self.runtime);
        self.note(outcome);
        // foca looks whether it has company only when it is told of members.
        let outcome = self.foca.apply_many(std::iter::empty(), true, &mut self.runtime);
        self.note(outcome);
        self.moved.insert(own_addr);
        self.unsettle(now);
        self.spread_own();
    }

    /// Each streak is mentioned twice: when it begins, and when it seems to be one.
    fn say_renewed(&self, rival: Option<&MemberId>) {
        let (node, addr) = (&self.config.id.node, self.config.id.addr);
        if self.renewals.streak == 1 {
            tracing::info!(%node, "the cluster had this node for dead; it is back");
        } else if self.renewals.streak == FREE_COUNT {
            let rival = rival.map(tracing::field::debug);
            tracing::warn!(%node, %addr, rival, "the cluster has this node for dead again and again: does another claim its address, or was its clock put back?");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_is_slow_after_three_and_a_minute_of_peace_ends_it() {
        let mut renewals = Renewals::default();
        let mut now = Duration::ZERO;
        let mut took = Vec::new();
        for _ in 0..14 {
            let asked = now;
            renewals.demand(now);
            renewals.demand(now);
            now = renewals.next_deadline().unwrap();
            assert!(renewals.take_due(now).is_some() && !renewals.is_waiting());
            took.push(now - asked);
        }
        assert_eq!(took[..5].iter().map(Duration::as_millis).collect::<Vec<_>>(), [0, 0, 0, 50, 100]);
        assert_eq!(took[13], PAUSE_MAX);
        renewals.demand(now + STREAK_PERIOD);
        assert_eq!(renewals.take_due(now + STREAK_PERIOD), Some(1));
    }

    #[test]
    fn a_clock_that_is_a_year_behind_is_made_good_by_some_twenty_renewals() {
        let mut renewals = Renewals::default();
        let year_s = 365 * 24 * 3600;
        let lead_s: u64 = (0..21)
            .map(|_| {
                renewals.due_at = Some(Duration::ZERO);
                u64::from(renewals.take_due(Duration::ZERO).unwrap())
            })
            .sum();
        assert!((year_s..2 * year_s).contains(&lead_s), "{lead_s}");
    }
}
