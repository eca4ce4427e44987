//! The container walk-through of the README, command by command, on the default bridge, on a network of its own, and by
//! compose.
//!
//! Runs whenever a Docker engine answers, and must run where `CI` is set. The images are built once from this tree.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Images of this tree, not those that somebody may be running.
const PREFIX: &str = "concertina-test";

/// Largest image that the project promises.
const IMAGE_BYTES_MAX: u64 = 10_000_000;

/// Longest wait for a change to be visible.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Builds the images; false where there is no engine and none is demanded.
static IMAGES: LazyLock<bool> = LazyLock::new(|| {
    let answers = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    if !answers.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI has no Docker engine");
        eprintln!("no Docker engine answers: container tests skipped");
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/images");
    assert!(Command::new(script).arg(PREFIX).status().unwrap().success(), "docker/images failed");
    true
});

/// One scene at a time: each of them fills two cores by itself.
static STAGE: Mutex<()> = Mutex::new(());

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "docker {}: {}", arguments.join(" "), text(&output.stderr));
    text(&output.stdout)
}

/// Containers of one scene, under names of their own; removed at the end.
struct Scene {
    tag: String,
    network: Option<String>,
    names: Vec<String>,
    dns: Option<String>,
    _stage: MutexGuard<'static, ()>,
}

impl Scene {
    fn new(title: &str, own_network: bool) -> Option<Self> {
        let stage = STAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*IMAGES {
            return None;
        }
        let tag = format!("ct{}-{title}", std::process::id());
        let network = own_network.then(|| {
            docker(&["network", "create", &tag]);
            tag.clone()
        });
        Some(Self { tag, network, names: Vec::new(), dns: None, _stage: stage })
    }

    fn container(&self, node: &str) -> String {
        format!("{}-{node}", self.tag)
    }

    /// `docker run -d --name NODE -h NODE [--dns IP] IMAGE`, as the walk-through has it.
    fn run(&mut self, node: &str, role: &str) {
        let (name, image) = (self.container(node), format!("{PREFIX}/{role}"));
        let mut arguments = vec!["run", "-d", "--name", &name, "-h", node];
        if let Some(network) = &self.network {
            arguments.extend(["--network", network]);
        }
        if let Some(dns) = &self.dns {
            arguments.extend(["--dns", dns]);
        }
        if role == "proxyserver" {
            arguments.extend(["-p", "127.0.0.1::80"]);
        }
        arguments.push(&image);
        docker(&arguments);
        self.names.push(name);
    }

    fn ip(&self, node: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "-f", format, &self.container(node)])
    }

    /// Where the proxy's port is published.
    fn published(&self) -> String {
        let addresses = docker(&["port", &self.container("proxyserver"), "80/tcp"]);
        addresses.lines().next().unwrap().to_owned()
    }

    /// The four that every scene begins with.
    fn run_first_four(&mut self) {
        self.run("dnsserver", "dnsserver");
        self.dns = Some(self.ip("dnsserver"));
        self.run("appserver1", "appserver");
        self.run("frontserver1", "frontserver");
        self.run("proxyserver", "proxyserver");
    }

    /// Stops containers at once, each well within Docker's ten seconds and in order.
    fn stop(&self, nodes: &[&str]) {
        let names: Vec<String> = nodes.iter().map(|node| self.container(node)).collect();
        let mut arguments = vec!["stop"];
        arguments.extend(names.iter().map(String::as_str));
        let asked = Instant::now();
        docker(&arguments);
        assert!(asked.elapsed() < Duration::from_secs(10), "docker stop took {:?}", asked.elapsed());
        for name in &names {
            assert_eq!(docker(&["inspect", "-f", "{{.State.ExitCode}}", name]), "0", "exit code of {name}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for name in &self.names {
            if thread::panicking() {
                let _ = Command::new("docker").args(["logs", "--tail", "40", name]).status();
            }
            let _ = Command::new("docker").args(["rm", "-f", name]).stdout(Stdio::null()).status();
        }
        if let Some(network) = &self.network {
            let _ = Command::new("docker").args(["network", "rm", network]).stdout(Stdio::null()).status();
        }
    }
}

/// One `GET /hello` on a connection of its own.
fn hello(addr: &str) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

fn until(what: &str, mut claim: impl FnMut() -> bool) {
    let deadline = Instant::now() + VISIBLE_TIMEOUT;
    while !claim() {
        assert!(Instant::now() < deadline, "not within {VISIBLE_TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The answers that so many requests get.
fn answers(addr: &str, requests: usize) -> BTreeSet<String> {
    (0..requests).map(|_| hello(addr).unwrap_or_else(|error| error)).collect()
}

fn pairs(fronts: usize, apps: usize) -> BTreeSet<String> {
    let pair = |front, app| format!("Hello frontserver{front}, I'm appserver{app} !\n");
    (1..=fronts).flat_map(|front| (1..=apps).map(move |app| pair(front, app))).collect()
}

/// Requests without pause from several threads, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(addr: &str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (addr, stop, served) = (addr.to_owned(), stop.clone(), served.clone());
            thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match hello(&addr) {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(error),
                    }
                }
                failures
            })
        };
        let threads = (0..8).map(client).collect();
        Self { stop, served, threads }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let served = self.served.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {served} failed, such as {:?}", failures.len(), failures[0]);
        assert!(served > 100, "only {served} requests were made");
    }
}

