//! The walls between the crates: what a reader can rely on without reading.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
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
fn the_http_library_is_the_services_and_the_admin_ports() {
    // The proxy's HTTP is its own, and the sidecar serves some through `admin`, which knows nothing of it.
    for user in who_uses("hyper") {
        assert!(["admin", "app", "bench"].contains(&user.as_str()), "{user} uses hyper");
    }
}

#[test]
fn the_admin_port_is_the_sidecars_alone() {
    assert_eq!(who_uses("admin"), ["sidecar"]);
}

#[test]
fn tls_is_the_proxys_alone_and_there_of_two_modules() {
    // The benchmarks have clients of it.
    assert_eq!(who_uses("rustls"), ["bench", "proxy"]);
    let names = |line: &str| line.contains("rustls::") || line.contains("webpki::");
    let all = lines_of_code(names);
    let others = all.iter().filter(|line| {
        !["/proxy/src/stream/tls", "/proxy/src/certificates", "/bench/src/compare/", "/tests/", "/tests.rs:"]
            .iter()
            .any(|file| line.contains(file))
    });
    assert_eq!(others.collect::<Vec<_>>(), [] as [&String; 0]);
}

#[test]
fn programs_know_the_feed_and_what_all_share_and_not_each_other() {
    let all = dependencies();
    let inner =
        |name: &str| -> Vec<&String> { all[name].iter().filter(|name| all.contains_key(*name)).collect() };
    for program in ["sidecar", "proxy", "dns", "app"] {
        for known in inner(program) {
            let is_shared = ["feed", "program"].contains(&known.as_str());
            assert!(is_shared || (program, known.as_str()) == ("sidecar", "admin"), "{program} uses {known}");
        }
    }
    for shared in ["feed", "program", "admin"] {
        assert!(inner(shared).is_empty(), "{shared}: {:?}", inner(shared));
    }
}

/// Variables follow from the names of the flags (`src/cli/variables.rs`).
#[test]
fn no_flag_names_its_variable_itself() {
    let is_named = |line: &str| line.contains("env = \"CONCERTINA_");
    assert_eq!(lines_of_code(is_named), [] as [String; 0]);
}

/// `println!` panics where nobody reads, and waits where the stream is stuck; `program` and `say` do neither.
#[test]
fn no_program_prints_past_its_queue() {
    let prints = |line: &str| ["println!(", "print!(", "dbg!("].iter().any(|call| line.contains(call));
    assert_eq!(lines_of_code(prints), [] as [String; 0]);
}

/// Lines like this of every program, but those of tests and comments.
fn lines_of_code(is_like: impl Fn(&str) -> bool) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for part in ["", "program", "feed", "admin", "sidecar", "proxy", "dns", "app"] {
        for file in sources(&root.join(part).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//") && is_like(line));
            found.extend(lines.map(|line| format!("{}: {line}", file.display())));
        }
    }
    found
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// No file of a program uses one that uses it, over however many others: a reader may begin anywhere and goes one way. A file and
/// those in its own folder are one thing in parts.
#[test]
fn no_two_files_use_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["", "program", "feed", "sidecar", "proxy", "dns", "app"] {
        let graph = uses(&root.join(part).join("src"));
        for (file, used) in &graph {
            let mut reached: BTreeSet<&str> = BTreeSet::new();
            let mut next: Vec<&str> = used.iter().map(String::as_str).collect();
            while let Some(other) = next.pop() {
                if reached.insert(other) {
                    next.extend(graph.get(other).into_iter().flatten().map(String::as_str));
                }
            }
            assert!(!reached.contains(file.as_str()), "{part}: {file} uses itself by way of {used:?}");
        }
    }
}

/// The sidecar's folders, each of which uses those before it alone.
#[test]
fn the_wire_knows_no_cluster_and_the_cluster_no_node() {
    let folders = ["wire", "cluster", "node"];
    let folder = |module: &str| folders.iter().position(|name| module.starts_with(&format!("{name}::")));
    for (module, used) in uses(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sidecar/src")) {
        let above = |other: &&String| folder(&module).is_some_and(|own| folder(other) > Some(own));
        let above: Vec<&String> = used.iter().filter(above).collect();
        assert!(above.is_empty(), "{module} uses what stands on it: {above:?}");
    }
}

/// What a virtual clock and a simulated network have to stand in for is in `node` alone.
#[test]
fn the_wire_and_the_cluster_have_no_socket_no_clock_and_no_file() {
    let outside = [
        "tokio::",
        "std::fs",
        "std::process",
        "Socket::bind",
        "Stream::connect",
        "Instant::now",
        "SystemTime::now",
    ];
    let is_outside = |line: &str| outside.iter().any(|name| line.contains(name));
    let all = lines_of_code(is_outside);
    let pure = |line: &&String| {
        ["/sidecar/src/wire/", "/sidecar/src/cluster/"].iter().any(|folder| line.contains(folder))
    };
    assert_eq!(all.iter().filter(pure).collect::<Vec<_>>(), [] as [&String; 0]);
}

/// Modules by their paths, and which others of the crate each uses, those of its own folder left out.
fn uses(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let is_test = |name: &str| ["tests", "properties", "shares"].iter().any(|test| name.contains(test));
    let module = |file: &Path| {
        let path =
            file.strip_prefix(src).unwrap().with_extension("").display().to_string().replace('/', "::");
        path.strip_suffix("::mod").unwrap_or(&path).to_owned()
    };
    let files = sources(src).into_iter().map(|file| (module(&file), file));
    let files: BTreeMap<String, PathBuf> = files.filter(|(name, _)| !is_test(name)).collect();
    let used_by = |name: &str, file: &Path| {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String = code.lines().map(|line| line.split("//").next().unwrap().trim()).collect();
        let paths = paths(&code).into_iter().filter_map(|path| absolute(name, &path));
        let found = paths.filter_map(|path| longest_known(&path, |known| files.contains_key(known)));
        let is_apart = |other: &String| {
            let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with("::"));
            other != name && !inside(other, name) && !inside(name, other)
        };
        found.filter(is_apart).collect()
    };
    files.iter().map(|(name, file)| (name.clone(), used_by(name, file))).collect()
}

/// Paths that begin at the crate or above, with lists of them spelled out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let is_inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !is_inside {
                spell_out("", &code[at..], &mut found);
            }
        }
    }
    found
}

/// Adds the paths at the front of this text; returns how long that is.
fn spell_out(prefix: &str, text: &str, found: &mut Vec<String>) -> usize {
    let is_path = |c: char| c.is_alphanumeric() || "_:".contains(c);
    let length = text.find(|c| !is_path(c)).unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..length]);
    if !text[length..].starts_with('{') || !path.ends_with("::") {
        found.push(path);
        return length;
    }
    let mut at = length + 1;
    while let Some(c) = text[at..].chars().next().filter(|c| *c != '}') {
        at += if is_path(c) { spell_out(&path, &text[at..], found) } else { c.len_utf8() };
    }
    at + 1
}

/// A path from the top of the crate.
fn absolute(module: &str, path: &str) -> Option<String> {
    if let Some(path) = path.strip_prefix("crate::") {
        return Some(path.to_owned());
    }
    let (mut module, mut rest) = (module, path);
    while let Some(above) = rest.strip_prefix("super::") {
        module = module.rsplit_once("::").map_or("", |(above, _)| above);
        rest = above;
    }
    Some(if module.is_empty() { rest.to_owned() } else { format!("{module}::{rest}") })
}

fn longest_known(path: &str, is_known: impl Fn(&str) -> bool) -> Option<String> {
    let mut path = path.trim_end_matches("::");
    loop {
        if is_known(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}
