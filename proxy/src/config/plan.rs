//! The plan: everything that was said, checked as a whole. A plan that exists is right.

use std::{fmt, net::SocketAddr, path::PathBuf};

use feed::{EndpointProtocol, Name, socket::FEED_PATH};

use super::{
    AccessLog, Balance, CertificateFiles, EdgeRules, FixedTable, ForwardedFields, Given, HalfClosed, Listen,
    OtlpEndpoint, OtlpHeader, PlanError, Protocol, Refusal, RequestIds, RouteRule, RoutesAllow, Sampling,
    Timeouts, TraceMode, Trust, UpstreamRules,
};
use crate::{http1::Forwarding, limits::CLIENTS_COUNT_MAX};

/// The role behind the listener of a proxy that was told nothing.
const DEFAULT_ROLE: &str = "frontserver";

/// The port of that listener.
const DEFAULT_PORT: u16 = 80;

/// What stays as it is for as long as a proxy runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The feed's socket.
    pub feed: PathBuf,
    /// Worker threads, unless they are as many as the cores.
    pub workers: Option<u16>,
    /// Most client connections at a time, for each worker.
    pub clients_max: usize,
    /// How requests are logged.
    pub access_log: AccessLog,
    /// Where.
    pub access_log_file: Option<PathBuf>,
    /// Who takes spans.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Whose certificate is believed of that.
    pub otlp_trust: Trust,
    /// What it is told beside spans.
    pub otlp_headers: Vec<OtlpHeader>,
    /// Roles whose endpoints are given.
    pub upstream: Vec<FixedTable>,
}

/// What a proxy does.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What no reload changes.
    pub fixed: Fixed,
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// Who may claim routes; everybody everything, if there is nothing here.
    pub routes_allow: Vec<RoutesAllow>,
    /// The routes of the file, which go before what is claimed.
    pub routes: Vec<RouteRule>,
    /// How long each phase may take.
    pub timeouts: Timeouts,
    /// What a half-close means.
    pub half_closed: HalfClosed,
    /// How upstreams are chosen, spared, asked again and limited.
    pub rules: UpstreamRules,
    /// What comes before a protocol.
    pub edges: EdgeRules,
    /// Where the certificates of https:// listeners are.
    pub certificates: CertificateFiles,
    /// Longest body of a request.
    pub body_bytes_max: u64,
    /// What upstreams are told of clients.
    pub forwarding: Option<Forwarding>,
    /// The name in Via.
    pub via: Option<String>,
    /// Whether requests have ids.
    pub request_ids: RequestIds,
    /// What becomes of traces.
    pub trace: TraceMode,
    /// Which of those that begin here are sampled.
    pub sampling: Sampling,
}

impl Plan {
    /// Checks settings, each by itself and all together.
    ///
    /// # Errors
    /// What does not go together, what would, and where it was said.
    pub fn new(given: Given) -> Result<Self, Refusal> {
        let rules = rules(&given);
        let trusted_hops = given.trusted_hops.unwrap_or(0);
        let forwarding = given.forwarded.unwrap_or(ForwardedFields::None).with(trusted_hops);
        if trusted_hops > 0 && forwarding.is_none() {
            return Err(PlanError::HopsWithoutForwarded(trusted_hops).at("trusted-hops"));
        }
        let trace = given.trace.unwrap_or(TraceMode::Off);
        check_traces(&given)?;
        let routes = given.route.unwrap_or_default();
        let plan = Self {
            fixed: Fixed {
                feed: given.feed.unwrap_or_else(|| FEED_PATH.into()),
                workers: given.workers,
                clients_max: given.clients_max.unwrap_or(CLIENTS_COUNT_MAX),
                access_log: given.access_log.unwrap_or(AccessLog::Off),
                access_log_file: given.access_log_file,
                otlp_endpoint: given.otlp_endpoint,
                otlp_trust: given.otlp_trust.unwrap_or_default(),
                otlp_headers: given.otlp_header.unwrap_or_default(),
                upstream: given.upstream.unwrap_or_default(),
            },
            listen: given.listen.unwrap_or_else(|| vec![default_listener(!routes.is_empty())]),
            routes_allow: given.routes_allow.unwrap_or_default(),
            routes,
            timeouts: given.timeouts.unwrap_or_default().over_all(Timeouts::default()),
            half_closed: given.half_closed.unwrap_or(HalfClosed::Abort),
            rules,
            edges: EdgeRules {
                proxy_protocol: given.proxy_protocol.unwrap_or_default(),
                send_proxy: given.send_proxy.unwrap_or_default(),
                sni: given.sni.unwrap_or_default(),
            },
            certificates: CertificateFiles {
                pairs: given.certificate.unwrap_or_default(),
                directory: given.certificates,
            },
            body_bytes_max: given.body_bytes_max.map_or(u64::MAX, |size| size.0),
            forwarding,
            via: given.via.map(|via| via.as_str().to_owned()),
            request_ids: given.request_id.unwrap_or(RequestIds::Off),
            trace,
            sampling: given.trace_sample.unwrap_or(Sampling::ALL),
        };
        plan.check()?;
        Ok(plan)
    }

