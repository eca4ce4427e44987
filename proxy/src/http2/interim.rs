//! Interim answers (1xx) that wait for their client. No window bounds them, and `h2` takes as many as it is given: an upstream that goes on
//! with them would fill our memory behind a client that does not read.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::limits::H2_INTERIMS_COUNT_MAX;

/// Those of a connection, by their streams; of most there are none.
#[derive(Debug, Default)]
pub(super) struct Interims(RefCell<BTreeMap<u32, Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    waker: Option<Waker>,
}

impl Interims {
    /// A head of this stream has left; its final one is behind all that are counted here.
    pub(super) fn note_left(&self, stream: u32) {
        let waker = self.0.borrow_mut().get_mut(&stream).and_then(|waiting| {
            waiting.count = waiting.count.saturating_sub(1);
            waiting.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Those of one stream, forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct OfStream {
    interims: Rc<Interims>,
    stream: u32,
}

impl OfStream {
    pub(super) fn new(interims: Rc<Interims>, stream: u32) -> Self {
        Self { interims, stream }
    }

    /// Waits until there is room for another, which takes it then.
    pub(super) fn poll_take_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut all = self.interims.0.borrow_mut();
        let waiting = all.entry(self.stream).or_default();
        if waiting.count < H2_INTERIMS_COUNT_MAX {
            waiting.count += 1;
            return Poll::Ready(());
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for OfStream {
    fn drop(&mut self) {
        self.interims.0.borrow_mut().remove(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_a_stream_wait_and_each_that_leaves_makes_room_for_another() {
        let interims = Rc::<Interims>::default();
        let (one, other) = (OfStream::new(interims.clone(), 1), OfStream::new(interims.clone(), 3));
        let is_taken = |of: &OfStream| of.poll_take_room(&Context::from_waker(Waker::noop())).is_ready();
        assert!((0..H2_INTERIMS_COUNT_MAX).all(|_| is_taken(&one)));
        assert!(!is_taken(&one), "one more");
        assert!(is_taken(&other));
        interims.note_left(3);
        interims.note_left(5);
        assert!(!is_taken(&one), "others' heads make no room for its own");
        interims.note_left(1);
        assert!(is_taken(&one) && !is_taken(&one));
        drop((one, other));
        assert!(interims.0.borrow().is_empty());
    }
}
