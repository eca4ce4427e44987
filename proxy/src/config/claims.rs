//! Who may claim which routes.

use std::str::FromStr;

use feed::{Name, Route, route::Host};

use super::text::read_as_text;

/// A role, and the hosts that it may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutesAllow {
    role: Name,
    /// None: every host, and routes for any host.
    host: Option<Host>,
}

impl RoutesAllow {
    /// Whether this has the role claim the route.
    pub fn includes(&self, role: &Name, route: &Route) -> bool {
        let is_below =
            |host: &str, suffix: &str| host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
        let is_host = match (&self.host, route.host()) {
            (None, _) => true,
            (Some(Host::Suffix(suffix)), Host::Exact(host)) => is_below(host, suffix),
            (Some(Host::Suffix(suffix)), Host::Suffix(host)) => host == suffix || is_below(host, suffix),
            (Some(allowed), claimed) => allowed == claimed,
        };
        self.role == *role && is_host
    }
}

impl FromStr for RoutesAllow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            format!(
                "{text:?}: {why}; expected ROLE=HOST, such as billing=shop.example.com, billing=*.example.com or billing=*"
            )
        };
        let (role, host) = text.split_once('=').ok_or_else(|| refused("no host"))?;
        let role = role.parse().map_err(|error| refused(&format!("{error}")))?;
        if host == "*" {
            return Ok(Self { role, host: None });
        }
        let route: Route = host.parse().map_err(|error| refused(&format!("{error}")))?;
        if !route.path().is_empty() || *route.host() == Host::Any {
            return Err(refused("the host is a host alone"));
        }
        Ok(Self { role, host: Some(route.host().clone()) })
    }
}

read_as_text!(RoutesAllow, "ROLE=HOST, ROLE=*.SUFFIX or ROLE=*");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_claim_a_host_all_below_one_or_all() {
        let is_allowed = |rule: &str, route: &str| {
            rule.parse::<RoutesAllow>().unwrap().includes(&"web".parse().unwrap(), &route.parse().unwrap())
        };
        for (rule, allowed, denied) in [
            ("web=a.b", &["a.b", "a.b/x"][..], &["/", "x.a.b", "*.a.b", "a.c"][..]),
            ("web=*.b", &["a.b", "x.a.b/y", "*.b", "*.a.b"], &["b", "xb", "*.xb", "/"]),
            ("web=*", &["a", "*.a", "/"], &[]),
            ("api=*", &[], &["a", "/"]),
        ] {
            assert!(allowed.iter().all(|route| is_allowed(rule, route)), "{rule}");
            assert!(!denied.iter().any(|route| is_allowed(rule, route)), "{rule}");
        }
        for bad in ["web", "web=", "web=/", "web=a/b", "web=a:80", "w b=a"] {
            assert!(bad.parse::<RoutesAllow>().unwrap_err().contains("expected ROLE=HOST"), "{bad}");
        }
    }
}
