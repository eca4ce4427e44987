//! TLS handshakes under way, so many at a time.
//!
//! Where there are more, the one that began first ends. An honest client is done after two round trips; whoever opens connections and leaves
//! them there would have to open as many anew in that time to be in its way. If newcomers waited instead, or were turned away, it could keep
//! everybody out.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use tokio::sync::Notify;

use crate::limits::HANDSHAKES_UNDER_WAY_MAX;

/// Those of one worker.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    /// In the order in which they began.
    under_way: RefCell<BTreeMap<u64, Rc<Notify>>>,
    begun_count: Cell<u64>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    all: Rc<Handshakes>,
    number: u64,
    ended: Rc<Notify>,
}

impl Handshakes {
    /// Begins one; true if another had to end for it.
    pub(crate) fn begin(self: &Rc<Self>) -> (UnderWay, bool) {
        let number = self.begun_count.replace(self.begun_count.get() + 1);
        let mut under_way = self.under_way.borrow_mut();
        let first = if under_way.len() >= HANDSHAKES_UNDER_WAY_MAX { under_way.pop_first() } else { None };
        let is_full = first.is_some();
        if let Some((_, first)) = first {
            first.notify_one();
        }
        let ended = Rc::<Notify>::default();
        under_way.insert(number, ended.clone());
        (UnderWay { all: self.clone(), number, ended }, is_full)
    }
}

impl UnderWay {
    /// Waits until it has to end for another.
    pub(crate) async fn evicted(&self) {
        self.ended.notified().await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.under_way.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    /// Whether it has been told to end.
    fn is_evicted(handshake: &UnderWay) -> bool {
        pin!(handshake.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn so_many_are_under_way_and_one_more_ends_the_first() {
        let all = Rc::<Handshakes>::default();
        let begun: Vec<(UnderWay, bool)> = (0..HANDSHAKES_UNDER_WAY_MAX).map(|_| all.begin()).collect();
        assert!(begun.iter().all(|(handshake, is_full)| !is_full && !is_evicted(handshake)));
        let (newest, is_full) = all.begin();
        assert!(is_full && is_evicted(&begun[0].0) && !is_evicted(&begun[1].0) && !is_evicted(&newest));
    }

    #[test]
    fn those_that_are_over_make_room_and_who_was_evicted_makes_none_twice() {
        let all = Rc::<Handshakes>::default();
        let mut begun: Vec<UnderWay> = (0..=HANDSHAKES_UNDER_WAY_MAX).map(|_| all.begin().0).collect();
        drop(begun.remove(0));
        assert!(all.begin().1, "its place was taken already");
        drop(begun.pop());
        assert_eq!(
            all.under_way.borrow().len(),
            HANDSHAKES_UNDER_WAY_MAX - 2,
            "that one, and the one just now"
        );
        assert!(!all.begin().1);
    }
}
