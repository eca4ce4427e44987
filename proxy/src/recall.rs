//! What a worker keeps of requests that were: those that went wrong, and a sample of all others. `concertina explain request ID` reads it.
//!
//! ```text
//! session ─▶ Notes ══ at its end, if it is to be kept ══▶ Kept ─▶ Ring by cause ─▶ Hop
//! ```
//!
//! A request that went well and is not of the sample pays for two looks, and for the numbers of the choice that was made for it.
//! Everything here is of fixed size and belongs to one thread. Nothing is kept of requests without an id: nobody could ask for them.

mod kept;
mod notes;
mod ring;

use std::cell::RefCell;

use feed::recall::{Cause, Hop, Recalled, Which};

use crate::limits::{RECALL_FAILED_COUNT_MAX, RECALL_REFUSED_COUNT_MAX, RECALL_SAMPLED_COUNT_MAX};

pub(crate) use kept::{Draining, Kept};
pub(crate) use notes::{Failure, Notes, Tried};
use ring::Ring;

/// The last requests of each cause. Those that clients cause come by the thousand where somebody tries every door: they take no place of
/// those that an upstream has failed.
#[derive(Debug)]
pub(crate) struct Memory {
    failed: RefCell<Ring<Kept>>,
    refused: RefCell<Ring<Kept>>,
    sampled: RefCell<Ring<Kept>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            failed: RefCell::new(Ring::new(RECALL_FAILED_COUNT_MAX)),
            refused: RefCell::new(Ring::new(RECALL_REFUSED_COUNT_MAX)),
            sampled: RefCell::new(Ring::new(RECALL_SAMPLED_COUNT_MAX)),
        }
    }

    fn ring(&self, cause: Cause) -> &RefCell<Ring<Kept>> {
        match cause {
            Cause::Failed => &self.failed,
            Cause::Refused => &self.refused,
            Cause::Sampled => &self.sampled,
        }
    }

    /// Keeps it, in the place of the oldest of its cause.
    pub(crate) fn keep(&self, kept: Kept) {
        self.ring(kept.cause).borrow_mut().push(kept);
    }

    /// What is kept of these requests, the newest first.
    pub(crate) fn recall(&self, which: &Which) -> Recalled {
        let mut told = Recalled::default();
        for cause in [Cause::Failed, Cause::Refused, Cause::Sampled] {
            let ring = self.ring(cause).borrow();
            let found = ring.newest_first().filter(|kept| which.is(kept.id.as_str(), cause));
            let room = which.hops_count_max() - told.hops.len();
            told.hops.extend(found.take(room).map(Hop::from));
            let since_us = ring.oldest_of_full().map(Kept::at_us);
            let (count, room) = (ring.count() as u64, ring.room() as u64);
            told.kept.insert(cause, feed::recall::Kept { count, room, since_us });
        }
        told
    }
}
