//! How much a consumer has to do, and how it went: what it answers when its sidecar asks for its `load`.
//!
//! Counts are totals since it started; who reads them twice has the rates. Times are taken only while somebody asks, so a consumer
//! that nobody asks reads no clock for this.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Name;

/// Times are told apart by so many bounds: four to each doubling of a microsecond, up to half a minute.
pub const TIMES_COUNT: usize = 96;

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

/// By which bound a time is told, counted from the shortest.
pub fn bucket(us: u64) -> usize {
    // Of the highest bits, one says which doubling it is, and the next two which quarter of that.
    let doubling = us.max(4).ilog2();
    let quarter = (us >> (doubling - 2)) & 3;
    let bucket = if us < 4 { us } else { u64::from(doubling - 1) * 4 + quarter };
    usize::try_from(bucket).unwrap_or(usize::MAX).min(TIMES_COUNT - 1)
}

/// The longest time that is told by this bound, in microseconds.
pub fn bound_us(bucket: usize) -> u64 {
    let bucket = bucket.min(TIMES_COUNT - 1) as u64;
    if bucket < 4 { bucket } else { ((5 + bucket % 4) << (bucket / 4 - 1)) - 1 }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_each_other_without_a_gap() {
        let mut after = 0;
        for n in 0..TIMES_COUNT {
            assert_eq!((bucket(after), bucket(bound_us(n))), (n, n), "{after} to {}", bound_us(n));
            after = bound_us(n) + 1;
        }
        assert!(bound_us(TIMES_COUNT - 1) > 30_000_000);
        assert_eq!(bucket(after), TIMES_COUNT - 1, "what is longer counts as the longest");
        assert_eq!(bucket(u64::MAX), TIMES_COUNT - 1);
    }

    #[test]
    fn a_bound_is_exact_to_a_quarter() {
        for us in [5_u64, 77, 1000, 123_456, 9_999_999] {
            let told = bound_us(bucket(us));
            assert!(us <= told && told <= us + us / 4, "{us} is told as {told}");
        }
    }

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
            roles: vec![RoleLoad {
                role: "app".parse().unwrap(),
                queued: 0,
                answered: 99,
                errors: 1,
                retries: 0,
                times_us: BTreeMap::from([(447, 2)]),
                endpoints: vec![endpoint],
                untold: 0,
            }],
        };
        let text = serde_json::to_string(&load).unwrap();
        assert_eq!(
            text,
            r#"{"node":"proxy1","roles":[{"role":"app","queued":0,"answered":99,"errors":1,"times_us":{"447":2},"endpoints":[{"node":"app1","instance":7,"addr":"10.0.0.4:80","in_flight":3,"requests":100,"failures":1,"timed":2,"timed_us":900}]}]}"#
        );
        assert_eq!(serde_json::from_str::<NodeLoad>(&text).unwrap(), load);
    }
}
