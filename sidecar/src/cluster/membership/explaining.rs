//! What a node believes of a member and why; and how an operator has one forgotten.

use std::time::Duration;

use feed::{
    FromSidecar, Name,
    explain::{Drain, Evidence, Explanation, KnownAdvert, Twin},
    frame::{Health, Member, MemberState},
};

use super::{Membership, Phase, millis};
use crate::cluster::{drain::endpoint_of, effect::Effect, event::What, member_id::MemberId, peer::Peer};

impl Membership {
    /// By what the last state of this name is known.
    pub fn evidence(&self, name: &Name) -> Option<Evidence> {
        self.stories.of(name).map(|story| story.evidence)
    }

    pub(super) fn explain(&self, name: &Name, now: Duration) -> Result<FromSidecar, String> {
        let story = self.stories.of(name).ok_or_else(|| unknown(name))?;
        let member = story.member.clone();
        let adverts = self.adverts.borrow();
        let advert = adverts.of(member.addr, member.instance).map(|advert| {
            let (via, relay) = adverts.via(member.addr, member.instance);
            KnownAdvert { version: advert.version, via, relay }
        });
        let peer = Peer { addr: member.addr, instance: member.instance };
        let ids = self.foca.iter_members().map(foca::Member::id).chain([self.foca.identity()]);
        let claims = ids.filter(|id| id.node == *name);
        let twins = claims.filter(|id| Peer { addr: id.addr, instance: id.instance } != peer);
        Ok(FromSidecar::Explained(Explanation {
            by: self.config.id.node.clone(),
            since_ms: self.config.id.instance + millis(story.since),
            evidence: story.evidence,
            advert,
            heard_ms_ago: self.stories.heard(member.addr).map(|at| millis(now.saturating_sub(at))),
            lifeline: self.lifelines.contains(&peer),
            twins: twins.map(|id| Twin { addr: id.addr, instance: id.instance }).collect(),
            alone: self.alone.clone().filter(|_| *name == self.config.id.node && !self.has_company()),
            drain: (member.state == MemberState::Draining).then(|| self.drain_of(&member)),
            member,
        }))
    }

    /// How this node is.
    pub fn own_health(&self) -> Health {
        let check = self.own.check.map(|why| why.to_string());
        Health { node: self.config.id.node.clone(), state: self.own.state, check }
    }

    fn drain_of(&self, member: &Member) -> Drain {
        let held_up_by = match &self.phase {
            Phase::Draining(barrier)
                if (member.instance, member.addr) == (self.config.id.instance, self.config.id.addr) =>
            {
                self.held_up_by(barrier)
            }
            _ => Vec::new(),
        };
        Drain { in_flight: self.reports.at(endpoint_of(member)), held_up_by }
    }

    /// Tells everybody to forget a member as left.
    pub(super) fn force_leave(&mut self, name: &Name, now: Duration) -> Result<FromSidecar, String> {
        if *name == self.config.id.node {
            return Err(format!("{name} is this node itself: `concertina leave` lets it go without loss"));
        }
        let was = self.stories.of(name).ok_or_else(|| unknown(name))?.member.clone();
        if was.state == MemberState::Left {
            return Err(format!("{name} has left already"));
        }
        let is_it = |id: &MemberId| id.addr == was.addr && id.instance == was.instance;
        let known = self.foca.iter_membership_state().map(foca::Member::id).find(|id| is_it(id)).cloned();
        // One that foca has forgotten is down everywhere; its name is all that matters then.
        let id = known.unwrap_or_else(|| MemberId {
            addr: was.addr,
            instance: was.instance,
            renewal: 0,
            node: was.name.clone(),
            role: was.role.clone(),
        });
        self.send_event(What::ForceLeave(id), now)?;
        Ok(FromSidecar::Forgotten { name: was.name, was: was.state })
    }

    /// Takes somebody's order to forget exactly this identity. The live node behind it objects, as to any wrong
    /// obituary, and is back under its next renewal.
    pub(super) fn apply_force_leave(&mut self, id: MemberId, now: Duration) {
        let peer = Peer { addr: id.addr, instance: id.instance };
        if peer == self.config.id.peer() || !self.horizon.includes(&id) {
            return;
        }
        let node = id.node.clone();
        self.stories.note_forced(peer);
        self.stories.note_down(peer, Evidence::ForceLeave);
        let outcome = self.foca.apply_many([foca::Member::down(id)].into_iter(), true, &mut self.runtime);
        self.note(outcome);
        let outcome = self.foca.gossip(&mut self.runtime);
        self.note(outcome);
        self.tables.forget_suspect(&node);
        self.unsettle(now);
        let left = self.stories.forget_failed(&node, peer, now);
        if left.is_some() {
            self.verdicts.forget(&node);
        }
        self.effects.extend(left.map(Effect::Change));
    }
}

fn unknown(name: &Name) -> String {
    format!("no member {name} has been known here since this sidecar started")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::membership::syncing::tests::knowing;

    #[test]
    fn an_order_to_forget_a_claim_that_nobody_can_make_is_not_carried_out() {
        let mut node = knowing(2);
        let known = node.foca.iter_members().next().unwrap().id().clone();
        for (claimed, is_forgotten) in
            [(MemberId { renewal: u32::MAX, ..known.clone() }, false), (known.clone(), true)]
        {
            node.apply_force_leave(claimed, Duration::ZERO);
            assert_eq!(node.foca.iter_members().all(|member| *member.id() != known), is_forgotten);
        }
    }
}
