//! Routes of the file, and what holds for them.

use std::{collections::BTreeMap, fmt};

use feed::{Name, Route};
use serde::Deserialize;

use super::{
    ClientNetwork, GivenTimeouts, PlanError, Rate, Redirect, Refusal, RouteError, Size, Sticky,
    rate::WrittenRate, sticky::WrittenSticky,
};
use crate::{
    http1::{FieldChanges, PathChange, Scheme, changes::ChangeError},
    limits::CHANGED_BYTES_MAX,
};

/// Routes of one file: more than a table of claims ever has.
pub const ROUTES_COUNT_MAX: usize = 10_000;

/// Roles that one route splits its requests between.
const SHARES_COUNT_MAX: usize = 16;

/// Requests by their host and path, where they go, and what holds for them.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RouteRule {
    /// Which requests: HOST, HOST/PATH, *.SUFFIX, *.SUFFIX/PATH, /PATH or /
    #[serde(rename = "match")]
    #[schemars(with = "String")]
    pub route: Route,
    /// Whose they are; instead of `roles` and `redirect`
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub role: Option<Name>,
    /// Whose they are, with a weight for each role: { stable = 95, canary = 5 }
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, u16>")]
    pub roles: BTreeMap<Name, u16>,
    /// Where the client is sent instead
    #[serde(default)]
    pub redirect: Option<Redirect>,
    /// Send clients without TLS to the same address with it
    #[serde(default)]
    pub https_only: bool,
    /// Take the path of `match` off
    #[serde(default)]
    pub strip_prefix: bool,
    /// Put this before the path, after `strip-prefix`
    #[serde(default)]
    pub add_prefix: Option<String>,
    /// Fields of requests
    #[serde(default)]
    pub request: FieldRules,
    /// Fields of final responses
    #[serde(default)]
    pub response: FieldRules,
    /// Strict-Transport-Security for so many seconds, to clients with TLS
    #[serde(default)]
    pub hsts_seconds: Option<u32>,
    /// Networks whose clients are served, unix: for those of Unix sockets; all others are answered with 403
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<ClientNetwork>,
    /// Networks whose clients are answered with 403, before `allow` is looked at
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<ClientNetwork>,
    /// More requests than this are answered with 429
    #[serde(default)]
    #[schemars(with = "Option<WrittenRate>")]
    pub rate_limit: Option<Rate>,
    /// Longest body of a request; a longer one is answered with 413
    #[serde(default)]
    pub body_bytes_max: Option<Size>,
    /// The phases body, queue, connect, response, stream and tunnel, where they are others than usual
    #[serde(default)]
    pub timeouts: GivenTimeouts,
    /// Whether a request that an upstream may have received is sent again where that is safe
    #[serde(default = "yes")]
    pub retries: bool,
    /// Keep a client at the upstream that it had first, by a cookie
    #[serde(default)]
    #[schemars(with = "Option<WrittenSticky>")]
    pub sticky: Option<Sticky>,
}

/// Fields that are set, in the place of all of that name, and taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FieldRules {
    /// Values by name
    pub set: BTreeMap<String, String>,
    /// Names
    pub remove: Vec<String>,
}

impl FieldRules {
    fn changes(&self, hsts_seconds: Option<u32>) -> Result<FieldChanges, ChangeError> {
        let hsts = hsts_seconds.map(|seconds| format!("max-age={seconds}; includeSubDomains"));
        let hsts = hsts.as_deref().map(|value| ("Strict-Transport-Security", value));
        let set = self.set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        FieldChanges::new(set.chain(hsts), self.remove.iter().map(String::as_str))
    }
}

fn yes() -> bool {
    true
}

impl RouteRule {
    /// The roles that its requests may go to.
    pub fn role_names(&self) -> impl Iterator<Item = Name> {
        self.role.iter().chain(self.roles.keys()).cloned()
    }

    /// Whether it does more than to name a role.
    pub(crate) fn has_rules(&self) -> bool {
        let plain = Self { role: self.role.clone(), ..Self::plain(self.route.clone()) };
        self.role.is_none() || *self != plain
    }

    fn plain(route: Route) -> Self {
        Self {
            route,
            role: None,
            roles: BTreeMap::new(),
            redirect: None,
            https_only: false,
            strip_prefix: false,
            add_prefix: None,
            request: FieldRules::default(),
            response: FieldRules::default(),
            hsts_seconds: None,
            allow: Vec::new(),
            deny: Vec::new(),
            rate_limit: None,
            body_bytes_max: None,
            timeouts: GivenTimeouts::default(),
            retries: true,
            sticky: None,
        }
    }

    /// What is changed of requests.
    pub(crate) fn request_changes(&self) -> Result<FieldChanges, ChangeError> {
        self.request.changes(None)
    }

    /// What is changed of responses, with and without TLS: RFC 6797 7.2 has no Strict-Transport-Security in the clear.
    pub(crate) fn response_changes(&self, scheme: Scheme) -> Result<FieldChanges, ChangeError> {
        self.response.changes(self.hsts_seconds.filter(|_| scheme == Scheme::Https))
    }

    /// What becomes of the path; none if it stays.
    pub(crate) fn path_change(&self) -> Option<PathChange> {
        let strip_count = if self.strip_prefix { self.route.path().len() } else { 0 };
        let prefix = self.add_prefix.as_deref().unwrap_or_default();
        (strip_count > 0 || !prefix.is_empty()).then(|| PathChange { strip_count, prefix: prefix.into() })
    }

