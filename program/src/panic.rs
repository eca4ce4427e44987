//! A panic ends the process: a program that has lost a thread or a task would go on half-dead.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    process, thread,
};

/// What the process ends with after a panic, as Rust's own programs do.
pub const PANIC_EXIT_CODE: i32 = 101;

/// From now on any panic ends the process, also one that a runtime would catch, once its message is out.
pub(crate) fn end_process() {
    panic::set_hook(Box::new(|panic| {
        crate::stderr().insist(&describe(panic));
        crate::flush();
        process::exit(PANIC_EXIT_CODE);
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or("no message");
    // Only if RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let trace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    format!("error: this is a bug, the program ends: thread {name} panicked{place}: {said}{trace}")
}
