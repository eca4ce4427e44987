//! What was said: by flags, by variables, and in the file. One list of settings for all three.

use std::{num::NonZeroU32, path::PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::{
    AccessLog, CertificatePair, ClientNetwork, FixedTable, ForwardedFields, GivenTimeouts, HalfClosed,
    Listen, OtlpEndpoint, OtlpHeader, RequestIds, RoleBalance, RoleProtocol, RoleServerName, RoleTrust,
    RouteRule, RoutesAllow, Sampling, SendProxy, Size, SniRule, TraceMode, Trust, Via,
};
use crate::limits::TRUSTED_HOPS_COUNT_MAX;

/// Most worker threads.
const WORKERS_COUNT_MAX: i64 = 256;

/// Settings, each of which may be missing. A key of the file is called as the flag is.
#[derive(Debug, Clone, Default, clap::Args, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[schemars(title = "Concertina's proxy")]
pub struct Given {
    /// Where to listen and for which role: http://ADDR:PORT=ROLE, https:// (HTTP/1 and HTTP/2 over TLS), h2c:// (HTTP/2 without TLS),
    /// tcp:// or udp://; without a role, http://, https:// and h2c:// serve the routes of the file and those that services claim with
    /// --route, and tls://ADDR:PORT[=DEFAULT-ROLE] passes TLS on by the host that a client asks for. In the place of ADDR:PORT,
    /// unix:/PATH is a Unix socket, with ?mode=660 at the end as its mode; may be repeated [default: http://0.0.0.0:80=frontserver]
    #[arg(long, value_name = "URL=ROLE", value_delimiter = ',')]
    pub listen: Option<Vec<Listen>>,
    /// The feed's socket [default: /run/concertina/feed.sock]
    #[arg(long, value_name = "PATH")]
    pub feed: Option<PathBuf>,
    /// A fixed table instead of the feed: ROLE=ADDR,ADDR, where each is IP:PORT or unix:/PATH; may be repeated
    #[arg(long, value_name = "ROLE=ADDRS")]
    pub upstream: Option<Vec<FixedTable>>,
    /// Which hosts services of a role may claim: ROLE=HOST, ROLE=*.SUFFIX or ROLE=*; may be repeated [default: everybody everything]
    #[arg(long, value_name = "ROLE=HOST", value_delimiter = ',')]
    pub routes_allow: Option<Vec<RoutesAllow>>,
    /// Worker threads [default: the cores that this process may use]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=WORKERS_COUNT_MAX))]
    #[serde(deserialize_with = "within::<1, WORKERS_COUNT_MAX, _, _>")]
    #[schemars(range(min = 1, max = WORKERS_COUNT_MAX))]
    pub workers: Option<u16>,
    /// Longest phases, any of header=5s,body=30s,idle=60s,queue=1s,connect=1s,response=60s,stream=1h,tunnel=1h,flow=30s,drain=2s
    #[arg(long, value_name = "LIST")]
    pub timeouts: Option<GivenTimeouts>,
    /// What it means when a client closes its sending side while its answer is pending: `abort` takes it for gone, `keep` answers
    /// [default: abort]
    #[arg(long, value_name = "HOW")]
    pub half_closed: Option<HalfClosed>,
    /// Most client connections at a time, for each worker [default: 16384]
    #[arg(long, value_name = "COUNT")]
    pub clients_max: Option<usize>,
    /// By what upstreams are chosen: ROLE=p2c (load, the default), ROLE=hash:client or ROLE=hash:header:NAME; may be repeated
    #[arg(long, value_name = "ROLE=HOW", value_delimiter = ',')]
    pub balance: Option<Vec<RoleBalance>>,
    /// What a role's endpoints speak: ROLE=http (HTTP/1.1), ROLE=https (the same over TLS), ROLE=h2c (HTTP/2 without TLS, as gRPC
    /// does) or ROLE=h2 (HTTP/2 over TLS); may be repeated [default: what each claims with --protocol, or http]
    #[arg(long, value_name = "ROLE=WHAT", value_delimiter = ',')]
    pub upstream_protocol: Option<Vec<RoleProtocol>>,
    /// Whose certificates are believed of a role's endpoints, over TLS: ROLE=system (the authorities of the system, the default),
    /// ROLE=ca:FILE (those in a file, in PEM), or ROLE=sha256//BASE64 (whoever has this key, as curl's --pinnedpubkey has it; several are
    /// separated by `;`); may be repeated
    #[arg(long, value_name = "ROLE=WHOM", value_delimiter = ',')]
    pub upstream_trust: Option<Vec<RoleTrust>>,
    /// The name that the certificates of a role's endpoints are for, and that they are asked for: ROLE=HOST or ROLE=ADDRESS; may be
    /// repeated [default: the role's own]
    #[arg(long, value_name = "ROLE=HOST", value_delimiter = ',')]
    pub upstream_server_name: Option<Vec<RoleServerName>>,
    /// So many failures in a row make an upstream the last resort for a while: answers that do not come, in time or at all, that break
    /// off, or that break the rules; 0: never [default: 5]
    #[arg(long, value_name = "COUNT")]
    pub eject_failures: Option<u32>,
    /// 5xx responses count as failures, too, and so many in a row of either are enough [default: they do not count]
    #[arg(long = "eject-5xx", value_name = "COUNT")]
    #[serde(rename = "eject-5xx")]
    pub eject_5xx: Option<NonZeroU32>,
    /// Most of a role that may be ejected at a time, in percent; one always may [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    #[serde(deserialize_with = "within::<0, 100, _, _>")]
    #[schemars(range(max = 100))]
    pub eject_percent_max: Option<u8>,
    /// Where more than this share of a role is ejected, ejections are ignored; 100: never [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    #[serde(deserialize_with = "within::<0, 100, _, _>")]
    #[schemars(range(max = 100))]
    pub eject_panic_percent: Option<u8>,
    /// Most retries, in percent of a role's recent requests at a worker; ten a second are always granted [default: 20]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    #[serde(deserialize_with = "within::<0, 100, _, _>")]
    #[schemars(range(max = 100))]
    pub retry_percent: Option<u8>,
    /// Most connections in use to one upstream, over all workers: requests under way, and TCP connections [default: no limit]
    #[arg(long, value_name = "COUNT")]
    pub upstream_connections_max: Option<NonZeroU32>,
    /// Most requests of a role that wait while all its upstreams are at that limit [default: no limit]
    #[arg(long, value_name = "COUNT")]
    pub upstream_pending_max: Option<u32>,
    /// Networks of proxies in front, whose connections must begin with a PROXY header (version 1 or 2): a client's address is the one in
    /// it; unix: for those that connect to a Unix socket; may be repeated [default: none, and no header is believed]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    #[schemars(with = "Option<Vec<String>>")]
    pub proxy_protocol: Option<Vec<ClientNetwork>>,
    /// Tell a role's endpoints the address of each client by a PROXY header: ROLE=v1 or ROLE=v2, for tcp:// and tls:// listeners; may be
    /// repeated
    #[arg(long, value_name = "ROLE=VERSION", value_delimiter = ',')]
    pub send_proxy: Option<Vec<SendProxy>>,
    /// The role of a TLS client that asks for a host, at tls:// listeners: HOST=ROLE or *.SUFFIX=ROLE, before what services claim; may be
    /// repeated
    #[arg(long, value_name = "HOST=ROLE", value_delimiter = ',')]
    pub sni: Option<Vec<SniRule>>,
    /// A certificate with its chain and its private key, for https:// listeners, both in PEM: CERT,KEY; may be repeated, and the first is
    /// for clients that ask for no host, or for one that no certificate is for. Taken anew when the files change
    #[arg(long, value_name = "CERT,KEY")]
    pub certificate: Option<Vec<CertificatePair>>,
    /// A directory of more of them: NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem
    #[arg(long, value_name = "DIR")]
    pub certificates: Option<PathBuf>,
    /// Longest body of a request, such as 512k or 10m; a longer one is answered with 413 [default: any length]
    #[arg(long, value_name = "SIZE")]
    pub body_bytes_max: Option<Size>,
    /// Tell upstreams where requests come from, and nobody else may: `x` for X-Forwarded-For, -Proto, -Host and -Port and
    /// X-Real-IP, `rfc7239` for Forwarded, `both`; with `none`, what clients say of it passes [default: none]
    #[arg(long, value_name = "FIELDS")]
    pub forwarded: Option<ForwardedFields>,
    /// How many proxies in front of this one are believed: so many of the last addresses in a list are kept [default: 0]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u8).range(0..=TRUSTED_HOPS_COUNT_MAX as i64))]
    #[serde(deserialize_with = "within::<0, { TRUSTED_HOPS_COUNT_MAX as i64 }, _, _>")]
    #[schemars(range(max = TRUSTED_HOPS_COUNT_MAX))]
    pub trusted_hops: Option<u8>,
    /// The name under which this proxy adds itself to Via, in requests and responses [default: it does not]
    #[arg(long, value_name = "NAME")]
    pub via: Option<Via>,
    /// X-Request-ID of each HTTP request, for upstreams, clients and the access log: `make` gives it a new one whatever the client says,
    /// `keep` takes over that of the client if it is well-formed; with `off` the field passes [default: off]
    #[arg(long, value_name = "HOW")]
    pub request_id: Option<RequestIds>,
    /// The trace of each HTTP request (`traceparent` and `tracestate` of the W3C), for upstreams and the access log: `propagate` goes on with
    /// that of the client if it is well-formed, and else begins one, `restart` begins one whatever the client says; with `off` both fields
    /// pass [default: off]
    #[arg(long, value_name = "HOW")]
    pub trace: Option<TraceMode>,
    /// How many of the traces that begin here are sampled, in percent, such as 5 or 0.1; those of clients are as these have decided
    /// [default: 100]
    #[arg(long, value_name = "PERCENT")]
    pub trace_sample: Option<Sampling>,
    /// Who takes a span of each request whose trace is sampled, by OTLP over HTTP: http://HOST:PORT, or https://HOST with or without a port, to
    /// which /v1/traces is added [default: nobody]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Whose certificate is believed there: system, ca:FILE or sha256//BASE64, as with --upstream-trust [default: system]
    #[arg(long, value_name = "WHOM")]
    pub otlp_trust: Option<Trust>,
    /// A field that it is told, such as 'x-api-key: KEY'; may be repeated. Other users see flags: the variable or the file hides a key
    #[arg(long, value_name = "NAME: VALUE", hide_env_values = true)]
    pub otlp_header: Option<Vec<OtlpHeader>>,
    /// A line for each HTTP request: `common` as Apache writes it, `json` as objects with times and reasons [default: off]
    #[arg(long, value_name = "FORMAT")]
    pub access_log: Option<AccessLog>,
    /// Where those lines go; opened anew on SIGHUP [default: stdout]
    #[arg(long, value_name = "PATH")]
    pub access_log_file: Option<PathBuf>,
    /// Requests by their host and path, and what holds for them; before what services claim.
    #[arg(skip)]
    pub route: Option<Vec<RouteRule>>,
}

/// What is the same for every setting but `timeouts`, of which each phase is a setting.
macro_rules! for_each {
    ($($name:ident)*) => {
        /// What is said here, and of all else what is said there.
        #[must_use]
        pub fn over(self, under: Self) -> Self {
            Self { timeouts: merged(self.timeouts, under.timeouts), $($name: self.$name.or(under.$name),)* }
        }

        /// Whether something is said of the setting with this key.
        pub(super) fn says(&self, key: &str) -> bool {
            $((self.$name.is_some() && stringify!($name).replace('_', "-") == key))||*
        }
    };
}

impl Given {
    for_each!(
        listen feed upstream routes_allow workers half_closed clients_max balance upstream_protocol upstream_trust
        upstream_server_name eject_failures eject_5xx
        eject_percent_max eject_panic_percent retry_percent upstream_connections_max upstream_pending_max
        proxy_protocol send_proxy sni certificate certificates body_bytes_max forwarded trusted_hops via request_id trace trace_sample otlp_endpoint otlp_trust otlp_header access_log access_log_file route
    );
}

fn merged(over: Option<GivenTimeouts>, under: Option<GivenTimeouts>) -> Option<GivenTimeouts> {
    match (over, under) {
        (Some(over), Some(under)) => Some(over.over(under)),
        (over, under) => over.or(under),
    }
}

/// A number within bounds, which clap looks at for flags.
fn within<'de, const MIN: i64, const MAX: i64, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let number = i64::deserialize(from)?;
    let fits = (MIN..=MAX).contains(&number).then(|| T::try_from(number).ok()).flatten();
    fits.map(Some)
        .ok_or_else(|| de::Error::custom(format!("{number}: expected a number from {MIN} to {MAX}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Cli {
        #[command(flatten)]
        given: Given,
    }

    fn flags(text: &str) -> Given {
        Cli::try_parse_from(text.split_whitespace()).unwrap().given
    }

    fn file(text: &str) -> Result<Given, String> {
        program::file::parse("a.toml", text).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_over_the_file_and_of_timeouts_each_phase() {
        let given = flags("--workers 3 --timeouts idle=1s").over(
            file("workers = 2\nretry-percent = 7\ntimeouts = { idle = \"9s\", queue = \"8s\" }\n").unwrap(),
        );
        assert_eq!((given.workers, given.retry_percent), (Some(3), Some(7)));
        assert_eq!(given.timeouts, Some("idle=1s,queue=8s".parse().unwrap()));
    }

    #[test]
    fn what_is_said_is_known_by_its_key() {
        let given = flags("--trusted-hops 1 --eject-5xx 3");
        assert!(given.says("trusted-hops") && given.says("eject-5xx"));
        assert!(!given.says("listen") && !given.says("trusted_hops"));
    }

    #[test]
    fn every_flag_is_a_key_of_the_same_name() {
        use clap::CommandFactory;
        let schema = serde_json::to_value(schemars::schema_for!(Given)).unwrap();
        let keys = schema["properties"].as_object().unwrap();
        let mut expected: Vec<String> =
            Cli::command().get_arguments().filter_map(|arg| arg.get_long().map(ToOwned::to_owned)).collect();
        expected.push("route".to_owned());
        expected.sort();
        let mut keys: Vec<&String> = keys.keys().collect();
        keys.sort();
        assert_eq!(keys, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_wrong_value_of_the_file_has_a_place_and_is_told_what_would_be_right() {
        for (text, why) in [
            ("workers = 0\n", "a.toml:1:11: 0: expected a number from 1 to 256"),
            ("\nretry-percent = 101\n", "a.toml:2:17: 101: expected a number from 0 to 100"),
            (
                "listen = [\"http://0.0.0.0:80\", \"ftp://a\"]\n",
                "a.toml:1:10: \"ftp://a\": unknown scheme; expected",
            ),
            ("lissten = []\n", "did you mean `listen`?"),
            ("half-closed = \"no\"\n", "a.toml:1:15: unknown variant `no`, expected `abort` or `keep`"),
            ("timeouts = { idle = \"5\" }\n", "a.toml:1:21: \"5\" is not a time"),
            ("timeouts = { idel = \"5s\" }\n", "did you mean `idle`?"),
            ("body-bytes-max = \"5q\"\n", "is not a size"),
            ("trace-sample = 101\n", "a.toml:1:16: 101: expected a number from 0 to 100"),
            ("trace-sample = \"5\"\n", "a.toml:1:16"),
            ("otlp-endpoint = \"a:4318\"\n", "is no place for spans"),
            ("otlp-trust = \"/a.pem\"\n", "expected system, ca:FILE"),
            ("otlp-header = [\"a\"]\n", "no colon: expected 'NAME: VALUE'"),
            ("proxy-protocol = [\"10.0.0.0/33\"]\n", "a.toml:1:18: \"10.0.0.0/33\" is not a network"),
        ] {
            let error = file(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_defaults_that_are_told_are_those_that_hold() {
        use clap::CommandFactory;
        let help = Cli::command().term_width(0).render_long_help().to_string();
        let (rules, clients) = (super::super::UpstreamRules::default(), crate::limits::CLIENTS_COUNT_MAX);
        for (flag, default) in [
            ("--eject-failures", rules.eject_failures.to_string()),
            ("--eject-percent-max", rules.eject_percent_max.to_string()),
            ("--eject-panic-percent", rules.eject_panic_percent.to_string()),
            ("--retry-percent", rules.retry_percent.to_string()),
            ("--clients-max", clients.to_string()),
        ] {
            let about = help.split_once(&format!("{flag} ")).unwrap().1;
            let told = about.split_once("[default: ").unwrap().1.split(']').next().unwrap();
            assert_eq!(told, default, "{flag}");
        }
    }
}
