//! Whom to ask for other people's names: name servers that were given, or those of a resolv.conf.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::server_addr::{DNS_PORT, parse_addr};

/// Docker's own server on user-defined networks. It asks those that its resolv.conf has as `ExtServers`.
const DOCKER_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// How old may be what a resolv.conf said. It changes when a laptop changes its network.
const READ_PERIOD: Duration = Duration::from_secs(5);

/// Servers that are asked at the same time where they were given as equals. Those of a resolv.conf are asked one
/// after the other: the second may not know the names that only the first has.
const RACERS: usize = 2;

/// One value of `--forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// This name server.
    Server(SocketAddr),
    /// Those of this resolv.conf.
    ResolvConf(PathBuf),
    /// Nobody.
    Off,
}

/// Why a text is not an [`Upstream`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a name server as IP or IP:port, the path of a resolv.conf like /etc/resolv.conf, or off")]
pub struct NotAnUpstream;

impl FromStr for Upstream {
    type Err = NotAnUpstream;

    fn from_str(text: &str) -> Result<Self, NotAnUpstream> {
        match parse_addr(text) {
            Ok(addr) => Ok(Self::Server(addr)),
            Err(_) if text.contains('/') => Ok(Self::ResolvConf(text.into())),
            Err(_) if text == "off" => Ok(Self::Off),
            Err(_) => Err(NotAnUpstream),
        }
    }
}

/// The name servers to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// Where they are.
    pub addrs: Vec<SocketAddr>,
    /// How many to ask at the same time.
    pub racers: usize,
    /// Who is asked, whether by us or by a server that we ask. A question of theirs would come back to them.
    pub asked: BTreeSet<IpAddr>,
}

/// Keeps the servers up to date.
#[derive(Debug)]
pub struct Upstreams {
    upstreams: Vec<Upstream>,
    /// Where we listen ourselves.
    listen: Vec<SocketAddr>,
    read: Mutex<Option<(Instant, Arc<Servers>)>>,
}

impl Upstreams {
    /// These, without ourselves, who listen at `listen`.
    pub fn new(upstreams: Vec<Upstream>, listen: Vec<SocketAddr>) -> Self {
        Self { upstreams, listen, read: Mutex::new(None) }
    }

    /// The servers as they are now.
    pub fn servers(&self, now: Instant) -> Arc<Servers> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &*read {
            Some((at, servers)) if now < *at + READ_PERIOD => return Arc::clone(servers),
            other => other.as_ref().map(|(_, servers)| Arc::clone(servers)),
        };
        let servers = match self.look() {
            Ok(servers) => Arc::new(servers),
            // It may be about to be written anew; what it said before may still be right.
            Err(error) => {
                tracing::warn!(%error, "cannot learn whom to ask for other names");
                before.clone().unwrap_or_default()
            }
        };
        if before.unwrap_or_default().addrs != servers.addrs {
            tracing::info!(servers = ?servers.addrs, "other names are asked of");
        }
        *read = Some((now, Arc::clone(&servers)));
        servers
    }

    fn look(&self) -> io::Result<Servers> {
        let mut servers = Servers { racers: RACERS, ..Servers::default() };
        for upstream in &self.upstreams {
            match upstream {
                Upstream::Server(addr) => {
                    servers.addrs.push(*addr);
                    servers.asked.insert(addr.ip());
                }
                Upstream::ResolvConf(path) => {
                    let conf = ResolvConf::parse(&read(path)?);
                    let ips = conf.servers(|ip| self.is_own((ip, DNS_PORT).into()));
                    servers.addrs.extend(ips.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)));
                    servers.asked.extend(conf.nameservers.iter().chain(&conf.external));
                    servers.racers = 1;
                }
                Upstream::Off => {}
            }
        }
        servers.asked.retain(|ip| !ip.is_loopback());
        Ok(servers)
    }

    /// The server among those that were given that is ourselves.
    pub fn own_server(&self) -> Option<SocketAddr> {
        let mut given = self.upstreams.iter().filter_map(|upstream| match upstream {
            Upstream::Server(addr) => Some(*addr),
            _ => None,
        });
        given.find(|addr| self.is_own(*addr))
    }

    /// Whether a question to this name server would come to us.
    fn is_own(&self, server: SocketAddr) -> bool {
        let ip = server.ip();
        self.listen.iter().filter(|listen| listen.port() == server.port()).any(|listen| match listen.ip() {
            any if any.is_unspecified() => (any.is_ipv6() || ip.is_ipv4()) && is_of_this_machine(ip),
            one => one == ip,
        })
    }
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Only an address of one's own can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// What a resolv.conf says.
#[derive(Debug, Default, PartialEq, Eq)]
struct ResolvConf {
    nameservers: Vec<IpAddr>,
    /// Whom Docker's server asks, from where the container is.
    external: Vec<IpAddr>,
}

