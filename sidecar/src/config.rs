//! The command line of the sidecar: parsed into values that need no further checks.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args as ClapArgs;
use feed::{
    EndpointProtocol, Name, Route, Tag,
    name::{NAME_BYTES_MAX, NotAName, is_label},
    socket::FEED_PATH,
};

use crate::{
    node::{handler::Handler, supervise::StopSignal},
    wire::{access::Network, tickets::TicketEpoch},
};

/// Where sidecars gossip unless told otherwise: the port that Serf and memberlist made customary.
pub const GOSSIP_PORT: u16 = 7946;

/// Where sidecars are asked by HTTP unless told otherwise.
pub const ADMIN_PORT: u16 = 9790;

/// Longest path of a Unix socket on Linux (unix(7)), less its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// `concertina sidecar`: gossip, feed, and supervision of one role process.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// What this node serves as; any name, e.g. appserver or billing
    #[arg(long, value_parser = parse_role)]
    pub role: Name,
    /// The node's name, unique in the cluster [default: the hostname]
    #[arg(long)]
    pub node: Option<Name>,
    /// Where to gossip, UDP and TCP
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, GOSSIP_PORT)), value_parser = parse_bind)]
    pub bind: SocketAddr,
    /// The address that others reach this node at [default: that of --bind, or of the interface towards a seed]
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// A seed: an address or name, with or without port; may be repeated
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub join: Vec<Seed>,
    /// Whether the nameservers of --resolv-conf are seeds, where none is given by --join: with `docker run --dns`, the first is the
    /// dnsserver [default: true in containers of Docker and Podman, unless the role is dnsserver]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub join_nameservers: Option<bool>,
    /// The port of the role's process, at the same address; 0: it has none
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// How to tell that the role's process serves: `tcp`, `http:/path`, `grpc:[SERVICE]`, `exec:PROGRAM [ARGUMENTS]` or `none`
    /// [default: tcp, or none without a port]
    #[arg(long)]
    pub check: Option<Check>,
    /// Pause between checks while nothing changes; at a start and after a failure they come closer together
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = feed::time::parse_duration)]
    pub check_interval: Duration,
    /// Longest wait for the answer to a check
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = feed::time::parse_duration)]
    pub check_timeout: Duration,
    /// How long the check has to fail before the node is taken out
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = feed::time::parse_duration)]
    pub check_fall: Duration,
    /// How long it has to pass before a node that was taken out is ready again; the first pass of all counts at once
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = feed::time::parse_duration)]
    pub check_rise: Duration,
    /// This node's share of the work beside others of its role
    #[arg(long, default_value_t = 100)]
    pub weight: u16,
    /// What to tell of this node, for filters and people; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub tags: Vec<Tag>,
    /// Which requests are for this role at proxies whose listener names none: HOST, HOST/PATH or /PATH, such as shop.example.com/api,
    /// *.example.com or /; may be repeated
    #[arg(long = "route", value_name = "ROUTE", value_delimiter = ',')]
    pub routes: Vec<Route>,
    /// What the role's process speaks to proxies: http (HTTP/1.1), https (the same over TLS), h2c (HTTP/2 without TLS, as gRPC does) or h2
    /// (HTTP/2 over TLS). What a proxy's --upstream-protocol says of the role goes before it [default: http]
    #[arg(long, value_name = "WHAT")]
    pub protocol: Option<EndpointProtocol>,
    /// The cluster's name; others on the same network are not heard
    #[arg(long, default_value = "default")]
    pub cluster: String,
    /// The cluster's keys, one a line: the first seals what is sent, all open what comes. Without it, nothing is encrypted
    #[arg(long, value_name = "PATH")]
    pub key_file: Option<PathBuf>,
    /// How long a key seals TLS session tickets, before one that is derived anew; tickets live for as long. The same at every node. Without
    /// --key-file, each proxy has keys of its own
    #[arg(long, value_name = "TIME", default_value = "8h")]
    pub ticket_epoch: TicketEpoch,
    /// Networks whose gossip is heard, e.g. 10.0.0.0/8,fd00::/8 [default: all]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub allow: Vec<Network>,
    /// Networks whose gossip is not heard, even if it is allowed
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub deny: Vec<Network>,
    /// Where nameservers are listed; it is looked at again when it changes
    #[arg(long, value_name = "PATH", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Keep the members' addresses in this file, to find the cluster again after a restart without any seed [default: none]
    #[arg(long, value_name = "PATH")]
    pub snapshot: Option<PathBuf>,
    /// The DNS zone in which user-defined Docker networks are asked for seeds
    #[arg(long, default_value = "concertina.internal.")]
    pub zone: String,
    /// The feed's socket; below /dev/shm instead, if nobody says where and the file system is read-only
    #[arg(long, value_name = "PATH", default_value = FEED_PATH, value_parser = parse_socket_path)]
    pub feed: PathBuf,
    /// Where metrics are scraped and the node is asked by HTTP, or `off`. Where nobody says so and it is taken, the sidecar goes on without
    /// [default: port 9790 at 127.0.0.1, or at the address of --bind if that is one of this machine alone]
    #[arg(long, value_name = "IP:PORT|off")]
    pub admin: Option<AdminAt>,
    /// The token that lets others than this machine drain the node and reload its proxy by HTTP: a file with one line
    #[arg(long, value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,
    /// Longest wait, when stopping, for consumers to let go of this node, e.g. 6s
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = feed::time::parse_duration)]
    pub drain_timeout: Duration,
    /// Whether the role's process is started again when it ends by itself: `never`, the node ends with it; `on-failure`, unless it ended well
    /// or has never served
    #[arg(long, value_name = "WHEN", default_value = "never")]
    pub restart: Restart,
    /// The signal that stops the role's process once the node has drained and left, e.g. SIGINT for PostgreSQL or SIGQUIT for nginx
    #[arg(long, value_name = "NAME", default_value = "SIGTERM")]
    pub stop_signal: StopSignal,
    /// Longest wait for the role's process to end by that signal, before it is killed; after half of it, SIGINT follows a SIGTERM. With the drain before it, it should fit into what
    /// stops the sidecar grants: ten seconds of Docker
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = feed::time::parse_duration)]
    pub stop_timeout: Duration,
    /// A program to run on an event, or to answer a query, of some name; may be repeated. The payload comes on stdin, the
    /// answer is taken from stdout; what still holds that when the program has ended is killed
    #[arg(long = "handler", value_name = "event:NAME=CMD|query:NAME=CMD", value_delimiter = ',')]
    pub handlers: Vec<Handler>,
    /// The role's process
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

