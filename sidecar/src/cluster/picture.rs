//! The cluster as one node sees it: every active member by address, and who has which name.
//!
//! Changed address by address, because taking the whole of it anew costs a cluster of a thousand more than everything else. It
//! holds nothing but what foca's list and the adverts say of an address at the time; who calls says which addresses may
//! have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use feed::{
    Name,
    frame::{Member, MemberState},
};

use crate::cluster::{advert::Adverts, member_id::MemberId, twins::Contest};

/// A member together with what only tables need to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub(crate) member: Member,
    pub(crate) weight: u16,
    pub(crate) since_ms: u64,
}

/// What is different about a name.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) before: Option<Listed>,
    pub(crate) after: Option<Listed>,
}

/// Least of all addresses.
const FIRST_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// See the module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Picture {
    by_addr: BTreeMap<SocketAddr, Listed>,
    /// Who claims a name; the last of a name's claims has it.
    claims: BTreeSet<(Name, u64, SocketAddr)>,
    /// Members whose advert is missing.
    silent: BTreeSet<SocketAddr>,
    /// Names with several claims of nodes that mean to stay.
    contested: BTreeSet<Name>,
}

impl Picture {
    /// Takes what is known of these addresses now: the identity that foca holds for active there, if any. Returns what is different.
    pub(crate) fn apply(
        &mut self,
        active: impl Iterator<Item = (SocketAddr, Option<MemberId>)>,
        adverts: &Adverts,
    ) -> Vec<Change> {
        let mut before = BTreeMap::new();
        for (addr, id) in active {
            let is_silent = id.as_ref().is_some_and(|id| adverts.of(addr, id.instance).is_none());
            let _ = if is_silent { self.silent.insert(addr) } else { self.silent.remove(&addr) };
            let listed = id.and_then(|id| listed(&id, adverts));
            let names = [self.by_addr.get(&addr), listed.as_ref()].map(|l| l.map(|l| l.member.name.clone()));
            for name in names.into_iter().flatten() {
                let holder = self.holder(&name).cloned();
                before.entry(name).or_insert(holder);
            }
            self.put(addr, listed);
        }
        for name in before.keys() {
            let is_contested = self.staying(name).nth(1).is_some();
            let _ =
                if is_contested { self.contested.insert(name.clone()) } else { self.contested.remove(name) };
        }
        let change = |(name, before)| Change { before, after: self.holder(&name).cloned() };
        before.into_iter().map(change).filter(|change| change.before != change.after).collect()
    }

    fn put(&mut self, addr: SocketAddr, listed: Option<Listed>) {
        let claim = |l: &Listed| (l.member.name.clone(), l.member.instance, addr);
        if let Some(before) = self.by_addr.get(&addr) {
            self.claims.remove(&claim(before));
        }
        self.claims.extend(listed.as_ref().map(claim));
        match listed {
            Some(listed) => drop(self.by_addr.insert(addr, listed)),
            None => drop(self.by_addr.remove(&addr)),
        }
    }

    /// Who has the name. Two that claim one: the later start has it (name fencing). Two at one address cannot be: foca knows one
    /// identity an address (reuse fencing).
    fn holder(&self, name: &Name) -> Option<&Listed> {
        self.by_addr.get(&self.claims_of(name).last()?)
    }

    /// Where the nodes are that claim the name, in the order of their starts.
    fn claims_of(&self, name: &Name) -> impl Iterator<Item = SocketAddr> {
        let claims = self.claims.range((name.clone(), 0, FIRST_ADDR)..);
        claims.take_while(move |(claimed, ..)| claimed == name).map(|(.., addr)| *addr)
    }

    /// Those of them that do not leave: one that does makes room for its successor.
    fn staying(&self, name: &Name) -> impl Iterator<Item = SocketAddr> {
        let stays = |addr: &SocketAddr| self.at(*addr).is_some_and(|m| m.state != MemberState::Draining);
        self.claims_of(name).filter(stays)
    }

    /// The names that several nodes claim.
    pub(crate) fn contests(&self) -> impl Iterator<Item = Contest> {
        self.contested.iter().map(|name| Contest { name: name.clone(), addrs: self.staying(name).collect() })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// Those who have their names, by name.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &Listed> {
        let mut claims = self.claims.iter().peekable();
        let holders = iter::from_fn(move || {
            let (name, _, first) = claims.next()?;
            let mut addr = first;
            while let Some((.., later)) = claims.next_if(|(next, ..)| next == name) {
                addr = later;
            }
            Some(addr)
        });
        holders.filter_map(|addr| self.by_addr.get(addr))
    }

