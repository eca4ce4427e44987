//! Which programs there are.

use std::process::{Command, Stdio};

use crate::skip;

/// Whether it is installed. If not, the running test is skipped.
pub(crate) fn is_there(program: &str, harmless: &str) -> bool {
    runs(Command::new(program).arg(harmless), program)
}

/// The same of a module of Python's.
pub(crate) fn has_python_module(module: &str) -> bool {
    runs(Command::new("python3").args(["-c", &format!("import {module}")]), module)
}

fn runs(command: &mut Command, what: &str) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = status.is_ok_and(|status| status.success());
    if !is_there {
        skip::test(what);
    }
    is_there
}
