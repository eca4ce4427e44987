//! The zone: which names exist and what is behind each; which records that makes is `answer`'s concern.
//!
//! Every name is known twice, bare and under the zone:
//!
//! | name | what is behind it |
//! |---|---|
//! | `<role>` | the addresses of all who serve the role |
//! | `<node>` | the address of the node |
//! | `_<role>._tcp` | address, port and weight of all who serve the role |
//! | `_gossip._udp` | where each node gossips: the first contact of every other node |
//! | `<node>.node`, `<role>.service` | the same, where a role and a node share a name |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use feed::{Endpoint, Name, RoleTable};
use hickory_proto::rr::{LowerName, Name as DomainName, RecordType};

use crate::{
    origin::Origin,
    roster::{Node, Roster},
};

/// Reverse names of fewer bits are asked of others even where there are names below: the blocks of addresses that
/// one organisation has are smaller, and larger ones have name servers of their own.
const REVERSE_PREFIX_BITS_MIN: u8 = 8;

/// What does not change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The zone.
    pub origin: Origin,
    /// TTL of every record, of negative answers too, in seconds.
    pub ttl: u32,
}

/// The names, as they are now.
#[derive(Debug)]
pub struct Zone {
    /// What it was made with.
    pub settings: Settings,
    /// The node that this server runs on; unknown until its sidecar has introduced itself.
    pub server: Option<Name>,
    /// Whether the sidecar has told all that the cluster knows. Before that a name that is missing may well exist.
    pub complete: bool,
    /// Counts the tables.
    pub serial: u32,
    roster: Roster,
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
    /// A zone of which nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, server: None, complete: false, serial: 0, roster: Roster::default() }
    }

    /// Takes a table in place of the one before.
    pub fn apply_table(&mut self, table: &RoleTable) {
        self.serial = self.serial.wrapping_add(1);
        self.roster.apply_table(table);
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
            (1, _) => self.find_host(first),
            (2, "_tcp") => first
                .strip_prefix('_')
                .and_then(|role| self.roster.role(role))
                .map(|role| Found::Service(&role.endpoints)),
            (2, "_udp") if first == "_gossip" => Some(Found::Gossip),
            (2, "node") => self.roster.node(first).map(found_node),
            (2, "service") => self.roster.role(first).map(|role| Found::Host { ips: &role.ips, node: None }),
            _ => self.find_reverse(name),
        };
        found.unwrap_or_else(|| {
            let plain = depth == 1 && matches!(record_type, RecordType::A | RecordType::AAAA);
            let below = depth == 2 && matches!(second, "_tcp" | "_udp" | "node" | "service");
            let untold = !self.complete && name.parse_arpa_name().is_ok();
            match within || plain || below || untold {
                true if self.has_names_below(name) => Found::Empty,
                true => Found::Missing,
                false => Found::Foreign,
            }
        })
    }

    fn find_host(&self, label: &str) -> Option<Found<'_>> {
        match (self.roster.role(label), self.roster.node(label)) {
            (Some(role), node) => Some(Found::Host { ips: &role.ips, node }),
            (None, Some(node)) => Some(found_node(node)),
            (None, None) => matches!(label, "node" | "service" | "_tcp" | "_udp").then_some(Found::Empty),
        }
    }

    fn find_reverse(&self, name: &LowerName) -> Option<Found<'_>> {
        let net = name.parse_arpa_name().ok()?;
        if net.prefix_len() == net.max_prefix_len() {
            return self.roster.node_at(net.addr()).map(Found::Reverse);
        }
        (net.prefix_len() >= REVERSE_PREFIX_BITS_MIN && self.has_names_below(name)).then_some(Found::Empty)
    }

    /// Whether it is a parent of the zone, or of somebody's reverse name.
    pub fn has_names_below(&self, name: &LowerName) -> bool {
        let (first, last) = match name.parse_arpa_name() {
            Ok(net) => (net.network(), net.broadcast()),
            Err(_) if name.iter().eq([b"arpa"]) => {
                (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into())
            }
            Err(_) => return self.settings.origin.is_within(name),
        };
        self.roster.any_between(first, last)
    }

    /// Those who gossip.
    pub fn gossips(&self) -> impl Iterator<Item = &Endpoint> {
        self.roster.nodes().map(|node| &node.endpoint).filter(|endpoint| endpoint.gossip_port != 0)
    }

    /// The name under which exactly this node is found.
    pub fn host_name(&self, node: &Name) -> DomainName {
        let hidden = self.roster.role(node.as_str()).is_some_and(|role| match role.endpoints.as_slice() {
            [only] => only.node != *node,
            _ => true,
        });
        let labels: &[&str] = if hidden { &[node.as_str(), "node"] } else { &[node.as_str()] };
        self.settings.origin.below(labels)
    }
}

