//! Members and adverts in, role tables out.
//!
//! Who failed is kept for a while as a suspect, which consumers use where nobody is ready. One moment's belief may be wrong: when the
//! halves of a partition meet again, each hears from the other that its own members are dead, and they need a round trip
//! to object. And where most of a role vanishes at once, the network or this node is the likelier cause than all of
//! them (the mass-failure guard): those stay longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use feed::{Endpoint, EndpointState, Name, RoleTable, frame::MemberState};

use crate::cluster::picture::{Change, Listed, Picture};

/// How long one who failed is a suspect: ten times what a wrongly accused member needs to be heard again by all.
const SUSPECT_PERIOD: Duration = Duration::from_secs(3);
/// The same where more than half of the role failed within this time. A switch is replaced, a partition noticed, within it.
const MASS_SUSPECT_PERIOD: Duration = Duration::from_secs(60);
/// Fewer failures than this are no mass failure, whatever their share.
const MASS_FAILURES_MIN: usize = 2;

/// One who failed.
#[derive(Debug)]
struct Lost {
    endpoint: Endpoint,
    since: Duration,
}

/// The table of every role that was ever seen.
#[derive(Debug, Default)]
pub(crate) struct RoleTables {
    by_role: BTreeMap<Name, RoleTable>,
    /// Who is in each of them by name, suspects excluded.
    present: BTreeMap<Name, BTreeMap<Name, Endpoint>>,
    lost: BTreeMap<Name, Vec<Lost>>,
    suspects_until: Option<Duration>,
}

impl RoleTables {
    /// Takes the changes that led to this picture, with the names of those that failed, and returns the tables that are
    /// different from before.
    pub(crate) fn apply_changes(
        &mut self,
        changes: &[Change],
        failed: &BTreeSet<Name>,
        picture: &Picture,
        now: Duration,
    ) -> Vec<RoleTable> {
        let mut touched: BTreeSet<Name> = self.lost.keys().cloned().collect();
        for Change { before, after } in changes {
            for Listed { member, .. } in [before, after].into_iter().flatten() {
                touched.insert(member.role.clone());
            }
            if let Some(before) = before {
                self.take_out(before, failed.contains(&before.member.name), now);
            }
            if let Some((after, endpoint)) = after.as_ref().and_then(|after| Some((after, endpoint(after)?)))
            {
                let present = self.present.entry(after.member.role.clone()).or_default();
                present.insert(after.member.name.clone(), endpoint);
            }
        }
        self.suspects_until = None;
        let tables: Vec<RoleTable> =
            touched.into_iter().filter_map(|role| self.apply_role(role, picture, now)).collect();
        self.lost.retain(|_, lost| !lost.is_empty());
        tables
    }

    /// An operator wants this one forgotten; the next tables are without it.
    pub(crate) fn forget_suspect(&mut self, node: &Name) {
        self.lost.values_mut().for_each(|lost| lost.retain(|lost| lost.endpoint.node != *node));
    }

    /// When the tables are to be looked at again, though nothing has happened.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.suspects_until
    }

    fn take_out(&mut self, before: &Listed, has_failed: bool, since: Duration) {
        let role = &before.member.role;
        let present = self.present.get_mut(role).and_then(|present| present.remove(&before.member.name));
        if let Some(endpoint) = present.filter(|e| has_failed && e.state == EndpointState::Ready) {
            let endpoint = Endpoint { state: EndpointState::Suspect, ..endpoint };
            self.lost.entry(role.clone()).or_default().push(Lost { endpoint, since });
        }
    }

    fn apply_role(&mut self, role: Name, picture: &Picture, now: Duration) -> Option<RoleTable> {
        let present = self.present.entry(role.clone()).or_default();
        let mut endpoints: Vec<Endpoint> = present.values().cloned().collect();
        if let Some(lost) = self.lost.get_mut(&role) {
            lost.retain(|lost| now < lost.since + MASS_SUSPECT_PERIOD && !is_replaced(lost, picture));
            let is_mass = lost.len() >= MASS_FAILURES_MIN && lost.len() > present.len();
            let period = if is_mass { MASS_SUSPECT_PERIOD } else { SUSPECT_PERIOD };
            for lost in lost.iter().filter(|lost| now < lost.since + period) {
                endpoints.push(lost.endpoint.clone());
                let until = lost.since + period;
                self.suspects_until = Some(self.suspects_until.map_or(until, |other| other.min(until)));
            }
        }
        let known = self.by_role.get(&role);
        let generation = known.map_or(0, RoleTable::generation) + 1;
        let table = RoleTable::new(role.clone(), generation, endpoints);
        if known.is_some_and(|known| known.endpoints() == table.endpoints()) {
            return None;
        }
        self.by_role.insert(role, table.clone());
        Some(table)
    }
}