    fn check(&self) -> Result<(), RouteError> {
        let leads = [self.role.is_some(), !self.roles.is_empty(), self.redirect.is_some()];
        if leads.iter().filter(|leads| **leads).count() != 1 {
            return Err(RouteError::new(&[], "expected one of role, roles and redirect"));
        }
        if self.roles.len() > SHARES_COUNT_MAX {
            return Err(RouteError::new(&["roles"], format!("roles: expected at most {SHARES_COUNT_MAX}")));
        }
        if !self.roles.is_empty() && self.roles.values().all(|weight| *weight == 0) {
            return Err(RouteError::new(&["roles"], "roles: expected a weight above 0"));
        }
        self.request_changes().map_err(|error| RouteError::new(&["request"], format!("request: {error}")))?;
        self.response_changes(Scheme::Https)
            .map_err(|error| RouteError::new(&["response"], format!("response: {error}")))?;
        let is_prefix = |prefix: &str| {
            prefix.starts_with('/')
                && !prefix.ends_with('/')
                && prefix.len() <= CHANGED_BYTES_MAX / 4
                && prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
        };
        if let Some(prefix) = self.add_prefix.as_deref().filter(|prefix| !is_prefix(prefix)) {
            let why = format!("add-prefix {prefix:?}: expected a path without a / at its end, such as /v1");
            return Err(RouteError::new(&["add-prefix"], why));
        }
        let GivenTimeouts { header, idle, drain, .. } = self.timeouts;
        let of_connections: [(_, &[_]); 3] = [
            (header, &["timeouts", "header"]),
            (idle, &["timeouts", "idle"]),
            (drain, &["timeouts", "drain"]),
        ];
        if let Some((_, keys)) = of_connections.into_iter().find(|(time, _)| time.is_some()) {
            let why = "timeouts: header, idle and drain are those of a connection, which has no route";
            return Err(RouteError::new(keys, why));
        }
        if self.https_only && self.redirect.is_some() {
            return Err(RouteError::new(&["https-only"], "https-only: expected it with role or roles"));
        }
        self.redirect.as_ref().map_or(Ok(()), Redirect::check)
    }

    /// Whether these can be together.
    pub(super) fn check_all(all: &[Self]) -> Result<(), Refusal> {
        if all.len() > ROUTES_COUNT_MAX {
            return Err(PlanError::TooManyRoutes(all.len()).at_item("route", ROUTES_COUNT_MAX));
        }
        let mut seen = std::collections::HashSet::new();
        for (item, rule) in all.iter().enumerate() {
            let refused = |error: RouteError| error.of(rule.route.to_string(), item);
            if !seen.insert(&rule.route) {
                return Err(refused(RouteError::new(&["match"], "expected each route once")));
            }
            rule.check().map_err(refused)?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} ", self.route)?;
        match (&self.role, &self.redirect) {
            (Some(role), _) => write!(f, "to {role}"),
            (None, Some(redirect)) => write!(f, "redirected to {redirect}"),
            (None, None) => {
                let shares: Vec<String> =
                    self.roles.iter().map(|(role, weight)| format!("{role} ({weight})")).collect();
                write!(f, "to {}", shares.join(" and "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Given, Plan};

    fn refusal(rule: &str) -> String {
        let text = format!("route = [{{ match = 'a.example/x', {rule} }}]");
        let given: Result<Given, _> = program::file::parse("a.toml", &text);
        let given = match given {
            Ok(given) => given,
            Err(error) => return error.to_string(),
        };
        Plan::new(given).map_or_else(|error| error.to_string(), |_| "none".to_owned())
    }

    #[test]
    fn rules_that_cannot_be_are_refused_with_their_route_and_what_would_be_right() {
        for (rule, why) in [
            ("role = 'a'", "none"),
            ("roles = { a = 95, b = 5 }", "none"),
            ("redirect = { scheme = 'https' }, hsts-seconds = 5", "none"),
            ("strip-prefix = true", "route a.example/x: expected one of role, roles and redirect"),
            ("role = 'a', roles = { b = 1 }", "expected one of"),
            ("roles = { a = 0 }", "expected a weight above 0"),
            ("role = 'a', request = { set = { Host = 'b' } }", "request: Host says where"),
            ("role = 'a', request = { sett = {} }", "did you mean `set`?"),
            ("role = 'a', response = { remove = ['a b'] }", "response: \"a b\" is not the name of a field"),
            ("role = 'a', add-prefix = 'v1'", "add-prefix \"v1\": expected a path"),
            ("role = 'a', timeouts = { idle = '1s' }", "timeouts: header, idle and drain"),
            ("role = 'a', rate-limit = '5'", "is not a rate"),
            ("role = 'a', deny = ['10.0.0.0/99']", "is not a network"),
            ("role = 'a', https-only = true", "none"),
            ("redirect = { path = '/b' }, https-only = true", "https-only: expected it with role"),
            ("redirect = { }", "redirect: expected"),
            ("redirect = { host = 'a b' }", "redirect: "),
            (
                "role = 'a', sticky = { cookie = 'a b', secret = '0123456789abcdef' }",
                "is not the name of a cookie",
            ),
            ("role = 'a', sticky = { cookie = 'a', secret = 'short' }", "secret"),
        ] {
            let told = refusal(rule);
            assert!(told.contains(why), "{rule}: {told}");
        }
    }
}
