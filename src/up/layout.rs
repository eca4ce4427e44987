//! Where everything of a local cluster is: addresses, ports, paths, command lines.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use feed::Name;

use super::{Scalable, feed_path};

/// Most nodes of one role: the last byte of an address counts them.
pub(super) const NODES_OF_ROLE_MAX: u8 = 250;

const GOSSIP_PORT: u16 = 7946;
const SERVICE_PORT: u16 = 8080;
/// Above 1024, so that nobody needs to be root.
const DNS_PORT: u16 = 5300;

/// Longest path of a Unix socket on Linux (unix(7)), less its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The second bytes of loopback addresses that clusters take; one each.
const NETWORKS: std::ops::RangeInclusive<u8> = 10..=250;

/// What a cluster has claimed for itself. Dropping it gives everything back.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// Where the proxy listens.
    pub(super) listen: SocketAddr,
    network: u8,
    executable: PathBuf,
    /// What every sidecar is given as its key file.
    key_file: Option<PathBuf>,
    /// Held: one cluster in a directory.
    _lock: File,
    /// Held: one cluster in a network.
    _network: UdpSocket,
    /// Held: the proxy's port stays ours while the proxy restarts.
    _listen: socket2::Socket,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dns,
    Proxy,
    Front(u8),
    App(u8),
}

impl Kind {
    /// The node of the n-th place of a role.
    pub(super) fn of(role: Scalable, number: u8) -> Self {
        match role {
            Scalable::Front => Self::Front(number),
            Scalable::App => Self::App(number),
        }
    }

    pub(super) fn parse(name: &Name) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|n| (1..=NODES_OF_ROLE_MAX).contains(n));
        let kind = match name.as_str() {
            "dnsserver" => Self::Dns,
            "proxyserver" => Self::Proxy,
            other => match (other.strip_prefix("frontserver"), other.strip_prefix("appserver")) {
                (Some(text), _) => Self::Front(number(text)?),
                (_, Some(text)) => Self::App(number(text)?),
                _ => return None,
            },
        };
        // "appserver01" is another name than "appserver1".
        (kind.name() == *name).then_some(kind)
    }

    pub(super) fn role(self) -> Name {
        let role = match self {
            Self::Dns => "dnsserver",
            Self::Proxy => "proxyserver",
            Self::Front(_) => "frontserver",
            Self::App(_) => "appserver",
        };
        role.parse().expect("a constant name within the grammar")
    }

    pub(super) fn name(self) -> Name {
        let name = match self {
            Self::Front(n) | Self::App(n) => format!("{}{n}", self.role()),
            Self::Dns | Self::Proxy => self.role().to_string(),
        };
        name.parse().expect("a role and a number within the grammar")
    }
}

