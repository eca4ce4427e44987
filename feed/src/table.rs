//! Role tables: who serves a role right now.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{EndpointProtocol, Name, Routes, Tags};

/// Most endpoints that one table carries. Ten times the largest role that one proxy was designed for; with the
/// longest names a table of this size still fits in [`crate::frame::LINE_BYTES_MAX`].
pub const ENDPOINTS_MAX: usize = 10_000;

/// What a consumer may do with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Give it work.
    Ready,
    /// Give it nothing new, let it finish, and report how much is still in flight.
    Draining,
    /// It vanished without having left, which may be the network's fault: use it only where nobody is ready.
    Suspect,
}

/// Which process an endpoint is: the key of everything that a consumer remembers about it (pool, load, ejection).
///
/// It takes both. An address that comes back under another instance is another process, perhaps of another tenant; and of nodes
/// that are started together, two may start in the same millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// When the node started, in milliseconds since the Unix epoch.
    pub instance: u64,
    /// Where the role's process listens.
    pub addr: SocketAddr,
}

/// One process that serves a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The node's name, unique in the cluster.
    pub node: Name,
    /// When the node started, in milliseconds since the Unix epoch.
    pub instance: u64,
    /// Where the role's process listens. Port 0: it listens nowhere, the node is only known.
    pub addr: SocketAddr,
    /// Whether it takes new work.
    pub state: EndpointState,
    /// Its share of the work beside others; 100 is usual, 0 means none.
    pub weight: u16,
    /// Since when it has been ready, in seconds since the Unix epoch by the node's own clock, which may be wrong: for people.
    pub since: f64,
    /// The UDP and TCP port of its gossip, at the same address.
    #[serde(default)]
    pub gossip_port: u16,
    /// What its operator says of the node; absent on the wire when there is nothing.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Which requests the node claims for its role; absent on the wire when there are none.
    #[serde(default, skip_serializing_if = "Routes::is_empty")]
    pub routes: Routes,
    /// What it says that it speaks; absent on the wire when it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<EndpointProtocol>,
}

impl Endpoint {
    /// Which process it is.
    pub fn id(&self) -> EndpointId {
        EndpointId { instance: self.instance, addr: self.addr }
    }
}

/// Everyone who serves one role, complete.
///
/// An empty table says that nobody serves the role. That no table came yet says that nothing is known. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "WireTable")]
pub struct RoleTable {
    role: Name,
    generation: u64,
    endpoints: Arc<[Endpoint]>,
}

#[derive(Deserialize)]
struct WireTable {
    role: Name,
    generation: u64,
    endpoints: Vec<Endpoint>,
}

impl From<WireTable> for RoleTable {
    fn from(wire: WireTable) -> Self {
        Self::new(wire.role, wire.generation, wire.endpoints)
    }
}

impl RoleTable {
    /// A table of `endpoints`, which are sorted by node and instance and made unique by them; what exceeds
    /// [`ENDPOINTS_MAX`] is cut off.
    pub fn new(role: Name, generation: u64, mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort_by(|a, b| (&a.node, a.instance).cmp(&(&b.node, b.instance)));
        endpoints.dedup_by(|a, b| a.node == b.node && a.instance == b.instance);
        endpoints.truncate(ENDPOINTS_MAX);
        Self { role, generation, endpoints: endpoints.into() }
    }

    /// The role that the table is of.
    pub fn role(&self) -> &Name {
        &self.role
    }

    /// Grows with each change of this role at the sidecar that sent it; says nothing across sidecars.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The endpoints, sorted by node and instance, unique.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The endpoints that take new work.
    pub fn ready(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|e| e.state == EndpointState::Ready)
    }

    /// The endpoints that are finishing their work.
    pub fn draining(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|e| e.state == EndpointState::Draining)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn endpoint(node: &str, instance: u64) -> Endpoint {
        Endpoint {
            node: node.parse().unwrap(),
            instance,
            addr: "127.0.0.1:8080".parse().unwrap(),
            state: EndpointState::Ready,
            weight: 100,
            since: 1.5,
            gossip_port: 7946,
            tags: Tags::default(),
            routes: Routes::default(),
            protocol: None,
        }
    }

    #[test]
    fn endpoints_are_sorted_and_unique() {
        let table = RoleTable::new(
            "app".parse().unwrap(),
            1,
            vec![endpoint("b", 1), endpoint("a", 2), endpoint("a", 1), endpoint("b", 1)],
        );
        let keys: Vec<_> = table.endpoints().iter().map(|e| (e.node.as_str(), e.instance)).collect();
        assert_eq!(keys, [("a", 1), ("a", 2), ("b", 1)]);
    }

    #[test]
    fn an_endpoint_without_a_claim_is_as_it_was_before_there_were_any() {
        let claiming = Endpoint { protocol: Some(EndpointProtocol::H2c), ..endpoint("a", 1) };
        let text = |endpoint: &Endpoint| serde_json::to_string(endpoint).unwrap();
        let before = r#"{"node":"a","instance":1,"addr":"127.0.0.1:8080","state":"ready","weight":100,"since":1.5,"gossip_port":7946"#;
        assert_eq!(text(&endpoint("a", 1)), format!("{before}}}"));
        assert_eq!(text(&claiming), format!("{before},\"protocol\":\"h2c\"}}"));
        for told in [endpoint("a", 1), claiming] {
            assert_eq!(serde_json::from_str::<Endpoint>(&text(&told)).unwrap(), told);
        }
    }

    #[test]
    fn a_table_holds_endpoints_up_to_the_limit() {
        let many = |n: usize| (0..n).map(|i| endpoint("a", i as u64)).collect();
        let role: Name = "app".parse().unwrap();
        assert_eq!(RoleTable::new(role.clone(), 1, many(ENDPOINTS_MAX)).endpoints().len(), ENDPOINTS_MAX);
        assert_eq!(RoleTable::new(role, 1, many(ENDPOINTS_MAX + 1)).endpoints().len(), ENDPOINTS_MAX);
    }
}