    /// Whoever is at this address.
    pub(crate) fn at(&self, addr: SocketAddr) -> Option<&Member> {
        self.by_addr.get(&addr).map(|listed| &listed.member)
    }

    pub(crate) fn has_name(&self, name: &Name) -> bool {
        self.holder(name).is_some()
    }

    /// Everybody, whoever has the name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Member> {
        self.by_addr.values().map(|listed| &listed.member)
    }

    /// The members whose advert is missing.
    pub(crate) fn silent(&self) -> &BTreeSet<SocketAddr> {
        &self.silent
    }
}

fn listed(id: &MemberId, adverts: &Adverts) -> Option<Listed> {
    let advert = adverts.of(id.addr, id.instance);
    let state = advert.map_or(MemberState::Joining, |advert| advert.state);
    if matches!(state, MemberState::Left | MemberState::Failed) {
        return None;
    }
    let member = Member {
        name: id.node.clone(),
        role: id.role.clone(),
        addr: id.addr,
        port: advert.map_or(0, |advert| advert.port),
        admin_port: advert.map_or(0, |advert| advert.admin_port),
        state,
        instance: id.instance,
        tags: advert.map(|advert| advert.labels.tags().clone()).unwrap_or_default(),
        routes: advert.map(|advert| advert.routes.clone()).unwrap_or_default(),
        protocol: advert.and_then(|advert| advert.labels.protocol()),
        check: advert.and_then(|advert| advert.check).map(|why| why.to_string()),
    };
    let (weight, since_ms) = advert.map_or((0, 0), |advert| (advert.weight, advert.since_ms));
    Some(Listed { member, weight, since_ms })
}

/// Whoever said that it would go has left; whoever did not has failed.
pub(crate) fn how_it_went(gone: &Member, adverts: &Adverts) -> MemberState {
    match adverts.of(gone.addr, gone.instance).map(|advert| advert.state) {
        Some(MemberState::Draining | MemberState::Left) => MemberState::Left,
        _ => MemberState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8, instance: u64, name: &str) -> MemberId {
        let addr = SocketAddr::from(([10, 0, 0, n], 7946));
        MemberId { addr, instance, renewal: 0, node: name.parse().unwrap(), role: "app".parse().unwrap() }
    }

    fn apply(picture: &mut Picture, up: &[MemberId], down: &[MemberId]) -> Vec<[Option<u64>; 2]> {
        let active = up.iter().map(|id| (id.addr, Some(id.clone())));
        let gone = down.iter().map(|id| (id.addr, None));
        let changes = picture.apply(active.chain(gone), &Adverts::default());
        let instance = |listed: &Option<Listed>| listed.as_ref().map(|l| l.member.instance);
        changes.iter().map(|change| [instance(&change.before), instance(&change.after)]).collect()
    }

    #[test]
    fn the_later_start_has_the_name_and_the_earlier_has_it_again_when_that_is_gone() {
        let (early, late) = (id(2, 1, "a"), id(1, 2, "a"));
        for order in [[&early, &late], [&late, &early]] {
            let mut picture = Picture::default();
            apply(&mut picture, &[order[0].clone()], &[]);
            apply(&mut picture, &[order[1].clone()], &[]);
            assert_eq!(picture.listed().map(|l| l.member.instance).collect::<Vec<_>>(), [2]);
            assert_eq!(picture.all().count(), 2);
            let contest = Contest { name: early.node.clone(), addrs: vec![early.addr, late.addr] };
            assert_eq!(picture.contests().collect::<Vec<_>>(), [contest]);
            assert_eq!(apply(&mut picture, &[], std::slice::from_ref(&late)), [[Some(2), Some(1)]]);
            assert_eq!(picture.contests().count(), 0);
        }
    }

    #[test]
    fn a_reused_address_is_two_changes_and_nothing_new_is_none() {
        let mut picture = Picture::default();
        assert_eq!(apply(&mut picture, &[id(1, 1, "a")], &[]), [[None, Some(1)]]);
        assert!(apply(&mut picture, &[id(1, 1, "a")], &[id(2, 9, "x")]).is_empty());
        assert_eq!(apply(&mut picture, &[id(1, 2, "b")], &[]), [[Some(1), None], [None, Some(2)]]);
        assert_eq!(picture.silent().len(), 1, "nobody has an advert here");
        apply(&mut picture, &[], &[id(1, 2, "b")]);
        assert_eq!(picture, Picture::default());
    }
}
