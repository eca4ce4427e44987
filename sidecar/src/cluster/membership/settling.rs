//! From what moved to what is told: changes, tables, lifelines.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use feed::frame::{Member, MemberState};

use super::{Membership, REANNOUNCE_LOST_PERIOD, SETTLE_PERIOD, SYNC_REPAIR_PERIOD};
use crate::{
    cluster::{
        effect::Effect,
        lifelines,
        member_id::MemberId,
        peer::Peer,
        picture::{Change, how_it_went},
        twins::Contest,
    },
    wire::swim::{foca_config, size_class},
};

/// How often it is looked for adverts to forget, while there are more than members.
const FORGET_PERIOD: Duration = Duration::from_secs(5);

impl Membership {
    /// Something moved: the picture is to be looked at soon.
    pub(super) fn unsettle(&mut self, now: Duration) {
        let at = now + SETTLE_PERIOD;
        self.settle_at = Some(self.settle_at.map_or(at, |other| other.min(at)));
    }

    /// Takes into the picture what moved, and tells what is different.
    pub(super) fn settle(&mut self, now: Duration) {
        self.drain_runtime(now);
        self.settle_at = None;
        let moved = self.take_moved();
        for (addr, id) in &moved {
            self.stories.note_active(*addr, id.is_some());
            self.met_seeds.extend(id.iter().map(|id| id.addr).filter(|addr| self.seeds.contains(addr)));
        }
        let addrs: BTreeSet<SocketAddr> = moved.keys().copied().collect();
        let size_before = self.picture.len();
        let mut changes = self.picture.apply(moved.into_iter(), &self.adverts.borrow());
        debug_assert!(self.picture.len() > 64 || self.is_picture_whole(), "a change was missed");
        // Who is gone comes first: whoever took the place is the newer word.
        changes.sort_by_key(|change| change.after.is_some());
        let failed = self.tell(&changes, now);
        if !self.picture.silent().is_empty() {
            self.sync_at = self.sync_at.min(now + SYNC_REPAIR_PERIOD);
        }
        self.note_changes(changes.len(), now);
        if self.has_lost_a_seed() {
            self.announce_at = self.announce_at.min(now + REANNOUNCE_LOST_PERIOD);
        }
        self.choose_lifelines(&addrs);
        let tables = self.tables.apply_changes(&changes, &failed, &self.picture, now);
        let contests = self.twins.apply(self.picture.contests(), now);
        self.effects
            .extend(contests.into_iter().map(|Contest { name, addrs }| Effect::Twins { name, addrs }));
        let deadlines =
            [self.tables.next_deadline(), self.verdicts.next_deadline(), self.twins.next_deadline()];
        self.settle_at = deadlines.into_iter().flatten().min();
        if !tables.is_empty() {
            self.effects.push_back(Effect::Tables(tables));
        }
        if size_class(size_before) != size_class(self.picture.len()) {
            let outcome = self.foca.set_config(foca_config(self.picture.len()));
            self.note(outcome);
        }
        self.recheck_barrier = true;
        self.forget_strangers(now);
    }

    /// The addresses that may have changed, with the identity that is active there now.
    fn take_moved(&mut self) -> BTreeMap<SocketAddr, Option<MemberId>> {
        let addrs = std::mem::take(&mut self.moved).into_iter();
        let addrs = addrs.chain(self.adverts.borrow_mut().take_changed());
        let mut moved: BTreeMap<_, Option<MemberId>> = addrs.map(|addr| (addr, None)).collect();
        if !moved.is_empty() {
            let ids = self.foca.iter_members().map(foca::Member::id).chain([self.foca.identity()]);
            for id in ids {
                if let Some(active) = moved.get_mut(&id.addr) {
                    *active = Some(id.clone());
                }
            }
        }
        moved
    }

    /// Whether the picture is the one that all members make: what it is changed by must not miss anything.
    fn is_picture_whole(&self) -> bool {
        let ids = self.foca.iter_members().map(foca::Member::id).chain([self.foca.identity()]);
        let mut whole = crate::cluster::picture::Picture::default();
        whole.apply(ids.map(|id| (id.addr, Some(id.clone()))), &self.adverts.borrow());
        whole == self.picture
    }

    /// Tells people of the changes, and returns the names of those who failed, which tables do not wait to hear.
    fn tell(&mut self, changes: &[Change], now: Duration) -> BTreeSet<feed::Name> {
        let adverts = self.adverts.borrow();
        let mut failed = BTreeSet::new();
        let mut told = Vec::new();
        for change in changes.iter().filter_map(|change| news(change, |gone| how_it_went(gone, &adverts))) {
            let (via, _) = adverts.via(change.addr, change.instance);
            let change = self.stories.apply_change(change, via, now);
            self.verdicts.forget(&change.name);
            // Who says itself that its process died is beyond doubt.
            let advert = adverts.of(change.addr, change.instance);
            let own_word = advert.is_some_and(|advert| advert.state == MemberState::Failed);
            let is_doubtful = change.state == MemberState::Failed && !own_word;
            if is_doubtful {
                failed.insert(change.name.clone());
            }
            if is_doubtful && self.stories.is_hearsay(&change.name) {
                self.verdicts.push(change, now);
            } else {
                told.push(change);
            }
        }
        for clear in self.verdicts.take_due(now, |member| how_it_went(member, &adverts)) {
            let (via, _) = adverts.via(clear.addr, clear.instance);
            told.push(match clear.state {
                MemberState::Failed => clear,
                _ => self.stories.apply_change(clear, via, now),
            });
        }
        self.effects.extend(told.into_iter().map(Effect::Change));
        self.stories.settle();
        failed
    }

    fn choose_lifelines(&mut self, moved: &BTreeSet<SocketAddr>) {
        let own = self.config.id.addr;
        let lifelines = if self.lifelines.iter().any(|peer| moved.contains(&peer.addr)) {
            // The next best is one of all the others.
            lifelines::choose(own, self.picture.all().map(peer).filter(|peer| peer.addr != own))
        } else {
            let come = moved.iter().filter(|addr| **addr != own).filter_map(|addr| self.picture.at(*addr));
            lifelines::choose(own, come.map(peer).chain(self.lifelines.iter().copied()))
        };
        if lifelines != self.lifelines {
            self.lifelines.clone_from(&lifelines);
            self.effects.push_back(Effect::Lifelines(lifelines));
        }
    }

    /// Adverts outlive their members a little (they may come first); much later they are garbage.
    fn forget_strangers(&mut self, now: Duration) {
        let mut adverts = self.adverts.borrow_mut();
        if adverts.len() > 2 * self.picture.len() + 64 && now >= self.forget_at {
            self.forget_at = now + FORGET_PERIOD;
            let ids = self.foca.iter_members().map(foca::Member::id).chain([self.foca.identity()]);
            let active: BTreeSet<(SocketAddr, u64)> = ids.map(|id| (id.addr, id.instance)).collect();
            adverts.forget_strangers(|process| active.contains(process));
        }
    }
}

/// What people are told of a change; nothing if only tables show it.
fn news(change: &Change, how_it_went: impl Fn(&Member) -> MemberState) -> Option<Member> {
    let before = change.before.as_ref().map(|listed| &listed.member);
    match change.after.as_ref().map(|listed| &listed.member) {
        None => before.map(|gone| Member { state: how_it_went(gone), ..gone.clone() }),
        after if after == before => None,
        after => after.cloned(),
    }
}

pub(super) fn peer(member: &Member) -> Peer {
    Peer { addr: member.addr, instance: member.instance }
}
