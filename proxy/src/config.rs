//! What a proxy is told: by flags, variables and a file, each value parsed, and all of them checked together.
//!
//! ```text
//! flags ┐
//! variables ┼▶ Given ─▶ Plan ─▶ workers
//! file ┘                └▶ another Plan, while the proxy runs
//! ```

use std::{fmt, path::PathBuf};

use program::file::{FileError, Source, Step};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::http1::Forwarding;

mod address;
mod balance;
mod certificate;
mod change;
mod claims;
mod client_network;
mod collector;
mod edges;
mod given;
mod listen;
mod plan;
mod protocol;
mod rate;
mod redirect;
mod refusal;
mod route;
mod rules;
mod size;
mod sticky;
mod text;
mod timeouts;
mod traces;
mod trust;
mod via;

pub use address::{Address, UNIX_PATH_BYTES_MAX, UnixPath};
pub use balance::{Balance, RoleBalance};
pub use certificate::{CertificateFiles, CertificatePair};
pub use change::Change;
pub use claims::RoutesAllow;
pub use client_network::ClientNetwork;
pub use collector::{OtlpEndpoint, OtlpHeader};
pub use edges::{EdgeRules, ProxyVersion, SendProxy, SniRule};
pub use given::Given;
pub use listen::{FixedTable, Listen, Protocol, SOCKET_MODE};
pub use plan::{Fixed, Plan};
pub use protocol::RoleProtocol;
pub use rate::{Rate, RateKey};
pub use redirect::{Redirect, Scheme};
use refusal::RouteError;
pub use refusal::{PlanError, Refusal};
pub use route::{FieldRules, ROUTES_COUNT_MAX, RouteRule};
pub use rules::{EJECT_FAILURES, EJECT_PANIC_PERCENT, EJECT_PERCENT_MAX, RETRY_PERCENT, UpstreamRules};
pub use size::Size;
pub use sticky::{Secret, Sticky};
pub use timeouts::{GivenTimeouts, Span, Timeouts};
pub use traces::{Sampling, TraceMode};
pub use trust::{Pin, RoleServerName, RoleTrust, Trust};
pub use via::Via;

/// `concertina proxy`: HTTP/1 and TCP in front of roles.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// A file with the same settings, called as the flags are, and with routes; flags and variables go before it. Read again on
    /// SIGHUP and by `concertina proxy reload`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is said here.
    #[command(flatten)]
    pub given: Given,
}

impl Args {
    /// What flags, variables and the file say together, as it is now.
    ///
    /// # Errors
    /// A file that cannot be read, or settings that contradict each other; the message names what would be right.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let source = self.source()?;
        let file = source.as_ref().map(|source| source.parse_checked(Ok)).transpose()?.unwrap_or_default();
        let plan = Plan::new(self.given.clone().over(file));
        plan.map_err(|refusal| match source.filter(|_| self.is_of_file(&refusal.at)) {
            Some(source) => source.wrong(&refusal.at, refusal.to_string()).into(),
            None => refusal.into(),
        })
    }

    /// What is wrong with a setting that can be part of a plan, with its place in the file as that is now.
    pub(crate) fn placed(&self, at: &[Step], error: anyhow::Error) -> anyhow::Error {
        match self.source() {
            Ok(Some(source)) if self.is_of_file(at) => source.wrong(at, format!("{error:#}")).into(),
            _ => error,
        }
    }

    fn source(&self) -> Result<Option<Source>, FileError> {
        self.config.as_deref().map(Source::read).transpose()
    }

    /// Flags and variables go before the file: what they say is not said there, whatever is written.
    fn is_of_file(&self, at: &[Step]) -> bool {
        !matches!(at.first(), Some(Step::Key(key)) if self.given.says(key))
    }
}

/// The JSON Schema of the file.
pub fn schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(Given)).unwrap_or_default()
}

/// How requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AccessLog {
    /// Not at all.
    Off,
    /// Apache's common log format.
    Common,
    /// One JSON object each.
    Json,
}

/// Whether requests have ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RequestIds {
    /// X-Request-ID is a field as any other.
    Off,
    /// Each gets a new one.
    Make,
    /// That of the client, if it sends one; else a new one.
    Keep,
}

impl fmt::Display for RequestIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Make => "make",
            Self::Keep => "keep",
        })
    }
}

/// Which fields tell an upstream where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedFields {
    /// None: those of the client pass.
    None,
    /// X-Forwarded-For, -Proto, -Host and -Port, and X-Real-IP.
    X,
    /// Forwarded.
    Rfc7239,
    /// All of them.
    Both,
}

impl ForwardedFields {
    /// The same for a head.
    pub(crate) fn with(self, trusted_hops: u8) -> Option<Forwarding> {
        let (x, rfc7239) = match self {
            Self::None => return None,
            Self::X => (true, false),
            Self::Rfc7239 => (false, true),
            Self::Both => (true, true),
        };
        Some(Forwarding { x, rfc7239, trusted_hops })
    }
}

/// What a client's half-close means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HalfClosed {
    /// The client is gone: its request is cancelled.
    Abort,
    /// The client waits for its answer.
    Keep,
}
