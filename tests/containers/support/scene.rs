//! Containers of one scene, under names of their own, and the engine that they run on.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{skip, wait::until};

/// Images of this tree, not those that somebody may be running.
pub(crate) const PREFIX: &str = "concertina-test";

/// Docker's patience with a container that is to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// Builds the images; false where there is no engine.
static IMAGES: LazyLock<bool> = LazyLock::new(|| {
    let answers = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    if !answers.is_ok_and(|output| output.status.success()) {
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/images");
    assert!(Command::new(script).arg(PREFIX).status().unwrap().success(), "docker/images failed");
    true
});

/// One scene at a time: each of them fills two cores by itself.
static STAGE: Mutex<()> = Mutex::new(());

/// Runs a command that must succeed; what it said.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    said(&output, &arguments.join(" "))
}

fn said(output: &Output, command: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "docker {command}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// See the module. Everything is removed at the end.
pub(crate) struct Scene {
    tag: String,
    network: Option<String>,
    volume: Option<String>,
    names: Vec<String>,
    dns: Option<String>,
    _stage: MutexGuard<'static, ()>,
}

impl Scene {
    /// None: there is no engine.
    pub(crate) fn new(title: &str, own_network: bool) -> Option<Self> {
        let stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        if !*IMAGES {
            skip::test("Docker engine that answers");
            return None;
        }
        // Not by the process's number: in a namespace of its own it has the same one each time, and what was killed may have left its own.
        let tag = format!("ct{:x}-{title}", RandomState::new().hash_one(()) >> 32);
        let network = own_network.then(|| {
            docker(&["network", "create", &tag]);
            tag.clone()
        });
        Some(Self { tag, network, volume: None, names: Vec::new(), dns: None, _stage: stage })
    }

    /// What the names of everything in this scene begin with.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    pub(crate) fn container(&self, node: &str) -> String {
        format!("{}-{node}", self.tag)
    }

    /// `docker run -d --name NODE -h NODE [--dns IP] IMAGE`, as the walk-through has it, for all of them at once.
    pub(crate) fn run<N: AsRef<str>>(&mut self, nodes: &[N]) {
        let nodes = nodes.iter().map(AsRef::as_ref);
        let running: Vec<(&str, Child)> = nodes.map(|node| (node, self.spawn(node))).collect();
        // All have ended before one may fail: what is still being made could not be removed.
        let ended: Vec<(&str, Output)> =
            running.into_iter().map(|(node, child)| (node, child.wait_with_output().unwrap())).collect();
        for (node, output) in ended {
            said(&output, &format!("run {node}"));
            if node == "dnsserver" {
                self.find_dns();
            }
        }
    }

    /// The same for one, with more options.
    pub(crate) fn run_with(&mut self, node: &str, options: &[&str]) {
        let (name, image) = (self.container(node), format!("{PREFIX}/{}", role(node)));
        let own = self.options(node);
        self.names.push(name.clone());
        let mut run = vec!["run", "-d", "--name", &name];
        run.extend(own.iter().map(String::as_str).chain(options.iter().copied()));
        run.push(&image);
        docker(&run);
        if node == "dnsserver" {
            self.find_dns();
        }
    }

    fn spawn(&mut self, node: &str) -> Child {
        let (name, image) = (self.container(node), format!("{PREFIX}/{}", role(node)));
        let mut command = Command::new("docker");
        command.args(["run", "-d", "--name", &name]).args(self.options(node)).arg(image);
        // Before it is there: one that cannot be started stays, too.
        self.names.push(name);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn options(&self, node: &str) -> Vec<String> {
        let mut options = vec!["-h".to_owned(), node.to_owned()];
        for (option, value) in [("--network", &self.network), ("--dns", &self.dns)] {
            if let Some(value) = value {
                options.extend([option.to_owned(), value.clone()]);
            }
        }
        if role(node) == "proxyserver" {
            options.extend(["-p".to_owned(), "127.0.0.1::80".to_owned()]);
        }
        options
    }

    /// Runs a proxy without a sidecar, and its sidecar in another container called `sidecar`, so that killing one leaves the
    /// other alone. They share the network, and a volume with the feed's socket.
    pub(crate) fn run_proxy_beside_sidecar(&mut self) {
        let (image, volume) = (format!("{PREFIX}/proxyserver"), format!("{}:/run/concertina", self.tag));
        let (proxy, sidecar) = (self.container("proxyserver"), self.container("sidecar"));
        let (options, dns) = (self.options("proxyserver"), self.dns.clone().unwrap());
        self.volume = Some(self.tag.clone());
        self.names.extend([proxy.clone(), sidecar.clone()]);

        let begin = ["run", "-d", "--entrypoint", "/concertina", "-v", &volume, "--name"];
        let mut run = begin.to_vec();
        run.push(&proxy);
        run.extend(options.iter().map(String::as_str));
        run.extend([image.as_str(), "proxy"]);
        docker(&run);

        // Role and port are in the image.
        let network = format!("container:{proxy}");
        let mut run = begin.to_vec();
        run.extend([sidecar.as_str(), "--network", &network, &image]);
        run.extend(["sidecar", "--node", "proxyserver", "--join", &dns]);
        docker(&run);
    }

    /// A field of `docker inspect`.
    pub(crate) fn inspect(&self, node: &str, format: &str) -> String {
        docker(&["inspect", "-f", format, &self.container(node)])
    }

    pub(crate) fn ip(&self, node: &str) -> String {
        self.inspect(node, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    }

    /// Whom containers are told from now on: a dnsserver that starts again may have another address.
    pub(crate) fn find_dns(&mut self) {
        self.dns = Some(self.ip("dnsserver"));
    }

    /// Where the proxy's port is published.
    pub(crate) fn published(&self) -> SocketAddr {
        self.published_of("proxyserver", 80)
    }

    /// The same of this port of a node.
    pub(crate) fn published_of(&self, node: &str, port: u16) -> SocketAddr {
        let addresses = docker(&["port", &self.container(node), &format!("{port}/tcp")]);
        addresses.lines().next().unwrap().parse().unwrap()
    }

    /// `docker ORDER NODE…`
    pub(crate) fn order<N: AsRef<str>>(&self, order: &str, nodes: &[N]) {
        let names: Vec<String> = nodes.iter().map(|node| self.container(node.as_ref())).collect();
        let mut arguments = vec![order];
        arguments.extend(names.iter().map(String::as_str));
        docker(&arguments);
    }

    /// Stops containers at once, each well within Docker's ten seconds and in order.
    pub(crate) fn stop<N: AsRef<str>>(&self, nodes: &[N]) {
        let asked = Instant::now();
        self.order("stop", nodes);
        assert!(asked.elapsed() < STOP_TIME_MAX, "docker stop took {:?}", asked.elapsed());
        for node in nodes.iter().map(AsRef::as_ref) {
            assert_eq!(self.inspect(node, "{{.State.ExitCode}}"), "0", "exit code of {node}");
        }
    }

    /// Removes containers that have stopped.
    pub(crate) fn remove<N: AsRef<str>>(&mut self, nodes: &[N]) {
        self.order("rm", nodes);
        for node in nodes {
            let name = self.container(node.as_ref());
            self.names.retain(|known| *known != name);
        }
    }

    /// Waits until every consumer of a role that a node knows of acts on so many of it. The node may just be starting.
    pub(crate) fn sees(&self, node: &str, role: &str, count: usize) {
        let (name, count) = (self.container(node), count.to_string());
        until(&format!("{node} sees {count} {role}"), || {
            let mut wait = Command::new("docker");
            wait.args(["exec", &name, "/concertina", "wait", "--role", role, "--visible"]);
            wait.args(["--min", &count, "--max", &count, "--timeout", "5s"]);
            wait.output().unwrap().status.success().then_some(())
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            for name in &self.names {
                eprintln!("--- {name}");
                let _ = Command::new("docker").args(["logs", "--tail", "40", name]).status();
            }
        }
        // Nothing here may fail: what is not there need not be removed.
        let remove = |arguments: &[&str], names: &[String]| {
            let _ = Command::new("docker").args(arguments).args(names).output();
        };
        if !self.names.is_empty() {
            remove(&["rm", "-f"], &self.names);
        }
        if let Some(network) = self.network.take() {
            remove(&["network", "rm"], &[network]);
        }
        if let Some(volume) = self.volume.take() {
            remove(&["volume", "rm", "-f"], &[volume]);
        }
    }
}

/// Nodes are called like their roles, with numbers.
fn role(node: &str) -> &str {
    node.trim_end_matches(|c: char| c.is_ascii_digit())
}