impl Args {
    /// The check that is made.
    ///
    /// # Errors
    /// It asks a port, and there is none.
    pub fn check(&self) -> Result<Check, NoPort> {
        match &self.check {
            Some(check) if self.port == 0 && check.asks_port() => Err(NoPort(check.clone())),
            Some(check) => Ok(check.clone()),
            None if self.port == 0 => Ok(Check::None),
            None => Ok(Check::Tcp),
        }
    }
}

/// Where the admin port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAt {
    /// Nowhere.
    Off,
    /// There.
    Addr(SocketAddr),
}

impl FromStr for AdminAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let alone = || text.parse::<IpAddr>().map(|ip| (ip, ADMIN_PORT).into());
        text.parse().or_else(|_| alone()).map(Self::Addr).map_err(|_| {
            format!("expected IP:PORT, an IP or `off`, such as 0.0.0.0:{ADMIN_PORT} or [::1]:{ADMIN_PORT}")
        })
    }
}

/// A role is looked up as `_ROLE._tcp` as well, so one byte less is left of a label than for a node.
const ROLE_BYTES_MAX: usize = NAME_BYTES_MAX - 1;

fn parse_role(text: &str) -> Result<Name, String> {
    let role: Name = text.parse().map_err(|error: NotAName| error.to_string())?;
    if role.as_str().len() > ROLE_BYTES_MAX {
        return Err(format!(
            "a role has at most {ROLE_BYTES_MAX} bytes, since DNS knows it as _ROLE._tcp, too"
        ));
    }
    Ok(role)
}