fn found_node(node: &Node) -> Found<'_> {
    Found::Host { ips: node.ips(), node: Some(node) }
}

#[cfg(test)]
pub(crate) mod tests {
    use feed::EndpointState;

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
            routes: feed::Routes::default(),
            protocol: None,
        }
    }

    pub(crate) fn draining(node: &str, instance: u64, addr: &str) -> Endpoint {
        Endpoint { state: EndpointState::Draining, ..endpoint(node, instance, addr) }
    }

    pub(crate) fn zone(tables: &[(&str, &[Endpoint])]) -> Zone {
        let tables = tables
            .iter()
            .map(|(role, endpoints)| RoleTable::new(role.parse().unwrap(), 1, endpoints.to_vec()));
        let mut zone = Zone::new(Settings { origin: "concertina.internal".parse().unwrap(), ttl: 0 });
        (zone.server, zone.complete) = (Some("dnsserver".parse().unwrap()), true);
        for table in tables {
            zone.apply_table(&table);
        }
        zone
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
        for name in ["app.", "APP.Concertina.Internal.", "app.service.concertina.internal.", "App.Service."] {
            assert_eq!(ips(&zone, name).unwrap(), ["10.0.0.1", "10.0.0.2"], "{name}");
        }
        for name in ["app2.", "app2.concertina.internal.", "App2.node.concertina.internal.", "app2.node."] {
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
        for name in [
            "x.",
            "x.y.concertina.internal.",
            "_x._tcp.",
            "_x._udp.",
            "x.node.concertina.internal.",
            "x.node.",
        ] {
            assert_eq!(found(&zone, name), "Missing", "{name}");
        }
        for name in [".", "x.y.", "y.x.node.", "a.concertina.example.", "9.0.0.10.in-addr.arpa."] {
            assert_eq!(found(&zone, name), "Foreign", "{name}");
        }
        assert_eq!(zone.find(&lower("com."), RecordType::DS), Found::Foreign);
        let no_text = DomainName::from_labels([&[0xFF_u8][..], &[0xFF]]).unwrap();
        assert_eq!(zone.find(&LowerName::new(&no_text), RecordType::A), Found::Foreign);
    }

    #[test]
    fn names_that_have_names_below_them_exist() {
        let zone = zone(&[("app", &[endpoint("a", 1, "10.0.0.1:80"), endpoint("b", 1, "[2001:db8::1]:80")])]);
        assert_eq!(found(&zone, "concertina.internal."), "Origin");
        for label in ["node", "service", "_tcp", "_udp"] {
            assert_eq!(found(&zone, &format!("{label}.concertina.internal.")), "Empty");
            assert_eq!(found(&zone, &format!("{label}.")), "Empty");
        }
        for name in ["internal.", "10.in-addr.arpa.", "0.0.10.in-addr.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa."] {
            assert_eq!(found(&zone, name), "Empty", "{name}");
        }
        assert_eq!(found(&zone, "1.10.in-addr.arpa."), "Foreign");
        // Others have more to say of these.
        for name in [".", "in-addr.arpa.", "ip6.arpa.", "2.ip6.arpa."] {
            assert_eq!(found(&zone, name), "Foreign", "{name}");
            assert!(zone.has_names_below(&lower(name)), "{name}");
        }
        assert!(zone.has_names_below(&lower("arpa.")) && !zone.has_names_below(&lower("example.")));
        assert!(!tests::zone(&[]).has_names_below(&lower("arpa.")));
    }

    #[test]
    fn before_everything_was_told_a_reverse_name_may_be_ours() {
        let mut zone = zone(&[]);
        zone.complete = false;
        for name in ["1.0.0.10.in-addr.arpa.", "10.in-addr.arpa.", "1.ip6.arpa."] {
            assert_eq!(found(&zone, name), "Missing", "{name}");
        }
        assert_eq!(found(&zone, "example.com."), "Foreign");
    }

    #[test]
    fn reverse_names_of_both_families_are_found() {
        let zone = zone(&[("app", &[endpoint("a", 1, "10.0.0.1:80"), endpoint("b", 1, "[2001:db8::1]:80")])]);
        for addr in ["10.0.0.1", "2001:db8::1"] {
            let name = DomainName::from(addr.parse::<IpAddr>().unwrap());
            assert_eq!(found(&zone, &name.to_ascii()), "Reverse", "{name}");
        }
    }
}
