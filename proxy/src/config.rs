//! The command line of the proxy: parsed into values that need no further checks.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use feed::{Name, name::NAME_BYTES_MAX};

use crate::{
    http1::Forwarding,
    limits::{CLIENTS_COUNT_MAX, TRUSTED_HOPS_COUNT_MAX},
};

mod balance;
mod rules;

pub use balance::{Balance, RoleBalance};
pub use rules::{EJECT_PANIC_PERCENT, EJECT_PERCENT_MAX, RETRY_PERCENT, UpstreamRules};

/// `concertina proxy`: HTTP/1 and TCP in front of roles.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen and for which role: http://ADDR:PORT=ROLE or tcp://ADDR:PORT=ROLE; may be repeated
    #[arg(
        long,
        value_name = "URL=ROLE",
        env = "CONCERTINA_PROXY_LISTEN",
        value_delimiter = ',',
        default_value = "http://0.0.0.0:80=frontserver"
    )]
    pub listen: Vec<Listen>,
    /// The feed's socket
    #[arg(long, value_name = "PATH", env = "CONCERTINA_FEED", default_value = "/run/concertina/feed.sock")]
    pub feed: PathBuf,
    /// A fixed table instead of the feed: ROLE=ADDR,ADDR; may be repeated
    #[arg(long, value_name = "ROLE=ADDRS")]
    pub upstream: Vec<FixedTable>,
    /// Worker threads [default: the cores that this process may use]
    #[arg(long, env = "CONCERTINA_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// Longest phases, any of header=5s,body=30s,idle=60s,queue=1s,connect=1s,response=60s,tunnel=1h,drain=2s
    #[arg(long, value_name = "LIST", env = "CONCERTINA_TIMEOUTS", default_value = "")]
    pub timeouts: Timeouts,
    /// What it means when a client closes its sending side while its answer is pending: `abort` takes it for gone, `keep` answers
    #[arg(long, env = "CONCERTINA_HALF_CLOSED", default_value = "abort")]
    pub half_closed: HalfClosed,
    /// Most client connections at a time, for each worker
    #[arg(long, env = "CONCERTINA_CLIENTS_MAX", default_value_t = CLIENTS_COUNT_MAX)]
    pub clients_max: usize,
    /// How upstreams are chosen, spared, asked again and limited.
    #[command(flatten)]
    pub rules: UpstreamRules,
    /// Longest body of a request, such as 512k or 10m; a longer one is answered with 413 [default: any length]
    #[arg(long, value_name = "SIZE", env = "CONCERTINA_BODY_BYTES_MAX", value_parser = parse_bytes)]
    pub body_bytes_max: Option<u64>,
    /// Tell upstreams where requests come from, and nobody else may: `x` for X-Forwarded-For, -Proto and -Host, `rfc7239` for
    /// Forwarded, `both`; with `none`, what clients say of it passes
    #[arg(long, value_name = "FIELDS", env = "CONCERTINA_FORWARDED", default_value = "none")]
    pub forwarded: ForwardedFields,
    /// How many proxies in front of this one are believed: so many of the last addresses in a list are kept
    #[arg(long, value_name = "N", env = "CONCERTINA_TRUSTED_HOPS", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=TRUSTED_HOPS_COUNT_MAX as i64))]
    pub trusted_hops: u8,
    /// The name under which this proxy adds itself to Via, in requests and responses [default: it does not]
    #[arg(long, value_name = "NAME", env = "CONCERTINA_VIA", value_parser = parse_via)]
    pub via: Option<String>,
    /// A line for each HTTP request: `common` as Apache writes it, `json` as objects with times and reasons
    #[arg(long, value_name = "FORMAT", env = "CONCERTINA_ACCESS_LOG", default_value = "off")]
    pub access_log: AccessLog,
    /// Where those lines go; opened anew on SIGHUP [default: stdout]
    #[arg(long, value_name = "PATH", env = "CONCERTINA_ACCESS_LOG_FILE")]
    pub access_log_file: Option<PathBuf>,
}

