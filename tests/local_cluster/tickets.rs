//! TLS sessions that resume at any proxy of a cluster, asked for by OpenSSL's client.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    cluster::Cluster,
    place::Place,
    program::{Running, concertina, run},
    wait::until,
};

const REQUEST: &str = "GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn key() -> String {
    run(concertina(["keys", "generate"])).stdout
}

/// A certificate for localhost, and its key.
fn make_certificate(place: &Place) -> String {
    let [certificate, key] = ["cert", "key"].map(|name| place.join(name).display().to_string());
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-keyout", &key, "-out", &certificate])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    format!("{certificate},{key}")
}

/// A cluster with two more proxies, which speak TLS.
struct Edges {
    /// Before the cluster, which they drain into.
    sidecars: Vec<Running>,
    cluster: Cluster,
    network: String,
    certificate: String,
    key_file: Option<PathBuf>,
    epoch: &'static str,
    files: Place,
}

impl Edges {
    fn start(keys: &str, epoch: &'static str) -> Self {
        let mut edges = Self::without_any(keys, epoch);
        edges.sidecars = [1, 2].map(|number| edges.start_one(number)).into();
        edges
    }

    /// The cluster alone.
    fn without_any(keys: &str, epoch: &'static str) -> Self {
        let files = Place::new();
        let certificate = make_certificate(&files);
        let key_file = (!keys.is_empty()).then(|| {
            let path = files.join("keys");
            fs::write(&path, keys).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        });
        let key_flag = key_file.iter().flat_map(|path| ["--key-file", path.to_str().unwrap()]);
        let cluster = Cluster::up(&key_flag.collect::<Vec<_>>());
        let network = cluster.service("dnsserver").ip().to_string().replace(".0.2", "");
        Self { sidecars: Vec::new(), cluster, network, certificate, key_file, epoch, files }
    }

    fn ip(&self, number: usize) -> String {
        format!("{}.200.{number}", self.network)
    }

    fn addr(&self, number: usize) -> String {
        format!("{}:8443", self.ip(number))
    }

    /// Starts one that joins the cluster, and waits until it sees the front.
    fn start_one(&self, number: usize) -> Running {
        let running = self.launch(number, &self.seed());
        self.sees_the_front(number);
        running
    }

    /// The cluster's first node.
    fn seed(&self) -> String {
        format!("{}.0.2", self.network)
    }

    fn launch(&self, number: usize, join: &str) -> Running {
        let (name, ip) = (format!("edge{number}"), self.ip(number));
        let mut command =
            concertina(["sidecar", "--role", "edge", "--node", &name, "--restart", "on-failure"]);
        command.args(["--bind", &ip, "--port", "8443", "--join", join]);
        command.args(["--ticket-epoch", self.epoch]);
        command.arg("--feed").arg(self.feed(number));
        if let Some(key_file) = &self.key_file {
            command.arg("--key-file").arg(key_file);
        }
        command.args(["--", env!("CARGO_BIN_EXE_concertina"), "proxy", "--workers", "1"]);
        command.args(["--listen", &format!("https://{}=frontserver", self.addr(number))]);
        command.args(["--certificate", &self.certificate]);
        Running::start(command, self.files.join(format!("{name}.log")))
    }

    fn sees_the_front(&self, number: usize) {
        let wait = || {
            let mut wait = concertina(["wait", "--role", "frontserver", "--min", "1", "--visible", "--feed"]);
            wait.arg(self.feed(number));
            (run(wait).code == Some(0)).then_some(())
        };
        until("an edge that sees the front", wait);
    }

    fn feed(&self, number: usize) -> PathBuf {
        self.files.join(format!("edge{number}.sock"))
    }

    /// Says hello at an edge, with a session of before if there is one; the new one is kept under that name. Whether it was resumed.
    fn hello(&self, number: usize, version: &str, session: &str, resumes: Option<&str>) -> bool {
        let (said, is_resumed) = self.say_hello(number, version, session, resumes);
        assert!(said.contains("HTTP/1.1 200 "), "edge{number}: {said}");
        is_resumed
    }

    /// The same whatever the answer is, and that.
    fn say_hello(
        &self,
        number: usize,
        version: &str,
        session: &str,
        resumes: Option<&str>,
    ) -> (String, bool) {
        let file = |name: &str| self.files.join(format!("{name}{version}.session")).display().to_string();
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &self.addr(number), "-servername", "localhost", "-ign_eof"]);
        client.args([version, "-sess_out", &file(session)]);
        client.args(resumes.into_iter().flat_map(|name| ["-sess_in".to_owned(), file(name)]));
        let streams = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = streams.spawn().unwrap();
        client.stdin.take().unwrap().write_all(REQUEST.as_bytes()).unwrap();
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_resumed = said.contains("Reused, TLSv1.");
        (said, is_resumed)
    }

    /// Waits until an edge resumes, or does not any more, what was begun elsewhere: its sidecar tells it within a second.
    fn comes_to(&self, is_resumed: bool, number: usize, version: &str, resumes: &str) {
        until(&format!("edge{number} and {resumes}, {version}: {is_resumed}"), || {
            (self.hello(number, version, "unused", Some(resumes)) == is_resumed).then_some(())
        });
    }
}

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

