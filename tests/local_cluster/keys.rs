//! Clusters with keys: sealed gossip, and what happens to who has no key or another one.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::Value;

use crate::support::{
    cluster::{Cluster, launch},
    place::Place,
    program::{Running, concertina, run},
    turns::Turn,
    wait::until,
};

fn generate() -> String {
    let ended = run(concertina(["keys", "generate"]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    ended.stdout
}

/// A file with these lines that nobody else may read.
fn key_file(place: &Place, name: &str, lines: &str) -> PathBuf {
    let path = place.join(name);
    fs::write(&path, lines).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A sidecar beside the cluster that knows where its dnsserver is.
fn start_stranger(cluster: &Cluster, arguments: &[&str]) -> Running {
    let said = cluster.launcher.said();
    let dnsserver = said.lines().find_map(|line| line.strip_prefix("dnsserver started at ")).unwrap();
    let network = dnsserver.strip_suffix(".0.2:5300").unwrap();
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
        let log = fs::read_to_string(cluster.place.join("dnsserver.log")).unwrap();
        assert_eq!(log.matches(&format!("cause=\"{cause}\"")).count(), 1, "{log}");
    }
    assert_eq!(cluster.hello().status, 200);
}
