//! Where everything of a local cluster is: addresses, ports, paths, command lines.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail};
use feed::{Name, Route, route::Host, socket::SOCKET_PATH_BYTES_MAX};
use proxy::config::{Address, Listen, Protocol, RequestIds};

use super::{
    claims::{GOSSIP_PORT, HeldPort, claim_network, hold, is_free},
    command_line::{CommandLine, HOST, PORT, filled_in},
    feed_path, file, log_path,
    service::{Kind, NODES_OF_ROLE_MAX, Port, Process, Program, ServiceId, Services},
};

/// Above 1024, so that nobody needs to be root.
const DNS_PORT: u16 = 5300;

/// How long a node may take to stop before it is killed, beside its drain and the stop of its role's process: a busy machine.
const STOP_MARGIN: Duration = Duration::from_secs(4);
/// How long these two may take where nobody says so: what the sidecar has without flags.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
const PROCESS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a cluster is to be.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where the proxy listens, at one place at least.
    pub(super) listen: Vec<Listen>,
    /// Who said so, for errors.
    pub(super) listen_source: &'static str,
    pub(super) request_ids: RequestIds,
    pub(super) services: Services,
}

/// What a proxy needs to speak TLS, and its clients to believe it.
#[derive(Debug)]
pub(super) struct Certified {
    /// The authority's certificate.
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What a cluster has claimed for itself. Dropping it gives everything back.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// Where the proxy listens, at one place at least.
    pub(super) listen: Vec<Listen>,
    request_ids: RequestIds,
    pub(super) services: Services,
    network: u8,
    /// The ports of nodes that have their own.
    ports: RefCell<BTreeMap<(ServiceId, u8), u16>>,
    executable: PathBuf,
    /// What every sidecar is given as its key file.
    key_file: Option<PathBuf>,
    /// What the proxy speaks TLS by.
    pub(super) certified: Option<Certified>,
    /// Held: one cluster in a directory.
    _lock: File,
    /// Held: one cluster in a network.
    _network: UdpSocket,
    /// Held: the proxy's ports stay ours while the proxy restarts.
    _listen: Vec<HeldPort>,
}