#[test]
fn a_session_resumes_at_any_proxy_of_a_cluster_with_keys_after_a_crash_a_restart_and_a_rotation() {
    let (old, new) = (key(), key());
    let mut edges = Edges::start(&old, "8h");
    for version in VERSIONS {
        assert!(!edges.hello(1, version, "first", None));
        assert!(edges.hello(1, version, "unused", Some("first")), "where it began, {version}");
        assert!(edges.hello(2, version, "unused", Some("first")), "elsewhere, {version}");
        edges.hello(2, version, "second", None);
        assert!(edges.hello(1, version, "unused", Some("second")), "the other way, {version}");
    }
    // A proxy that is killed, and started anew by its sidecar, knows the sessions of before.
    let log = || fs::read_to_string(edges.files.join("edge2.log")).unwrap();
    let listening = log().matches("proxy listening").count();
    let children = format!("/proc/{0}/task/{0}/children", edges.sidecars[1].id());
    let role = fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(role).unwrap(), Signal::KILL).unwrap();
    until("another process", || (log().matches("proxy listening").count() > listening).then_some(()));
    for version in VERSIONS {
        edges.comes_to(true, 2, version, "first");
    }
    // The same where all of the node begins anew.
    let mut stopped = edges.sidecars.pop().unwrap();
    stopped.signal(Signal::TERM);
    stopped.ended();
    edges.sidecars.push(edges.start_one(2));
    for version in VERSIONS {
        edges.comes_to(true, 2, version, "first");
    }
    // Through a rotation, too, until the key is removed.
    let order = |command: &str| edges.cluster.order(&format!("{command} --node dnsserver"));
    let (old, new) = (old.trim_end(), new.trim_end());
    order(&format!("keys install {new}"));
    order(&format!("keys use {new}"));
    for version in VERSIONS {
        assert!(edges.hello(2, version, "unused", Some("first")), "both keys are there, {version}");
    }
    order(&format!("keys remove {old}"));
    for version in VERSIONS {
        edges.comes_to(false, 2, version, "first");
        edges.comes_to(false, 1, version, "first");
        edges.hello(1, version, "new", None);
        assert!(edges.hello(2, version, "unused", Some("new")), "{version}");
    }
}

#[test]
fn a_session_resumes_elsewhere_through_the_end_of_an_epoch() {
    const EPOCH_MS: u128 = 6000;
    let edges = Edges::start(&key(), "6s");
    // The cluster's other nodes count epochs otherwise: the second may not have asked the first yet.
    until("both have one secret", || {
        let mut is_one = true;
        for version in VERSIONS {
            edges.hello(1, version, "first", None);
            is_one &= edges.hello(2, version, "unused", Some("first"));
        }
        is_one.then_some(())
    });
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let sleep_until = |at: u128| {
        sleep(Duration::from_millis(u64::try_from(at.saturating_sub(now())).unwrap()));
    };
    until("an epoch's end between two looks", || {
        let next = (now() / EPOCH_MS + 1) * EPOCH_MS;
        sleep_until(next - 1500);
        for version in VERSIONS {
            edges.hello(1, version, "late", None);
        }
        let is_late = now() < next;
        sleep_until(next + 100);
        let resumed = VERSIONS.map(|version| edges.hello(2, version, "unused", Some("late")));
        // A machine that is too busy for the end of this epoch sees the next one.
        let is_in_time = is_late && now() < next + EPOCH_MS;
        is_in_time.then(|| assert_eq!(resumed, [true; 2], "{VERSIONS:?}"))
    });
}

#[test]
fn without_keys_a_session_resumes_where_it_began_alone() {
    let edges = Edges::start("", "8h");
    for version in VERSIONS {
        edges.hello(1, version, "first", None);
        assert!(edges.hello(1, version, "unused", Some("first")), "{version}");
        assert!(!edges.hello(2, version, "unused", Some("first")), "{version}");
    }
}

/// The one waits for the other's secret as long as the other for its, so each draws one. Then they meet those who have an older one, as the
/// halves of a network do that was cut.
#[test]
fn two_proxies_that_start_at_once_resume_each_others_sessions_and_so_do_two_clusters_that_become_one() {
    let mut edges = Edges::without_any(&key(), "8h");
    edges.sidecars = [(1, 2), (2, 1)].map(|(number, other)| edges.launch(number, &edges.ip(other))).into();
    let begins = |number, version| edges.say_hello(number, version, "first", None).0.contains("HTTP/1.1 ");
    let resumes = |number, version| edges.say_hello(number, version, "unused", Some("first")).1;
    for (here, there) in [(1, 2), (2, 1)] {
        for version in VERSIONS {
            until(&format!("a session of edge{here} at edge{there}, {version}"), || {
                (begins(here, version) && resumes(there, version)).then_some(())
            });
        }
    }
    // This one knows both.
    let both = format!("{},{}", edges.seed(), edges.ip(1));
    let third = edges.launch(3, &both);
    edges.sidecars.push(third);
    [1, 2, 3].into_iter().for_each(|number| edges.sees_the_front(number));
    for number in [1, 2] {
        assert!(
            VERSIONS.iter().all(|version| edges.hello(number, version, "unused", Some("first"))),
            "{number}"
        );
    }
    for (here, there) in [(1, 3), (3, 2)] {
        for version in VERSIONS {
            until(&format!("a session of edge{here} at edge{there}, {version}"), || {
                edges.hello(here, version, "second", None);
                edges.hello(there, version, "unused", Some("second")).then_some(())
            });
        }
    }
}
