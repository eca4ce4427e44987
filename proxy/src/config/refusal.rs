//! Why settings are no plan, and where the one is said that has to change.

use std::path::PathBuf;

use feed::Name;
use program::file::Step;

use super::{Listen, ROUTES_COUNT_MAX};

/// Why settings are no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Hops are trusted, and nothing is read of them.
    #[error("--trusted-hops {0}: needs --forwarded x, rfc7239 or both")]
    HopsWithoutForwarded(u8),
    /// A PROXY header on a connection of many clients.
    #[error(
        "--send-proxy {0}=…: connections of an http:// listener are shared by clients; expected a role of tcp:// or tls:// \
         listeners alone (--forwarded tells HTTP origins)"
    )]
    SharedConnections(Name),
    /// A PROXY header where there is no connection to begin.
    #[error(
        "--send-proxy {0}=…: a flow of datagrams has no beginning; expected a role without udp:// listeners"
    )]
    HeaderOfDatagrams(Name),
    /// A file without lines.
    #[error("--access-log-file {path}: needs --access-log common or json", path = .0.display())]
    LogFileWithoutLog(PathBuf),
    /// What is said of traces that there are not.
    #[error("--{0}: needs --trace propagate or restart, or off to leave it unused")]
    NeedsTrace(&'static str),
    /// What is said of a collector that there is not.
    #[error("--{0}: needs --otlp-endpoint {1}")]
    NeedsCollector(&'static str, &'static str),
    /// A table that nobody looks into.
    #[error("--upstream {0}=…: expected a role that --listen names, or a route")]
    UnusedTable(Name),
    /// Datagrams, and nowhere to send them.
    #[error("--upstream {0}=unix:…: datagrams have an IP address; expected a role without udp:// listeners")]
    DatagramsToFile(Name),
    /// A balance of a role that nobody is sent to.
    #[error("--balance {0}=…: expected a role that --listen names")]
    UnusedBalance(Name),
    /// Two balances of one role.
    #[error("--balance {0}=…: expected each role once")]
    RepeatedBalance(Name),
    /// A field where no heads are read.
    #[error(
        "--balance {0}=hash:header:…: tcp:// and udp:// listeners know no fields; expected hash:client or p2c"
    )]
    BalanceByField(Name),
    /// A protocol of a role that nobody is sent to.
    #[error("--upstream-protocol {0}=…: expected a role that --listen names, or a route")]
    UnusedProtocol(Name),
    /// Two protocols of one role.
    #[error("--upstream-protocol {0}=…: expected each role once")]
    RepeatedProtocol(Name),
    /// A protocol where bytes pass as they are.
    #[error(
        "--upstream-protocol {0}=…: tcp://, tls:// and udp:// listeners pass bytes as they are; expected a role of HTTP listeners"
    )]
    ProtocolOfBytes(Name),
    /// Trust in endpoints that show no certificate.
    #[error(
        "--{0} {1}=…: expected a role that --upstream-protocol has speak https or h2, or whose services may claim that"
    )]
    UnusedTrust(&'static str, Name),
    /// Two of one role.
    #[error("--{0} {1}=…: expected each role once")]
    RepeatedTrust(&'static str, Name),
    /// Two listeners at one address.
    #[error("--listen {0}: expected each address once")]
    RepeatedListener(Listen),
    /// TLS without a certificate.
    #[error("--listen {0}: needs --certificate CERT,KEY or --certificates DIR")]
    NoCertificate(Listen),
    /// A certificate that nobody is shown.
    #[error("--certificate, --certificates: expected an https:// listener")]
    UnusedCertificates,
    /// Routes, and no listener that looks at them.
    #[error("routes: expected a listener without a role, such as http://0.0.0.0:80")]
    UnusedRoutes,
    /// More than there is a bound for.
    #[error("{0} routes: expected at most {ROUTES_COUNT_MAX}")]
    TooManyRoutes(usize),
    /// A route that cannot be.
    #[error("route {route}: {why}")]
    Route {
        /// Which, as it is written.
        route: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A change that a running proxy cannot make.
    #[error("{0}: only a restart changes it")]
    NeedsRestart(&'static str),
}

/// The same with the way to the setting, in a file or wherever else it is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// Its key, and what leads on to what is wrong with it.
    pub at: Vec<Step>,
    /// What is wrong, and what would be right.
    pub why: PlanError,
}

impl PlanError {
    /// Of the value of this key.
    pub(super) fn at(self, key: &'static str) -> Refusal {
        Refusal { at: vec![Step::Key(key)], why: self }
    }

    /// Of one in the list of this key.
    pub(super) fn at_item(self, key: &'static str, item: usize) -> Refusal {
        Refusal { at: vec![Step::Key(key), Step::Item(item)], why: self }
    }
}

/// What is wrong within a route.
#[derive(Debug)]
pub(super) struct RouteError {
    /// The keys that lead there, from the route on.
    pub(super) keys: &'static [&'static str],
    /// What is wrong, and what would be right.
    pub(super) why: String,
}

impl RouteError {
    pub(super) fn new(keys: &'static [&'static str], why: impl Into<String>) -> Self {
        Self { keys, why: why.into() }
    }

    /// Of this one of all routes.
    pub(super) fn of(self, route: String, item: usize) -> Refusal {
        let mut refusal = PlanError::Route { route, why: self.why }.at_item("route", item);
        refusal.at.extend(self.keys.iter().map(|key| Step::Key(key)));
        refusal
    }
}
