//! Servers that speak protocols of their own, behind a tcp:// listener, and the clients that come with them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{length::short_or_long, pattern, program::is_there, proxy::Proxy};

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A server; it lives as long as this value.
struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    /// Starts one at an address that this makes flags of, and waits until it listens.
    fn start(command: &mut Command, flags: impl FnOnce(SocketAddr) -> Vec<String>) -> Self {
        // See nginx: none of them can be told to take a free port.
        static STARTED_COUNT: AtomicU16 = AtomicU16::new(0);
        let [.., high, low] = std::process::id().to_be_bytes();
        let port = 8080 + STARTED_COUNT.fetch_add(1, Ordering::Relaxed);
        let addr = SocketAddr::from((Ipv4Addr::new(127, 88, high, low), port));
        command.args(flags(addr)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Git's daemon is a child of what is started.
        let server = Self { child: command.process_group(0).spawn().unwrap(), addr };
        let started = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(started.elapsed() < START_TIMEOUT, "not within {START_TIMEOUT:?}: it listens at {addr}");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn proxy(&self) -> Proxy {
        let upstream = format!("server={}", self.addr);
        Proxy::start_with(&["--listen", "tcp://127.0.0.1:0=server", "--upstream", &upstream])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout.trim_end().to_owned()
}

fn git(dir: &Path, args: &[&str]) -> String {
    let settings = ["-c", "user.name=a", "-c", "user.email=a@example", "-c", "init.defaultBranch=main"];
    run(Command::new("git").current_dir(dir).args(settings).args(args))
}

#[test]
fn git_clones_and_pushes_every_object() {
    if !is_there("git", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("bare.git")).unwrap();
    git(&path("bare.git"), &["init", "--bare", "--quiet"]);
    let mut daemon = Command::new("git");
    let server = Server::start(daemon.current_dir(dir.path()), |addr| {
        let base = format!("--base-path={}", dir.path().display());
        let flags = ["daemon", "--export-all", "--enable=receive-pack", "--reuseaddr"];
        let (ip, port) = (format!("--listen={}", addr.ip()), format!("--port={}", addr.port()));
        flags.iter().map(ToString::to_string).chain([ip, port, base]).collect()
    });
    let proxy = server.proxy();
    let url = format!("git://{}/bare.git", proxy.addr);
    git(dir.path(), &["clone", "--quiet", &url, "first"]);
    let all = pattern(short_or_long(8_000_000, 80_000_000));
    for (number, part) in all.chunks(all.len() / 20).enumerate() {
        fs::write(path("first").join(format!("file{number}")), part).unwrap();
        git(&path("first"), &["add", "."]);
        git(&path("first"), &["commit", "--quiet", "-m", "more"]);
    }
    git(&path("first"), &["push", "--quiet", "origin", "HEAD:main"]);
    git(dir.path(), &["clone", "--quiet", "--branch", "main", &url, "second"]);
    git(&path("second"), &["fsck", "--full", "--strict"]);
    let head = |name: &str| git(&path(name), &["rev-parse", "HEAD"]);
    assert_eq!(head("first"), head("second"));
    assert_eq!(fs::read(path("second/file3")).unwrap(), fs::read(path("first/file3")).unwrap());
    // The daemon's children go with its end.
    drop(server);
}

#[test]
fn redis_takes_a_pipeline_of_commands_and_answers_each() {
    if !is_there("redis-server", "--version") || !is_there("redis-cli", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Command::new("redis-server").current_dir(dir.path()), |addr| {
        [
            "--bind",
            &addr.ip().to_string(),
            "--port",
            &addr.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        .map(ToOwned::to_owned)
        .to_vec()
    });
    let proxy = server.proxy();
    let (host, port) = (proxy.addr.ip().to_string(), proxy.addr.port().to_string());
    let client = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-h", &host, "-p", &port]);
        command
    };
    let commands: String =
        (0..short_or_long(50_000, 1_000_000)).map(|i| format!("SET key{i} value{i}\r\n")).collect();
    let file = dir.path().join("commands");
    fs::write(&file, &commands).unwrap();
    let piped = client("redis-cli").arg("--pipe").stdin(fs::File::open(&file).unwrap()).output().unwrap();
    let told = String::from_utf8_lossy(&piped.stdout);
    assert!(told.contains(&format!("errors: 0, replies: {}", commands.lines().count())), "{told}");
    assert_eq!(run(client("redis-cli").arg("DBSIZE")), commands.lines().count().to_string());
    assert_eq!(run(client("redis-cli").args(["GET", "key777"])), "value777");
    let measured = run(client("redis-benchmark").args([
        "-n",
        short_or_long("5000", "200000"),
        "-c",
        "20",
        "-P",
        "4",
        "-t",
        "get,set",
        "-q",
    ]));
    assert!(measured.contains("GET: ") && !measured.contains("rror"), "{measured}");
}
