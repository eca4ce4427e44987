//! The ids that a worker gives to requests, traces and spans.

use std::{cell::RefCell, collections::hash_map::RandomState, hash::BuildHasher};

use crate::{
    http1::{RequestId, SpanId, TraceId},
    upstream::dice::Dice,
};

/// Half of an id is this worker's, by chance; the other half does not come again before 2^64 others. They name requests and keep no
/// secret. Not the generator of choices: these could be told from it.
#[derive(Debug)]
pub(crate) struct Ids {
    worker: u64,
    dice: RefCell<Dice>,
    /// For the upper half of a trace's id, of which all bits are random.
    upper_dice: RefCell<Dice>,
}

impl Ids {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        let dice = |number: u8| RefCell::new(Dice::new(random.hash_one(number)));
        Self { worker: random.hash_one(0), dice: dice(1), upper_dice: dice(2) }
    }

    /// Another one.
    pub(crate) fn make(&self) -> RequestId {
        RequestId::of_bits(self.worker, self.dice.borrow_mut().roll())
    }

    /// That of another trace.
    pub(crate) fn make_trace(&self) -> TraceId {
        loop {
            let (high, low) = (self.upper_dice.borrow_mut().roll(), self.dice.borrow_mut().roll());
            if let Some(id) = TraceId::of_bits(high, low) {
                return id;
            }
        }
    }

    /// That of another span.
    pub(crate) fn make_span(&self) -> SpanId {
        loop {
            if let Some(id) = SpanId::of_bits(self.dice.borrow_mut().roll()) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_requests_have_one_id_at_whatever_worker() {
        let workers = [Ids::new(), Ids::new()];
        let all: HashSet<String> = (0..2000).map(|i| workers[i % 2].make().as_str().to_owned()).collect();
        assert_eq!(all.len(), 2000);
    }

    #[test]
    fn no_two_traces_and_no_two_spans_have_one_id_at_whatever_worker() {
        let workers = [Ids::new(), Ids::new()];
        let traces: HashSet<String> = (0..2000).map(|i| workers[i % 2].make_trace().to_string()).collect();
        let spans: HashSet<String> = (0..2000).map(|i| workers[i % 2].make_span().to_string()).collect();
        assert_eq!((traces.len(), spans.len()), (2000, 2000));
        // Nothing in them is the worker's.
        let halves: HashSet<&str> = traces.iter().flat_map(|id| [&id[..16], &id[16..]]).collect();
        assert_eq!(halves.len(), 4000);
    }
}
