//! The flags of `concertina dns`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::origin::Origin;

/// The port that is meant where an address names none.
const DNS_PORT: u16 = 53;

/// Largest TTL that the wire format has a meaning for (RFC 2181 section 8).
const TTL_SECONDS_MAX: i64 = i32::MAX as i64;

/// Answers names from the role tables of a sidecar.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address to answer on over UDP and TCP, as IP:port or IP (port 53); may be repeated.
    #[arg(
        long,
        value_name = "ADDR",
        env = "CONCERTINA_DNS_LISTEN",
        value_delimiter = ',',
        default_value = "0.0.0.0:53",
        value_parser = parse_addr
    )]
    pub listen: Vec<SocketAddr>,

    /// Zone that the names are under; each is answered without it too.
    #[arg(long, value_name = "Z", env = "CONCERTINA_ZONE", default_value = "concertina.internal.")]
    pub zone: Origin,

    /// Feed socket of the sidecar.
    #[arg(long, value_name = "PATH", env = "CONCERTINA_FEED", default_value = "/run/concertina/feed.sock")]
    pub feed: PathBuf,

    /// Name server to ask for all other names, as IP:port or IP (port 53); may be repeated, two are raced. Without
    /// any, other names do not exist.
    #[arg(
        long,
        value_name = "ADDR",
        env = "CONCERTINA_FORWARD",
        value_delimiter = ',',
        value_parser = parse_addr
    )]
    pub forward: Vec<SocketAddr>,

    /// How long, in seconds, clients may remember an answer, and that there is none.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "CONCERTINA_DNS_TTL",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=TTL_SECONDS_MAX)
    )]
    pub ttl: u32,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an IP address or IP:port, like 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53")]
pub struct NotAnAddr;

fn parse_addr(text: &str) -> Result<SocketAddr, NotAnAddr> {
    let with_port = text.parse::<SocketAddr>();
    with_port.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, DNS_PORT).into())).map_err(|_| NotAnAddr)
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
        assert_eq!(args.ttl, 0);
    }

    #[test]
    fn an_address_without_a_port_means_port_53() {
        let args = parse(&["--forward", "9.9.9.9,::1", "--forward", "127.0.0.1:5353"]).unwrap();
        let expected = ["9.9.9.9:53", "[::1]:53", "127.0.0.1:5353"].map(|a| a.parse::<SocketAddr>().unwrap());
        assert_eq!(args.forward, expected);
    }

    #[test]
    fn a_bad_value_is_answered_with_the_flag_the_value_and_what_would_do() {
        for (flag, value, hint) in [
            ("--listen", "localhost:53", "IP:port"),
            ("--forward", "dns.example", "IP:port"),
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
