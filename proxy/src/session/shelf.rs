//! Exchanges not in use: one is there for a request without an allocation.

use std::cell::RefCell;

use super::exchange::Exchange;
use crate::worker::{SHELF_COUNT_MAX, Worker};

thread_local! {
    /// Those of this thread's worker; of each the box is kept.
    static SPARE: RefCell<Vec<Box<Exchange>>> = const { RefCell::new(Vec::new()) };
}

/// Takes one.
pub(super) fn take() -> Box<Exchange> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Has one give back what it holds, and keeps it.
pub(super) fn put(mut exchange: Box<Exchange>, worker: &Worker) {
    exchange.reset(worker);
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SHELF_COUNT_MAX {
            spare.push(exchange);
        }
    });
}
