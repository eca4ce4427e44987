//! The zone: the role tables, arranged for looking names up. An immutable snapshot that knows which names exist
//! and what is behind each; which records that makes is `answer`'s concern.
//!
//! Every name is known twice, bare and under the zone:
//!
//! | name | what is behind it |
//! |---|---|
//! | `<role>` | the addresses of all who serve the role |
//! | `<node>` | the address of the node |
//! | `_<role>._tcp` | address, port and weight of all who serve the role |
//! | `_gossip._udp` | where each node gossips: the first contact of every other node |
//! | `<node>.node.<zone>`, `<role>.service.<zone>` | the same, where a role and a node share a name |

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    slice,
};

use feed::{Endpoint, EndpointState, Name, RoleTable};
use hickory_server::proto::rr::{LowerName, Name as DomainName, RecordType};

use crate::origin::Origin;

/// What stays the same from one snapshot to the next.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The zone.
    pub origin: Origin,
    /// TTL of every record, of negative answers too, in seconds.
    pub ttl: u32,
}

/// The snapshot.
#[derive(Debug)]
pub struct Zone {
    /// What it was built with.
    pub settings: Settings,
    /// The node that this server runs on; unknown until its sidecar has introduced itself.
    pub server: Option<Name>,
    /// Counts the snapshots.
    pub serial: u32,
    roles: HashMap<Name, Role>,
    nodes: HashMap<Name, Node>,
    by_ip: HashMap<IpAddr, Name>,
}

#[derive(Debug, Default)]
struct Role {
    endpoints: Vec<Endpoint>,
    /// Those of the endpoints, each once: endpoints on one machine share theirs, and a record set is a set.
    ips: Vec<IpAddr>,
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

/// What is behind a name.
#[derive(Debug, PartialEq)]
pub enum Found<'z> {
    /// The zone itself.
    Origin,
    /// Nothing, but there are names below it, so it exists (RFC 8020).
    Empty,
    /// A role, a node, or both.
    Host {
        /// The addresses, each once. Those of the role where both have the name: others depend on it, while the
        /// node has a second name.
        ips: &'z [IpAddr],
        /// The node.
        node: Option<&'z Node>,
    },
    /// Those who serve a role.
    Service(&'z [Endpoint]),
    /// Those who gossip: [`Zone::gossips`].
    Gossip,
    /// The node at the address that the name spells backwards.
    Reverse(&'z Node),
    /// It would be here if it existed.
    Missing,
    /// Somebody else's name.
    Foreign,
}

impl Zone {
    /// The snapshot of these tables.
    ///
    /// A name, and an address, belongs to the newest instance that claims it: an older one is what a restarted
    /// node has left behind. What is draining is left out, since an answer is an invitation to begin something; suspects stand in
    /// where nobody of their role is ready.
    pub fn new<'t>(
        settings: Settings,
        server: Option<Name>,
        serial: u32,
        tables: impl Iterator<Item = &'t RoleTable> + Clone,
    ) -> Self {
        let mut newest: HashMap<&Name, u64> = HashMap::new();
        for endpoint in tables.clone().flat_map(RoleTable::endpoints) {
            let instance = newest.entry(&endpoint.node).or_default();
            *instance = endpoint.instance.max(*instance);
        }
        let is_newest = |e: &Endpoint| newest.get(&e.node) == Some(&e.instance);
        let mut roles: HashMap<Name, Role> = HashMap::new();
        let mut nodes: HashMap<Name, Node> = HashMap::new();
        let mut by_ip: HashMap<IpAddr, Name> = HashMap::new();
        for table in tables {
            let serves = |state| {
                let served = table.endpoints().iter().filter(move |e| e.state == state);
                served.filter(|e| is_newest(e)).cloned().collect::<Vec<Endpoint>>()
            };
            let mut endpoints = serves(EndpointState::Ready);
            if endpoints.is_empty() {
                endpoints = serves(EndpointState::Suspect);
            }
            for endpoint in &endpoints {
                let ip = endpoint.addr.ip().to_canonical();
                let node = Node { role: table.role().clone(), endpoint: endpoint.clone(), ip };
                nodes.insert(endpoint.node.clone(), node);
                let holder = by_ip.entry(ip).or_insert_with(|| endpoint.node.clone());
                if newest.get(&*holder) < Some(&endpoint.instance) {
                    *holder = endpoint.node.clone();
                }
            }
            let ips: BTreeSet<IpAddr> = endpoints.iter().map(|e| e.addr.ip().to_canonical()).collect();
            roles.insert(table.role().clone(), Role { endpoints, ips: ips.into_iter().collect() });
        }
        Self { settings, server, serial, roles, nodes, by_ip }
    }

    /// What is behind the name.
    ///
    /// The type matters for unknown names of one label only: asking others for the address of a plain name would
    /// bring back the root's word that it does not exist, good for a day, when the role may start in a second.
    /// The other types of such a name are questions about top-level domains.
    pub fn find(&self, name: &LowerName, record_type: RecordType) -> Found<'_> {
        let within = self.settings.origin.contains(name);
        let depth = name.iter().count() - if within { self.settings.origin.name().iter().count() } else { 0 };
        // The empty text is no Name, so it finds nothing.
        let mut labels = name.iter().map(|label| str::from_utf8(label).unwrap_or_default());
        let (first, second) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
        let found = match (depth, second) {
            (0, _) if within => Some(Found::Origin),
            (1, _) => self.find_host(first, within),
            (2, "_tcp") => first
                .strip_prefix('_')
                .and_then(|role| self.roles.get(role))
                .map(|role| Found::Service(&role.endpoints)),
            (2, "_udp") if first == "_gossip" => Some(Found::Gossip),
            (2, "node") if within => self.nodes.get(first).map(Node::found),
            (2, "service") if within => {
                self.roles.get(first).map(|role| Found::Host { ips: &role.ips, node: None })
            }
            _ => self.find_reverse(name),
        };
        let plain = depth == 1 && matches!(record_type, RecordType::A | RecordType::AAAA);
        let service = depth == 2 && matches!(second, "_tcp" | "_udp");
        found.unwrap_or(if within || plain || service { Found::Missing } else { Found::Foreign })
    }

