//! How upstreams are chosen, spared, asked again and limited.

use std::num::NonZeroU32;

use super::RoleBalance;

/// Most of a role that may be ejected at a time, in percent: what is left must be able to carry the load.
pub const EJECT_PERCENT_MAX: u8 = 50;

/// Above this share of ejected upstreams, in percent, ejections are taken for a mistake or for overload, which sending all
/// to the few that are left would spread. Envoy's panic threshold.
pub const EJECT_PANIC_PERCENT: u8 = 50;

/// Retries of a role, in percent of its requests in the last ten seconds: finagle's and linkerd's share.
pub const RETRY_PERCENT: u8 = 20;

/// What holds for the upstreams of every role.
#[derive(Debug, Clone, clap::Args)]
pub struct UpstreamRules {
    /// By what upstreams are chosen: ROLE=p2c (load, the default), ROLE=hash:client or ROLE=hash:header:NAME; may be repeated
    #[arg(long, value_name = "ROLE=HOW", env = "CONCERTINA_BALANCE", value_delimiter = ',')]
    pub balance: Vec<RoleBalance>,
    /// So many 5xx responses in a row make an upstream the last resort for a while [default: never]
    #[arg(long = "eject-5xx", value_name = "COUNT", env = "CONCERTINA_EJECT_5XX")]
    pub eject_5xx: Option<NonZeroU32>,
    /// Most of a role that may be ejected at a time, in percent; one always may
    #[arg(long, value_name = "PERCENT", env = "CONCERTINA_EJECT_PERCENT_MAX", default_value_t = EJECT_PERCENT_MAX,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub eject_percent_max: u8,
    /// Where more than this share of a role is ejected, ejections are ignored; 100: never
    #[arg(long, value_name = "PERCENT", env = "CONCERTINA_EJECT_PANIC_PERCENT", default_value_t = EJECT_PANIC_PERCENT,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub eject_panic_percent: u8,
    /// Most retries, in percent of a role's recent requests at a worker; ten a second are always granted
    #[arg(long, value_name = "PERCENT", env = "CONCERTINA_RETRY_PERCENT", default_value_t = RETRY_PERCENT,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub retry_percent: u8,
    /// Most connections in use to one upstream, over all workers: requests under way, and TCP connections [default: no limit]
    #[arg(long, value_name = "COUNT", env = "CONCERTINA_UPSTREAM_CONNECTIONS_MAX")]
    pub upstream_connections_max: Option<NonZeroU32>,
    /// Most requests of a role that wait while all its upstreams are at that limit [default: no limit]
    #[arg(long, value_name = "COUNT", env = "CONCERTINA_UPSTREAM_PENDING_MAX")]
    pub upstream_pending_max: Option<u32>,
}

impl Default for UpstreamRules {
    fn default() -> Self {
        Self {
            balance: Vec::new(),
            eject_5xx: None,
            eject_percent_max: EJECT_PERCENT_MAX,
            eject_panic_percent: EJECT_PANIC_PERCENT,
            retry_percent: RETRY_PERCENT,
            upstream_connections_max: None,
            upstream_pending_max: None,
        }
    }
}
