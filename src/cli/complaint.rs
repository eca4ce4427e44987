//! What is wrong with a command line, in words for whoever typed it.

use std::{
    env,
    io::{IsTerminal, stderr},
};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What the standard library says of a bad value, and what would be right.
const WORDS: [(&str, &str); 6] = [
    ("invalid digit found in string", "expected a whole number"),
    ("cannot parse integer from empty string", "expected a whole number"),
    ("number too large to fit in target type", "the number is too large"),
    ("number would be zero for non-zero type", "expected a whole number from 1"),
    ("invalid IP address syntax", "expected an IP address, such as 10.0.0.7 or fd00::7"),
    ("invalid socket address syntax", "expected IP:PORT, such as 10.0.0.7:7946 or [fd00::7]:7946"),
];

/// The error, with what clap cannot know.
pub(super) fn about(error: &clap::Error, command: &clap::Command, words: &[String]) -> String {
    let rendered = error.render();
    let plain = env::var_os("NO_COLOR").is_some() || !stderr().is_terminal();
    let mut text = if plain { rendered.to_string() } else { rendered.ansi().to_string() };
    for (theirs, ours) in WORDS {
        text = text.replace(theirs, ours);
    }
    let notes = [from_environment(error, command, words), missing_dashes(error, words)];
    for note in notes.into_iter().flatten() {
        text.push_str(&format!("\n  note: {note}\n"));
    }
    text
}

fn invalid_arg(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => Some(arg),
        _ => None,
    }
}

/// Where the bad value came from, if not from the command line.
fn from_environment(error: &clap::Error, command: &clap::Command, words: &[String]) -> Option<String> {
    // As it is shown: "--port <PORT>".
    let flag = invalid_arg(error)?.split([' ', '=']).next()?;
    let is_typed = |word: &String| word == flag || word.starts_with(&format!("{flag}="));
    if words.iter().any(is_typed) {
        return None;
    }
    let mut command = command;
    for word in words {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let mut args = command.get_arguments();
    let name = args.find(|arg| arg.get_long() == flag.strip_prefix("--"))?.get_env()?;
    env::var_os(name)?;
    Some(format!("the value is that of the variable {}", name.to_string_lossy()))
}

/// `sidecar --role web sh -c …`
fn missing_dashes(error: &clap::Error, words: &[String]) -> Option<String> {
    let is_sidecar = words.first().is_some_and(|word| word == "sidecar");
    let stray = invalid_arg(error).filter(|_| error.kind() == ErrorKind::UnknownArgument)?;
    (is_sidecar && !stray.starts_with('-')).then(|| {
        format!("the role's command comes after --, as in: concertina sidecar --role web -- {stray} …")
    })
}
