//! The clients of a worker, each counted for as long as it is served.

use std::rc::Rc;

use super::Worker;

/// One of the worker's clients, for as long as this lives.
pub(crate) struct Counted(Rc<Worker>);

impl Counted {
    pub(crate) fn new(worker: Rc<Worker>) -> Self {
        worker.clients.set(worker.clients.get() + 1);
        worker.stats.counted.add(1);
        Self(worker)
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
        self.0.stats.counted_ended.add(1);
        self.0.room.notify_waiters();
    }
}
