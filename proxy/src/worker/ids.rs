//! The ids that a worker gives to requests.

use std::{cell::RefCell, collections::hash_map::RandomState, hash::BuildHasher};

use crate::{http1::RequestId, upstream::dice::Dice};

/// Half of an id is this worker's, by chance; the other half does not come again before 2^64 others. They name requests and keep no
/// secret. Not the generator of choices: these could be told from it.
#[derive(Debug)]
pub(crate) struct Ids {
    worker: u64,
    dice: RefCell<Dice>,
}

impl Ids {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self { worker: random.hash_one(0), dice: RefCell::new(Dice::new(random.hash_one(1))) }
    }

    /// Another one.
    pub(crate) fn make(&self) -> RequestId {
        RequestId::of_bits(self.worker, self.dice.borrow_mut().roll())
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
}