/// Whoever has the name or the address now is not the one that was lost (reuse fencing), or is it again.
fn is_replaced(lost: &Lost, picture: &Picture) -> bool {
    let addr = (lost.endpoint.addr.ip(), lost.endpoint.gossip_port).into();
    picture.has_name(&lost.endpoint.node) || picture.at(addr).is_some()
}

fn endpoint(listed: &Listed) -> Option<Endpoint> {
    let member = &listed.member;
    let state = match member.state {
        MemberState::Ready => EndpointState::Ready,
        MemberState::Draining => EndpointState::Draining,
        MemberState::Joining
        | MemberState::Alone
        | MemberState::Checking
        | MemberState::Unhealthy
        | MemberState::Left
        | MemberState::Failed => return None,
    };
    // Seconds with a fraction, because that is what every other time in JSON looks like.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this millennium are exact in an f64")]
    let since = listed.since_ms as f64 / 1000.0;
    Some(Endpoint {
        node: member.name.clone(),
        instance: member.instance,
        addr: (member.addr.ip(), member.port).into(),
        state,
        weight: listed.weight,
        since,
        gossip_port: member.addr.port(),
        tags: member.tags.clone(),
        routes: member.routes.clone(),
        protocol: member.protocol,
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::cluster::{advert::Adverts, advert::tests::advert, member_id::MemberId};

    /// Members and the tables that follow from them.
    #[derive(Default)]
    struct Scene {
        tables: RoleTables,
        picture: Picture,
        adverts: Adverts,
        ids: Vec<MemberId>,
    }

    impl Scene {
        /// An app of so many members, numbered from 1.
        fn new(count: u8) -> Self {
            let mut scene = Self::default();
            (1..=count).for_each(|n| drop(scene.join(n, &format!("n{n}"), "app", MemberState::Ready)));
            scene
        }

        fn join(&mut self, n: u8, name: &str, role: &str, state: MemberState) -> Vec<RoleTable> {
            let addr = SocketAddr::from(([10, 0, 0, n], 7946));
            let advert = advert(&addr.to_string(), 100, 1);
            self.adverts.apply(
                crate::cluster::advert::Advert { state, ..advert },
                (feed::explain::Evidence::Sync, None),
            );
            let (node, role) = (name.parse().unwrap(), role.parse().unwrap());
            let id = MemberId { addr, instance: 100, renewal: 0, node, role };
            self.ids.push(id.clone());
            let changes = self.picture.apply([(addr, Some(id))].into_iter(), &self.adverts);
            self.tables.apply_changes(&changes, &BTreeSet::new(), &self.picture, Duration::ZERO)
        }

        /// The next so many fail.
        fn fail(&mut self, count: usize, now: Duration) -> Vec<RoleTable> {
            let failed: Vec<MemberId> = self.ids.drain(..count).collect();
            let gone = failed.iter().map(|id| (id.addr, None));
            let changes = self.picture.apply(gone, &self.adverts);
            let failed = failed.into_iter().map(|id| id.node).collect();
            self.tables.apply_changes(&changes, &failed, &self.picture, now)
        }
    }

    fn states(tables: &[RoleTable]) -> (usize, usize) {
        let suspects = tables[0].endpoints().iter().filter(|e| e.state == EndpointState::Suspect).count();
        (tables[0].ready().count(), suspects)
    }

    #[test]
    fn ready_and_draining_members_are_endpoints_and_no_others() {
        let mut scene = Scene::default();
        scene.join(1, "n1", "app", MemberState::Joining);
        scene.join(2, "n2", "app", MemberState::Ready);
        let tables = scene.join(3, "n3", "app", MemberState::Draining);
        let endpoints = tables[0].endpoints();
        assert_eq!(endpoints.iter().map(|e| e.node.as_str()).collect::<Vec<_>>(), ["n2", "n3"]);
        assert_eq!(endpoints[0].addr, "10.0.0.2:8080".parse().unwrap());
        assert!(scene.join(4, "n4", "app", MemberState::Failed).is_empty());
    }

    #[test]
    fn only_changed_roles_get_a_new_generation() {
        let mut scene = Scene::new(1);
        assert_eq!(scene.join(2, "b", "front", MemberState::Ready).len(), 1);
        assert!(scene.join(2, "b", "front", MemberState::Ready).is_empty());
        scene.adverts.apply(
            crate::cluster::advert::Advert { state: MemberState::Left, ..advert("10.0.0.2:7946", 100, 2) },
            (feed::explain::Evidence::Sync, None),
        );
        let id = scene.ids[1].clone();
        let changes = scene.picture.apply([(id.addr, Some(id))].into_iter(), &scene.adverts);
        let changed = scene.tables.apply_changes(&changes, &BTreeSet::new(), &scene.picture, Duration::ZERO);
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].role().as_str(), changed[0].generation()), ("front", 2));
        assert!(changed[0].endpoints().is_empty(), "a role that lost everyone has an empty table");
    }

    #[test]
    fn who_failed_is_a_suspect_for_a_moment() {
        let mut scene = Scene::new(3);
        assert_eq!(states(&scene.fail(1, Duration::ZERO)), (2, 1));
        assert_eq!(scene.tables.next_deadline(), Some(SUSPECT_PERIOD));
        assert!(scene.fail(0, SUSPECT_PERIOD - Duration::from_millis(1)).is_empty());
        assert_eq!(states(&scene.fail(0, SUSPECT_PERIOD)), (2, 0));
        assert_eq!(scene.tables.next_deadline(), None);
    }

    #[test]
    fn more_than_half_of_a_role_that_fails_stays_for_longer_and_half_does_not() {
        for (failing, kept) in [(2, 0), (3, 3)] {
            let mut scene = Scene::new(4);
            assert_eq!(states(&scene.fail(failing, Duration::ZERO)), (4 - failing, failing));
            scene.fail(0, SUSPECT_PERIOD);
            let table = scene.tables.by_role["app"].clone();
            assert_eq!(states(&[table]), (4 - failing, kept));
        }
        let mut scene = Scene::new(2);
        scene.fail(2, Duration::ZERO);
        assert!(scene.fail(0, MASS_SUSPECT_PERIOD - Duration::from_millis(1)).is_empty());
        assert_eq!(states(&scene.fail(0, MASS_SUSPECT_PERIOD)), (0, 0));
    }

    #[test]
    fn one_failure_is_no_mass_failure() {
        let mut scene = Scene::new(1);
        assert_eq!(states(&scene.fail(1, Duration::ZERO)), (0, 1));
        assert_eq!(states(&scene.fail(0, SUSPECT_PERIOD)), (0, 0));
    }

    #[test]
    fn whoever_has_a_suspects_name_or_address_takes_its_place() {
        for (name, at) in [("n1", 9), ("n9", 1)] {
            let mut scene = Scene::new(2);
            scene.fail(1, Duration::ZERO);
            let tables = scene.join(at, name, "billing", MemberState::Joining);
            let app = tables.iter().filter(|table| table.role().as_str() == "app").cloned();
            assert_eq!(states(&app.collect::<Vec<_>>()), (1, 0), "{name} at {at}");
        }
    }

    #[test]
    fn a_forgotten_suspect_is_in_the_next_table_no_more() {
        let mut scene = Scene::new(2);
        scene.fail(2, Duration::ZERO);
        scene.tables.forget_suspect(&"n1".parse().unwrap());
        assert_eq!(states(&scene.fail(0, Duration::ZERO)), (0, 1));
    }
}
