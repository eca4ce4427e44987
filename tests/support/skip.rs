//! Tests that do nothing, or not all, on a machine that lacks something. They pass, but say so where it is seen: cargo hides
//! what a passing test prints, and not what it writes to stderr itself. `tests/skipped.rs` counts them at the end.

use std::{
    env,
    fs::File,
    io::{Write, stderr},
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    thread,
};

/// Says that the running test does nothing, because the machine lacks this.
///
/// # Panics
/// `CI` is set: everything must be there.
pub(crate) fn test(lacking: &str) {
    note("test", lacking);
}

/// The same where the test does its work without this.
pub(crate) fn part(lacking: &str) {
    note("part", lacking);
}

fn note(skipped: &str, lacking: &str) {
    assert!(env::var_os("CI").is_none(), "CI must have {lacking}");
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("{skipped}\t{lacking}\t{test}\n");
    // One write each, so that lines of tests that run beside each other stay whole.
    let _ = stderr().write_all(format!("skipped {skipped} of {test}: no {lacking}\n").as_bytes());
    let notes = File::options().create(true).append(true).open(notes(parent_id()));
    notes.unwrap().write_all(line.as_bytes()).unwrap();
}

/// Where all tests that one cargo runs note what they skip.
pub(crate) fn notes(cargo: u32) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("skipped-{cargo}"))
}
