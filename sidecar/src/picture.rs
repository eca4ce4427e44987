//! The cluster as one node sees it at one time: every active member by name.

use std::collections::BTreeMap;

use feed::{
    Name,
    frame::{Member, MemberState},
};

use crate::{advert::Adverts, member_id::MemberId, role_tables::Listed};

/// Every active member by name.
#[derive(Debug, Default)]
pub(crate) struct Picture(BTreeMap<Name, Listed>);

impl Picture {
    /// The members with these identities, as their adverts describe them. Two that claim one name: the later start has it
    /// (name fencing). Two at one address cannot be: foca knows one identity an address (reuse fencing).
    pub(crate) fn take<'a>(ids: impl Iterator<Item = &'a MemberId>, adverts: &Adverts) -> Self {
        let mut picture: BTreeMap<Name, Listed> = BTreeMap::new();
        for listed in ids.filter_map(|id| listed(id, adverts)) {
            let (name, rank) = (listed.member.name.clone(), (listed.member.instance, listed.member.addr));
            match picture.get(&name) {
                Some(known) if (known.member.instance, known.member.addr) >= rank => {}
                _ => drop(picture.insert(name, listed)),
            }
        }
        Self(picture)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn listed(&self) -> impl Iterator<Item = &Listed> {
        self.0.values()
    }

    /// What is different from `before`, with those that are gone as left or failed.
    pub(crate) fn changes_since(&self, before: &Self, adverts: &Adverts) -> Vec<Member> {
        let gone = before.0.iter().filter(|(name, _)| !self.0.contains_key(*name));
        let gone = gone.map(|(_, listed)| Member {
            state: how_it_went(&listed.member, adverts),
            ..listed.member.clone()
        });
        let known = |name: &Name| before.0.get(name).map(|listed| &listed.member);
        let changed = self.0.iter().filter(|(name, listed)| known(name) != Some(&listed.member));
        gone.chain(changed.map(|(_, listed)| listed.member.clone())).collect()
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
        state,
        instance: id.instance,
        tags: advert.map(|advert| advert.tags.clone()).unwrap_or_default(),
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