impl Layout {
    /// Claims a directory, a network and the proxy's addresses. A key file that the sidecars would refuse is refused here.
    pub(super) fn claim(dir: &Path, plan: Plan, key_file: Option<PathBuf>) -> anyhow::Result<Self> {
        let Plan { mut listen, listen_source, request_ids, services } = plan;
        let key_file = key_file.map(std::path::absolute).transpose()?;
        key_file.as_deref().map(sidecar::node::key_file::load).transpose()?;
        make_dir(dir).with_context(|| format!("--dir {}: cannot be used", dir.display()))?;
        check_socket_paths(dir, &services)?;
        let lock = File::options().create(true).write(true).truncate(false).open(dir.join("lock"))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "--dir {}: a cluster is running there already; stop it, or give this one another --dir",
                dir.display()
            );
        }
        forget_snapshots(dir, &services);
        let mut held = Vec::new();
        for Listen { addr, protocol, .. } in &mut listen {
            let source = if *protocol == Protocol::Https { "--tls" } else { listen_source };
            let (taken, port) = hold(port_of(addr)).map_err(|error| {
                let advice = program::advice::on_listening(&error);
                anyhow::anyhow!(
                    "{source} {addr}: cannot listen there: {error}; {advice} (127.0.0.1:0 takes a free one)"
                )
            })?;
            *addr = taken.into();
            held.push(port);
        }
        let (network, held_network) = claim_network(&services)?;
        Ok(Self {
            dir: dir.to_owned(),
            listen,
            request_ids,
            services,
            network,
            ports: RefCell::default(),
            executable: std::env::current_exe().context("cannot find the own executable")?,
            key_file,
            certified: None,
            _lock: lock,
            _network: held_network,
            _listen: held,
        })
    }

    /// The first address of the proxy.
    pub(super) fn front_door(&self) -> SocketAddr {
        port_of(&self.listen[0].addr)
    }

    /// Where the proxy speaks TLS.
    pub(super) fn sealed(&self) -> impl Iterator<Item = SocketAddr> {
        let sealed = self.listen.iter().filter(|listen| listen.protocol == Protocol::Https);
        sealed.map(|listen| port_of(&listen.addr))
    }

    /// What to open to be greeted by the services of the example.
    pub(super) fn hello_url(&self) -> String {
        format!("http://{}/hello", reachable(self.front_door()))
    }

    /// What to open to reach a service through the proxy.
    pub(super) fn urls(&self, service: ServiceId) -> Vec<String> {
        let service = self.services.get(service);
        let mut urls = Vec::new();
        for listen in &self.listen {
            match (&listen.role, &service.process) {
                (Some(role), _) if *role == service.role => {
                    let addr = reachable(port_of(&listen.addr)).into();
                    urls.push(Listen { role: None, addr, ..listen.clone() }.to_string());
                }
                (None, Process::Program(program)) => {
                    let scheme = match listen.protocol {
                        Protocol::Http => "http",
                        Protocol::Https => "https",
                        _ => continue,
                    };
                    urls.extend(program.routes.iter().map(|route| url(scheme, route, port_of(&listen.addr))));
                }
                _ => {}
            }
        }
        urls
    }

    /// The node's own address.
    pub(super) fn ip(&self, kind: Kind) -> IpAddr {
        kind.ip(self.network).into()
    }

    /// Where the proxyserver's admin port shows the cluster: its sidecar has the default, at an address of its own.
    pub(super) fn map_url(&self) -> String {
        format!("http://{}/", SocketAddr::new(self.ip(Kind::Proxy), sidecar::config::ADMIN_PORT))
    }

    /// Where the node's role serves, if it does.
    pub(super) fn service(&self, kind: Kind) -> Option<SocketAddr> {
        let port = match kind {
            Kind::Dns => Some(DNS_PORT),
            Kind::Proxy => Some(self.front_door().port()),
            Kind::Of(service, number) => self.port(service, number),
        };
        port.map(|port| SocketAddr::new(self.ip(kind), port))
    }

    /// The port of a service's node: once it has one, it keeps it.
    fn port(&self, service: ServiceId, number: u8) -> Option<u16> {
        let mut taken = self.ports.borrow_mut();
        if let Some(port) = taken.get(&(service, number)) {
            return Some(*port);
        }
        let wanted = self.services.ports(service, number, self.network);
        let Port::Own = self.services.get(service).port else { return wanted.first().copied() };
        let is_free = |port: &&u16| !taken.values().any(|other| other == *port) && is_free(**port);
        let port = wanted.iter().find(is_free).or(wanted.first()).copied()?;
        taken.insert((service, number), port);
        Some(port)
    }

    pub(super) fn name(&self, kind: Kind) -> Name {
        self.services.name(kind)
    }

    pub(super) fn feed(&self, kind: Kind) -> PathBuf {
        feed_path(&self.dir, &self.name(kind))
    }

    pub(super) fn log(&self, kind: Kind) -> PathBuf {
        log_path(&self.dir, &self.name(kind))
    }

    /// How long the node may take to stop.
    pub(super) fn stop_timeout(&self, kind: Kind) -> Duration {
        let program = self.program(kind);
        let drain = program.and_then(|program| program.drain_timeout).unwrap_or(DRAIN_TIMEOUT);
        let process = program.and_then(|program| program.stop_timeout).unwrap_or(PROCESS_TIMEOUT);
        drain.saturating_add(process).saturating_add(STOP_MARGIN)
    }

    /// The program of the user's that the node runs, if it does.
    pub(super) fn program(&self, kind: Kind) -> Option<&Program> {
        match kind {
            Kind::Of(service, _) => match &self.services.get(service).process {
                Process::Program(program) => Some(program),
                Process::Front | Process::App => None,
            },
            Kind::Dns | Kind::Proxy => None,
        }
    }

    /// The node's command: a sidecar that runs the role.
    pub(super) fn command(&self, kind: Kind) -> Command {
        let (name, role, service) = (self.name(kind), self.services.role(kind), self.service(kind));
        let mut command = Command::new(&self.executable);
        // What is set for this program is not meant for each of the nodes.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONCERTINA_"))
        {
            if name != program::LOG_VARIABLE && name != program::FORMAT_VARIABLE {
                command.env_remove(name);
            }
        }
        command.arg("sidecar").args(["--role", role.as_str(), "--node", name.as_str()]);
        command.arg("--bind").arg(SocketAddr::new(self.ip(kind), GOSSIP_PORT).to_string());
        command.arg("--port").arg(service.map_or(0, |service| service.port()).to_string());
        command.arg("--feed").arg(self.feed(kind));
        // Named after the network: another cluster may have that of an earlier one of this directory.
        let snapshot = self.dir.join(name.as_str()).join(format!("snapshot-{}", self.network));
        command.arg("--snapshot").arg(snapshot);
        if kind != Kind::Dns {
            command.arg("--join").arg(SocketAddr::new(self.ip(Kind::Dns), GOSSIP_PORT).to_string());
        }
        if let Some(key_file) = &self.key_file {
            command.arg("--key-file").arg(key_file);
        }
        let listen = service.map(|service| service.to_string()).unwrap_or_default();
        match kind {
            Kind::Dns => self.run_own(&mut command, "dns", &[listen]),
            Kind::Proxy => {
                self.run_own(&mut command, "proxy", &self.proxy_listeners());
                command.arg("--request-id").arg(self.request_ids.to_string());
                if let Some(Certified { certificate, key, .. }) = &self.certified {
                    command.arg("--certificate").arg(format!("{},{}", certificate.display(), key.display()));
                }
            }
            Kind::Of(of, _) => match &self.services.get(of).process {
                Process::Front => self.run_own(&mut command, "front", &[listen]),
                Process::App => self.run_own(&mut command, "app", &[listen]),
                Process::Program(program) => {
                    run_program(&mut command, program, self.ip(kind), service.map(|service| service.port()));
                }
            },
        }
        command
    }

    /// One of the programs of this project.
    fn run_own(&self, command: &mut Command, program: &str, listen: &[String]) {
        command.arg("--").arg(&self.executable).arg(program);
        for listen in listen {
            command.arg("--listen").arg(listen);
        }
    }

    /// Those that are wanted, and the first at the node's own address, too.
    fn proxy_listeners(&self) -> Vec<String> {
        let own = SocketAddr::new(self.ip(Kind::Proxy), self.front_door().port());
        let has_own = self.front_door().ip().is_unspecified();
        let own = (!has_own).then(|| Listen { addr: own.into(), ..self.listen[0].clone() });
        self.listen.iter().chain(&own).map(Listen::to_string).collect()
    }
}

