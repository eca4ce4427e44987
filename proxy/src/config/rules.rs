//! How upstreams are chosen, spared, asked again and limited.

use std::num::NonZeroU32;

use super::{RoleBalance, RoleProtocol, RoleServerName, RoleTrust};

/// Most of a role that may be ejected at a time, in percent: what is left must be able to carry the load.
pub const EJECT_PERCENT_MAX: u8 = 50;

/// Above this share of ejected upstreams, in percent, ejections are taken for a mistake or for overload, which sending all
/// to the few that are left would spread. Envoy's panic threshold.
pub const EJECT_PANIC_PERCENT: u8 = 50;

/// So many failures in a row eject an upstream: what Envoy and finagle take for its fault and not for chance.
pub const EJECT_FAILURES: u32 = 5;

/// Retries of a role, in percent of its requests in the last ten seconds: finagle's and linkerd's share.
pub const RETRY_PERCENT: u8 = 20;

/// What holds for the upstreams of every role. The flags say what each is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRules {
    /// By what upstreams are chosen, by role.
    pub balance: Vec<RoleBalance>,
    /// What upstreams speak, by role.
    pub protocol: Vec<RoleProtocol>,
    /// Whose certificates are believed, by role.
    pub trust: Vec<RoleTrust>,
    /// The names that certificates are for, by role.
    pub server_name: Vec<RoleServerName>,
    /// So many failures in a row eject; 0: never.
    pub eject_failures: u32,
    /// So many failures or 5xx responses in a row eject.
    pub eject_5xx: Option<NonZeroU32>,
    /// Most of a role that may be ejected at a time, in percent.
    pub eject_percent_max: u8,
    /// Where more than this share of a role is ejected, in percent, ejections are ignored.
    pub eject_panic_percent: u8,
    /// Most retries, in percent of a role's recent requests at a worker.
    pub retry_percent: u8,
    /// Most connections in use to one upstream, over all workers.
    pub upstream_connections_max: Option<NonZeroU32>,
    /// Most requests of a role that wait while all its upstreams are at that limit.
    pub upstream_pending_max: Option<u32>,
}

impl Default for UpstreamRules {
    fn default() -> Self {
        Self {
            balance: Vec::new(),
            protocol: Vec::new(),
            trust: Vec::new(),
            server_name: Vec::new(),
            eject_failures: EJECT_FAILURES,
            eject_5xx: None,
            eject_percent_max: EJECT_PERCENT_MAX,
            eject_panic_percent: EJECT_PANIC_PERCENT,
            retry_percent: RETRY_PERCENT,
            upstream_connections_max: None,
            upstream_pending_max: None,
        }
    }
}
