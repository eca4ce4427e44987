//! Which routes match a request, for whoever asks why one went where it went.

use std::cmp::Reverse;

use feed::{Name, Route};

use super::Sources;
use crate::{
    config::RouteRule,
    route::{Key, Target},
};

/// A route that matches.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) route: Route,
    pub(crate) by: Lead,
}

/// Who says where it leads.
#[derive(Debug)]
pub(crate) enum Lead {
    File(Box<RouteRule>),
    Claim(Name),
}

impl Sources {
    /// The routes that match, the one that has the request first, then those that would have it without that.
    pub(crate) fn matches(&self, key: &Key) -> Vec<Match> {
        let (Ok(host), Ok(path)) = (str::from_utf8(key.host()), str::from_utf8(key.path())) else {
            return Vec::new();
        };
        let known = self.known();
        let planned = known.plan.routes.iter();
        let planned =
            planned.map(|rule| Match { route: rule.route.clone(), by: Lead::File(Box::new(rule.clone())) });
        let claims = known.claims.iter().flat_map(|(role, routes)| routes.iter().map(move |r| (role, r)));
        let claims =
            claims.map(|(role, route)| Match { route: route.clone(), by: Lead::Claim(role.clone()) });
        let mut all: Vec<Match> =
            planned.chain(claims).filter(|found| found.route.matches(host, path)).collect();
        // Stable: of equals the first has it, as in the table.
        all.sort_by_key(|found| Reverse(found.route.rank()));
        all
    }

    /// What a route of the file does, but for its rate: whoever asks is no client.
    pub(crate) fn target(&self, rule: &RouteRule) -> Option<Target> {
        let rule = RouteRule { rate_limit: None, ..rule.clone() };
        Target::new(&rule, &self.known().usual(&self.proxies), |role| self.position(role))
    }
}
