//! What runs in a local cluster beside its dnsserver and proxyserver, and what its nodes are called.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

use feed::{EndpointProtocol, Name, Route, Routes, Tags};
use sidecar::{config::Check, node::supervise::StopSignal};

use super::command_line::CommandLine;
pub(super) use crate::place::PROXY;

/// The second byte of the loopback addresses that a cluster takes first, so that people and documents know the addresses of the only cluster of a machine.
pub(super) const NETWORK_FIRST: u8 = 89;

/// Most nodes of one role: the last byte of an address counts them.
pub(super) const NODES_OF_ROLE_MAX: u8 = 250;
/// Most services: their nodes' own ports fit below those that the kernel gives out by itself, from 32,768 on.
pub(super) const SERVICES_MAX: usize = 48;

/// Where the ports begin that nodes have for themselves, and how many there are.
const OWN_PORT_FIRST: u16 = 20_000;
const OWN_PORTS: u16 = SERVICES_MAX as u16 * NODES_OF_ROLE_MAX as u16;
/// How many clusters of a machine begin at different ports, each some services after the one before.
const CLUSTERS_APART: u16 = 12;

const DNS: &str = "dnsserver";
/// What `scale` and people call the services of the example.
const SHORT_NAMES: [(&str, &str); 2] = [("front", "frontserver"), ("app", "appserver")];

/// A service: so many nodes of one role.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) role: Name,
    /// How many nodes there are at the start.
    pub(super) count: u8,
    pub(super) port: Port,
    pub(super) process: Process,
}

/// The port of a service's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// They serve nothing.
    None,
    /// This one, each at its own address.
    Same(u16),
    /// One for each node: a program that listens at all addresses has it for itself, too.
    Own,
}

/// What the nodes of a service run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// The front of the example.
    Front,
    /// The app of the example.
    App,
    /// A program of the user's.
    Program(Box<Program>),
}

/// A program of the user's, and what its sidecar is told of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) command: CommandLine,
    pub(super) dir: PathBuf,
    pub(super) env: BTreeMap<String, String>,
    pub(super) check: Option<Check>,
    pub(super) routes: Routes,
    pub(super) protocol: Option<EndpointProtocol>,
    pub(super) tags: Tags,
    pub(super) stop_signal: Option<StopSignal>,
    pub(super) stop_timeout: Option<Duration>,
    pub(super) drain_timeout: Option<Duration>,
}

/// A service of a cluster, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceId(u8);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dns,
    Proxy,
    /// The n-th of a service, from 1.
    Of(ServiceId, u8),
}

impl Kind {
    /// Whether the node is one of a service's.
    pub(super) fn is_of(self, service: ServiceId) -> bool {
        matches!(self, Self::Of(of, _) if of == service)
    }

    /// Which it is of its service's nodes.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Dns | Self::Proxy => 0,
            Self::Of(_, number) => number,
        }
    }

    pub(super) fn ip(self, network: u8) -> Ipv4Addr {
        let (third, fourth) = match self {
            Self::Dns => (0, 2),
            Self::Proxy => (0, 3),
            Self::Of(ServiceId(service), number) => (service + 1, number),
        };
        Ipv4Addr::new(127, network, third, fourth)
    }
}

/// Why services cannot be of one cluster.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Clash {
    #[error("{0} is started in every local cluster: expected another name")]
    Reserved(Name),
    #[error("{0}: its nodes would have names of more than 63 bytes: expected a name of at most 60")]
    TooLong(Name),
    #[error(
        "{0}: nodes of {1} would have the names of its nodes: expected names that do not differ by a number"
    )]
    SameNodes(Name, Name),
    #[error("{0} services, over {SERVICES_MAX}")]
    TooMany(usize),
}

/// The services of a cluster, which do not clash.
#[derive(Debug)]
pub(super) struct Services(Vec<Service>);

impl Services {
    /// Those of the example.
    pub(super) fn of_example(front: u8, app: u8, port: u16) -> Self {
        let service =
            |role, count, process| Service { role: constant(role), count, port: Port::Same(port), process };
        Self(vec![service("frontserver", front, Process::Front), service("appserver", app, Process::App)])
    }

