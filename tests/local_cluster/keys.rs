//! Clusters with keys: sealed gossip, and what happens to who has no key or another one.

use std::{
    fs,
    io::{self, Read},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    cluster::{Cluster, launch},
    place::Place,
    program::{Running, concertina, run},
    turns::Turn,
    wait::until,
};

pub(crate) fn generate() -> String {
    let ended = run(concertina(["keys", "generate"]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    ended.stdout
}

/// A file with these lines that nobody else may read.
pub(crate) fn key_file(place: &Place, name: &str, lines: &str) -> PathBuf {
    let path = place.join(name);
    fs::write(&path, lines).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The first half of the addresses of a cluster's nodes.
fn network(cluster: &Cluster) -> String {
    let said = cluster.launcher.said();
    let dnsserver = said.lines().find_map(|line| line.strip_prefix("dnsserver started at ")).unwrap();
    dnsserver.strip_suffix(".0.2:5300").unwrap().to_owned()
}

/// A sidecar beside the cluster that knows where its dnsserver is.
fn start_stranger(cluster: &Cluster, arguments: &[&str]) -> Running {
    let network = network(cluster);
    let mut command = concertina(["sidecar", "--role", "stranger", "--node", "stranger"]);
    command.args(["--bind", &format!("{network}.3.1:7946"), "--join", &format!("{network}.0.2:7946")]);
    command.arg("--feed").arg(cluster.place.join("stranger.sock")).args(arguments);
    Running::start(command, cluster.place.join("stranger.log"))
}

fn dropped(cluster: &Cluster, cause: &str) -> u64 {
    let stats: Value = serde_json::from_str(&cluster.order("stats --json --node dnsserver")).unwrap();
    stats["dropped"][cause].as_u64().unwrap_or(0)
}

#[test]
fn a_cluster_with_keys_says_hello() {
    let files = Place::new();
    let (first, second) = (generate(), generate());
    assert_ne!(first, second);
    let key_file = key_file(&files, "keys", &format!("# two of them\n{first}{second}"));
    let cluster = Cluster::up(&["--app", "2", "--key-file", key_file.to_str().unwrap()]);
    assert_eq!(cluster.hello().status, 200);
    cluster.order("node kill appserver2");
    let log = fs::read_to_string(cluster.place.join("proxyserver.log")).unwrap();
    assert!(!log.contains("--key-file"), "nothing to warn of: {log}");
}

#[test]
fn a_key_file_that_is_none_is_refused_in_one_line_that_names_the_place_and_not_the_secret() {
    let (_turn, place) = (Turn::one(), Place::new());
    let key_file = place.join("keys");
    fs::write(&key_file, format!("{}almost-a-secret\n", generate())).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut up = launch(&place, &["--key-file", key_file.to_str().unwrap()]);
    assert_eq!(up.ended().code(), Some(1));
    let said = up.said();
    let error = said.lines().last().unwrap();
    let expected = format!("error: --key-file {}: line 2: not a key: expected 32 bytes", key_file.display());
    assert!(error.starts_with(&expected) && !said.contains("almost"), "{said}");
    assert!(said.contains("mode 0644") && said.contains("chmod 600"), "{said}");
}

#[test]
fn who_has_another_key_or_none_stays_outside_and_is_counted_and_named_once() {
    let files = Place::new();
    let (ours, theirs) = (key_file(&files, "ours", &generate()), key_file(&files, "theirs", &generate()));
    let cluster = Cluster::up(&["--key-file", ours.to_str().unwrap()]);
    let stats = cluster.order("stats --node dnsserver");
    assert!(stats.contains("received.datagrams ") && !stats.contains("dropped."), "{stats}");
    for (arguments, cause) in
        [(&["--key-file", theirs.to_str().unwrap()][..], "wrong_key"), (&[][..], "unsealed")]
    {
        let stranger = start_stranger(&cluster, arguments);
        until("several drops", || (dropped(&cluster, cause) >= 3).then_some(()));
        drop(stranger);
        assert!(!cluster.order("members --node dnsserver").contains("stranger"));
        let told = || {
            let log = fs::read_to_string(cluster.place.join("dnsserver.log")).unwrap();
            log.matches(&format!("cause=\"{cause}\"")).count()
        };
        until("it is named", || (told() > 0).then_some(()));
        assert_eq!(told(), 1, "{cause}");
    }
    assert_eq!(cluster.hello().status, 200);
}

fn start_monitor(cluster: &Cluster) -> Running {
    let mut monitor = concertina(["monitor", "--node", "dnsserver", "--dir"]);
    monitor.arg(cluster.place.path());
    Running::start(monitor, cluster.place.join("monitor.log"))
}

fn received(cluster: &Cluster) -> u64 {
    let stats: Value = serde_json::from_str(&cluster.order("stats --json --node dnsserver")).unwrap();
    stats["received"]["datagrams"].as_u64().unwrap()
}

/// Waits until these nodes know so many members.
fn wait_for_members(cluster: &Cluster, count: usize, nodes: &[&str]) {
    for node in nodes {
        let listed = || cluster.order(&format!("members --node {node}")).lines().count();
        until(&format!("{node} knows {count}"), || (listed() == count).then_some(()));
    }
}

/// The fingerprint of the only key that a cluster of so many has.
fn only_key(cluster: &Cluster, members: usize) -> String {
    let listed = cluster.order("keys list --node frontserver1");
    let all = format!(" at {members} of {members} members, seals at {members}\n");
    listed.strip_suffix(&all).unwrap_or_else(|| panic!("{listed}")).to_owned()
}

#[test]
fn keys_are_rotated_without_losing_anybody_and_newcomers_have_the_new_one() {
    let (files, old, new) = (Place::new(), generate(), generate());
    let file = key_file(&files, "keys", &format!("# ours\n{old}"));
    let cluster = Cluster::up(&["--app", "2", "--key-file", file.to_str().unwrap()]);
    let monitor = start_monitor(&cluster);
    let (old, new) = (old.trim_end(), new.trim_end());
    wait_for_members(&cluster, 5, &["dnsserver", "proxyserver", "frontserver1", "appserver1"]);
    let old_name = only_key(&cluster, 5);
    let refused = |command: &str, why: &str| {
        let ended = cluster.run(command);
        assert!(ended.code == Some(1) && ended.stdout.contains(" at 0 of 5 members\n"), "{ended:?}");
        assert_eq!(ended.stderr.matches(why).count(), 5, "{ended:?}");
    };

    refused(&format!("keys use {new} --node proxyserver"), "install it first");
    let installed = cluster.order(&format!("keys install {new} --node proxyserver"));
    assert_eq!(installed, "installed at 5 of 5 members\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("# ours\n{old}\n{new}\n"));
    refused(&format!("keys remove {old_name} --node proxyserver"), "use another one first");
    assert_eq!(cluster.order(&format!("keys use {new} --node appserver1")), "used at 5 of 5 members\n");
    let asked = Instant::now();
    let removed = cluster.order(&format!("keys remove {old_name} --node dnsserver"));
    assert!(asked.elapsed() >= Duration::from_secs(1), "what was sealed with it has not arrived");
    assert_eq!(removed, "removed at 5 of 5 members\n");
    assert_ne!(only_key(&cluster, 5), old_name);
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("# ours\n{new}\n"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    cluster.order("node start appserver3");
    wait_for_members(&cluster, 6, &["frontserver1"]);
    assert_eq!(only_key(&cluster, 6).len(), 16);
    // Time for probes to fail and suspicions to end, if there were any.
    let so_far = received(&cluster);
    until("gossip for a while", || (received(&cluster) >= so_far + 20).then_some(()));
    let said = monitor.said();
    assert!(!said.contains(" failed ") && !said.contains(" left "), "{said}");
    assert_eq!(dropped(&cluster, "wrong_key"), 0);
}

#[test]
fn who_does_not_answer_is_named_and_a_file_that_cannot_be_written_as_well() {
    let files = Place::new();
    let file = key_file(&files, "keys", &generate());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let cluster = Cluster::up(&["--key-file", file.to_str().unwrap()]);
    wait_for_members(&cluster, 4, &["dnsserver"]);
    let installed = cluster.order(&format!("keys install {} --node dnsserver", generate().trim_end()));
    assert!(installed.starts_with("installed at 4 of 4 members\n"), "{installed}");
    assert_eq!(installed.matches("not saved, a restart will not know it").count(), 4, "{installed}");

    cluster.order("node pause appserver1");
    let ended = cluster.run(&format!("keys install {} --node dnsserver", generate().trim_end()));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.starts_with("installed at 3 of 4 members\n"), "{ended:?}");
    assert_eq!(ended.stderr, "appserver1: did not answer within 3s\n");
}

#[test]
fn a_cluster_without_keys_says_what_it_takes_to_have_some() {
    let cluster = Cluster::up(&[]);
    wait_for_members(&cluster, 4, &["dnsserver"]);
    let ended = cluster.run(&format!("keys install {} --node dnsserver", generate().trim_end()));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "installed at 0 of 4 members\n"));
    assert_eq!(ended.stderr.matches("has no keys: every sidecar must be started with --key-file").count(), 4);
}

#[test]
fn denied_networks_are_not_heard_by_datagram_nor_by_stream_and_counted() {
    let cluster = Cluster::up(&[]);
    let _stranger = start_stranger(&cluster, &["--allow", "127.0.0.0/8", "--deny", "127.0.0.0/8,::1"]);
    let feed = cluster.place.join("stranger.sock");
    let ask = |question: &str| {
        let mut command = concertina([question, "--json", "--feed"]);
        command.arg(&feed);
        run(command)
    };
    // The dnsserver takes it for a newcomer and answers; nothing of that is heard.
    until("several drops", || {
        let stats: Value = serde_json::from_str(&ask("stats").stdout).ok()?;
        stats["dropped"]["denied"].as_u64().filter(|count| *count >= 3)
    });
    // Who is heard is given three seconds for a first word.
    let mut stream = TcpStream::connect((network(&cluster) + ".3.1", 7946)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let closed = stream.read(&mut [0]);
    let by_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    assert!(matches!(&closed, Ok(0)) || closed.as_ref().is_err_and(by_reset), "{closed:?}");
    let asked = ask("members");
    let members: Vec<Value> = serde_json::from_str(&asked.stdout).unwrap_or_else(|_| panic!("{asked:?}"));
    assert_eq!(members.len(), 1, "nobody but itself: {members:?}");
}