/// A check of a port where there is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "--check {0}: there is no port to ask; give that of the role's process with --port (CONCERTINA_PORT), or leave --check out"
)]
pub struct NoPort(Check);

/// An address, or an IP alone, which means the usual port.
fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    let alone = || text.parse::<IpAddr>().map(|ip| (ip, GOSSIP_PORT).into());
    text.parse().or_else(|_| alone()).map_err(|_| {
        format!(
            "expected IP:PORT or an IP, such as 10.0.0.7:{GOSSIP_PORT}, 10.0.0.7 or [fd00::7]:{GOSSIP_PORT}"
        )
    })
}

fn parse_socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(format!(
            "{} bytes are too long for a Unix socket: expected at most {SOCKET_PATH_BYTES_MAX}",
            text.len()
        ));
    }
    Ok(text.into())
}

/// A seed as written: an address or a name to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// An address.
    Addr(SocketAddr),
    /// A name and a port.
    Name(String, u16),
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse() {
            return Ok(Self::Addr(addr));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Addr((ip, GOSSIP_PORT).into()));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (text, Some(GOSSIP_PORT)),
        };
        let well_formed = !name.is_empty() && name.len() <= 253 && name.split('.').all(is_empty_or_label);
        match port {
            Some(port) if well_formed => Ok(Self::Name(name.to_owned(), port)),
            _ => Err(format!("{text:?} is not a seed: expected an IP, IP:PORT, a name or NAME:PORT")),
        }
    }
}

fn is_empty_or_label(label: &str) -> bool {
    label.is_empty() || is_label(label)
}

/// Longest name of a gRPC service that is asked for: its length is one byte in the request.
const SERVICE_BYTES_MAX: usize = 127;

/// When the role's process is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Restart {
    /// The node ends with it.
    Never,
    /// It ended by a signal that nobody sent to stop it, or with another code than 0.
    OnFailure,
}

/// How to tell that the role's process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It is taken to serve as soon as it runs.
    None,
    /// It accepts a connection.
    Tcp,
    /// It answers a GET of this path with a 2xx status.
    Http(String),
    /// It says by gRPC's health protocol that this service serves, or with an empty name that it does.
    Grpc(String),
    /// This program, with these arguments, ends with exit code 0.
    Exec(Vec<String>),
}

