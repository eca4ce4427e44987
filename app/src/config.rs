//! The command lines of the two services.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use feed::{Name, name::NotAName};

/// What a service listens on unless told otherwise: every address, since a container has no other neighbours.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);

/// How to run a front.
#[derive(Debug, Clone, clap::Args)]
pub struct FrontArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value_t = LISTEN, value_parser = parse_addr)]
    pub listen: SocketAddr,
    /// Socket of the sidecar, which tells who the apps are
    #[arg(long, value_name = "PATH", default_value = "/run/concertina/feed.sock")]
    pub feed: PathBuf,
    /// Name to introduce itself with [default: the hostname]
    #[arg(long, value_name = "NAME")]
    pub node: Option<Name>,
    /// Role of the apps to ask
    #[arg(long, value_name = "ROLE", default_value = "appserver")]
    pub app_role: Name,
}

/// How to run an app.
#[derive(Debug, Clone, clap::Args)]
pub struct AppArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value_t = LISTEN, value_parser = parse_addr)]
    pub listen: SocketAddr,
    /// Socket of the sidecar, which is told what was counted
    #[arg(long, value_name = "PATH", default_value = "/run/concertina/feed.sock")]
    pub feed: PathBuf,
    /// Name to answer with [default: the hostname]
    #[arg(long, value_name = "NAME")]
    pub node: Option<Name>,
}

#[derive(Debug, thiserror::Error)]
#[error("expected IP:PORT, such as {LISTEN} or [::]:8080")]
struct NotAnAddr;

#[derive(Debug, thiserror::Error)]
#[error("no --node given, and of the hostname: {0}")]
pub(crate) struct NoName(#[from] NotAName);

fn parse_addr(text: &str) -> Result<SocketAddr, NotAnAddr> {
    text.parse().map_err(|_| NotAnAddr)
}

/// The given name, or the hostname up to its first dot: a name is one DNS label (RFC 1035 2.3.1).
pub(crate) fn node_or_hostname(node: Option<Name>) -> Result<Name, NoName> {
    match node {
        Some(node) => Ok(node),
        None => name_of_host(&rustix::system::uname().nodename().to_string_lossy()),
    }
}

fn name_of_host(hostname: &str) -> Result<Name, NoName> {
    let (label, _) = hostname.split_once('.').unwrap_or((hostname, ""));
    Ok(label.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn front(args: &[&str]) -> Result<FrontArgs, clap::Error> {
        let command = FrontArgs::augment_args(clap::Command::new("front").no_binary_name(true));
        FrontArgs::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    #[test]
    fn a_front_needs_no_flag() {
        let args = front(&[]).unwrap();
        assert_eq!(args.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(args.feed.to_str(), Some("/run/concertina/feed.sock"));
        assert_eq!(args.app_role.as_str(), "appserver");
        assert_eq!(args.node, None);
    }

    #[test]
    fn a_wrong_address_is_quoted_with_what_would_be_right() {
        let error = front(&["--listen", "here"]).unwrap_err().to_string();
        for part in ["'here'", "--listen <ADDR>", "expected IP:PORT"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn of_a_full_hostname_the_first_label_is_the_name() {
        assert_eq!(name_of_host("App1.example.org").unwrap().as_str(), "app1");
        let error = name_of_host("(none)").unwrap_err().to_string();
        assert!(error.contains("--node") && error.contains("(none)"), "{error}");
    }
}