    /// What is set to no effect.
    pub fn unused(&self) -> Option<&'static str> {
        let is_unused = self.trace == TraceMode::Off && self.fixed.otlp_endpoint.is_some();
        is_unused.then_some("otlp-endpoint is not used: trace is off, so there are no spans")
    }

    /// Some listener serves what the file routes and services claim.
    pub(crate) fn is_routing(&self) -> bool {
        self.listen.iter().any(|listen| listen.role.is_none())
    }

    /// The roles that listeners, hosts and routes are for.
    pub(crate) fn named_roles(&self) -> Vec<Name> {
        let listeners = self.listen.iter().filter_map(|listen| listen.role.clone());
        let hosts = self.edges.sni.iter().map(|rule| rule.role.clone());
        let routes = self.routes.iter().flat_map(RouteRule::role_names);
        let mut named: Vec<Name> = listeners.chain(hosts).chain(routes).collect();
        named.sort();
        named.dedup();
        named
    }

    /// By what the upstreams of a role are chosen.
    pub(crate) fn balance_of(&self, role: &Name) -> Balance {
        let told = self.rules.balance.iter().find(|told| told.role == *role);
        told.map_or_else(Balance::default, |told| told.balance.clone())
    }

    /// Some listener sends flows of datagrams there.
    fn has_flows(&self, role: &Name) -> bool {
        self.listen
            .iter()
            .any(|listen| listen.protocol == Protocol::Udp && listen.role.as_ref() == Some(role))
    }

    /// The upstreams of a role are found by keys, be it for some of its clients alone.
    pub(crate) fn is_keyed(&self, role: &Name) -> bool {
        self.balance_of(role).is_keyed() || self.has_flows(role)
    }

    /// Whether a running proxy can go from this plan to that one.
    ///
    /// # Errors
    /// The first setting that stands in the way.
    pub fn check_change(&self, to: &Self) -> Result<(), PlanError> {
        let (from, to) = (&self.fixed, &to.fixed);
        for (name, is_same) in [
            ("feed", from.feed == to.feed),
            ("workers", from.workers == to.workers),
            ("clients-max", from.clients_max == to.clients_max),
            ("access-log", from.access_log == to.access_log),
            ("access-log-file", from.access_log_file == to.access_log_file),
            ("otlp-endpoint", from.otlp_endpoint == to.otlp_endpoint),
            ("otlp-trust", from.otlp_trust == to.otlp_trust),
            ("otlp-header", from.otlp_headers == to.otlp_headers),
            ("upstream", from.upstream == to.upstream),
        ] {
            if !is_same {
                return Err(PlanError::NeedsRestart(name));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Refusal> {
        self.check_listeners()?;
        self.check_edges()?;
        self.check_balance()?;
        self.check_protocols()?;
        if let (Some(path), AccessLog::Off) = (&self.fixed.access_log_file, self.fixed.access_log) {
            return Err(PlanError::LogFileWithoutLog(path.clone()).at("access-log-file"));
        }
        let named = self.named_roles();
        for (item, table) in self.fixed.upstream.iter().enumerate() {
            if !named.contains(&table.role) {
                return Err(PlanError::UnusedTable(table.role.clone()).at_item("upstream", item));
            }
        }
        let is_file_of_flows = |table: &&FixedTable| {
            self.has_flows(&table.role) && table.addrs.iter().any(|addr| addr.unix().is_some())
        };
        if let Some(item) = self.fixed.upstream.iter().position(|table| is_file_of_flows(&table)) {
            let role = self.fixed.upstream[item].role.clone();
            return Err(PlanError::DatagramsToFile(role).at_item("upstream", item));
        }
        if !self.routes.is_empty() && !self.is_routing() {
            return Err(PlanError::UnusedRoutes.at_item("route", 0));
        }
        RouteRule::check_all(&self.routes)
    }

    fn check_listeners(&self) -> Result<(), Refusal> {
        for (position, listen) in self.listen.iter().enumerate() {
            let is_same = |before: &Listen| {
                let is_beside = before.protocol.is_of_streams() != listen.protocol.is_of_streams();
                before.addr == listen.addr && !listen.addr.is_chosen_by_kernel() && !is_beside
            };
            if self.listen[..position].iter().any(is_same) {
                return Err(PlanError::RepeatedListener(listen.clone()).at_item("listen", position));
            }
        }
        let secured = self.listen.iter().position(|listen| listen.protocol == Protocol::Https);
        match (secured, self.certificates.is_empty()) {
            (Some(item), true) => {
                Err(PlanError::NoCertificate(self.listen[item].clone()).at_item("listen", item))
            }
            (None, false) => {
                let key = if self.certificates.pairs.is_empty() { "certificates" } else { "certificate" };
                Err(PlanError::UnusedCertificates.at(key))
            }
            _ => Ok(()),
        }
    }

    fn check_edges(&self) -> Result<(), Refusal> {
        for (item, told) in self.edges.send_proxy.iter().enumerate() {
            let refused = |error: PlanError| Err(error.at_item("send-proxy", item));
            let is_shared =
                |listen: &Listen| listen.protocol.is_http() && listen.role.as_ref() == Some(&told.role);
            let is_routed = |route: &RouteRule| route.role_names().any(|role| role == told.role);
            if self.listen.iter().any(is_shared) || self.routes.iter().any(is_routed) {
                return refused(PlanError::SharedConnections(told.role.clone()));
            }
            if self.has_flows(&told.role) {
                return refused(PlanError::HeaderOfDatagrams(told.role.clone()));
            }
        }
        Ok(())
    }

    fn check_protocols(&self) -> Result<(), Refusal> {
        let named = self.named_roles();
        for (position, told) in self.rules.protocol.iter().enumerate() {
            let role = &told.role;
            if !named.contains(role) && !self.is_routing() {
                return Err(PlanError::UnusedProtocol(role.clone()).at_item("upstream-protocol", position));
            }
            if self.rules.protocol[..position].iter().any(|before| before.role == *role) {
                return Err(PlanError::RepeatedProtocol(role.clone()).at_item("upstream-protocol", position));
            }
            let passes_bytes =
                |listen: &Listen| listen.role.as_ref() == Some(role) && !listen.protocol.is_http();
            if told.protocol != EndpointProtocol::Http && self.listen.iter().any(passes_bytes) {
                return Err(PlanError::ProtocolOfBytes(role.clone()).at_item("upstream-protocol", position));
            }
        }
        let trust: Vec<&Name> = self.rules.trust.iter().map(|told| &told.role).collect();
        let names: Vec<&Name> = self.rules.server_name.iter().map(|told| &told.role).collect();
        self.check_trust("upstream-trust", &trust)?;
        self.check_trust("upstream-server-name", &names)
    }

    /// Whether a role's endpoints may show certificates: this plan says so, or says nothing and they may claim it.
    fn may_be_sealed(&self, role: &Name) -> bool {
        if let Some(told) = self.rules.protocol.iter().find(|told| told.role == *role) {
            return told.protocol.is_sealed();
        }
        let is_asked = |listen: &Listen| {
            listen.protocol.is_http() && listen.role.as_ref().is_none_or(|asked| asked == role)
        };
        let is_fixed = self.fixed.upstream.iter().any(|fixed| fixed.role == *role);
        !is_fixed && self.listen.iter().any(is_asked)
    }

    /// What is said of certificates is said once of roles that may have some.
    fn check_trust(&self, key: &'static str, roles: &[&Name]) -> Result<(), Refusal> {
        for (position, role) in roles.iter().enumerate() {
            if !self.may_be_sealed(role) {
                return Err(PlanError::UnusedTrust(key, (*role).clone()).at_item(key, position));
            }
            if roles[..position].contains(role) {
                return Err(PlanError::RepeatedTrust(key, (*role).clone()).at_item(key, position));
            }
        }
        Ok(())
    }

    fn check_balance(&self) -> Result<(), Refusal> {
        let named = self.named_roles();
        for (position, told) in self.rules.balance.iter().enumerate() {
            let role = &told.role;
            let refused = |error: PlanError| Err(error.at_item("balance", position));
            if !named.contains(role) && !self.is_routing() {
                return refused(PlanError::UnusedBalance(role.clone()));
            }
            if self.rules.balance[..position].iter().any(|before| before.role == *role) {
                return refused(PlanError::RepeatedBalance(role.clone()));
            }
            let mut listeners = self.listen.iter().filter(|listen| listen.role.as_ref() == Some(role));
            let reads_heads = listeners.all(|listen| listen.protocol.is_http());
            if !reads_heads && matches!(told.balance, Balance::HashHeader(_)) {
                return refused(PlanError::BalanceByField(role.clone()));
            }
        }
        Ok(())
    }
}

/// What a proxy does, a line each: listeners, routes, and the roles that it follows.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for listen in &self.listen {
            writeln!(f, "listen {listen}")?;
        }
        for route in &self.routes {
            writeln!(f, "{route}")?;
        }
        if self.is_routing() {
            writeln!(f, "route what services claim")?;
        }
        if let Some(unused) = self.unused() {
            writeln!(f, "! {unused}")?;
        }
        let roles: Vec<String> = self.named_roles().iter().map(ToString::to_string).collect();
        write!(f, "roles {}", if roles.is_empty() { "as they claim".to_owned() } else { roles.join(", ") })
    }
}