impl Layout {
    /// Claims a directory, a network and the proxy's address. A key file that the sidecars would refuse is refused here.
    pub(super) fn claim(dir: &Path, listen: SocketAddr, key_file: Option<PathBuf>) -> anyhow::Result<Self> {
        let key_file = key_file.map(std::path::absolute).transpose()?;
        key_file.as_deref().map(sidecar::key_file::load).transpose()?;
        make_dir(dir).with_context(|| format!("--dir {}: cannot be used", dir.display()))?;
        let longest = feed_path(dir, &Kind::Front(NODES_OF_ROLE_MAX).name());
        if longest.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            bail!("--dir {}: too long for Unix sockets, use a shorter path", dir.display());
        }
        let lock = File::create(dir.join("lock"))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "--dir {}: a cluster is running there already; stop it, or give this one another --dir",
                dir.display()
            );
        }
        let (listen, held) = hold(listen).with_context(|| {
            format!("--listen {listen}: cannot listen there; choose another address, such as 127.0.0.1:0 for a free port")
        })?;
        let (network, held_network) = claim_network()?;
        Ok(Self {
            dir: dir.to_owned(),
            listen,
            network,
            executable: std::env::current_exe().context("cannot find the own executable")?,
            key_file,
            _lock: lock,
            _network: held_network,
            _listen: held,
        })
    }

    /// What to open to be greeted.
    pub(super) fn url(&self) -> String {
        let ip = match self.listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/hello", SocketAddr::new(ip, self.listen.port()))
    }

    /// The node's own address.
    pub(super) fn ip(&self, kind: Kind) -> IpAddr {
        let (third, fourth) = match kind {
            Kind::Dns => (0, 2),
            Kind::Proxy => (0, 3),
            Kind::Front(n) => (1, n),
            Kind::App(n) => (2, n),
        };
        Ipv4Addr::new(127, self.network, third, fourth).into()
    }

    /// Where the node's role serves.
    pub(super) fn service(&self, kind: Kind) -> SocketAddr {
        let port = match kind {
            Kind::Dns => DNS_PORT,
            Kind::Proxy => self.listen.port(),
            Kind::Front(_) | Kind::App(_) => SERVICE_PORT,
        };
        SocketAddr::new(self.ip(kind), port)
    }

    pub(super) fn feed(&self, kind: Kind) -> PathBuf {
        feed_path(&self.dir, &kind.name())
    }

    pub(super) fn log(&self, kind: Kind) -> PathBuf {
        self.dir.join(format!("{}.log", kind.name()))
    }

    /// The node's command: a sidecar that runs the role.
    pub(super) fn command(&self, kind: Kind) -> std::process::Command {
        let service = self.service(kind);
        let mut command = std::process::Command::new(&self.executable);
        // What is set for this program is not meant for each of the nodes.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONCERTINA_"))
        {
            if name != "CONCERTINA_LOG" {
                command.env_remove(name);
            }
        }
        command.arg("sidecar").args(["--role", kind.role().as_str(), "--node", kind.name().as_str()]);
        command.arg("--bind").arg(SocketAddr::new(self.ip(kind), GOSSIP_PORT).to_string());
        command.arg("--port").arg(service.port().to_string()).arg("--feed").arg(self.feed(kind));
        // Named after the network: another cluster may have that of an earlier one of this directory.
        let snapshot = self.dir.join(kind.name().as_str()).join(format!("snapshot-{}", self.network));
        command.arg("--snapshot").arg(snapshot);
        if kind != Kind::Dns {
            command.arg("--join").arg(SocketAddr::new(self.ip(Kind::Dns), GOSSIP_PORT).to_string());
        }
        if let Some(key_file) = &self.key_file {
            command.arg("--key-file").arg(key_file);
        }
        command.arg("--").arg(&self.executable);
        match kind {
            Kind::Dns => command.arg("dns").arg("--listen").arg(service.to_string()),
            Kind::Front(_) => command.arg("front").arg("--listen").arg(service.to_string()),
            Kind::App(_) => command.arg("app").arg("--listen").arg(service.to_string()),
            Kind::Proxy => {
                command.arg("proxy").arg("--listen").arg(format!("http://{}=frontserver", self.listen));
                if !self.listen.ip().is_unspecified() {
                    command.arg("--listen").arg(format!("http://{service}=frontserver"));
                }
                &mut command
            }
        };
        command
    }
}

/// Private to the user: whoever can write there can speak for the cluster.
fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if std::fs::metadata(dir)?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(())
}

/// Binds the proxy's address without listening: nobody else gets it, the proxy does, because both allow sharing.
fn hold(listen: SocketAddr) -> io::Result<(SocketAddr, socket2::Socket)> {
    let bind = |listen: SocketAddr, share: bool| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        socket.bind(&listen.into())?;
        Ok::<_, io::Error>(socket)
    };
    // A port that somebody shares would be shared with us too; asked for alone, it shows that it is taken.
    let alone = bind(listen, false)?;
    let listen = alone.local_addr()?.as_socket().unwrap_or(listen);
    drop(alone);
    let socket = bind(listen, true)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(listen);
    Ok((bound, socket))
}

fn claim_network() -> anyhow::Result<(u8, UdpSocket)> {
    // Clusters that start together begin at different networks, so that they rarely ask for the same.
    let count = usize::from(NETWORKS.end() - NETWORKS.start()) + 1;
    let first = std::process::id() as usize % count;
    let mut last_error = None;
    for network in NETWORKS.cycle().skip(first).take(count) {
        match UdpSocket::bind((Ipv4Addr::new(127, network, 0, 1), GOSSIP_PORT)) {
            Ok(socket) => return Ok((network, socket)),
            Err(error) => last_error = Some(error),
        }
    }
    let error = last_error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(error).context("no free loopback network: 127.10.0.1 to 127.250.0.1 are all taken or cannot be used")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_belong_together() {
        for kind in [Kind::Dns, Kind::Proxy, Kind::Front(1), Kind::App(NODES_OF_ROLE_MAX)] {
            assert_eq!(Kind::parse(&kind.name()), Some(kind));
        }
        for bad in ["appserver", "appserver0", "appserver01", "appserver251", "frontserver-1", "web1"] {
            assert_eq!(Kind::parse(&bad.parse().unwrap()), None, "{bad}");
        }
    }
}
