//! A plan as workers look at it.

use std::sync::Arc;

use super::Traces;
use crate::{
    certificates::{Origins, Store},
    config::{EdgeRules, HalfClosed, Plan, RequestIds, SniRule, Timeouts, UpstreamRules},
    http1::Forwarding,
    route::Table,
    upstream::directory::Directory,
};

/// What holds for all requests. Whoever needs it for longer than a moment keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) half_closed: HalfClosed,
    pub(crate) rules: UpstreamRules,
    pub(crate) edges: EdgeRules,
    /// The roles of the hosts of TLS clients, by their positions.
    pub(crate) sni: Arc<Table<usize>>,
    /// The certificates of this proxy.
    pub(crate) certificates: Arc<Store>,
    /// By what upstreams are spoken to over TLS.
    pub(crate) origins: Arc<Origins>,
    pub(crate) body_bytes_max: u64,
    pub(crate) forwarding: Option<Forwarding>,
    pub(crate) via: Option<String>,
    pub(crate) request_ids: RequestIds,
    /// None: requests are not traced.
    pub(crate) traces: Option<Traces>,
}

impl Settings {
    /// Those of a plan whose roles are known.
    pub(crate) fn of(
        plan: &Plan,
        directory: &Directory,
        certificates: Arc<Store>,
        origins: Arc<Origins>,
    ) -> Self {
        let position = |rule: &SniRule| directory.position(rule.role.as_str());
        let sni = plan.edges.sni.iter().filter_map(|rule| Some((rule.host.clone(), position(rule)?)));
        Self {
            timeouts: plan.timeouts,
            half_closed: plan.half_closed,
            rules: plan.rules.clone(),
            edges: plan.edges.clone(),
            sni: Arc::new(sni.collect()),
            certificates,
            origins,
            body_bytes_max: plan.body_bytes_max,
            forwarding: plan.forwarding,
            via: plan.via.clone(),
            request_ids: plan.request_ids,
            traces: Traces::of(plan),
        }
    }
}
