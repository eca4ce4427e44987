//! What people are told on stdout. Not for logs, which go to stderr.
//!
//! `println!` panics where nobody reads any more, as after `| head -1`.

use std::{
    fmt,
    io::{self, Write},
    process,
};

/// What a shell shows of a program that SIGPIPE has ended, as it ends others.
const ENDED_BY_SIGPIPE: i32 = 128 + 13;

/// Prints a line of an answer. If nobody reads it the program ends, quietly.
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::answer(format_args!($($argument)*)) };
}

/// Prints a line beside what the program is for, which goes on if nobody reads it.
macro_rules! mention {
    ($($argument:tt)*) => { $crate::say::remark(format_args!($($argument)*)) };
}

pub(crate) use {mention, say};

pub(crate) fn answer(line: fmt::Arguments<'_>) {
    match writeln!(io::stdout().lock(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(ENDED_BY_SIGPIPE),
        Err(error) => {
            eprintln!("error: cannot write to stdout: {error}");
            process::exit(1);
        }
    }
}

pub(crate) fn remark(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