    fn find_host(&self, label: &str, within: bool) -> Option<Found<'_>> {
        match (self.roles.get(label), self.nodes.get(label)) {
            (Some(role), node) => Some(Found::Host { ips: &role.ips, node }),
            (None, Some(node)) => Some(node.found()),
            (None, None) => {
                (within && matches!(label, "node" | "service" | "_tcp" | "_udp")).then_some(Found::Empty)
            }
        }
    }

    fn find_reverse(&self, name: &LowerName) -> Option<Found<'_>> {
        let net = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len())?;
        let node = self.by_ip.get(&net.addr())?;
        self.nodes.get(node).map(Found::Reverse)
    }

    /// Those who gossip.
    pub fn gossips(&self) -> impl Iterator<Item = &Endpoint> {
        self.nodes.values().map(|node| &node.endpoint).filter(|endpoint| endpoint.gossip_port != 0)
    }

    /// The name under which exactly this node is found.
    pub fn host_name(&self, node: &Name) -> DomainName {
        let hidden = self.roles.get(node).is_some_and(|role| match role.endpoints.as_slice() {
            [only] => only.node != *node,
            _ => true,
        });
        let labels: &[&str] = if hidden { &[node.as_str(), "node"] } else { &[node.as_str()] };
        self.settings.origin.below(labels)
    }
}

