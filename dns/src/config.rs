//! The flags of `concertina dns`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

pub use crate::server_addr::NotAnAddr;
use crate::{origin::Origin, server_addr::parse_addr, upstreams::Upstream};

/// Largest TTL that the wire format has a meaning for (RFC 2181 section 8).
const TTL_SECONDS_MAX: i64 = i32::MAX as i64;

/// From where no stranger comes: RFC 1918, RFC 4193, RFC 6598 (of carriers, and of overlay networks), links and loopback.
pub const PRIVATE_NETWORKS: [&str; 9] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
];

/// Answers names from the role tables of a sidecar.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address to answer on over UDP and TCP, as IP:port or IP (port 53); may be repeated.
    #[arg(
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "0.0.0.0:53",
        value_parser = parse_addr
    )]
    pub listen: Vec<SocketAddr>,

    /// Zone that the names are under; each is answered without it too.
    #[arg(long, value_name = "Z", default_value = "concertina.internal.")]
    pub zone: Origin,

    /// Feed socket of the sidecar.
    #[arg(long, value_name = "PATH", default_value = "/run/concertina/feed.sock")]
    pub feed: PathBuf,

    /// Name server to ask for all other names, as IP:port or IP (port 53); may be repeated, two are raced. Or the
    /// path of a resolv.conf, whose name servers are asked in their order. With `off`, as without any, other names do
    /// not exist.
    #[arg(
        long,
        value_name = "ADDR|PATH|off",
        value_delimiter = ',',
        value_parser = clap::value_parser!(Upstream)
    )]
    pub forward: Vec<Upstream>,

    /// Networks whose clients may have other names asked for; all others are refused. Private ones unless told
    /// otherwise.
    #[arg(
        long,
        value_name = "NETWORKS",
        value_delimiter = ',',
        default_values = PRIVATE_NETWORKS,
        hide_default_value = true,
        value_parser = parse_network
    )]
    pub forward_for: Vec<IpNet>,

    /// How long, in seconds, clients may remember an answer, and that there is none.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=TTL_SECONDS_MAX)
    )]
    pub ttl: u32,
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a network or an address, like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1")]
pub struct NotANetwork;

fn parse_network(text: &str) -> Result<IpNet, NotANetwork> {
    let net = text.parse::<IpNet>();
    net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| NotANetwork)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Result<Args, String> {
        let argv = ["dns"].iter().chain(flags);
        Cli::try_parse_from(argv).map(|cli| cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_every_address_is_listened_on_and_nothing_is_forwarded() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.listen, ["0.0.0.0:53".parse().unwrap()]);
        assert_eq!(args.zone.to_string(), "concertina.internal.");
        assert!(args.forward.is_empty());
        let private =
            |ip: &str| args.forward_for.iter().any(|net| net.contains(&ip.parse::<IpAddr>().unwrap()));
        for ip in
            ["10.9.8.7", "172.31.0.1", "192.168.1.1", "100.100.0.1", "127.0.0.1", "fd00::1", "fe80::1", "::1"]
        {
            assert!(private(ip), "{ip}");
        }
        for ip in ["172.32.0.1", "100.128.0.1", "192.0.2.1", "8.8.8.8", "2001:db8::1"] {
            assert!(!private(ip), "{ip}");
        }
        assert_eq!(args.ttl, 0);
    }

    #[test]
    fn an_address_without_a_port_means_port_53() {
        let args = parse(&["--forward", "9.9.9.9,::1", "--forward", "127.0.0.1:5353"]).unwrap();
        let expected =
            ["9.9.9.9:53", "[::1]:53", "127.0.0.1:5353"].map(|a| Upstream::Server(a.parse().unwrap()));
        assert_eq!(args.forward, expected);
    }

    #[test]
    fn others_are_asked_as_a_resolv_conf_says_or_not_at_all() {
        let args =
            parse(&["--forward", "/etc/resolv.conf", "--forward-for", "192.0.2.0/24,2001:db8::1"]).unwrap();
        assert_eq!(args.forward, [Upstream::ResolvConf("/etc/resolv.conf".into())]);
        let networks = ["192.0.2.0/24", "2001:db8::1/128"].map(|net| net.parse::<IpNet>().unwrap());
        assert_eq!(args.forward_for, networks);
        assert_eq!(parse(&["--forward", "off"]).unwrap().forward, [Upstream::Off]);
    }

    #[test]
    fn a_bad_value_is_answered_with_the_flag_the_value_and_what_would_do() {
        for (flag, value, hint) in [
            ("--listen", "localhost:53", "IP:port"),
            ("--forward", "dns.example", "/etc/resolv.conf"),
            ("--forward-for", "private", "10.0.0.0/8"),
            ("--zone", ".", "domain name"),
            ("--ttl", "2147483648", "2147483647"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            for part in [flag, value, hint] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
