//! How much a consumer has to do, and how it went: what it answers when its sidecar asks for its `load`.
//!
//! Counts are totals since it started; who reads them twice has the rates. An endpoint's times are taken only while somebody asks, so a
//! consumer that nobody asks reads no clock for this.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Name;

/// What one role's endpoints have to do for a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleLoad {
    /// Its name.
    pub role: Name,
    /// Requests that wait because every endpoint is at its limit.
    #[serde(default)]
    pub queued: u32,
    /// Requests that were answered, by an endpoint or by the consumer itself,
    #[serde(default)]
    pub answered: u64,
    /// and those of them whose answer was an error of the server (5xx).
    #[serde(default)]
    pub errors: u64,
    /// Further attempts for requests that an endpoint had failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u64,
    /// How many answers began after so many microseconds at most, and after more than the bound before: those that there were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub times_us: BTreeMap<u64, u64>,
    /// By endpoint.
    pub endpoints: Vec<EndpointLoad>,
    /// Endpoints that are left out because there are too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub untold: u64,
}

/// What one endpoint has to do for a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLoad {
    /// Its node.
    pub node: Name,
    /// When that started, which with the address is its key.
    pub instance: u64,
    /// Where it serves.
    pub addr: SocketAddr,
    /// Requests, connections and flows under way there.
    pub in_flight: u32,
    /// Those that were given to it,
    pub requests: u64,
    /// and those of them that it has failed: no connection, no whole answer, or 5xx.
    pub failures: u64,
    /// Answers whose beginning was timed,
    pub timed: u64,
    /// and the sum of these times, in microseconds.
    pub timed_us: u64,
    /// It is spared, because it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ejected: bool,
    /// How often it was spared.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ejections: u64,
}

/// What one node says of itself to another that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Its name.
    pub node: Name,
    /// Whom its drain waits for, while it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_up_by: Option<Vec<Name>>,
    /// What its consumer has to do, if it has one that counts.
    #[serde(default)]
    pub roles: Vec<RoleLoad>,
    /// It has one that is there and did not answer: what it has to do is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

/// What came of asking all nodes.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loads {
    /// When all of it had come, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What members say of themselves.
    pub nodes: Vec<NodeLoad>,
    /// Who should have said something, and why nothing came.
    pub missing: BTreeMap<Name, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_reads_as_it_is_documented() {
        let endpoint = EndpointLoad {
            node: "app1".parse().unwrap(),
            instance: 7,
            addr: "10.0.0.4:80".parse().unwrap(),
            in_flight: 3,
            requests: 100,
            failures: 1,
            timed: 2,
            timed_us: 900,
            ejected: false,
            ejections: 0,
        };
        let load = NodeLoad {
            node: "proxy1".parse().unwrap(),
            held_up_by: None,
            silent: false,
            roles: vec![RoleLoad {
                role: "app".parse().unwrap(),
                queued: 0,
                answered: 99,
                errors: 1,
                times_us: BTreeMap::from([(500, 2)]),
                retries: 0,
                endpoints: vec![endpoint],
                untold: 0,
            }],
        };
        let text = serde_json::to_string(&load).unwrap();
        assert_eq!(
            text,
            r#"{"node":"proxy1","roles":[{"role":"app","queued":0,"answered":99,"errors":1,"times_us":{"500":2},"endpoints":[{"node":"app1","instance":7,"addr":"10.0.0.4:80","in_flight":3,"requests":100,"failures":1,"timed":2,"timed_us":900}]}]}"#
        );
        assert_eq!(serde_json::from_str::<NodeLoad>(&text).unwrap(), load);
    }
}
