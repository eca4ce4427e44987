//! The environment variables of the flags, by one rule.
//!
//! What describes a node, `CONCERTINA_FLAG`: the flags of `sidecar`, and those that say the same to every program of the node.
//! What is one program's own, `CONCERTINA_PROGRAM_FLAG`.

use std::env;

use clap::Arg;

/// The program whose flags describe its node.
const NODE: &str = "sidecar";
/// Flags that mean the same to every program that has them.
const NODE_WIDE: [&str; 5] = ["dir", "feed", "key-file", "node", "zone"];
/// Programs with variables of their own.
const PROGRAMS: [&str; 5] = ["app", "dns", "front", "proxy", "up"];
/// Flags of theirs without a variable: lists of lists, for tests and small uses.
const WITHOUT: [&str; 1] = ["upstream"];
/// What other commands take from the environment: where to ask. `--node` of theirs is another node.
const ASKING: [&str; 2] = ["dir", "feed"];

/// Variables that had other names once, which are heard still: flags of a program that were called without its name.
const WITHOUT_PROGRAM: [(&str, &[&str]); 4] = [
    (
        "proxy",
        &[
            "access-log",
            "access-log-file",
            "balance",
            "body-bytes-max",
            "clients-max",
            "eject-5xx",
            "eject-panic-percent",
            "eject-percent-max",
            "forwarded",
            "half-closed",
            "retry-percent",
            "timeouts",
            "trusted-hops",
            "upstream-connections-max",
            "upstream-pending-max",
            "via",
            "workers",
        ],
    ),
    ("dns", &["forward"]),
    ("front", &["app-role", "listen"]),
    ("app", &["listen"]),
];

/// The same for lists, which were called in the plural.
const PLURALS: [&str; 2] = ["tag", "handler"];

/// A variable under its former name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Former {
    pub(super) old: String,
    pub(super) new: String,
}

/// A list of which people write several: the one in the plural.
const ROUTES: &str = "route";

/// What the flag of a command is called in the environment; none: it is not looked for there.
fn variable(command: &str, flag: &str) -> Option<String> {
    if command == NODE {
        let name = screaming(&[flag]);
        return Some(if flag == ROUTES { format!("{name}S") } else { name });
    }
    if PROGRAMS.contains(&command) {
        let is_there = !WITHOUT.contains(&flag);
        let words: &[&str] = if NODE_WIDE.contains(&flag) { &[flag] } else { &[command, flag] };
        return is_there.then(|| screaming(words));
    }
    ASKING.contains(&flag).then(|| screaming(&[flag]))
}

fn screaming(words: &[&str]) -> String {
    format!("CONCERTINA_{}", words.join("_").replace('-', "_").to_uppercase())
}

fn former(command: &str, flag: &str) -> Option<Former> {
    let new = variable(command, flag)?;
    let unnamed = |(program, flags): &(&str, &[&str])| *program == command && flags.contains(&flag);
    let old = if WITHOUT_PROGRAM.iter().any(unnamed) {
        screaming(&[flag])
    } else if command == NODE && PLURALS.contains(&flag) {
        format!("{new}S")
    } else {
        return None;
    };
    Some(Former { old, new })
}

/// The former names that are in the environment of this program, and not replaced there.
pub(super) fn former_in_use(command: &str) -> Vec<Former> {
    let flags = WITHOUT_PROGRAM.iter().flat_map(|(_, flags)| flags.iter()).chain(&PLURALS);
    let mut all: Vec<Former> = flags.filter_map(|flag| former(command, flag)).collect();
    all.retain(|former| is_set(&former.old) && !is_set(&former.new));
    all.dedup();
    all
}

