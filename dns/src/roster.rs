//! Who serves what: the role tables, and from them who has each name and each address. A table that changes costs as
//! much as what it names, whatever else there is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    slice,
};

use feed::{Endpoint, EndpointState, Name, RoleTable};

/// The tables of all roles.
///
/// A name, and an address, belongs to the newest instance that claims it: an older one is what a restarted node has
/// left behind. What is draining is left out, since an answer is an invitation to begin something; suspects stand in
/// where nobody of their role is ready.
#[derive(Debug, Default)]
pub struct Roster {
    tables: HashMap<Name, RoleTable>,
    /// What the tables say of each node.
    claims: HashMap<Name, BTreeSet<Claim>>,
    roles: HashMap<Name, Role>,
    nodes: HashMap<Name, Node>,
    by_ip: BTreeMap<IpAddr, BTreeSet<Holder>>,
}

/// A node's place in a role's table. The newest is the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    instance: u64,
    role: Name,
}

/// A node at an address. The newest is the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    instance: u64,
    node: Name,
}

/// Those who take work of one role.
#[derive(Debug, Default)]
pub struct Role {
    /// Sorted by node.
    pub endpoints: Vec<Endpoint>,
    /// Theirs, each once: endpoints on one machine share theirs, and a record set is a set.
    pub ips: Vec<IpAddr>,
}

/// A node that takes work.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The role that it serves.
    pub role: Name,
    /// Its entry in the role's table.
    pub endpoint: Endpoint,
    ip: IpAddr,
}

impl Node {
    /// Its address, as a slice of one.
    pub fn ips(&self) -> &[IpAddr] {
        slice::from_ref(&self.ip)
    }

    fn holder(&self) -> Holder {
        Holder { instance: self.endpoint.instance, node: self.endpoint.node.clone() }
    }
}

impl Roster {
    /// Takes a table in place of the one before. Gives the roles that were arranged anew: the table's, and those
    /// that its nodes have left, or have returned to.
    pub fn apply_table(&mut self, table: &RoleTable) -> BTreeSet<Name> {
        let role = table.role();
        let before = self.tables.insert(role.clone(), table.clone());
        let before = before.as_ref().map_or(&[][..], RoleTable::endpoints);
        let named: BTreeSet<Name> = before.iter().chain(table.endpoints()).map(|e| e.node.clone()).collect();
        let newest_before: Vec<Option<u64>> = named.iter().map(|node| self.newest(node)).collect();
        for endpoint in before {
            if let Some(claims) = self.claims.get_mut(&endpoint.node) {
                claims.remove(&Claim { instance: endpoint.instance, role: role.clone() });
            }
        }
        for endpoint in table.endpoints() {
            let claims = self.claims.entry(endpoint.node.clone()).or_default();
            claims.insert(Claim { instance: endpoint.instance, role: role.clone() });
        }
        let mut arranged = BTreeSet::from([role.clone()]);
        for (node, newest_before) in named.iter().zip(newest_before) {
            if self.newest(node) != newest_before {
                arranged.extend(self.claims[node].iter().map(|claim| claim.role.clone()));
            }
            if self.claims[node].is_empty() {
                self.claims.remove(node);
            }
        }
        let mut touched = named;
        for role in &arranged {
            let now = self.arrange(role);
            touched.extend(now.endpoints.iter().map(|e| e.node.clone()));
            let before = self.roles.insert(role.clone(), now);
            touched.extend(before.into_iter().flat_map(|role| role.endpoints).map(|e| e.node));
        }
        for node in &touched {
            self.settle(node);
        }
        arranged
    }

    /// Those who serve the role; None when no table of it came.
    pub fn role(&self, role: &str) -> Option<&Role> {
        self.roles.get(role)
    }

    /// The node of that name.
    pub fn node(&self, node: &str) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node at the address.
    pub fn node_at(&self, ip: IpAddr) -> Option<&Node> {
        self.nodes.get(&self.by_ip.get(&ip)?.last()?.node)
    }

    /// Whether a node has an address between these two, or one of them.
    pub fn any_between(&self, first: IpAddr, last: IpAddr) -> bool {
        self.by_ip.range(first..=last).next().is_some()
    }

    fn newest(&self, node: &Name) -> Option<u64> {
        Some(self.claims.get(node)?.last()?.instance)
    }

    /// Those of the role's table that take work.
    fn arrange(&self, role: &Name) -> Role {
        let table = self.tables.get(role).map_or(&[][..], RoleTable::endpoints);
        let serves = |state| {
            let served = table.iter().filter(move |e| e.state == state);
            served.filter(|e| self.newest(&e.node) == Some(e.instance)).cloned().collect::<Vec<Endpoint>>()
        };
        let mut endpoints = serves(EndpointState::Ready);
        if endpoints.is_empty() {
            endpoints = serves(EndpointState::Suspect);
        }
        let ips: BTreeSet<IpAddr> = endpoints.iter().map(|e| e.addr.ip().to_canonical()).collect();
        Role { endpoints, ips: ips.into_iter().collect() }
    }

