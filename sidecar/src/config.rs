//! The command line of the sidecar: parsed into values that need no further checks.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args as ClapArgs;
use feed::{Name, Tag};

use crate::handler::Handler;

use crate::access::Network;

/// Where sidecars gossip unless told otherwise: the port that Serf and memberlist made customary.
pub const GOSSIP_PORT: u16 = 7946;

/// `concertina sidecar`: gossip, feed, and supervision of one role process.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// What this node serves as; any name, e.g. appserver or billing
    #[arg(long, env = "CONCERTINA_ROLE")]
    pub role: Name,
    /// The node's name, unique in the cluster [default: the hostname]
    #[arg(long, env = "CONCERTINA_NODE")]
    pub node: Option<Name>,
    /// Where to gossip, UDP and TCP
    #[arg(long, value_name = "IP:PORT", env = "CONCERTINA_BIND", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, GOSSIP_PORT)))]
    pub bind: SocketAddr,
    /// The address that others reach this node at [default: that of --bind, or of the interface towards a seed]
    #[arg(long, value_name = "IP", env = "CONCERTINA_ADVERTISE")]
    pub advertise: Option<IpAddr>,
    /// A seed: an address or name, with or without port; may be repeated. The nameservers of --resolv-conf are asked too,
    /// unless a seed is given here or the role is dnsserver
    #[arg(long, value_name = "ADDR", env = "CONCERTINA_JOIN", value_delimiter = ',')]
    pub join: Vec<Seed>,
    /// The port of the role's process, at the same address; 0: it has none
    #[arg(long, env = "CONCERTINA_PORT", default_value_t = 0)]
    pub port: u16,
    /// How to tell that the role's process serves: `tcp`, `http:/path` or `none`
    #[arg(long, env = "CONCERTINA_CHECK", default_value = "tcp")]
    pub check: Check,
    /// This node's share of the work beside others of its role
    #[arg(long, env = "CONCERTINA_WEIGHT", default_value_t = 100)]
    pub weight: u16,
    /// What to tell of this node, for filters and people; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", env = "CONCERTINA_TAGS", value_delimiter = ',')]
    pub tags: Vec<Tag>,
    /// The cluster's name; others on the same network are not heard
    #[arg(long, env = "CONCERTINA_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// The cluster's keys, one a line: the first seals what is sent, all open what comes. Without it, nothing is encrypted
    #[arg(long, value_name = "PATH", env = "CONCERTINA_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// Networks whose gossip is heard, e.g. 10.0.0.0/8,fd00::/8 [default: all]
    #[arg(long, value_name = "CIDR", env = "CONCERTINA_ALLOW", value_delimiter = ',')]
    pub allow: Vec<Network>,
    /// Networks whose gossip is not heard, even if it is allowed
    #[arg(long, value_name = "CIDR", env = "CONCERTINA_DENY", value_delimiter = ',')]
    pub deny: Vec<Network>,
    /// Where nameservers are listed; it is looked at again when it changes
    #[arg(long, value_name = "PATH", env = "CONCERTINA_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Keep the members' addresses in this file, to find the cluster again after a restart without any seed [default: none]
    #[arg(long, value_name = "PATH", env = "CONCERTINA_SNAPSHOT")]
    pub snapshot: Option<PathBuf>,
    /// The DNS zone in which user-defined Docker networks are asked for seeds
    #[arg(long, env = "CONCERTINA_ZONE", default_value = "concertina.internal.")]
    pub zone: String,
    /// The feed's socket
    #[arg(long, value_name = "PATH", env = "CONCERTINA_FEED", default_value = "/run/concertina/feed.sock")]
    pub feed: PathBuf,
    /// Longest wait, when stopping, for consumers to let go of this node, e.g. 6s
    #[arg(long, value_name = "TIME", env = "CONCERTINA_DRAIN_TIMEOUT", default_value = "6s", value_parser = feed::time::parse_duration)]
    pub drain_timeout: Duration,
    /// A program to run on an event, or to answer a query, of some name; may be repeated. The payload comes on stdin, the
    /// answer is taken from stdout
    #[arg(
        long = "handler",
        value_name = "event:NAME=CMD|query:NAME=CMD",
        env = "CONCERTINA_HANDLERS",
        value_delimiter = ','
    )]
    pub handlers: Vec<Handler>,
    /// The role's process
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
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
        let well_formed = !name.is_empty() && name.len() <= 253 && name.split('.').all(is_label);
        match port {
            Some(port) if well_formed => Ok(Self::Name(name.to_owned(), port)),
            _ => Err(format!("{text:?} is not a seed: expected an IP, IP:PORT, a name or NAME:PORT")),
        }
    }
}

fn is_label(label: &str) -> bool {
    label.is_empty() || label.parse::<Name>().is_ok()
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
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let visible = |path: &str| path.bytes().all(|b| b.is_ascii_graphic());
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "tcp" => Ok(Self::Tcp),
            Some(("http", path)) if path.starts_with('/') && visible(path) => Ok(Self::Http(path.to_owned())),
            _ => Err(format!("{text:?} is not a check: expected tcp, none or http:/path")),
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
        assert_eq!("dns.example:9".parse(), Ok(Seed::Name("dns.example".into(), 9)));
        for bad in ["", "a b", "dns:port", ":1", "a/b"] {
            assert!(bad.parse::<Seed>().unwrap_err().contains("is not a seed"), "{bad}");
        }
    }

    #[test]
    fn checks_are_tcp_none_or_an_http_path() {
        assert_eq!("tcp".parse(), Ok(Check::Tcp));
        assert_eq!("none".parse(), Ok(Check::None));
        assert_eq!("http:/health".parse(), Ok(Check::Http("/health".into())));
        for bad in ["", "http", "http:health", "http:/a b", "https:/x", "http:/\r\n"] {
            assert!(bad.parse::<Check>().unwrap_err().contains("is not a check"), "{bad}");
        }
    }
}
