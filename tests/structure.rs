//! The walls between the crates: what a reader can rely on without reading.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// The crates of the workspace and what each of them depends on directly, in its code (tests may use what they like).
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let of_package = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap();
        let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
        (name(package), normal.map(name).collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(of_package).collect()
}

fn who_uses(prefix: &str) -> Vec<String> {
    let uses = |names: &BTreeSet<String>| names.iter().any(|name| name.starts_with(prefix));
    dependencies().into_iter().filter(|(_, names)| uses(names)).map(|(package, _)| package).collect()
}

#[test]
fn gossip_is_the_sidecars_alone() {
    assert_eq!(who_uses("foca"), ["sidecar"]);
}

#[test]
fn the_dns_library_is_the_dns_servers_alone() {
    assert_eq!(who_uses("hickory"), ["dns"]);
}

#[test]
fn the_http_library_is_the_services_alone() {
    for user in who_uses("hyper") {
        assert!(["app", "bench"].contains(&user.as_str()), "{user} uses hyper");
    }
}

#[test]
fn programs_know_the_feed_and_not_each_other() {
    let all = dependencies();
    let programs = ["sidecar", "proxy", "dns", "app"];
    for program in programs {
        let inner: Vec<&String> = all[program].iter().filter(|name| all.contains_key(*name)).collect();
        assert_eq!(inner, ["feed"], "{program}");
    }
    let feed_knows: Vec<&String> = all["feed"].iter().filter(|name| all.contains_key(*name)).collect();
    assert!(feed_knows.is_empty(), "{feed_knows:?}");
}