    /// Gives the node's name and address to who has them now.
    fn settle(&mut self, name: &Name) {
        let now = self.find(name);
        if let Some(before) = self.nodes.remove(name)
            && let Some(holders) = self.by_ip.get_mut(&before.ip)
        {
            holders.remove(&before.holder());
            if holders.is_empty() {
                self.by_ip.remove(&before.ip);
            }
        }
        if let Some(node) = now {
            self.by_ip.entry(node.ip).or_default().insert(node.holder());
            self.nodes.insert(name.clone(), node);
        }
    }

    /// The newest claim to the name, if it is of one that takes work. Two roles may have the same instance.
    fn find(&self, name: &Name) -> Option<Node> {
        let newest = self.newest(name)?;
        let mut claims = self.claims.get(name)?.iter().rev().take_while(|claim| claim.instance == newest);
        claims.find_map(|claim| {
            let endpoints = &self.roles.get(&claim.role)?.endpoints;
            let endpoint = &endpoints[endpoints.binary_search_by(|e| e.node.cmp(name)).ok()?];
            let ip = endpoint.addr.ip().to_canonical();
            Some(Node { role: claim.role.clone(), endpoint: endpoint.clone(), ip })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::{draining, endpoint};

    fn table(role: &str, endpoints: Vec<Endpoint>) -> RoleTable {
        RoleTable::new(role.parse().unwrap(), 1, endpoints)
    }

    fn roster(tables: &[RoleTable]) -> Roster {
        let mut roster = Roster::default();
        for table in tables {
            roster.apply_table(table);
        }
        roster
    }

    /// Everything that can be asked of it.
    fn picture(roster: &Roster) -> String {
        let sorted = |map: Vec<String>| map.into_iter().collect::<BTreeSet<_>>();
        let roles = roster.roles.iter().map(|(name, role)| format!("{name} {role:?}"));
        let nodes = roster.nodes.iter().map(|(name, node)| format!("{name} {node:?}"));
        let claims = roster.claims.iter().map(|(name, claims)| format!("{name} {claims:?}"));
        format!(
            "{:?} {:?} {:?} {:?}",
            sorted(roles.collect()),
            sorted(nodes.collect()),
            sorted(claims.collect()),
            roster.by_ip
        )
    }

    fn names(names: &[&str]) -> BTreeSet<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn five_thousand_tables_arrange_five_thousand_roles() {
        let mut roster = Roster::default();
        let arranged: usize = (0..5_000)
            .map(|i| {
                let addr = format!("10.0.{}.{}:80", i / 250, i % 250);
                let table = table(&format!("r{i}"), vec![endpoint(&format!("n{i}"), 1, &addr)]);
                roster.apply_table(&table).len()
            })
            .sum();
        assert_eq!((arranged, roster.nodes().count()), (5_000, 5_000));
    }

    #[test]
    fn a_table_arranges_the_roles_that_its_nodes_have_left_or_return_to() {
        let old = table("old", vec![endpoint("a", 1, "10.0.0.1:80"), endpoint("b", 1, "10.0.0.2:80")]);
        let mut roster = roster(&[old, table("other", vec![endpoint("c", 1, "10.0.0.3:80")])]);
        let moved = table("new", vec![endpoint("a", 2, "10.0.0.4:80")]);
        assert_eq!(roster.apply_table(&moved), names(&["new", "old"]));
        assert_eq!(roster.role("old").unwrap().endpoints.len(), 1);
        assert_eq!(roster.node("a").unwrap().role.as_str(), "new");
        assert_eq!(roster.apply_table(&table("new", vec![])), names(&["new", "old"]));
        assert_eq!(roster.node("a").unwrap().role.as_str(), "old");
        assert_eq!(roster.node_at("10.0.0.4".parse().unwrap()), None);
    }

    #[test]
    fn any_order_of_tables_makes_the_picture_that_the_last_of_each_role_makes() {
        // Nodes of one name in two roles, at one address, older, newer and of the same age, ready, draining, gone.
        let mut last: BTreeMap<&str, RoleTable> = BTreeMap::new();
        let mut changing = Roster::default();
        for step in 0_u64..300 {
            let role = ["x", "y", "z"][usize::try_from(step % 3).unwrap()];
            let endpoints = (0..4).filter(|i| (step / 3 + i) % 3 != 0).map(|i| {
                let addr = format!("10.0.0.{}:80", (step / 7 + i) % 3);
                let (node, instance) = (format!("n{}", (step + i) % 5), (step / 5 * 7 + i) % 4);
                let make = if (step + i) % 6 == 0 { draining } else { endpoint };
                make(&node, instance, &addr)
            });
            let table = table(role, endpoints.collect());
            changing.apply_table(&table);
            last.insert(role, table);
            let tables: Vec<RoleTable> = last.values().rev().cloned().collect();
            assert_eq!(picture(&changing), picture(&roster(&tables)), "step {step}");
        }
    }
}
