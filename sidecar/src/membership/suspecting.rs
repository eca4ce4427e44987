//! What a node does about those whom it suspects itself: it asks them, directly and again and again, and calls nobody dead who
//! answers it.
//!
//! SWIM leaves it to gossip that a suspect hears of the suspicion and that its objection is heard. Where a fifth of all packets is
//! lost, one of a thousand suspicions runs out all the same, and a cluster of thirty has hundreds of them in five minutes. A
//! suspect's own word, whatever it says, is as good as its objection, and the nodes that suspect are the only ones that condemn.
//! (Lifeguard's buddy system tells the suspect with the next probe; memberlist tries TCP, as [`super::syncing`] does, too.)

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use feed::{explain::Evidence, frame::MemberState};
use foca::Incarnation;

use super::Membership;
use crate::{effect::Effect, member_id::MemberId, swim::foca_config};

/// How often a suspect is asked: seven times before it is condemned in a cluster of 30.
const ASK_PERIOD: Duration = Duration::from_millis(200);

/// Suspects that are asked by stream at a time: after a mass stop there are hundreds, and their streams hang.
pub(super) const APPEALS_MAX: usize = 8;

/// One who did not answer a probe of this node.
#[derive(Debug)]
struct Suspect {
    incarnation: Incarnation,
    since: Duration,
    /// How long it may take to object.
    period: Duration,
    ask_at: Duration,
    /// When it is condemned; none: foca has a timer for it.
    condemn_at: Option<Duration>,
}

/// Those whom this node suspects itself. For each there is one timer.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<SocketAddr, (MemberId, Suspect)>);

impl Suspects {
    /// Whoever was suspected before this node was alone, or another to the others.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.0
            .values()
            .map(|(_, suspect)| suspect.condemn_at.unwrap_or(suspect.ask_at).min(suspect.ask_at))
            .min()
    }
}

impl Membership {
    /// It is suspected from now on; false if it was before. Beside being asked by datagram, it hears of it by a way on which nothing is
    /// lost; one that is dead refuses there.
    pub(super) fn suspect(
        &mut self,
        id: &MemberId,
        incarnation: Incarnation,
        period: Duration,
        now: Duration,
    ) -> bool {
        let known = self.suspects.0.get(&id.addr);
        if known.is_some_and(|(known, suspect)| known == id && suspect.incarnation == incarnation) {
            return false;
        }
        if self.appealing.len() < APPEALS_MAX && self.appealing.insert(id.addr) {
            self.effects.push_back(Effect::Sync { with: id.peer() });
        }
        let suspect = Suspect { incarnation, since: now, period, ask_at: now, condemn_at: None };
        self.suspects.0.insert(id.addr, (id.clone(), suspect));
        true
    }

    /// Another's state has it as down. If it is a member here, that is no verdict but a suspicion, as in memberlist: a node that
    /// hears nothing takes all others for dead, and exchanges of states may reach it all the same.
    pub(super) fn handle_down(&mut self, down: foca::Member<MemberId>, now: Duration) {
        let id = down.id();
        let state = self.adverts.borrow().of(id.addr, id.instance).map(|advert| advert.state);
        let has_ended =
            matches!(state, Some(MemberState::Draining | MemberState::Left | MemberState::Failed));
        let member = self.foca.iter_members().find(|member| member.id() == id);
        let Some(member) = member.filter(|_| !has_ended) else {
            // One that said itself that it would go; or this node, which will object; or one that was not known to have started.
            let outcome = self.foca.apply_many([down].into_iter(), true, &mut self.runtime);
            return self.note(outcome);
        };
        let incarnation = member.incarnation();
        let suspicion = foca::Member::new(id.clone(), incarnation, foca::State::Suspect);
        let outcome = self.foca.apply_many([suspicion].into_iter(), true, &mut self.runtime);
        self.note(outcome);
        let period = foca_config(self.picture.len()).suspect_to_down_after;
        if self.suspect(id, incarnation, period, now)
            && let Some((_, suspect)) = self.suspects.0.get_mut(&id.addr)
        {
            suspect.condemn_at = Some(now + period);
        }
    }

    /// Asks those whose turn it is, and forgets who has objected; what they answer is that they are there. Condemns whose time is
    /// over.
    pub(super) fn advance_suspects(&mut self, now: Duration) {
        let is_due = |s: &Suspect| s.ask_at <= now || s.condemn_at.is_some_and(|at| at <= now);
        let due = self.suspects.0.values().filter(|(_, suspect)| is_due(suspect));
        let due = due.map(|(id, s)| (id.clone(), s.incarnation, s.condemn_at));
        for (id, incarnation, condemn_at) in due.collect::<Vec<_>>() {
            if !self.is_suspected(&id, incarnation) {
                self.suspects.0.remove(&id.addr);
            } else if condemn_at.is_some_and(|at| at <= now) {
                let later = self.reprieve(&id, incarnation, now);
                match self.suspects.0.get_mut(&id.addr) {
                    Some((_, suspect)) => suspect.condemn_at = later,
                    None => self.condemn(id, incarnation),
                }
            } else {
                if let Some((_, suspect)) = self.suspects.0.get_mut(&id.addr) {
                    suspect.ask_at = now + ASK_PERIOD;
                }
                let outcome = self.foca.announce(id, &mut self.runtime);
                self.note(outcome);
            }
        }
    }

    fn condemn(&mut self, id: MemberId, incarnation: Incarnation) {
        self.cause = Evidence::Probe;
        let down = foca::Member::new(id, incarnation, foca::State::Down);
        let outcome = self.foca.apply_many([down].into_iter(), true, &mut self.runtime);
        self.note(outcome);
    }

    /// A suspect's time to object is over. Who has not, and was heard meanwhile, has as much again, until the returned time: whatever
    /// was lost, it lives.
    pub(super) fn reprieve(
        &mut self,
        id: &MemberId,
        incarnation: Incarnation,
        now: Duration,
    ) -> Option<Duration> {
        let is_suspected = self.is_suspected(id, incarnation);
        let (known, suspect) = self.suspects.0.get_mut(&id.addr)?;
        if (&*known, suspect.incarnation) != (id, incarnation) {
            return None;
        }
        if is_suspected && self.stories.heard(id.addr).is_some_and(|heard| heard > suspect.since) {
            (suspect.since, suspect.ask_at) = (now, now);
            return Some(now + suspect.period);
        }
        self.suspects.0.remove(&id.addr);
        None
    }

    fn is_suspected(&self, id: &MemberId, incarnation: Incarnation) -> bool {
        let member = self.foca.iter_members().find(|member| member.id() == id);
        member.is_some_and(|m| m.state() == foca::State::Suspect && m.incarnation() == incarnation)
    }
}
