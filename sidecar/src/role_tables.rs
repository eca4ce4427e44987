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

use feed::{
    Endpoint, EndpointState, Name, RoleTable,
    frame::{Member, MemberState},
};

/// A member together with what only tables need to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub(crate) member: Member,
    pub(crate) weight: u16,
    pub(crate) since_ms: u64,
}

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
    lost: BTreeMap<Name, Vec<Lost>>,
    suspects_until: Option<Duration>,
}

impl RoleTables {
    /// Takes the members as they are now, with the names and instances of those that failed since the last call, and returns
    /// the tables that are different from before.
    pub(crate) fn apply_members<'a>(
        &mut self,
        members: impl Iterator<Item = &'a Listed>,
        failed: &BTreeSet<(Name, u64)>,
        now: Duration,
    ) -> Vec<RoleTable> {
        let mut endpoints: BTreeMap<Name, Vec<Endpoint>> =
            self.by_role.keys().map(|role| (role.clone(), Vec::new())).collect();
        let (mut names, mut addrs) = (BTreeSet::new(), BTreeSet::new());
        for listed in members {
            names.insert(&listed.member.name);
            addrs.insert(listed.member.addr);
            endpoints.entry(listed.member.role.clone()).or_default().extend(endpoint(listed));
        }
        self.note_failed(failed, now);
        self.suspects_until = None;
        for (role, lost) in &mut self.lost {
            // Whoever has the name or the address now is not the one that was lost (reuse fencing), or is it again.
            lost.retain(|lost| {
                let addr = (lost.endpoint.addr.ip(), lost.endpoint.gossip_port).into();
                !names.contains(&lost.endpoint.node) && !addrs.contains(&addr)
            });
            lost.retain(|lost| now < lost.since + MASS_SUSPECT_PERIOD);
            let present = endpoints.entry(role.clone()).or_default();
            let is_mass = lost.len() >= MASS_FAILURES_MIN && lost.len() > present.len();
            let period = if is_mass { MASS_SUSPECT_PERIOD } else { SUSPECT_PERIOD };
            for lost in lost.iter().filter(|lost| now < lost.since + period) {
                present.push(lost.endpoint.clone());
                let until = lost.since + period;
                self.suspects_until = Some(self.suspects_until.map_or(until, |other| other.min(until)));
            }
        }
        self.lost.retain(|_, lost| !lost.is_empty());
        endpoints.into_iter().filter_map(|(role, endpoints)| self.apply_role(role, endpoints)).collect()
    }

    /// An operator wants this one forgotten; the next tables are without it.
    pub(crate) fn forget_suspect(&mut self, node: &Name) {
        self.lost.values_mut().for_each(|lost| lost.retain(|lost| lost.endpoint.node != *node));
    }

    /// When the tables are to be looked at again, though nothing has happened.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.suspects_until
    }

    fn note_failed(&mut self, failed: &BTreeSet<(Name, u64)>, since: Duration) {
        for (role, table) in &self.by_role {
            let is_lost = |e: &&Endpoint| failed.contains(&(e.node.clone(), e.instance));
            for endpoint in table.ready().filter(is_lost) {
                let endpoint = Endpoint { state: EndpointState::Suspect, ..endpoint.clone() };
                self.lost.entry(role.clone()).or_default().push(Lost { endpoint, since });
            }
        }
    }

    fn apply_role(&mut self, role: Name, endpoints: Vec<Endpoint>) -> Option<RoleTable> {
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

fn endpoint(listed: &Listed) -> Option<Endpoint> {
    let member = &listed.member;
    let state = match member.state {
        MemberState::Ready => EndpointState::Ready,
        MemberState::Draining => EndpointState::Draining,
        MemberState::Joining | MemberState::Left | MemberState::Failed => return None,
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
    })
}

#[cfg(test)]
mod tests {
    use feed::Tags;

    use super::*;

    fn listed(name: &str, role: &str, state: MemberState) -> Listed {
        let member = Member {
            name: name.parse().unwrap(),
            role: role.parse().unwrap(),
            addr: "10.0.0.1:7946".parse().unwrap(),
            port: 8080,
            state,
            instance: 1,
            tags: Tags::default(),
        };
        Listed { member, weight: 100, since_ms: 1500 }
    }

    #[test]
    fn ready_and_draining_members_are_endpoints_and_no_others() {
        let states = [MemberState::Joining, MemberState::Ready, MemberState::Draining, MemberState::Failed];
        let members: Vec<_> =
            states.iter().enumerate().map(|(i, s)| listed(&format!("n{i}"), "app", *s)).collect();
        let tables = RoleTables::default().apply_members(members.iter(), &BTreeSet::new(), Duration::ZERO);
        let nodes: Vec<_> = tables[0].endpoints().iter().map(|e| e.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n2"]);
        assert_eq!(tables[0].endpoints()[0].addr, "10.0.0.1:8080".parse().unwrap());
    }

    #[test]
    fn only_changed_roles_get_a_new_generation() {
        let mut tables = RoleTables::default();
        let mut apply = |members: &[&Listed]| {
            tables.apply_members(members.iter().copied(), &BTreeSet::new(), Duration::ZERO)
        };
        let (a, b) = (listed("a", "app", MemberState::Ready), listed("b", "front", MemberState::Ready));
        assert_eq!(apply(&[&a, &b]).len(), 2);
        assert!(apply(&[&a, &b]).is_empty());
        let changed = apply(&[&a]);
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].role().as_str(), changed[0].generation()), ("front", 2));
        assert!(changed[0].endpoints().is_empty(), "a role that lost everyone has an empty table");
    }

    /// A role of so many members, numbered from 1, and its table after the first few of them failed.
    struct Scene {
        tables: RoleTables,
        members: Vec<Listed>,
    }

    impl Scene {
        fn new(count: usize) -> Self {
            let numbered = |n: usize| {
                let mut listed = listed(&format!("n{n}"), "app", MemberState::Ready);
                listed.member.instance = n as u64;
                listed.member.addr = format!("10.0.0.{n}:7946").parse().unwrap();
                listed
            };
            let mut scene =
                Self { tables: RoleTables::default(), members: (1..=count).map(numbered).collect() };
            scene.fail(0, Duration::ZERO);
            scene
        }

        /// The next so many fail.
        fn fail(&mut self, count: usize, now: Duration) -> Vec<RoleTable> {
            let failed = self.members.drain(..count).map(|l| (l.member.name, l.member.instance)).collect();
            self.tables.apply_members(self.members.iter(), &failed, now)
        }
    }

    fn states(tables: &[RoleTable]) -> (usize, usize) {
        let suspects = tables[0].endpoints().iter().filter(|e| e.state == EndpointState::Suspect).count();
        (tables[0].ready().count(), suspects)
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
        for (name, addr) in [("n1", "10.0.0.9:7946"), ("n9", "10.0.0.1:7946")] {
            let mut scene = Scene::new(2);
            scene.fail(1, Duration::ZERO);
            let mut newcomer = listed(name, "billing", MemberState::Joining);
            newcomer.member.addr = addr.parse().unwrap();
            scene.members.push(newcomer);
            assert_eq!(states(&scene.fail(0, Duration::ZERO)), (1, 0), "{name} {addr}");
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
