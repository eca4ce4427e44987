//! What a node does about those whom it suspects itself: it asks them, directly and again and again, and calls nobody dead who
//! answers it.
//!
//! SWIM leaves it to gossip that a suspect hears of the suspicion and that its objection is heard. Where a fifth of all packets is
//! lost, one of a thousand suspicions runs out all the same, and a cluster of thirty has hundreds of them in five minutes. A
//! suspect's own word, whatever it says, is as good as its objection, and the nodes that suspect are the only ones that condemn.
//! (Lifeguard's buddy system tells the suspect with the next probe; memberlist tries TCP, as [`super::syncing`] does, too.)

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use feed::{explain::Evidence, frame::MemberState};
use foca::{Incarnation, Timer};

use super::Membership;
use crate::{
    cluster::{effect::Effect, member_id::MemberId},
    wire::swim::foca_config,
};

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
    condemn_at: Duration,
}

/// Those whom this node suspects itself. They hold back foca's timers for suspects, which know nothing of answers.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    by_addr: BTreeMap<SocketAddr, (MemberId, Suspect)>,
    /// By which foca knows the timers of its present identity.
    token: u8,
}

impl Suspects {
    /// Whoever was suspected before this node was alone, or another to the others.
    pub(super) fn forget_all(&mut self) {
        self.by_addr.clear();
    }

    /// foca's timers have this token now.
    pub(super) fn note_token(&mut self, token: u8) {
        self.token = token;
    }

    /// This node did not run for so long, which does not count against them.
    pub(super) fn put_off(&mut self, by: Duration) {
        for (_, suspect) in self.by_addr.values_mut() {
            (suspect.ask_at, suspect.condemn_at) = (suspect.ask_at + by, suspect.condemn_at + by);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.by_addr.values().map(|(_, suspect)| suspect.ask_at.min(suspect.condemn_at)).min()
    }
}

impl Membership {
    /// It is suspected from now on, if it was not before, and has so long to object. Beside being asked by datagram, it hears of it by a
    /// way on which nothing is lost; one that is dead refuses there.
    pub(super) fn suspect(
        &mut self,
        id: &MemberId,
        incarnation: Incarnation,
        period: Duration,
        now: Duration,
    ) {
        let known = self.suspects.by_addr.get(&id.addr);
        // foca accuses what it knew when the probe began; the suspect may have objected since, and be suspected anew.
        if known.is_some_and(|(known, suspect)| known == id && suspect.incarnation >= incarnation) {
            return;
        }
        if self.appealing.len() < APPEALS_MAX && self.appealing.insert(id.addr) {
            self.effects.push_back(Effect::Sync { with: id.peer() });
        }
        let condemn_at = now + period;
        let suspect = Suspect { incarnation, since: now, period, ask_at: now, condemn_at };
        self.suspects.by_addr.insert(id.addr, (id.clone(), suspect));
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
        self.suspect(id, incarnation, foca_config(self.picture.len()).suspect_to_down_after, now);
    }

    /// Asks those whose turn it is, and forgets who has objected; what they answer is that they are there. Judges whose time is over.
    pub(super) fn advance_suspects(&mut self, now: Duration) {
        let is_due = |suspect: &Suspect| suspect.ask_at.min(suspect.condemn_at) <= now;
        let due = self.suspects.by_addr.values().filter(|(_, suspect)| is_due(suspect));
        for (id, incarnation) in due.map(|(id, s)| (id.clone(), s.incarnation)).collect::<Vec<_>>() {
            if !self.is_suspected(&id, incarnation) {
                self.suspects.by_addr.remove(&id.addr);
            } else if let Some((_, suspect)) = self.suspects.by_addr.get_mut(&id.addr) {
                suspect.ask_at = now + ASK_PERIOD;
                if suspect.condemn_at <= now {
                    self.judge(&id, now);
                }
                let outcome = self.foca.announce(id, &mut self.runtime);
                self.note(outcome);
            }
        }
    }

    /// Its time to object is over. Who was heard meanwhile lives, whatever was lost, and does not know that it is suspected: it is accused
    /// anew, which is news to all once more, and has as much time again.
    fn judge(&mut self, id: &MemberId, now: Duration) {
        let heard = self.stories.heard(id.addr);
        let Some((_, mut suspect)) = self.suspects.by_addr.remove(&id.addr) else { return };
        let outcome = if heard.is_some_and(|heard| heard > suspect.since) {
            suspect.incarnation = suspect.incarnation.saturating_add(1);
            (suspect.since, suspect.condemn_at) = (now, now + suspect.period);
            let anew = foca::Member::new(id.clone(), suspect.incarnation, foca::State::Suspect);
            self.suspects.by_addr.insert(id.addr, (id.clone(), suspect));
            self.foca.apply_many([anew].into_iter(), true, &mut self.runtime)
        } else {
            self.cause = Evidence::Probe;
            let (incarnation, token) = (suspect.incarnation, self.suspects.token);
            let timer = Timer::ChangeSuspectToDown { member_id: id.clone(), incarnation, token };
            self.foca.handle_timer(timer, &mut self.runtime)
        };
        self.note(outcome);
    }

    fn is_suspected(&self, id: &MemberId, incarnation: Incarnation) -> bool {
        let member = self.foca.iter_members().find(|member| member.id() == id);
        member.is_some_and(|m| m.state() == foca::State::Suspect && m.incarnation() == incarnation)
    }
}
