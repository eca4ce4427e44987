//! What people are told on stdout. Not for logs, which go to stderr.
//!
//! `println!` panics where nobody reads any more, as after `| head -1`.

use std::{
    fmt,
    io::{self, Write},
    process,
};

use crate::progress;

#[cfg(feature = "local")]
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a shell shows of a program that SIGPIPE has ended, as it ends others.
const ENDED_BY_SIGPIPE: i32 = 128 + 13;

/// Prints a line of an answer. If nobody reads it the program ends, quietly.
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::answer(format_args!($($argument)*)) };
}

/// Prints a line beside what the program is for, which goes on if nobody reads it, and waits for nobody.
#[cfg(feature = "local")]
macro_rules! mention {
    ($($argument:tt)*) => { $crate::say::remark(format_args!($($argument)*)) };
}

#[cfg(feature = "local")]
pub(crate) use mention;
pub(crate) use say;

pub(crate) fn answer(line: fmt::Arguments<'_>) {
    match writeln!(io::stdout().lock(), "{}{line}", progress::place()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(ENDED_BY_SIGPIPE),
        Err(error) => {
            program::stderr().insist(&format!("error: cannot write to stdout: {error}"));
            program::flush();
            process::exit(1);
        }
    }
}

/// Ends the program, quietly, if nobody reads its answers any more: who waits for something to say would not notice.
#[cfg(feature = "local")]
pub(crate) fn end_unless_heard() {
    let stdout = io::stdout();
    let mut looked_at = [PollFd::new(&stdout, PollFlags::empty())];
    let _ = poll(&mut looked_at, Some(&Timespec::default()));
    if looked_at[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
        process::exit(ENDED_BY_SIGPIPE);
    }
}

#[cfg(feature = "local")]
pub(crate) fn remark(line: fmt::Arguments<'_>) {
    program::stdout().push(format!("{}{line}\n", progress::place()).as_bytes());
}

/// What another program says, on one line and harmless to a terminal: it must not pass for a line of ours, move the cursor, or turn the
/// direction of writing. A backslash is escaped, so that nothing is said in two ways.
pub(crate) fn escaped(text: &str) -> impl fmt::Display {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_stays_on_its_line_and_moves_no_terminal() {
        for (text, shown) in [
            ("v2 \"ok\" it's 3 µs", "v2 \"ok\" it's 3 µs"),
            ("one\nforged: 2\r", "one\\nforged: 2\\r"),
            ("\x1b[31mred\u{9b}2J", "\\u{1b}[31mred\\u{9b}2J"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
            ("\\n", "\\\\n"),
        ] {
            assert_eq!(escaped(text).to_string(), shown);
        }
    }
}
