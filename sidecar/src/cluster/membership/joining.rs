//! Finding the cluster, and knowing that it is found.

use std::{net::SocketAddr, time::Duration};

use feed::frame::MemberState;
use rand::{RngExt, seq::IteratorRandom};

use super::{ANNOUNCE_PAUSE_MIN, FOUNDING_PERIOD, Membership, Phase, REANNOUNCE_LOST_PERIOD, millis};
use crate::cluster::{effect::Effect, input::Input, member_id::MemberId, trouble::Trouble};

/// Longest pause between announcements while alone.
const ANNOUNCE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Pause between announcements to the seeds for ever after: heals islands that never met.
const REANNOUNCE_PERIOD: Duration = Duration::from_secs(15);
/// Members from before this start that are tried at a time: one that answers is enough.
const FORMER_TRIED: usize = 16;
/// How long after the start those are tried who are missing, although others are there, and how often: a cluster that starts again as a
/// whole may find itself in pairs first. Later, they are dead, and their addresses another's.
const FORMER_PERIOD: Duration = Duration::from_secs(60);
const FORMER_PAUSE: Duration = Duration::from_secs(1);

/// Whether the role's process serves, as far as its check has said.
#[derive(Debug, Clone, Copy)]
pub(super) enum Service {
    Unchecked,
    Serves,
    Fails { why: Option<Trouble>, has_served: bool },
}

impl Service {
    /// The same process when its check fails.
    pub(super) fn failing(self, why: Option<Trouble>) -> Self {
        let has_served = match self {
            Self::Unchecked => false,
            Self::Serves => true,
            Self::Fails { has_served, .. } => has_served,
        };
        Self::Fails { why, has_served }
    }
}

impl Membership {
    pub(super) fn handle_seeds(&mut self, mut seeds: Vec<SocketAddr>, now: Duration) {
        seeds.retain(|seed| *seed != self.config.id.addr);
        if seeds != self.seeds {
            self.seeds = seeds;
            let is_met = |seed: &&SocketAddr| self.picture.at(**seed).is_some();
            self.met_seeds.extend(self.seeds.iter().filter(is_met));
            // Who is in company can wait for the usual turn: DNS may give other seeds at every look.
            if self.foca.num_members() == 0 {
                self.announce_at = now;
                self.announce_pause = ANNOUNCE_PAUSE_MIN;
            }
        }
    }

    pub(super) fn handle_rejoin(&mut self, former: Vec<SocketAddr>, now: Duration) {
        if !former.is_empty() {
            self.founds_at = self.founds_at.map(|_| now + FOUNDING_PERIOD);
        }
        self.former = former;
        self.former_until = now + FORMER_PERIOD;
        self.announce_at = now;
    }

    pub(super) fn announce(&mut self, now: Duration) {
        if now < self.announce_at {
            return;
        }
        let is_tried = self.foca.num_members() == 0 || now < self.former_until;
        let missing = self.former.iter().filter(|addr| is_tried && self.picture.at(**addr).is_none());
        let former = missing.copied().sample(&mut self.rng, FORMER_TRIED);
        let is_former_missing = !former.is_empty();
        for seed in self.seeds.iter().copied().chain(former).collect::<Vec<_>>() {
            let outcome = self.foca.announce(MemberId::unknown_at(seed), &mut self.runtime);
            self.note(outcome);
        }
        let pause = match self.foca.num_members() {
            0 => self.announce_pause,
            _ if self.has_lost_a_seed() => REANNOUNCE_LOST_PERIOD,
            _ if is_former_missing => FORMER_PAUSE,
            _ => REANNOUNCE_PERIOD,
        };
        self.announce_pause = (self.announce_pause * 2).min(ANNOUNCE_PAUSE_MAX);
        // Jitter keeps a thousand containers that started together from announcing together for ever.
        self.announce_at = now + pause.mul_f64(self.rng.random_range(0.75..1.25));
    }

    pub(super) fn has_lost_a_seed(&self) -> bool {
        let is_lost = |seed: &SocketAddr| self.met_seeds.contains(seed) && self.picture.at(*seed).is_none();
        self.seeds.iter().any(is_lost)
    }

    pub(super) fn apply_in_touch(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.in_touch, true) {
            self.effects.push_back(Effect::InTouch);
            self.apply_readiness(now);
        }
    }

    pub(super) fn handle_check(&mut self, input: &Input<'_>, now: Duration) {
        self.service = match input {
            Input::Serving(true) => Service::Serves,
            Input::CheckFails(why) => self.service.failing(Some(*why)),
            _ => self.service.failing(None),
        };
        self.apply_readiness(now);
    }

    /// Ready is who serves and knows the cluster: a front that others choose before it knows its apps would refuse
    /// their requests.
    pub(super) fn apply_readiness(&mut self, now: Duration) {
        let unknown = if self.alone.is_some() { MemberState::Alone } else { MemberState::Joining };
        let (state, check) = match self.service {
            Service::Serves if self.in_touch => (MemberState::Ready, None),
            Service::Fails { why, has_served: true } if self.in_touch => (MemberState::Unhealthy, why),
            Service::Fails { why, has_served: false } if self.in_touch => (MemberState::Checking, why),
            Service::Fails { why, .. } => (unknown, why),
            Service::Unchecked if self.in_touch => (MemberState::Joining, None),
            Service::Serves | Service::Unchecked => (unknown, None),
        };
        if matches!(self.phase, Phase::Member) && (self.own.state, self.own.check) != (state, check) {
            let since_ms = self.config.id.instance + millis(now);
            self.readvertise(now, |own| {
                if own.state != state {
                    own.since_ms = since_ms;
                }
                (own.state, own.check) = (state, check);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::membership::syncing::tests::knowing;

    #[test]
    fn who_is_missing_of_a_snapshot_is_tried_beside_others_until_its_time_is_over() {
        let mut node = knowing(3);
        let missing = SocketAddr::from(([10, 9, 9, 9], 7946));
        node.handle(Input::Rejoin(vec![missing]), Duration::ZERO).unwrap();
        let mut is_tried = |now| {
            while node.poll_effect().is_some() {}
            node.announce_at = now;
            node.announce(now);
            node.drain_runtime(now);
            node.effects.iter().any(|effect| matches!(effect, Effect::Send { to, .. } if *to == missing))
        };
        assert!(is_tried(FORMER_PERIOD - Duration::from_millis(1)) && !is_tried(FORMER_PERIOD));
    }
}