fn walk_through(mut scene: Scene) {
    scene.run_first_four();
    let addr = scene.published();
    until("the first request is served", || hello(&addr).is_ok());
    assert_eq!(hello(&addr).unwrap(), "Hello frontserver1, I'm appserver1 !\n");

    for (node, role) in
        [("frontserver2", "frontserver"), ("appserver2", "appserver"), ("appserver3", "appserver")]
    {
        scene.run(node, role);
    }
    until("all six pairs answer", || answers(&addr, 80) == pairs(2, 3));

    let load = Load::start(&addr);
    scene.stop(&["appserver3", "appserver2", "frontserver2"]);
    assert_eq!(answers(&addr, 20), pairs(1, 1), "right after docker stop");
    docker(&["start", &scene.container("appserver2")]);
    until("appserver2 serves again", || answers(&addr, 20) == pairs(1, 2));
    load.end();

    scene.stop(&["appserver1", "appserver2", "frontserver1", "proxyserver", "dnsserver"]);
}

#[test]
fn the_walk_through_works_on_the_default_bridge() {
    if let Some(scene) = Scene::new("bridge", false) {
        walk_through(scene);
    }
}

#[test]
fn the_walk_through_works_on_a_network_of_its_own() {
    if let Some(scene) = Scene::new("network", true) {
        walk_through(scene);
    }
}

#[test]
fn a_killed_container_costs_no_get_and_serves_again_after_its_start() {
    let Some(mut scene) = Scene::new("kill", true) else { return };
    scene.run_first_four();
    scene.run("appserver2", "appserver");
    let addr = scene.published();
    until("both apps answer", || answers(&addr, 20) == pairs(1, 2));
    let load = Load::start(&addr);
    docker(&["kill", &scene.container("appserver2")]);
    assert!(answers(&addr, 20).is_subset(&pairs(1, 2)));
    docker(&["start", &scene.container("appserver2")]);
    until("appserver2 serves again", || answers(&addr, 20) == pairs(1, 2));
    load.end();
}

#[test]
fn images_are_small_and_have_no_shell() {
    let Some(_scene) = Scene::new("images", false) else { return };
    for role in ["dnsserver", "proxyserver", "frontserver", "appserver"] {
        let image = format!("{PREFIX}/{role}");
        let bytes: u64 = docker(&["image", "inspect", "-f", "{{.Size}}", &image]).parse().unwrap();
        assert!(bytes < IMAGE_BYTES_MAX, "{image} has {bytes} bytes");
        let shell = Command::new("docker")
            .args(["run", "--rm", "--entrypoint", "/bin/sh", &image, "-c", "true"])
            .output();
        assert!(!shell.unwrap().status.success(), "{image} has a shell");
    }
}

#[test]
fn compose_starts_and_scales_the_same_cluster() {
    let Some(scene) = Scene::new("compose", false) else { return };
    let compose = Compose { project: scene.tag.clone() };
    compose.up(&["--scale", "appserver=3", "--scale", "frontserver=2"]);
    let addr = compose.published();
    until("six pairs answer", || {
        answers(&addr, 80).iter().filter(|answer| answer.starts_with("Hello ")).count() == 6
    });
    let load = Load::start(&addr);
    compose.up(&["--scale", "appserver=1", "--scale", "frontserver=1"]);
    assert_eq!(answers(&addr, 20).len(), 1, "only the remaining pair answers");
    load.end();
}

/// `docker compose` or `docker-compose`, whichever is there.
struct Compose {
    project: String,
}

impl Compose {
    fn command(&self) -> Command {
        let plugin = Command::new("docker").args(["compose", "version"]).output();
        let mut command = if plugin.is_ok_and(|output| output.status.success()) {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        } else {
            Command::new("docker-compose")
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/compose.yml");
        command.arg("-f").arg(file).args(["-p", &self.project]);
        // No fixed port: the engine chooses one.
        command.env("REGISTRY", PREFIX).env("HTTP_PORT", "127.0.0.1:");
        command
    }

    fn up(&self, scales: &[&str]) {
        let output = self.command().args(["up", "-d", "--no-build"]).args(scales).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn published(&self) -> String {
        let output = self.command().args(["port", "proxyserver", "80"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let _ = self.command().args(["down"]).output();
    }
}

/// Debian's registry with a configuration of its own: the packaged one asks for a password.
struct Registry {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn images_go_to_a_private_registry_and_come_back() {
    let Some(_scene) = Scene::new("registry", false) else { return };
    if Command::new("docker-registry").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has no docker-registry");
        eprintln!("no docker-registry: skipped");
        return;
    }
    // Below the ephemeral range, so that no connection takes it before the registry does.
    let mut ports = 20_000..30_000;
    let port = ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yml");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let mut serve = Command::new("docker-registry");
    serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let _registry = Registry { process: serve.spawn().unwrap(), _dir: dir };
    until("the registry listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let remote = format!("localhost:{port}/appserver");
    docker(&["tag", &format!("{PREFIX}/appserver"), &remote]);
    docker(&["push", &remote]);
    docker(&["rmi", &remote]);
    docker(&["pull", &remote]);
    docker(&["rmi", &remote]);
}
