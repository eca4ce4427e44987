//! Runs after the other tests of this package, by its name, and says at the end what those have skipped, which is not seen
//! in their results.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/skip.rs"]
#[expect(dead_code, reason = "only read here")]
mod skip;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{Write, stderr},
    os::unix::process::parent_id,
};

fn main() {
    let path = skip::notes(parent_id());
    let notes = fs::read_to_string(&path).unwrap_or_default();
    // An error means that nothing was skipped.
    let _ = fs::remove_file(&path);
    if env::args().any(|argument| argument == "--list") {
        return;
    }
    let said = summary(&notes);
    let _ = stderr().write_all(said.as_bytes());
    assert_eq!(
        summary("part\twrk\ta\npart\twrk\ta\ntest\tstrace\tb\ntest\tstrace\tc\n"),
        "skipped:\n  2 tests: no strace\n  a part of 1 test: no wrk\n"
    );
}

/// What was skipped for want of what, in so many tests.
fn summary(notes: &str) -> String {
    let mut tests: BTreeMap<(&str, bool), BTreeSet<&str>> = BTreeMap::new();
    for note in notes.lines() {
        let [skipped, lacking, test] = note.split('\t').collect::<Vec<_>>()[..] else { panic!("{note:?}") };
        tests.entry((lacking, skipped == "part")).or_default().insert(test);
    }
    if tests.is_empty() {
        return "skipped: nothing in the tests that ran\n".to_owned();
    }
    let mut said = "skipped:\n".to_owned();
    for ((lacking, is_part), tests) in tests {
        let part = if is_part { "a part of " } else { "" };
        let plural = if tests.len() == 1 { "" } else { "s" };
        said.push_str(&format!("  {part}{} test{plural}: no {lacking}\n", tests.len()));
    }
    said
}
