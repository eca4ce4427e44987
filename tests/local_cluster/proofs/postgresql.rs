//! PostgreSQL behind a tcp:// listener: no transaction is lost while an instance goes and comes back.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, geteuid};

use super::short_or_long;
use crate::support::{network::Network, program::Running, skip, stop::Stop, wait::until};

/// Where Debian and Ubuntu have PostgreSQL's programs, a folder for each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// PostgreSQL refuses to run as root, which has these tests run as nobody.
const NOBODY: u32 = 65534;

/// Who sends what, in `application_name`.
const KEPT: &str = "kept";

/// Two instances with the same rows, and a proxy in front of them. The order of the fields is the order in which they go away.
struct Scene {
    instances: Vec<Running>,
    _others: [Running; 2],
    programs: PathBuf,
    network: Network,
}

impl Scene {
    fn start(drain_timeout: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            skip::test("PostgreSQL");
            return None;
        };
        let network = Network::claim();
        let dnsserver = network.start("dnsserver");
        let listen = format!("tcp://{}=postgres", network.service("proxyserver"));
        let command = [env!("CARGO_BIN_EXE_concertina"), "proxy", "--listen", &listen];
        let proxyserver = network.wrap("proxyserver", &network.join("proxyserver"), &command);
        let others = [dnsserver, proxyserver];
        let mut scene = Self { instances: Vec::new(), _others: others, programs, network };
        scene.make_data();
        scene.instances =
            ["postgres1", "postgres2"].map(|node| scene.start_instance(node, drain_timeout)).into();
        for node in ["postgres1", "postgres2"] {
            until(node, || (scene.sql(node, "SELECT 1").trim() == "1").then_some(()));
            let filled = scene.to(node, "pgbench", &["--initialize", "--quiet"]).output().unwrap();
            assert!(filled.status.success(), "{filled:?}");
        }
        scene.sees_instances(2);
        Some(scene)
    }

    /// The directories of both instances.
    fn make_data(&self) {
        // Nobody has to get through.
        let place = self.network.place.path();
        fs::set_permissions(place, fs::Permissions::from_mode(0o711)).unwrap();
        let [first, second] = ["postgres1", "postgres2"].map(|node| self.network.place.join(node));
        fs::create_dir(&first).unwrap();
        if geteuid().is_root() {
            chown(&first, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut initdb = self.as_nobody("initdb");
        initdb.extend(["--no-sync", "--no-locale", "--auth=trust", "--username=postgres"].map(str::to_owned));
        initdb.push(format!("--pgdata={}", first.display()));
        let output = Command::new(&initdb[0]).args(&initdb[1..]).current_dir("/").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(Command::new("cp").arg("-a").args([&first, &second]).status().unwrap().success());
    }

    /// One of PostgreSQL's programs that may not be root.
    fn as_nobody(&self, program: &str) -> Vec<String> {
        let program = self.programs.join(program).display().to_string();
        if !geteuid().is_root() {
            return vec![program];
        }
        // Another user is not ended with its parent, unless that is said again.
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=QUIT", &program]
            .map(str::to_owned)
            .into()
    }

    fn start_instance(&self, node: &str, drain_timeout: &str) -> Running {
        let service = self.network.service(node);
        let mut command = self.as_nobody("postgres");
        command.extend(["-D".to_owned(), self.network.place.join(node).display().to_string()]);
        let (ip, port) = (service.ip(), service.port());
        for setting in [
            format!("listen_addresses={ip}"),
            format!("port={port}"),
            "unix_socket_directories=".to_owned(),
            "shared_buffers=16MB".to_owned(),
            "fsync=off".to_owned(),
        ] {
            command.extend(["-c".to_owned(), setting]);
        }
        // It takes connections before it serves.
        let check = format!("exec:{} -q -h {ip} -p {port}", self.programs.join("pg_isready").display());
        let flags = ["--check", &check, "--drain-timeout", drain_timeout, "--stop-signal", "SIGINT"];
        let flags = [self.network.join(node), flags.map(str::to_owned).into()].concat();
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.network.wrap(node, &flags, &command)
    }

    /// A program that asks this node, or the proxy.
    fn to(&self, node: &str, program: &str, args: &[&str]) -> Command {
        let service = self.network.service(node);
        let mut command = Command::new(self.programs.join(program));
        command.env("PGHOST", service.ip().to_string()).env("PGPORT", service.port().to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command.args(args).stdin(Stdio::null()).current_dir("/");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What an instance itself answers; nothing, if it does not.
    fn sql(&self, node: &str, question: &str) -> String {
        let output = self.to(node, "psql", &["-qtAc", question]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// So many sessions of clients that keep theirs.
    fn kept_sessions(&self, node: &str) -> u32 {
        let question = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{KEPT}'");
        self.sql(node, &question).trim().parse().unwrap_or(0)
    }

    fn sees_instances(&self, count: usize) {
        let wait = format!("wait --role postgres --min {count} --max {count} --visible");
        assert_eq!(self.network.ask("proxyserver", &wait).code, Some(0), "{count} instances");
    }

    /// Has clients ask on a new connection for each transaction for as long as something happens; so many were answered.
    fn under_load(&self, happens: impl FnOnce()) -> u64 {
        let stopping = AtomicBool::new(false);
        let ask = || {
            let mut answered = 0;
            while !stopping.load(Ordering::Relaxed) {
                let once = ["-n", "-S", "--connect", "-c", "4", "-t", "25"];
                answered += transactions(&self.to("proxyserver", "pgbench", &once).output().unwrap());
            }
            answered
        };
        thread::scope(|scope| {
            let stop = Stop(&stopping);
            let clients = scope.spawn(ask);
            happens();
            drop(stop);
            clients.join().unwrap()
        })
    }
}

/// The newest version's.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(PROGRAMS).ok()?.flatten().map(|entry| entry.path().join("bin"));
    versions.filter(|path| path.join("postgres").exists() && path.join("pgbench").exists()).max()
}

/// What pgbench counted, of which nothing may have failed.
fn transactions(output: &Output) -> u64 {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("number of failed transactions: 0 "), "{said}");
    let count =
        said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    count.and_then(|count| count.split('/').next()?.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn an_instance_that_goes_and_comes_back_costs_no_transaction_of_old_and_new_sessions() {
    let Some(mut scene) = Scene::start("30s") else { return };
    let rounds = short_or_long(1, 20);
    let (mut kept_transactions, mut drained) = (0, Duration::ZERO);
    let mut instances = std::mem::take(&mut scene.instances);
    let answered = scene.under_load(|| {
        // In turn: one that has just come gets few sessions at first.
        for node in ["postgres1", "postgres2"].into_iter().cycle().take(rounds as usize) {
            let mut instance = instances.remove(0);
            let mut kept =
                scene.to("proxyserver", "pgbench", &["-n", "-S", "-c", "6", "-T", "8", "--rate", "500"]);
            let kept = kept.env("PGAPPNAME", KEPT).spawn().unwrap();
            until("kept sessions there", || (scene.kept_sessions(node) > 0).then_some(()));
            instance.signal(Signal::TERM);
            let asked = Instant::now();
            until("it drains", || {
                scene.network.ask("proxyserver", "members").stdout.contains("draining").then_some(())
            });
            assert!(scene.kept_sessions(node) > 0, "they go on where they are");
            kept_transactions += transactions(&kept.wait_with_output().unwrap());
            assert_eq!(instance.ended().code(), Some(0), "{}", instance.said());
            assert!(instance.said().contains("database system is shut down"), "{}", instance.said());
            drained += asked.elapsed();
            instances.push(scene.start_instance(node, "30s"));
            scene.sees_instances(2);
        }
    });
    println!(
        "{rounds} times gone, after {:?}, and back: {answered} transactions with a connection each, {kept_transactions} of \
         kept sessions, 0 failed",
        drained / rounds
    );
    assert!(answered > 0 && kept_transactions > 0);
}

#[test]
fn a_session_that_outlasts_the_drain_is_closed_and_the_database_shuts_down_cleanly() {
    let Some(mut scene) = Scene::start("500ms") else { return };
    drop(scene.instances.remove(0));
    scene.sees_instances(1);
    let mut psql = scene.to("proxyserver", "psql", &["-c", "SELECT pg_sleep(60)"]);
    let psql = psql.env("PGAPPNAME", KEPT).spawn().unwrap();
    until("a session", || (scene.kept_sessions("postgres2") == 1).then_some(()));
    let asked = Instant::now();
    scene.instances[0].signal(Signal::TERM);
    let output = psql.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("server closed the connection"), "{said}");
    assert!(asked.elapsed() >= Duration::from_millis(500), "not before {:?}", asked.elapsed());
    let instance = &mut scene.instances[0];
    assert_eq!(instance.ended().code(), Some(0), "{}", instance.said());
    assert!(instance.said().contains("database system is shut down"), "{}", instance.said());
}