impl Args {
    /// Looks for settings that have no meaning together.
    ///
    /// # Errors
    /// The flags, and what would be accepted.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.trusted_hops > 0 && self.forwarded == ForwardedFields::None {
            anyhow::bail!("--trusted-hops {}: needs --forwarded x, rfc7239 or both", self.trusted_hops);
        }
        if let (Some(path), AccessLog::Off) = (&self.access_log_file, self.access_log) {
            anyhow::bail!("--access-log-file {}: needs --access-log common or json", path.display());
        }
        Ok(())
    }
}

/// How requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLog {
    /// Not at all.
    Off,
    /// Apache's common log format.
    Common,
    /// One JSON object each.
    Json,
}

/// Which fields tell an upstream where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ForwardedFields {
    /// None: those of the client pass.
    None,
    /// X-Forwarded-For, -Proto and -Host.
    X,
    /// Forwarded.
    Rfc7239,
    /// All four.
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

/// A name for Via (RFC 9110 7.6.3): a host, with or without port, or a word that stands for one. No longer than the names that
/// the room for added fields is measured by.
fn parse_via(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a name for Via: expected 1 to {NAME_BYTES_MAX} of letters, digits and -._:[]"
    ))
}

/// Reads a size: a number of bytes, or of kibi-, mebi- or gibibytes with `k`, `m` or `g` behind it.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.to_ascii_lowercase().pop() {
        Some('k') => (&text[..text.len() - 1], 1 << 10),
        Some('m') => (&text[..text.len() - 1], 1 << 20),
        Some('g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    // `parse` alone would take a plus sign.
    let digits = Some(number).filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
    let bytes = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("{text:?} is not a size: expected a number of bytes, such as 4096, 512k, 10m or 1g")
    })
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    Http,
    /// Bytes.
    Tcp,
}

/// A listener and the role it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where.
    pub addr: SocketAddr,
    /// For whom.
    pub role: Name,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            |why: &str| format!("{text:?}: {why}; expected http://ADDR:PORT=ROLE or tcp://ADDR:PORT=ROLE");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refused("no scheme"))?;
        let protocol = match scheme {
            "http" => Protocol::Http,
            "tcp" => Protocol::Tcp,
            _ => return Err(refused("unknown scheme")),
        };
        let (addr, role) = rest.split_once('=').ok_or_else(|| refused("no role"))?;
        let addr = addr.parse().map_err(|_| refused("the address is not IP:PORT"))?;
        let role = role.parse().map_err(|error| refused(&format!("{error}")))?;
        Ok(Self { protocol, addr, role })
    }
}

/// A role whose endpoints never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedTable {
    /// The role.
    pub role: Name,
    /// Its endpoints.
    pub addrs: Vec<SocketAddr>,
}

impl FromStr for FixedTable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?}: {why}; expected ROLE=IP:PORT,IP:PORT");
        let (role, addrs) = text.split_once('=').ok_or_else(|| refused("no role"))?;
        let role = role.parse().map_err(|error| refused(&format!("{error}")))?;
        let addrs: Result<_, _> = addrs.split(',').map(str::parse).collect();
        Ok(Self { role, addrs: addrs.map_err(|_| refused("an address is not IP:PORT"))? })
    }
}

/// What a client's half-close means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HalfClosed {
    /// The client is gone: its request is cancelled.
    Abort,
    /// The client waits for its answer.
    Keep,
}