impl Node {
    fn found(&self) -> Found<'_> {
        Found::Host { ips: slice::from_ref(&self.ip), node: Some(self) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn endpoint(node: &str, instance: u64, addr: &str) -> Endpoint {
        Endpoint {
            node: node.parse().unwrap(),
            instance,
            addr: addr.parse().unwrap(),
            state: EndpointState::Ready,
            weight: 100,
            since: 1.5,
            gossip_port: 7946,
            tags: feed::Tags::default(),
        }
    }

    pub(crate) fn draining(node: &str, instance: u64, addr: &str) -> Endpoint {
        Endpoint { state: EndpointState::Draining, ..endpoint(node, instance, addr) }
    }

    pub(crate) fn zone(tables: &[(&str, &[Endpoint])]) -> Zone {
        let tables: Vec<RoleTable> = tables
            .iter()
            .map(|(role, endpoints)| RoleTable::new(role.parse().unwrap(), 1, endpoints.to_vec()))
            .collect();
        let settings = Settings { origin: "concertina.internal".parse().unwrap(), ttl: 0 };
        Zone::new(settings, Some("dnsserver".parse().unwrap()), 7, tables.iter())
    }

    pub(crate) fn lower(name: &str) -> LowerName {
        LowerName::new(&DomainName::from_ascii(name).unwrap())
    }

    /// The addresses behind a name; none when it is no host.
    fn ips(zone: &Zone, name: &str) -> Option<Vec<String>> {
        match zone.find(&lower(name), RecordType::A) {
            Found::Host { ips, .. } => Some(ips.iter().map(IpAddr::to_string).collect()),
            _ => None,
        }
    }

    fn found(zone: &Zone, name: &str) -> String {
        let found = format!("{:?}", zone.find(&lower(name), RecordType::A));
        found.split(['(', ' ']).next().unwrap().to_owned()
    }

    #[test]
    fn suspects_stand_in_where_nobody_of_their_role_is_ready() {
        let suspect = || Endpoint { state: EndpointState::Suspect, ..endpoint("app1", 1, "10.0.0.1:80") };
        let alone = zone(&[("app", &[suspect()])]);
        assert_eq!(ips(&alone, "app.").unwrap(), ["10.0.0.1"]);
        assert_eq!(ips(&alone, "app1.").unwrap(), ["10.0.0.1"]);
        let beside = zone(&[("app", &[suspect(), endpoint("app2", 2, "10.0.0.2:80")])]);
        assert_eq!(ips(&beside, "app.").unwrap(), ["10.0.0.2"]);
        assert_eq!(ips(&beside, "app1."), None);
    }

    #[test]
    fn roles_and_nodes_are_found_bare_and_under_the_zone_in_any_case() {
        let zone =
            zone(&[("app", &[endpoint("app1", 1, "10.0.0.1:80"), endpoint("app2", 2, "10.0.0.2:80")])]);
        for name in ["app.", "APP.Concertina.Internal.", "app.service.concertina.internal."] {
            assert_eq!(ips(&zone, name).unwrap(), ["10.0.0.1", "10.0.0.2"], "{name}");
        }
        for name in ["app2.", "app2.concertina.internal.", "App2.node.concertina.internal."] {
            assert_eq!(ips(&zone, name).unwrap(), ["10.0.0.2"], "{name}");
        }
    }

    #[test]
    fn draining_endpoints_are_gone_as_role_node_and_address() {
        let zone =
            zone(&[("app", &[draining("app1", 1, "10.0.0.1:80"), endpoint("app2", 2, "10.0.0.2:80")])]);
        assert_eq!(ips(&zone, "app.").unwrap(), ["10.0.0.2"]);
        assert_eq!(found(&zone, "app1."), "Missing");
        assert_eq!(found(&zone, "1.0.0.10.in-addr.arpa."), "Foreign");
        assert_eq!(found(&zone, "2.0.0.10.in-addr.arpa."), "Reverse");
        assert_eq!(zone.gossips().count(), 1);
    }

    #[test]
    fn the_newest_instance_has_the_name() {
        let zone = zone(&[
            ("app", &[endpoint("app1", 1, "10.0.0.1:80"), endpoint("app1", 2, "10.0.0.9:80")]),
            ("other", &[draining("app2", 2, "10.0.0.8:80")]),
            ("third", &[endpoint("app2", 1, "10.0.0.2:80")]),
        ]);
        assert_eq!(ips(&zone, "app1.").unwrap(), ["10.0.0.9"]);
        assert_eq!(ips(&zone, "app.").unwrap(), ["10.0.0.9"]);
        assert_eq!(found(&zone, "app2."), "Missing");
        assert_eq!(ips(&zone, "third.").unwrap(), [""; 0]);
    }

    #[test]
    fn the_newest_instance_has_the_address() {
        for (a, b) in [(1, 2), (2, 1)] {
            let zone = zone(&[("app", &[endpoint("a", a, "10.0.0.1:80"), endpoint("b", b, "10.0.0.1:81")])]);
            let Found::Reverse(node) = zone.find(&lower("1.0.0.10.in-addr.arpa."), RecordType::PTR) else {
                panic!("the address is known")
            };
            assert_eq!(node.endpoint.node.as_str(), if a > b { "a" } else { "b" });
            assert_eq!(ips(&zone, "app.").unwrap(), ["10.0.0.1"]);
        }
    }

    #[test]
    fn a_role_keeps_its_name_before_a_node_that_is_called_the_same() {
        let zone = zone(&[
            ("app", &[endpoint("app1", 1, "10.0.0.1:80")]),
            ("dnsserver", &[endpoint("dnsserver", 1, "10.0.0.2:53")]),
            ("rogue", &[endpoint("app", 1, "10.0.0.3:80")]),
        ]);
        assert_eq!(ips(&zone, "app.").unwrap(), ["10.0.0.1"]);
        assert_eq!(ips(&zone, "app.node.concertina.internal.").unwrap(), ["10.0.0.3"]);
        let host_name = |node: &str| zone.host_name(&node.parse().unwrap()).to_string();
        assert_eq!(host_name("app"), "app.node.concertina.internal.");
        assert_eq!(host_name("dnsserver"), "dnsserver.concertina.internal.");
        assert_eq!(host_name("app1"), "app1.concertina.internal.");
    }

    #[test]
    fn an_empty_role_is_known() {
        let zone = zone(&[("app", &[])]);
        assert_eq!(ips(&zone, "app.").unwrap(), [""; 0]);
        assert_eq!(found(&zone, "_app._tcp."), "Service");
    }

    #[test]
    fn unknown_names_are_ours_or_somebody_elses() {
        let zone = zone(&[]);
        for name in ["x.", "x.y.concertina.internal.", "_x._tcp.", "_x._udp.", "x.node.concertina.internal."]
        {
            assert_eq!(found(&zone, name), "Missing", "{name}");
        }
        for name in [".", "x.y.", "x.node.", "a.concertina.example.", "9.0.0.10.in-addr.arpa."] {
            assert_eq!(found(&zone, name), "Foreign", "{name}");
        }
        assert_eq!(zone.find(&lower("com."), RecordType::DS), Found::Foreign);
        let no_text = DomainName::from_labels([&[0xFF_u8][..], &[0xFF]]).unwrap();
        assert_eq!(zone.find(&LowerName::new(&no_text), RecordType::A), Found::Foreign);
    }

    #[test]
    fn names_that_have_names_below_them_exist() {
        let zone = zone(&[]);
        assert_eq!(found(&zone, "concertina.internal."), "Origin");
        for label in ["node", "service", "_tcp", "_udp"] {
            assert_eq!(found(&zone, &format!("{label}.concertina.internal.")), "Empty");
        }
    }

    #[test]
    fn reverse_names_of_both_families_are_found_when_complete() {
        let zone = zone(&[("app", &[endpoint("a", 1, "10.0.0.1:80"), endpoint("b", 1, "[2001:db8::1]:80")])]);
        for addr in ["10.0.0.1", "2001:db8::1"] {
            let name = DomainName::from(addr.parse::<IpAddr>().unwrap());
            assert_eq!(found(&zone, &name.to_ascii()), "Reverse", "{name}");
        }
        assert_eq!(found(&zone, "0.0.10.in-addr.arpa."), "Foreign");
    }
}
