//! Members and adverts in, role tables out.

use std::collections::BTreeMap;

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

/// The table of every role that was ever seen.
#[derive(Debug, Default)]
pub(crate) struct RoleTables {
    by_role: BTreeMap<Name, RoleTable>,
}

impl RoleTables {
    /// Takes the members as they are now and returns the tables that are different from before.
    pub(crate) fn apply_members<'a>(&mut self, members: impl Iterator<Item = &'a Listed>) -> Vec<RoleTable> {
        let mut endpoints: BTreeMap<Name, Vec<Endpoint>> =
            self.by_role.keys().map(|role| (role.clone(), Vec::new())).collect();
        for listed in members {
            endpoints.entry(listed.member.role.clone()).or_default().extend(endpoint(listed));
        }
        endpoints.into_iter().filter_map(|(role, endpoints)| self.apply_role(role, endpoints)).collect()
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
        let tables = RoleTables::default().apply_members(members.iter());
        let nodes: Vec<_> = tables[0].endpoints().iter().map(|e| e.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n2"]);
        assert_eq!(tables[0].endpoints()[0].addr, "10.0.0.1:8080".parse().unwrap());
    }

    #[test]
    fn only_changed_roles_get_a_new_generation() {
        let mut tables = RoleTables::default();
        let (a, b) = (listed("a", "app", MemberState::Ready), listed("b", "front", MemberState::Ready));
        assert_eq!(tables.apply_members([&a, &b].into_iter()).len(), 2);
        assert!(tables.apply_members([&a, &b].into_iter()).is_empty());
        let changed = tables.apply_members([&a].into_iter());
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].role().as_str(), changed[0].generation()), ("front", 2));
        assert!(changed[0].endpoints().is_empty(), "a role that lost everyone has an empty table");
    }
}