/// The longest that each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a head to its last, however the bytes trickle.
    pub header: Duration,
    /// Between two bytes of a body, either way.
    pub body: Duration,
    /// Between two requests of a client. Idle upstream connections are kept for a quarter of it: an upstream must not be
    /// the one that closes first.
    pub idle: Duration,
    /// In wait for an upstream, where all are at their limit.
    pub queue: Duration,
    /// To connect to an upstream.
    pub connect: Duration,
    /// From the request to the response's head.
    pub response: Duration,
    /// Between two bytes of a tunnel, either way.
    pub tunnel: Duration,
    /// From the request to stop to the end of the last exchange.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(5),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            queue: Duration::from_secs(1),
            connect: Duration::from_secs(1),
            response: Duration::from_secs(60),
            tunnel: Duration::from_secs(3600),
            drain: Duration::from_secs(2),
        }
    }
}

impl FromStr for Timeouts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut timeouts = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (phase, time) =
                item.split_once('=').ok_or_else(|| format!("{item:?}: expected PHASE=TIME"))?;
            let slot = match phase {
                "header" => &mut timeouts.header,
                "body" => &mut timeouts.body,
                "idle" => &mut timeouts.idle,
                "queue" => &mut timeouts.queue,
                "connect" => &mut timeouts.connect,
                "response" => &mut timeouts.response,
                "tunnel" => &mut timeouts.tunnel,
                "drain" => &mut timeouts.drain,
                _ => {
                    return Err(format!(
                        "{phase:?} is not a phase: expected header, body, idle, queue, connect, response, tunnel or drain"
                    ));
                }
            };
            *slot = feed::time::parse_duration(time)?;
        }
        Ok(timeouts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_names_protocol_address_and_role() {
        let listen: Listen = "tcp://[::1]:5432=postgres".parse().unwrap();
        assert_eq!(
            (listen.protocol, listen.addr.port(), listen.role.as_str()),
            (Protocol::Tcp, 5432, "postgres")
        );
        for (bad, why) in [
            ("0.0.0.0:80=front", "no scheme"),
            ("https://0.0.0.0:80=front", "unknown scheme"),
            ("http://0.0.0.0:80", "no role"),
            ("http://localhost:80=front", "IP:PORT"),
            ("http://0.0.0.0:80=a b", "is not a name"),
        ] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert!(error.contains(why) && error.contains("expected http://"), "{error}");
        }
    }

    #[test]
    fn a_fixed_table_names_a_role_and_addresses() {
        let table: FixedTable = "front=127.0.0.1:1,127.0.0.1:2".parse().unwrap();
        assert_eq!(table.addrs.len(), 2);
        assert!("front=".parse::<FixedTable>().is_err());
        assert!("127.0.0.1:1".parse::<FixedTable>().unwrap_err().contains("no role"));
    }

    #[test]
    fn sizes_are_numbers_with_or_without_a_unit() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("512k", 512 << 10), ("10M", 10 << 20), ("1g", 1 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for bad in
            ["", "k", "-1", "+1", "1.5m", "10 m", "10mb", "1\u{e4}", "18446744073709551616", "17179869184g"]
        {
            assert!(parse_bytes(bad).is_err_and(|error| error.contains("is not a size")), "{bad}");
        }
    }

    #[test]
    fn via_names_cannot_break_out_of_their_field() {
        for good in ["p", "edge-1.example.com:80", "[::1]:80", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(parse_via(good).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "a\r\nX: y", "a,b", "(a)", "\u{e4}", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(parse_via(bad).is_err_and(|error| error.contains("is not a name for Via")), "{bad}");
        }
    }

    #[test]
    fn timeouts_change_only_the_phases_that_are_named() {
        let timeouts: Timeouts = "connect=250ms,tunnel=2h".parse().unwrap();
        assert_eq!(timeouts.connect, Duration::from_millis(250));
        assert_eq!(timeouts.tunnel, Duration::from_secs(7200));
        assert_eq!(timeouts.idle, Timeouts::default().idle);
        assert!("warp=1s".parse::<Timeouts>().unwrap_err().contains("not a phase"));
        assert!("idle=1".parse::<Timeouts>().unwrap_err().contains("not a time"));
        assert!("idle".parse::<Timeouts>().unwrap_err().contains("PHASE=TIME"));
    }
}