impl ResolvConf {
    /// Reads `nameserver` lines, and Docker's comment `# ExtServers: [host(10.0.0.1) 10.0.0.2]`, in which `host`
    /// means that the address is one that the host sees, not the container.
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("nameserver") {
                conf.nameservers
                    .extend(rest.split_whitespace().next().and_then(|ip| ip.parse::<IpAddr>().ok()));
            } else if let Some((_, rest)) = line.split_once("ExtServers:").filter(|_| line.starts_with('#')) {
                let words = rest.split(|c: char| c.is_whitespace() || "[],".contains(c));
                conf.external.extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
            }
        }
        conf
    }

    /// Whom to ask: not ourselves, and not Docker's server if it would ask us.
    fn servers(&self, is_own: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let docker_asks_us = self.external.iter().any(|ip| is_own(*ip));
        let mut servers = Vec::new();
        for ip in &self.nameservers {
            match *ip {
                DOCKER_DNS if docker_asks_us => {
                    servers.extend(self.external.iter().filter(|ip| !is_own(**ip)));
                }
                DOCKER_DNS => servers.push(DOCKER_DNS),
                ip if is_own(ip) => {}
                ip => servers.push(ip),
            }
        }
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn asked(conf: &str, own: &[&str]) -> Vec<IpAddr> {
        let own = ips(own);
        ResolvConf::parse(conf).servers(|ip| own.contains(&ip))
    }

    #[test]
    fn name_servers_of_a_default_bridge_are_asked_in_their_order_without_ourselves() {
        let conf = "# x\nnameserver 10.0.0.9 # y\nnameserver 172.17.0.2\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n\
                    search lan\noptions ndots:0\n";
        assert_eq!(asked(conf, &["172.17.0.2"]), ips(&["10.0.0.9", "2001:db8::1"]));
        assert_eq!(asked("nameserver 127.0.0.1\n", &["127.0.0.1"]), ips(&[]));
    }

    #[test]
    fn dockers_own_server_is_asked_unless_it_asks_us() {
        let conf =
            |external: &str| format!("nameserver 127.0.0.11\noptions edns0\n# ExtServers: [{external}]\n");
        assert_eq!(asked(&conf("host(10.0.0.53) 8.8.8.8"), &["10.0.0.53"]), ips(&["127.0.0.11"]));
        assert_eq!(asked(&conf("10.0.0.2 9.9.9.9 host(1.1.1.1)"), &["10.0.0.2"]), ips(&["9.9.9.9"]));
        assert_eq!(asked(&conf("10.0.0.2"), &["10.0.0.2"]), ips(&[]));
    }

    #[test]
    fn a_name_server_is_ourselves_where_we_listen() {
        let own = |listen: &str, server: &str| {
            let upstreams = Upstreams::new(vec![server.parse().unwrap()], vec![listen.parse().unwrap()]);
            upstreams.own_server().is_some()
        };
        assert!(
            own("0.0.0.0:53", "127.0.0.53") && own("[::]:53", "127.0.0.1") && own("10.0.0.1:53", "10.0.0.1")
        );
        assert!(!own("0.0.0.0:53", "192.0.2.254") && !own("0.0.0.0:5353", "127.0.0.1"));
        assert!(!own("10.0.0.1:53", "10.0.0.2") && !own("0.0.0.0:53", "::1"));
    }

    #[test]
    fn a_resolv_conf_is_read_again_and_one_that_is_gone_still_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let upstreams = Upstreams::new(vec![Upstream::ResolvConf(path.clone())], Vec::new());
        let addrs =
            |at: Instant| upstreams.servers(at).addrs.iter().map(|addr| addr.ip()).collect::<Vec<_>>();
        let start = Instant::now();
        assert_eq!(addrs(start), ips(&[]));
        fs::write(&path, "nameserver 192.0.2.1\nnameserver 127.0.0.1\n").unwrap();
        assert_eq!(addrs(start + READ_PERIOD - Duration::from_millis(1)), ips(&[]));
        assert_eq!(addrs(start + READ_PERIOD), ips(&["192.0.2.1", "127.0.0.1"]));
        fs::remove_file(&path).unwrap();
        let later = start + READ_PERIOD * 3;
        assert_eq!(addrs(later), ips(&["192.0.2.1", "127.0.0.1"]));
        let servers = upstreams.servers(later);
        assert_eq!((servers.racers, &servers.asked), (1, &BTreeSet::from(["192.0.2.1".parse().unwrap()])));
    }
}
