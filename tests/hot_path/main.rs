//! What a request and an idle connection cost the built proxy: system calls, memory, time.
//!
//! A proxy of one worker runs with a fixed table; its origin and its clients are threads of this test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod datagrams;
mod idle;
mod origin;
mod running;
#[path = "../support/skip.rs"]
#[expect(dead_code, reason = "no test here is skipped as a whole")]
mod skip;
mod system_calls;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One measurement at a time.
fn stage() -> MutexGuard<'static, ()> {
    static STAGE: Mutex<()> = Mutex::new(());
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}