/// What is said of traces and their collector needs that there are some.
fn check_traces(given: &Given) -> Result<(), Refusal> {
    let said = [
        ("trace-sample", given.trace_sample.is_some()),
        ("otlp-endpoint", given.otlp_endpoint.is_some()),
        ("otlp-trust", given.otlp_trust.is_some()),
        ("otlp-header", given.otlp_header.is_some()),
    ];
    // Who says that there are none has not forgotten to say which.
    if let Some((key, _)) = said.into_iter().find(|(_, is_said)| *is_said && given.trace.is_none()) {
        return Err(PlanError::NeedsTrace(key).at(key));
    }
    match &given.otlp_endpoint {
        None if given.otlp_header.is_some() => {
            Err(PlanError::NeedsCollector("otlp-header", "URL").at("otlp-header"))
        }
        endpoint if given.otlp_trust.is_some() && !endpoint.as_ref().is_some_and(|there| there.is_sealed) => {
            Err(PlanError::NeedsCollector("otlp-trust", "https://HOST").at("otlp-trust"))
        }
        _ => Ok(()),
    }
}

fn rules(given: &Given) -> UpstreamRules {
    let usual = UpstreamRules::default();
    UpstreamRules {
        balance: given.balance.clone().unwrap_or_default(),
        protocol: given.upstream_protocol.clone().unwrap_or_default(),
        trust: given.upstream_trust.clone().unwrap_or_default(),
        server_name: given.upstream_server_name.clone().unwrap_or_default(),
        eject_failures: given.eject_failures.unwrap_or(usual.eject_failures),
        eject_5xx: given.eject_5xx,
        eject_percent_max: given.eject_percent_max.unwrap_or(usual.eject_percent_max),
        eject_panic_percent: given.eject_panic_percent.unwrap_or(usual.eject_panic_percent),
        retry_percent: given.retry_percent.unwrap_or(usual.retry_percent),
        upstream_connections_max: given.upstream_connections_max,
        upstream_pending_max: given.upstream_pending_max,
    }
}