/// The port of a listener: at files, no local cluster has one.
fn port_of(addr: &Address) -> SocketAddr {
    addr.ip().unwrap_or(file::LISTEN)
}

/// A program of the user's, in its directory and environment.
fn run_program(command: &mut Command, told: &Program, ip: IpAddr, port: Option<u16>) {
    let host = ip.to_string();
    let filled_in = |text: &str| filled_in(text, &host, port);
    // Its log is for what it says itself, unless somebody wants more.
    if std::env::var_os(program::LOG_VARIABLE).is_none() {
        command.env(program::LOG_VARIABLE, "warn");
    }
    // The role's process has what its sidecar has.
    command.current_dir(&told.dir).envs(told.env.iter().map(|(name, value)| (name, filled_in(value))));
    command.env(HOST, &host);
    match port {
        Some(port) => command.env(PORT, port.to_string()),
        None => command.env_remove(PORT),
    };
    let mut flag = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            command.arg(format!("--{flag}={value}"));
        }
    };
    flag("check", told.check.as_ref().map(|check| filled_in(&check.to_string())));
    for route in told.routes.iter() {
        flag("route", Some(route.to_string()));
    }
    flag("protocol", told.protocol.map(|protocol| protocol.to_string()));
    for (key, value) in told.tags.iter() {
        flag("tag", Some(format!("{key}={value}")));
    }
    flag("stop-signal", told.stop_signal.map(|signal| signal.to_string()));
    let milliseconds = |time: Option<Duration>| time.map(|time| format!("{}ms", time.as_millis()));
    flag("stop-timeout", milliseconds(told.stop_timeout));
    flag("drain-timeout", milliseconds(told.drain_timeout));
    command.arg("--");
    match &told.command {
        CommandLine::Words(words) => command.args(words.iter().map(|word| filled_in(word))),
        CommandLine::Shell(line) => command.args(["sh", "-c", line]),
    };
}