    /// These. Of a clash, whose it is, too.
    pub(super) fn new(services: Vec<Service>) -> Result<Self, (usize, Clash)> {
        if services.len() > SERVICES_MAX {
            return Err((SERVICES_MAX, Clash::TooMany(services.len())));
        }
        for (place, Service { role, .. }) in services.iter().enumerate() {
            let clash = |clash| Err((place, clash));
            if [DNS, PROXY].contains(&role.as_str()) {
                return clash(Clash::Reserved(role.clone()));
            }
            if format!("{role}{NODES_OF_ROLE_MAX}").parse::<Name>().is_err() {
                return clash(Clash::TooLong(role.clone()));
            }
            let first = format!("{role}1");
            let mut others = services.iter().map(|other| &other.role);
            if let Some(other) =
                others.find(|other| *other != role && number(&first, other.as_str()).is_some())
            {
                return clash(Clash::SameNodes(role.clone(), other.clone()));
            }
        }
        Ok(Self(services))
    }

    /// Each of them.
    pub(super) fn ids(&self) -> impl Iterator<Item = ServiceId> + use<> {
        // There are few enough.
        (0..self.0.len() as u8).map(ServiceId)
    }

    /// What they claim.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        let programs = self.0.iter().filter_map(|service| match &service.process {
            Process::Program(program) => Some(program),
            Process::Front | Process::App => None,
        });
        programs.flat_map(|program| program.routes.iter())
    }

    pub(super) fn get(&self, id: ServiceId) -> &Service {
        &self.0[usize::from(id.0)]
    }

    /// The service that a person calls so.
    pub(super) fn find(&self, name: &Name) -> Option<ServiceId> {
        let is = |role: &str| self.ids().find(|id| self.get(*id).role.as_str() == role);
        is(name.as_str()).or_else(|| is(long_name(name.as_str())))
    }

    /// The node of this name.
    pub(super) fn parse(&self, name: &Name) -> Option<Kind> {
        match name.as_str() {
            DNS => Some(Kind::Dns),
            PROXY => Some(Kind::Proxy),
            name => self
                .ids()
                .find_map(|id| number(name, self.get(id).role.as_str()).map(|number| Kind::Of(id, number))),
        }
    }

    pub(super) fn role(&self, kind: Kind) -> Name {
        match kind {
            Kind::Dns => constant(DNS),
            Kind::Proxy => constant(PROXY),
            Kind::Of(service, _) => self.get(service).role.clone(),
        }
    }

    pub(super) fn name(&self, kind: Kind) -> Name {
        match kind {
            Kind::Dns | Kind::Proxy => self.role(kind),
            Kind::Of(service, number) => {
                let name = format!("{}{number}", self.get(service).role);
                name.parse().expect("a role that leaves room for its nodes' numbers")
            }
        }
    }

    /// Which ports a service's node would like to have, the best first; none: it serves nothing. Clusters on one machine begin at different
    /// places, since programs that listen at all addresses meet there.
    pub(super) fn ports(&self, service: ServiceId, number: u8, network: u8) -> Vec<u16> {
        let of_role = u16::from(NODES_OF_ROLE_MAX);
        match self.get(service).port {
            Port::None => Vec::new(),
            Port::Same(port) => vec![port],
            Port::Own => {
                let clusters_before = u16::from(network.wrapping_sub(NETWORK_FIRST)) % CLUSTERS_APART;
                let nodes_before = u16::from(service.0) * of_role + u16::from(number) - 1;
                let first = clusters_before * (OWN_PORTS / CLUSTERS_APART) + nodes_before;
                (0..OWN_PORTS).map(|next| OWN_PORT_FIRST + (first + next) % OWN_PORTS).collect()
            }
        }
    }

    /// The first, for tests of one.
    #[cfg(test)]
    pub(super) fn into_first(self) -> Service {
        self.0.into_iter().next().unwrap()
    }

    /// What nodes are called here, for people.
    pub(super) fn node_names(&self) -> String {
        let nodes = self.0.iter().map(|service| format!("{}N", service.role));
        let names: Vec<String> = [DNS.to_owned(), PROXY.to_owned()].into_iter().chain(nodes).collect();
        match names.split_last() {
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }

    /// What services are called here, for people.
    pub(super) fn roles(&self) -> String {
        self.0.iter().map(|service| service.role.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn constant(name: &str) -> Name {
    name.parse().expect("a constant name within the grammar")
}

/// The role that people call so.
pub(super) fn long_name(name: &str) -> &str {
    SHORT_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, role)| role)
}

/// Which node of the role has this name. "web01" is another name than "web1".
pub(super) fn number(name: &str, role: &str) -> Option<u8> {
    let digits = name.strip_prefix(role)?;
    let number = digits.parse().ok().filter(|n| (1..=NODES_OF_ROLE_MAX).contains(n))?;
    (digits == number.to_string()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(roles: &[&str]) -> Result<Services, (usize, Clash)> {
        let service = |role: &&str| Service {
            role: role.parse().unwrap(),
            count: 1,
            port: Port::Own,
            process: Process::App,
        };
        Services::new(roles.iter().map(service).collect())
    }

    #[test]
    fn names_and_kinds_belong_together() {
        let services = services(&["appserver", "web", "web-1"]).unwrap();
        let mut kinds = vec![Kind::Dns, Kind::Proxy];
        kinds.extend(services.ids().flat_map(|id| [1, 10, NODES_OF_ROLE_MAX].map(|n| Kind::Of(id, n))));
        for kind in kinds {
            assert_eq!(services.parse(&services.name(kind)), Some(kind));
        }
        for bad in ["web", "web0", "web01", "web251", "web-01", "web_1", "frontserver1", "appserver+1"] {
            assert_eq!(bad.parse().ok().and_then(|name| services.parse(&name)), None, "{bad}");
        }
    }

    #[test]
    fn services_whose_nodes_cannot_be_told_apart_are_refused() {
        let clash = |roles: &[&str]| services(roles).unwrap_err();
        let (place, same) = clash(&["web", "web1"]);
        assert_eq!((place, same.to_string().starts_with("web1: nodes of web would have")), (1, true));
        assert_eq!(clash(&["web24", "web"]).0, 0);
        assert!(services(&["web", "web25", "web-1", "web01"]).is_ok());
        assert_eq!(clash(&["web", "proxyserver"]).0, 1);
        assert!(services(&["r".repeat(60).as_str()]).is_ok());
        assert!(matches!(clash(&["r".repeat(61).as_str()]).1, Clash::TooLong(_)));
    }

    #[test]
    fn so_many_services_have_ports_and_addresses_of_their_own_and_no_more() {
        let names: Vec<String> = (0..=SERVICES_MAX).map(|n| format!("s{n}x")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(services(&names).unwrap_err(), (SERVICES_MAX, Clash::TooMany(SERVICES_MAX + 1)));
        let services = services(&names[1..]).unwrap();
        let last = services.ids().last().unwrap();
        let ports = services.ports(last, NODES_OF_ROLE_MAX, NETWORK_FIRST);
        assert_eq!((ports.len(), ports[0], ports[1]), (12_000, 31_999, 20_000));
        assert_eq!(Kind::Of(last, NODES_OF_ROLE_MAX).ip(89), Ipv4Addr::new(127, 89, 48, 250));
        let first = services.ids().next().unwrap();
        assert_eq!(services.ports(first, 1, NETWORK_FIRST)[0], 20_000);
        for (network, port) in [(90, 21_000), (100, 31_000), (101, 20_000), (10, 29_000)] {
            assert_eq!(services.ports(first, 1, network)[0], port);
        }
    }

    #[test]
    fn a_service_is_found_by_its_role_or_as_people_call_it() {
        let example = Services::of_example(1, 1, 8080);
        let find = |services: &Services, name: &str| {
            services.find(&name.parse().unwrap()).map(|id| services.get(id).role.to_string())
        };
        assert_eq!(find(&example, "front").as_deref(), Some("frontserver"));
        assert_eq!(find(&example, "appserver").as_deref(), Some("appserver"));
        assert_eq!(find(&example, "web"), None);
        let own = services(&["app", "appserver"]).unwrap();
        assert_eq!(find(&own, "app").as_deref(), Some("app"));
    }
}
