//! Exchanges of states: when, with whom, and what follows from them. What is compared and said is in [`crate::cluster::sync`].

use std::{collections::BTreeSet, time::Duration};

use feed::explain::Evidence;
use rand::{RngExt, seq::IteratorRandom};

use super::{
    FOUNDING_PERIOD, Membership, Phase, SETTLE_PERIOD, SYNC_PERIOD, SYNC_REPAIR_PERIOD, settling::peer,
};
use crate::{
    cluster::{
        advert::Adverts,
        effect::Effect,
        member_id::MemberId,
        peer::Peer,
        sync::{Answer, Item, Message, Records, Summary},
    },
    wire::packet::{Kind, PacketError},
};

/// Exchanges under way at a time: one that hangs, because the other side is frozen, must not hold up all.
const SYNCS_MAX: usize = 4;

/// More changes than this since the last exchange are followed by one soon: gossip tells everybody of a few, but of many hundreds at a
/// time somebody misses one.
const GOSSIP_TRUSTED_MAX: usize = 8;
const SYNC_CHURN_PERIOD: Duration = Duration::from_millis(400);

/// How many are told after one exchange that they are taken for dead here: after a partition it is half of the cluster.
const CONTRADICTED_MAX: usize = 16;

/// News of an exchange that is also gossiped. What comes in bulk is being told by exchanges everywhere, and would keep gossip from
/// telling anything else for seconds.
const GOSSIPED_MAX: usize = 32;

/// Members that foca is told of at once. It keeps the room that its answers to them take.
const APPLIED_AT_ONCE: usize = 256;

/// Which message of an exchange it is: who accepts hears the first and the third, who dials the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "ordinals")]
pub enum SyncTurn {
    First,
    Second,
    Third,
}

impl Membership {
    /// The first message of an exchange of states, for who dials.
    pub fn encode_summary(&mut self) -> Vec<u8> {
        let own = self.own_member();
        let (adverts, events) = (self.adverts.borrow(), self.events.borrow());
        let mut introduction = Records { in_touch: self.in_touch, ..Records::default() };
        introduction.push(Item::Active(&own, adverts.of(own.id().addr, own.id().instance)));
        let salt = self.rng.random();
        let summary = Summary::of(items(&self.foca, &own, &adverts), &events, salt, introduction);
        self.envelope.encode(Kind::Sync, &Message::Summary(summary).encode())
    }

    /// Takes a message of an exchange, and gives what is to be said to it, if anything.
    ///
    /// # Errors
    /// A message that was dropped, and why; the node is unharmed.
    pub fn handle_sync(
        &mut self,
        packet: &[u8],
        turn: SyncTurn,
        now: Duration,
    ) -> Result<Option<Vec<u8>>, PacketError> {
        let payload = match self.envelope.parse(packet)? {
            (Kind::Sync, payload) => payload,
            (kind, _) => return Err(PacketError::Kind(kind as u8)),
        };
        let message = Message::parse(payload).ok_or(PacketError::Malformed)?;
        // A node that said goodbye must not listen any more: the echo of its own farewell would bring it back.
        if matches!(self.phase, Phase::Leaving { .. } | Phase::Left) {
            return Ok(None);
        }
        self.cause = Evidence::Sync;
        self.set_now(now);
        let answer = match (turn, message) {
            (SyncTurn::First, Message::Summary(summary)) => {
                self.apply_records(summary.own.clone(), now);
                let events = self.events.clone();
                let answer =
                    self.with_items(|items, knows| Answer::to(&summary, items, &events.borrow(), knows));
                self.apply_exchanged(summary.own.in_touch, answer.wants.is_empty(), now);
                Some(Message::Answer(answer))
            }
            (SyncTurn::Second, Message::Answer(mut answer)) => {
                let records = std::mem::take(&mut answer.records);
                let in_touch = records.in_touch;
                self.apply_records(records, now);
                self.apply_exchanged(in_touch, true, now);
                let in_touch = answer.was_in_touch && self.in_touch;
                let events = self.events.clone();
                let rest =
                    self.with_items(|items, _| Records::wanted(&answer, items, &events.borrow(), in_touch));
                (!answer.wants.is_empty() || !rest.is_empty()).then_some(Message::Rest(rest))
            }
            (SyncTurn::Third, Message::Rest(records)) => {
                let in_touch = records.in_touch;
                self.apply_records(records, now);
                self.apply_exchanged(in_touch, true, now);
                None
            }
            _ => return Err(PacketError::Malformed),
        };
        self.advance(now);
        Ok(answer.map(|message| self.envelope.encode(Kind::Sync, &message.encode())))
    }

