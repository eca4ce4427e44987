//! Clusters with keys: sealed gossip, and what happens to who has no key or another one.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{
    cluster::{Cluster, launch},
    place::Place,
    program::{concertina, run},
    turns::Turn,
};

fn generate() -> String {
    let ended = run(concertina(["keys", "generate"]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    ended.stdout
}

#[test]
fn a_cluster_with_keys_says_hello() {
    let files = Place::new();
    let key_file = files.join("keys");
    let (first, second) = (generate(), generate());
    assert_ne!(first, second);
    fs::write(&key_file, format!("# two of them\n{first}{second}")).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
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