impl Check {
    /// Whether it has to be told a port.
    pub fn asks_port(&self) -> bool {
        matches!(self, Self::Tcp | Self::Http(_) | Self::Grpc(_))
    }
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "grpc" => Ok(Self::Grpc(String::new())),
            Some(("http", path)) if path.starts_with('/') && visible(path) => Ok(Self::Http(path.to_owned())),
            Some(("grpc", service)) if visible(service) && service.len() <= SERVICE_BYTES_MAX => {
                Ok(Self::Grpc(service.to_owned()))
            }
            Some(("exec", command)) if !command.trim().is_empty() => {
                Ok(Self::Exec(command.split_whitespace().map(str::to_owned).collect()))
            }
            _ => Err(format!(
                "{text:?} is not a check: expected tcp, none, http:/path, grpc:[SERVICE] or exec:PROGRAM [ARGUMENTS]"
            )),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp => f.write_str("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
            Self::Grpc(service) => write!(f, "grpc:{service}"),
            Self::Exec(command) => write!(f, "exec:{}", command.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_addresses_or_names_with_or_without_port() {
        let addr = |text: &str| Ok(Seed::Addr(text.parse().unwrap()));
        assert_eq!("172.17.0.2".parse(), addr("172.17.0.2:7946"));
        assert_eq!("172.17.0.2:1".parse(), addr("172.17.0.2:1"));
        assert_eq!("::1".parse(), addr("[::1]:7946"));
        assert_eq!("dnsserver".parse(), Ok(Seed::Name("dnsserver".into(), GOSSIP_PORT)));
        assert_eq!("localhost".parse(), Ok(Seed::Name("localhost".into(), GOSSIP_PORT)));
        assert_eq!("dns.0.example".parse(), Ok(Seed::Name("dns.0.example".into(), GOSSIP_PORT)));
        assert_eq!("dns.example:9".parse(), Ok(Seed::Name("dns.example".into(), 9)));
        for bad in ["", "a b", "dns:port", ":1", "a/b"] {
            assert!(bad.parse::<Seed>().unwrap_err().contains("is not a seed"), "{bad}");
        }
    }

    #[test]
    fn a_bind_address_without_a_port_has_the_usual_one() {
        assert_eq!(parse_bind("127.9.9.9"), Ok("127.9.9.9:7946".parse().unwrap()));
        assert_eq!(parse_bind("fd00::7"), Ok("[fd00::7]:7946".parse().unwrap()));
        assert_eq!(parse_bind("127.9.9.9:1"), Ok("127.9.9.9:1".parse().unwrap()));
        for bad in ["", "here", "127.9.9.9:", "127.9.9.9:70000"] {
            assert!(parse_bind(bad).unwrap_err().contains("expected IP:PORT or an IP"), "{bad}");
        }
    }

    #[test]
    fn the_admin_port_is_an_address_or_off() {
        assert_eq!("off".parse(), Ok(AdminAt::Off));
        for (text, addr) in
            [("0.0.0.0:1", "0.0.0.0:1"), ("127.9.9.9", "127.9.9.9:9790"), ("::1", "[::1]:9790")]
        {
            assert_eq!(text.parse(), Ok(AdminAt::Addr(addr.parse().unwrap())));
        }
        for bad in ["", "on", "localhost:9790", "1.2.3.4:70000"] {
            assert!(bad.parse::<AdminAt>().unwrap_err().contains("expected IP:PORT"), "{bad}");
        }
    }

    #[test]
    fn a_socket_path_has_a_longest_length() {
        assert!(parse_socket_path(&"x".repeat(SOCKET_PATH_BYTES_MAX)).is_ok());
        let error = parse_socket_path(&"x".repeat(SOCKET_PATH_BYTES_MAX + 1)).unwrap_err();
        assert!(error.contains("at most 107"), "{error}");
    }

    #[test]
    fn a_role_leaves_room_for_its_service() {
        assert!(parse_role(&"r".repeat(ROLE_BYTES_MAX)).is_ok());
        let longer = parse_role(&"r".repeat(ROLE_BYTES_MAX + 1)).unwrap_err();
        assert!(longer.contains("at most 62 bytes") && longer.contains("_ROLE._tcp"), "{longer}");
    }

    #[test]
    fn checks_are_of_five_kinds() {
        for (text, check) in [
            ("tcp", Check::Tcp),
            ("none", Check::None),
            ("http:/health", Check::Http("/health".into())),
            ("grpc:", Check::Grpc(String::new())),
            ("grpc:a.B", Check::Grpc("a.B".into())),
            ("exec:/bin/pg_isready -q", Check::Exec(vec!["/bin/pg_isready".into(), "-q".into()])),
        ] {
            assert_eq!(text.parse(), Ok(check.clone()));
            assert_eq!(check.to_string(), text);
        }
        assert!(format!("grpc:{}", "s".repeat(SERVICE_BYTES_MAX)).parse::<Check>().is_ok());
        let long = format!("grpc:{}", "s".repeat(SERVICE_BYTES_MAX + 1));
        for bad in
            ["", "http", "http:", "http:health", "http:/a b", "https:/x", "http:/\r\n", "exec: ", &long]
        {
            assert!(bad.parse::<Check>().unwrap_err().contains("is not a check"), "{bad}");
        }
    }

    #[test]
    fn a_check_of_a_port_needs_one() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let check = |line: &str| {
            let line = ["sidecar", "--role", "x"].into_iter().chain(line.split_whitespace());
            <Line as clap::Parser>::try_parse_from(line)
                .unwrap()
                .args
                .check()
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(""), Ok(Check::None));
        assert_eq!(check("--port 1"), Ok(Check::Tcp));
        assert_eq!(check("--check exec:true"), Ok(Check::Exec(vec!["true".into()])));
        for check in [check("--check tcp"), check("--check http:/x"), check("--check grpc:")] {
            let refused = check.unwrap_err();
            assert!(refused.contains("give that of the role's process with --port"), "{refused}");
        }
    }
}