/// What reaches a listener from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A route as an address to open.
fn url(scheme: &str, route: &Route, listen: SocketAddr) -> String {
    let listen = reachable(listen);
    let host = match route.host() {
        Host::Exact(host) => format!("{host}:{}", listen.port()),
        Host::Suffix(suffix) => format!("*.{suffix}:{}", listen.port()),
        Host::Any => listen.to_string(),
    };
    let path = if route.path().is_empty() { "/" } else { route.path() };
    format!("{scheme}://{host}{path}")
}

/// Private to the user: whoever can write there can speak for the cluster.
fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if std::fs::metadata(dir)?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(())
}

fn check_socket_paths(dir: &Path, services: &Services) -> anyhow::Result<()> {
    let lasts = services.ids().map(|service| Kind::Of(service, NODES_OF_ROLE_MAX));
    for kind in lasts.chain([Kind::Proxy]) {
        if feed_path(dir, &services.name(kind)).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            bail!("--dir {}: too long for Unix sockets, use a shorter path", dir.display());
        }
    }
    Ok(())
}

/// Takes away what nodes of a launcher before remembered: whoever holds the directory knows that none of them lives, and a node that asks
/// where nobody is starts a second later.
fn forget_snapshots(dir: &Path, services: &Services) {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().unwrap_or_default();
    let nodes =
        entries(dir).filter(|entry| name(entry).parse().is_ok_and(|name| services.parse(&name).is_some()));
    for file in nodes.flat_map(|node| entries(&node.path())) {
        let number = name(&file).strip_prefix("snapshot-").and_then(|number| number.parse::<u8>().ok());
        if number.is_some() {
            // One that stays costs a second.
            let _ = std::fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_of_a_launcher_before_remembered_is_forgotten_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [own, other] = ["appserver1", "mine"].map(|name| dir.path().join(name));
        for place in [&own, &other] {
            std::fs::create_dir(place).unwrap();
            for file in ["snapshot-89", "snapshot-of-it", "feed.sock"] {
                std::fs::write(place.join(file), "").unwrap();
            }
        }
        forget_snapshots(dir.path(), &Services::of_example(1, 1, 8080));
        let left = |place: &Path| {
            let mut left: Vec<_> =
                std::fs::read_dir(place).unwrap().map(|e| e.unwrap().file_name()).collect();
            left.sort();
            left
        };
        assert_eq!(left(&own), ["feed.sock", "snapshot-of-it"]);
        assert_eq!(left(&other).len(), 3);
    }

    #[test]
    fn a_route_is_opened_at_a_listener() {
        let listen = "0.0.0.0:8080".parse().unwrap();
        for (route, expected) in [
            ("shop.localhost/api", "http://shop.localhost:8080/api"),
            ("*.localhost", "http://*.localhost:8080/"),
            ("/", "http://127.0.0.1:8080/"),
        ] {
            assert_eq!(url("http", &route.parse().unwrap(), listen), expected);
        }
    }
}