    fn with_items<T>(&self, then: impl FnOnce(&mut dyn Iterator<Item = Item<'_>>, bool) -> T) -> T {
        let own = self.own_member();
        then(&mut items(&self.foca, &own, &self.adverts.borrow()), self.in_touch)
    }

    fn own_member(&self) -> foca::Member<MemberId> {
        foca::Member::new(self.foca.identity().clone(), self.own_incarnation, foca::State::Alive)
    }

    fn apply_records(&mut self, records: Records, now: Duration) {
        let moved_before = self.moved.len() + self.adverts.borrow().changed_count();
        let own_addr = self.config.id.addr;
        let mut adverts = self.adverts.borrow_mut();
        for advert in records.adverts.into_iter().filter(|advert| advert.addr != own_addr) {
            adverts.apply(advert, (Evidence::Sync, None));
        }
        drop(adverts);
        let is_told = records.members.len() <= GOSSIPED_MAX;
        // One whose clock is ahead may believe what is not believed here; the rest of what it says is as good as ever.
        let members = records.members.into_iter().filter(|member| self.horizon.includes(member.id()));
        let (down, active): (Vec<_>, Vec<_>) =
            members.partition(|member| member.state() == foca::State::Down);
        self.tell_contradicted(&active);
        let mut active = active.into_iter().peekable();
        while active.peek().is_some() {
            let some = active.by_ref().take(APPLIED_AT_ONCE);
            let outcome = self.foca.apply_many(some, is_told, &mut self.runtime);
            self.note(outcome);
            self.drain_runtime(now);
        }
        for member in down {
            self.handle_down(member, now);
        }
        let mut events = self.events.borrow_mut();
        let news =
            records.events.into_iter().filter_map(|told| events.apply_told(told).then_some(())).count();
        drop(events);
        self.drain_runtime(now);
        // What taught something is repeated soon: so news spreads from exchange to exchange where there is too much of it for gossip.
        if self.moved.len() + self.adverts.borrow().changed_count() + news > moved_before {
            self.hasten_sync(now);
        }
        self.settle(now);
    }

    /// Those whom this node has as down and the other as members: foca never takes the word of others that such a one lives, and it
    /// may not know that it is accused. Its answer to this makes foca tell it, and it comes back renewed.
    fn tell_contradicted(&mut self, active: &[foca::Member<MemberId>]) {
        let known = self.foca.iter_membership_state().filter(|member| member.state() == foca::State::Down);
        let down: BTreeSet<&MemberId> = known.map(foca::Member::id).collect();
        let contradicted = active.iter().map(foca::Member::id).filter(|id| down.contains(id));
        for id in contradicted.take(CONTRADICTED_MAX).cloned().collect::<Vec<_>>() {
            let outcome = self.foca.announce(id, &mut self.runtime);
            self.note(outcome);
        }
    }

    /// What follows from the other side's knowing the cluster or not; `is_whole` when all that it knows is known here.
    fn apply_exchanged(&mut self, in_touch: bool, is_whole: bool, now: Duration) {
        if in_touch && is_whole {
            self.apply_in_touch(now);
        } else if !in_touch && !self.in_touch {
            // The other is as new as this node: it has company, and asks on.
            self.founds_at.get_or_insert(now + FOUNDING_PERIOD);
            self.sync_at = now + SETTLE_PERIOD;
        }
    }

    /// There is something to tell that gossip does not carry.
    pub(super) fn hasten_sync(&mut self, now: Duration) {
        self.sync_pause = SYNC_REPAIR_PERIOD;
        let soon = now + SYNC_REPAIR_PERIOD.mul_f64(self.rng.random_range(0.75..1.25));
        self.sync_at = self.sync_at.min(soon);
    }

    /// So many changes were seen at once.
    pub(super) fn note_changes(&mut self, count: usize, now: Duration) {
        self.unsynced_count += count;
        if self.unsynced_count > GOSSIP_TRUSTED_MAX {
            self.sync_pause = self.sync_pause.min(SYNC_CHURN_PERIOD);
            self.sync_at = self.sync_at.min(now + SYNC_CHURN_PERIOD);
        }
    }

    /// Exchanges states: with a member whose advert is missing, else now and then with anybody.
    pub(super) fn sync(&mut self, now: Duration) {
        if now < self.sync_at {
            return;
        }
        self.unsynced_count = 0;
        let silent = self.picture.silent().iter().filter(|addr| !self.syncing.contains(addr));
        let silent = silent.choose(&mut self.rng).and_then(|addr| self.picture.at(*addr)).map(peer);
        let is_urgent = silent.is_some() || !self.in_touch;
        let with = silent.or_else(|| self.anybody());
        if let Some(with) = with.filter(|_| self.syncing.len() < SYNCS_MAX)
            && self.syncing.insert(with.addr)
        {
            self.effects.push_back(Effect::Sync { with });
        }
        let pause = if is_urgent { SYNC_REPAIR_PERIOD } else { self.sync_pause };
        self.sync_pause = (self.sync_pause * 2).min(SYNC_PERIOD);
        self.sync_at = now + pause.mul_f64(self.rng.random_range(0.75..1.25));
    }

    fn anybody(&mut self) -> Option<Peer> {
        let own = self.config.id.addr;
        let others = self.picture.all().filter(|member| member.addr != own);
        // Before the first picture there may be members all the same.
        let met = self.foca.iter_members().map(|member| member.id().peer());
        others.map(peer).choose(&mut self.rng).or_else(|| met.choose(&mut self.rng))
    }
}

/// Everything that a node has.
fn items<'a>(
    foca: &'a super::Gossip,
    own: &'a foca::Member<MemberId>,
    adverts: &'a Adverts,
) -> impl Iterator<Item = Item<'a>> {
    // foca keeps who was at the own address before.
    let others = foca.iter_membership_state().filter(|member| member.id().addr != own.id().addr);
    others.chain([own]).map(|member| {
        let advert = adverts.of(member.id().addr, member.id().instance);
        match member.state() {
            foca::State::Down => Item::Down(member, advert),
            _ => Item::Active(member, advert),
        }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use feed::{Name, frame::MemberState};

    use super::*;
    use crate::cluster::{
        advert::{Advert, tests::advert},
        labels::Labels,
        membership::Config,
    };

    const NODES: u16 = 10_000;

    fn id(n: u16) -> MemberId {
        let [high, low] = n.to_be_bytes();
        let addr = SocketAddr::from(([10, 0, high, low], 7946));
        let role: Name = if n == 1 { "dnsserver" } else { "appserver" }.parse().unwrap();
        MemberId {
            addr,
            instance: 1_700_000_000_000,
            renewal: 0,
            node: format!("node{n}").parse().unwrap(),
            role,
        }
    }

    fn node(n: u16) -> Membership {
        let (labels, cluster) = (Labels::default(), "default".to_owned());
        let drain_timeout = Duration::ZERO;
        let config = Config {
            id: id(n),
            port: 8080,
            admin_port: 0,
            weight: 1,
            labels,
            routes: feed::Routes::default(),
            cluster,
            founds: n == 1,
            drain_timeout,
        };
        Membership::new(config, n.into())
    }

    /// A node that knows ten thousand, itself included.
    fn veteran() -> Membership {
        let mut node = node(1);
        let mut records = Records { in_touch: true, ..Records::default() };
        for n in 2..=NODES {
            let id = id(n);
            let advert = Advert { instance: id.instance, ..advert(&id.addr.to_string(), 1, 1) };
            records.push(Item::Active(&foca::Member::alive(id), Some(&advert)));
        }
        let packet = node.envelope.encode(Kind::Sync, &Message::Rest(records).encode());
        assert_eq!(node.handle_sync(&packet, SyncTurn::Third, Duration::ZERO), Ok(None));
        node
    }

    #[test]
    fn a_newcomer_to_ten_thousand_knows_all_after_one_exchange_and_two_who_know_them_tell_little() {
        let (mut veteran, mut newcomer) = (veteran(), node(NODES + 1));
        let now = Duration::from_millis(1);
        let mut bytes = Vec::new();
        let mut exchange = |a: &mut Membership, b: &mut Membership| {
            let summary = a.encode_summary();
            let answer = b.handle_sync(&summary, SyncTurn::First, now).unwrap().unwrap();
            let rest = a.handle_sync(&answer, SyncTurn::Second, now).unwrap();
            bytes.push([summary.len(), answer.len(), rest.map_or(0, |rest| rest.len())]);
        };
        exchange(&mut newcomer, &mut veteran);
        let ready = |node: &Membership| node.members().filter(|m| m.state == MemberState::Ready).count();
        assert!(newcomer.in_touch);
        assert_eq!((newcomer.members().count(), ready(&newcomer)), (NODES as usize + 1, NODES as usize - 1));
        assert_eq!(veteran.members().count(), NODES as usize + 1);
        exchange(&mut newcomer, &mut veteran);
        println!("bytes of summary, answer and rest: {bytes:?}");
        assert!(bytes[0].iter().sum::<usize>() < 150 * NODES as usize, "{bytes:?}");
        assert!(bytes[1].iter().sum::<usize>() < 12 * NODES as usize, "{bytes:?}");
    }

    #[test]
    fn what_was_wanted_of_a_newcomer_completes_nothing_although_it_has_found_the_cluster_meanwhile() {
        let (mut veteran, mut first, mut second) = (node(1), node(2), node(3));
        let now = Duration::from_millis(1);
        veteran.handle(crate::cluster::input::Input::Tick, now).unwrap();
        second.handle(crate::cluster::input::Input::Serving(true), now).unwrap();
        let summary = first.encode_summary();
        // The second wants something that the first has: a seed's advert.
        let known = Records { members: vec![foca::Member::alive(id(9))], ..Records::default() };
        let known = first.envelope.encode(Kind::Sync, &Message::Rest(known).encode());
        first.handle_sync(&known, SyncTurn::Third, now).unwrap();
        let summary_with_it = first.encode_summary();
        let answer = second.handle_sync(&summary_with_it, SyncTurn::First, now).unwrap().unwrap();
        let found = veteran.handle_sync(&summary, SyncTurn::First, now).unwrap().unwrap();
        first.handle_sync(&found, SyncTurn::Second, now).unwrap();
        assert!(first.in_touch);
        let rest = first.handle_sync(&answer, SyncTurn::Second, now).unwrap().unwrap();
        second.handle_sync(&rest, SyncTurn::Third, now).unwrap();
        assert!(!second.in_touch);
    }

    #[test]
    fn a_node_that_is_suspected_at_the_last_incarnation_objects_under_a_renewed_identity() {
        for (incarnation, renewal) in [(u16::MAX - 1, 0), (u16::MAX, 1)] {
            let mut node = knowing(3);
            let suspicion = foca::Member::new(id(1), incarnation, foca::State::Suspect);
            let records = Records { members: vec![suspicion], ..Records::default() };
            let packet = node.envelope.encode(Kind::Sync, &Message::Rest(records).encode());
            node.handle_sync(&packet, SyncTurn::Third, Duration::ZERO).unwrap();
            node.handle(crate::cluster::input::Input::Tick, Duration::from_secs(1)).unwrap();
            assert_eq!(node.foca.identity().renewal, renewal);
            assert_eq!(node.members().next().unwrap().instance, id(1).instance, "the same process to all");
        }
    }

    #[test]
    fn a_message_out_of_turn_is_dropped() {
        let (mut a, mut b) = (node(1), node(2));
        let summary = a.encode_summary();
        for turn in [SyncTurn::Second, SyncTurn::Third] {
            assert_eq!(b.handle_sync(&summary, turn, Duration::ZERO), Err(PacketError::Malformed));
        }
    }

    /// A node that knows the next so many, and nothing to do.
    pub(in crate::cluster::membership) fn knowing(count: u16) -> Membership {
        let mut node = node(1);
        let ids = (2..2 + count).map(|n| foca::Member::alive(id(n)));
        node.foca.apply_many(ids, false, &mut node.runtime).unwrap();
        node.settle(Duration::ZERO);
        while node.poll_effect().is_some() {}
        node
    }

    #[test]
    fn exchanges_under_way_have_a_limit_and_one_that_ends_makes_room() {
        let mut node = knowing(20);
        let start = |node: &mut Membership| {
            for _ in 0..100 {
                node.sync_at = Duration::ZERO;
                node.sync(Duration::ZERO);
            }
            std::iter::from_fn(|| node.poll_effect()).filter(|e| matches!(e, Effect::Sync { .. })).count()
        };
        assert_eq!(start(&mut node), SYNCS_MAX);
        let ended = *node.syncing.first().unwrap();
        node.syncing.remove(&ended);
        assert_eq!(start(&mut node), 1);
    }

    #[test]
    fn a_few_changes_are_left_to_gossip_and_one_more_is_not() {
        let mut node = knowing(2);
        (node.sync_at, node.unsynced_count) = (SYNC_PERIOD, 0);
        node.note_changes(GOSSIP_TRUSTED_MAX, Duration::ZERO);
        assert_eq!(node.sync_at, SYNC_PERIOD);
        node.note_changes(1, Duration::ZERO);
        assert_eq!(node.sync_at, SYNC_CHURN_PERIOD);
    }

    #[test]
    fn news_up_to_the_limit_is_gossiped_and_bulk_is_not() {
        for (count, gossiped) in [(GOSSIPED_MAX, GOSSIPED_MAX), (GOSSIPED_MAX + 1, 0)] {
            let mut node = node(1);
            let members = (2..).take(count).map(|n| foca::Member::alive(id(n))).collect();
            node.apply_records(Records { members, ..Records::default() }, Duration::ZERO);
            assert_eq!(node.foca.updates_backlog(), gossiped);
        }
    }

    #[test]
    fn those_who_are_wrongly_down_are_told_up_to_the_limit() {
        let told_max = u16::try_from(CONTRADICTED_MAX).unwrap();
        for count in [told_max - 1, told_max, told_max + 1] {
            let mut node = knowing(1);
            let ids = || (100..100 + count).map(id);
            node.foca.apply_many(ids().map(foca::Member::down), false, &mut node.runtime).unwrap();
            node.tell_contradicted(&ids().map(foca::Member::alive).collect::<Vec<_>>());
            node.drain_runtime(Duration::ZERO);
            let sent = std::iter::from_fn(|| node.poll_effect());
            let told: BTreeSet<_> = sent
                .filter_map(|effect| match effect {
                    Effect::Send { to, .. } if ids().any(|id| id.addr == to) => Some(to),
                    _ => None,
                })
                .collect();
            assert_eq!(told.len(), usize::from(count.min(told_max)));
        }
    }

    #[test]
    fn suspects_are_asked_by_stream_up_to_the_limit() {
        let mut node = knowing(1);
        for n in 2..=2 + u16::try_from(super::super::suspecting::APPEALS_MAX).unwrap() {
            node.suspect(&id(n), 0, SYNC_PERIOD, Duration::ZERO);
        }
        let asked = std::iter::from_fn(|| node.poll_effect()).filter(|e| matches!(e, Effect::Sync { .. }));
        assert_eq!(asked.count(), super::super::suspecting::APPEALS_MAX);
    }
}