/// Where a proxy listens that was told nothing of it.
fn default_listener(is_routing: bool) -> Listen {
    let role = DEFAULT_ROLE.parse().ok().filter(|_| !is_routing);
    let addr = SocketAddr::from(([0; 4], DEFAULT_PORT)).into();
    Listen { protocol: Protocol::Http, addr, role, mode: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, String> {
        let given = program::file::parse("a.toml", text).map_err(|error| error.to_string())?;
        Plan::new(given).map_err(|error| error.to_string())
    }

    #[test]
    fn a_proxy_that_was_told_nothing_serves_the_fronts_and_one_with_routes_serves_these() {
        assert_eq!(plan("").unwrap().listen[0].to_string(), "http://0.0.0.0:80=frontserver");
        let routed = plan("route = [{ match = '/', role = 'web' }]").unwrap();
        assert_eq!(routed.listen[0].to_string(), "http://0.0.0.0:80");
        assert_eq!(routed.named_roles(), ["web".parse().unwrap()]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_no_plan() {
        let listen = "listen = ['http://0.0.0.0:80=web', 'tcp://0.0.0.0:81=db', 'http://0.0.0.0:82=db']\n";
        for (text, why) in [
            ("trusted-hops = 1", "needs --forwarded"),
            ("access-log-file = 'a'", "needs --access-log"),
            ("trace-sample = 5", "--trace-sample: needs --trace"),
            ("otlp-endpoint = 'http://a:1'", "--otlp-endpoint: needs --trace"),
            ("trace = 'restart'\notlp-header = ['a: b']", "--otlp-header: needs --otlp-endpoint URL"),
            (
                "trace = 'restart'\notlp-endpoint = 'http://a:1'\notlp-trust = 'system'",
                "--otlp-trust: needs --otlp-endpoint https://HOST",
            ),
            ("upstream = ['app=127.0.0.1:1']", "--upstream app=…: expected a role"),
            ("send-proxy = ['web=v2']", "shared by clients"),
            ("balance = ['app=p2c']", "that --listen names"),
            ("upstream-protocol = ['app=h2c']", "--upstream-protocol app=…: expected a role"),
            ("upstream-protocol = ['web=h2c', 'web=http']", "once"),
            ("upstream-protocol = ['db=h2c']", "pass bytes"),
            ("upstream-protocol = ['db=https']", "pass bytes"),
            (
                "upstream-trust = ['db=system']\nupstream-protocol = ['db=http']",
                "or whose services may claim that",
            ),
            ("upstream-trust = ['app=system']", "--upstream-trust app=…: expected a role that"),
            ("upstream-trust = ['web=system']\nupstream = ['web=127.0.0.1:1']", "expected a role that"),
            ("upstream-protocol = ['web=h2c']\nupstream-server-name = ['web=a']", "speak https or h2"),
            ("upstream-protocol = ['web=h2']\nupstream-trust = ['web=system', 'web=ca:a']", "once"),
            ("balance = ['web=p2c', 'web=hash:client']", "once"),
            ("balance = ['db=hash:header:X-User']", "expected hash:client"),
            ("route = [{ match = '/', role = 'web' }]", "expected a listener without a role"),
        ] {
            let error = plan(&format!("{listen}{text}")).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(plan(&format!("{listen}balance = ['web=hash:header:X-User', 'db=hash:client']")).is_ok());
        assert!(plan(&format!("{listen}upstream-trust = ['web=system']")).is_ok(), "web may claim it");
        assert!(plan("listen = ['http://0.0.0.0:80']\nupstream-trust = ['any=system']").is_ok());
        assert!(plan("listen = ['tcp://0.0.0.0:80=a']\nupstream-trust = ['a=system']").is_err());
        let both = "listen = ['http://0.0.0.0:53=a', 'udp://0.0.0.0:53=a']\n";
        assert!(plan(both).unwrap().is_keyed(&"a".parse().unwrap()));
        let header = plan("listen = ['udp://0.0.0.0:53=a']\nsend-proxy = ['a=v2']").unwrap_err();
        assert!(header.contains("without udp:// listeners"), "{header}");
        let file = plan("listen = ['udp://0.0.0.0:53=a']\nupstream = ['a=unix:/run/a.sock']").unwrap_err();
        assert!(file.contains("datagrams have an IP address"), "{file}");
        let twice = plan("listen = ['http://unix:/run/a=a', 'tcp://unix:/run/a=b?mode=600']").unwrap_err();
        assert!(
            twice.contains("--listen tcp://unix:/run/a=b?mode=600: expected each address once"),
            "{twice}"
        );
        let twice = plan("listen = ['http://0.0.0.0:80=a', 'tcp://0.0.0.0:80=b']").unwrap_err();
        assert!(twice.contains("--listen tcp://0.0.0.0:80=b: expected each address once"), "{twice}");
    }

    #[test]
    fn what_is_wrong_with_all_settings_together_has_a_place_in_the_file() {
        use program::file::{
            Source,
            Step::{Item, Key},
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let listen =
            "listen = [\n  'http://0.0.0.0:80',\n  'tcp://0.0.0.0:81=db',\n  'udp://0.0.0.0:53=dns',\n]\n";
        for (text, place) in [
            ("\ntrusted-hops = 1", "7:16"),
            ("access-log-file = 'a'", "6:19"),
            ("trace-sample = 0.1", "6:16"),
            ("upstream = ['db=127.0.0.1:1', 'app=127.0.0.1:1']", "6:31"),
            ("send-proxy = [\n'db=v2',\n'dns=v2']", "8:1"),
            ("balance = ['web=p2c', 'web=hash:client']", "6:23"),
            ("balance = ['db=hash:header:X-User']", "6:12"),
            ("certificate = ['a,b']", "6:15"),
            ("certificates = 'a'", "6:16"),
            ("[[route]]\nmatch = '/'\nrole = 'a'\n[[route]]\nrole = 'b'\nmatch = '/'", "11:9"),
            ("[[route]]\nmatch = '/'\nrole = 'a'\n[[route]]\nmatch = '/b'", "9:1"),
            ("[[route]]\nmatch = '/'\nroles = { a = 0, b = 0 }", "8:9"),
            ("[[route]]\nmatch = '/'\nrole = 'a'\n[route.timeouts]\nbody = '1s'\nidle = '1s'", "11:8"),
            ("[[route]]\nmatch = '/'\nredirect = { path = '/b',\n host = 'a b' }", "9:9"),
            ("[[route]]\nmatch = '/'\nrole = 'a'\n[route.request.set]\nHost = 'b'", "9:8"),
        ] {
            std::fs::write(&path, format!("{listen}{text}\n")).unwrap();
            let source = Source::read(&path).unwrap();
            let refusal = Plan::new(source.parse_checked(Ok).unwrap()).unwrap_err();
            let error = source.wrong(&refusal.at, refusal.to_string()).to_string();
            assert!(error.contains(&format!("a.toml:{place}: {refusal}")), "{text}: {error}");
        }
        let listeners = |text: &str| {
            let refusal = Plan::new(program::file::parse("a.toml", text).unwrap()).unwrap_err();
            refusal.at.last().copied()
        };
        assert_eq!(listeners("listen = ['http://0.0.0.0:80', 'tcp://0.0.0.0:80=b']"), Some(Item(1)));
        assert_eq!(listeners("listen = ['http://0.0.0.0:80', 'https://0.0.0.0:81']"), Some(Item(1)));
        assert_eq!(
            listeners("listen = ['tcp://0.0.0.0:80=a']\nroute = [{ match = '/', role = 'a' }]"),
            Some(Item(0))
        );
        assert_eq!(listeners("trusted-hops = 1"), Some(Key("trusted-hops")));
    }

    #[test]
    fn what_a_running_proxy_cannot_change_is_named() {
        let before = plan("workers = 1").unwrap();
        assert_eq!(before.check_change(&plan("workers = 1\nretry-percent = 3").unwrap()), Ok(()));
        assert_eq!(before.check_change(&plan("").unwrap()), Err(PlanError::NeedsRestart("workers")));
    }
}