/// Set to something: compose and others set what they were not told to the empty text.
fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Gives a flag its variable.
pub(super) fn named(command: &str, arg: Arg) -> Arg {
    let Some(flag) = arg.get_long() else { return arg };
    if !arg.get_action().takes_values() {
        return arg;
    }
    let Some(mut name) = variable(command, flag) else { return arg.env(None) };
    if let Some(former) = former(command, flag).filter(|former| is_set(&former.old) && !is_set(&former.new)) {
        name = former.old;
    }
    if env::var_os(&name).is_some() && !is_set(&name) {
        return arg.env(None);
    }
    // clap keeps names for ever, and there is one command line in a process.
    let name: &'static str = name.leak();
    arg.env(name)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::Path,
    };

    use super::*;

    /// Variables that are no flags.
    const OTHERS: [&str; 7] = [
        // What is logged and how, in every program.
        program::LOG_VARIABLE,
        program::FORMAT_VARIABLE,
        // What handlers are told.
        "CONCERTINA_EVENT",
        "CONCERTINA_EVENT_ORIGIN",
        "CONCERTINA_QUERY",
        // Of tests.
        "CONCERTINA_LONG",
        // What tests and images strip.
        "CONCERTINA_",
    ];

    /// Every variable, and the flags that it is read for.
    fn all() -> BTreeMap<String, BTreeSet<String>> {
        fn collect(command: &clap::Command, into: &mut BTreeMap<String, BTreeSet<String>>) {
            for arg in command.get_arguments() {
                if let (Some(name), Some(flag)) = (arg.get_env(), arg.get_long()) {
                    into.entry(name.to_str().unwrap().to_owned()).or_default().insert(flag.to_owned());
                }
            }
            command.get_subcommands().for_each(|command| collect(command, into));
        }
        let mut variables = BTreeMap::new();
        collect(&crate::cli::command(), &mut variables);
        variables
    }

    #[test]
    fn a_variable_is_called_after_its_program_and_flag_or_after_the_flag_of_the_node() {
        for (command, flag, name) in [
            ("proxy", "clients-max", "CONCERTINA_PROXY_CLIENTS_MAX"),
            ("dns", "ttl", "CONCERTINA_DNS_TTL"),
            ("front", "app-role", "CONCERTINA_FRONT_APP_ROLE"),
            ("up", "listen", "CONCERTINA_UP_LISTEN"),
            ("sidecar", "drain-timeout", "CONCERTINA_DRAIN_TIMEOUT"),
            ("sidecar", "tag", "CONCERTINA_TAG"),
            ("app", "node", "CONCERTINA_NODE"),
            ("dns", "zone", "CONCERTINA_ZONE"),
            ("up", "key-file", "CONCERTINA_KEY_FILE"),
            ("members", "feed", "CONCERTINA_FEED"),
        ] {
            assert_eq!(variable(command, flag).as_deref(), Some(name));
        }
        for (command, flag) in [("members", "node"), ("wait", "tag"), ("proxy", "upstream")] {
            assert_eq!(variable(command, flag), None);
        }
    }

    #[test]
    fn every_flag_of_a_nodes_programs_has_one_and_each_is_of_one_meaning() {
        for (name, flags) in all() {
            assert_eq!(flags.len(), 1, "{name} is read for {flags:?}");
        }
        let command = crate::cli::command();
        for program in PROGRAMS.iter().chain(&[NODE]) {
            let program = command.find_subcommand(program).unwrap();
            for arg in program.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let Some(flag) = arg.get_long().filter(|flag| !WITHOUT.contains(flag)) else { continue };
                assert!(arg.get_env().is_some(), "{} --{flag}", program.get_name());
            }
        }
    }

    #[test]
    fn former_names_are_of_flags_that_there_are() {
        let command = crate::cli::command();
        let nodes = (NODE, PLURALS.as_slice());
        for (program, flags) in WITHOUT_PROGRAM.into_iter().chain([nodes]) {
            let command = command.find_subcommand(program).unwrap();
            for flag in flags {
                assert!(
                    command.get_arguments().any(|arg| arg.get_long() == Some(flag)),
                    "{program} --{flag}"
                );
                let former = former(program, flag).unwrap();
                assert!(!all().contains_key(&former.old), "{former:?}");
            }
        }
    }

    #[test]
    fn documents_images_and_examples_name_only_variables_that_there_are() {
        let known = all();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files =
            ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root.join(name)).to_vec();
        for dir in ["docker", "docs", "examples"] {
            files.extend(fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()));
        }
        for file in files.iter().filter(|file| file.is_file()) {
            // Pictures are no text, and name none.
            let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
            for at in text.match_indices("CONCERTINA_").map(|(at, _)| at) {
                let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                let name = text[at..].split(|c| !is_part(c)).next().unwrap();
                let is_known = known.contains_key(name) || OTHERS.contains(&name);
                assert!(is_known, "{}: {name}", file.display());
            }
        }
    }
}
