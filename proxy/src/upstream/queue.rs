//! Requests that wait because every upstream of their role is at its limit, first come first served.
//!
//! Each worker has a queue for each role, and only the first in it tries for a lease. It is woken when one is given back: that is
//! the turn of the next worker with a queue, so that none starves beside another that is quicker. Whoever leaves a queue,
//! with a lease or without, hands the turn on, since there may be room for more. Nobody joins one where there is no limit.
//!
//! No turn is lost: whoever joins looks again if nobody else waits, and else somebody who waits has the turn or will get it. What
//! makes room without a lease being given back (an upstream that is new, or no longer ejected) shows at the next
//! table or tick of the clock.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
    task::{Context, Waker},
};

use tokio::sync::Notify;

/// What the workers know of each other's queues for one role.
#[derive(Debug)]
pub(crate) struct Turns {
    /// In all queues.
    waiting: AtomicU32,
    workers: Box<[WorkerTurn]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerTurn {
    waiting: AtomicU32,
    come: Notify,
}

impl Turns {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        let workers = (0..workers).map(|_| WorkerTurn::default()).collect();
        Arc::new(Self { waiting: AtomicU32::new(0), workers })
    }

    /// So many wait at all workers.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// One worker's queue for one role.
#[derive(Debug)]
pub(crate) struct Queue {
    turns: Arc<Turns>,
    worker: usize,
    waiters: RefCell<VecDeque<Waiter>>,
    numbers: Cell<u64>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    waker: Waker,
}

/// A place in a queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Rc<Queue>,
    number: u64,
}

impl Queue {
    pub(crate) fn new(turns: Arc<Turns>, worker: usize) -> Rc<Self> {
        Rc::new(Self { turns, worker, waiters: RefCell::default(), numbers: Cell::new(0) })
    }

    /// So many wait at all workers.
    pub(crate) fn waiting(&self) -> u32 {
        self.turns.waiting()
    }

    /// Joins as the last; None if `waiting_max` wait already.
    pub(crate) fn join(self: &Rc<Self>, context: &Context<'_>, waiting_max: u32) -> Option<Ticket> {
        let one_more = |waiting| (waiting < waiting_max).then_some(waiting + 1);
        self.turns.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        self.turns.workers[self.worker].waiting.fetch_add(1, Ordering::Relaxed);
        // With the fence in `handle_room`: either whoever gives a lease back sees this one waiting, or this one sees the room.
        fence(Ordering::SeqCst);
        let number = self.numbers.replace(self.numbers.get() + 1);
        self.waiters.borrow_mut().push_back(Waiter { number, waker: context.waker().clone() });
        Some(Ticket { queue: self.clone(), number })
    }

    /// There may be room: the turn goes to the next worker with a queue, this one being the last.
    pub(crate) fn handle_room(&self) {
        fence(Ordering::SeqCst);
        let workers = &self.turns.workers;
        let following = (1..=workers.len()).map(|step| (self.worker + step) % workers.len());
        let mut waiting = following.filter(|&worker| workers[worker].waiting.load(Ordering::Relaxed) > 0);
        match waiting.next() {
            Some(worker) if worker == self.worker => self.wake_first(),
            Some(worker) => workers[worker].come.notify_one(),
            None => {}
        }
    }

    /// Wakes the first, who will try.
    pub(crate) fn wake_first(&self) {
        if let Some(first) = self.waiters.borrow().front() {
            first.waker.wake_by_ref();
        }
    }

    /// Wakes all: there may be no limit any more.
    pub(crate) fn wake_all(&self) {
        self.waiters.borrow().iter().for_each(|waiter| waiter.waker.wake_by_ref());
    }

    /// Takes the turns that other workers hand on; never ends.
    pub(crate) async fn take_turns(&self) {
        loop {
            self.turns.workers[self.worker].come.notified().await;
            if self.waiters.borrow().is_empty() {
                self.handle_room();
            }
            self.wake_first();
        }
    }
}

impl Ticket {
    /// Whether it is this one's turn, as far as its worker is concerned.
    pub(crate) fn is_first(&self) -> bool {
        self.queue.waiters.borrow().front().is_some_and(|first| first.number == self.number)
    }

    /// The task of this context is to be woken from now on.
    pub(crate) fn set_waker(&self, context: &Context<'_>) {
        let mut waiters = self.queue.waiters.borrow_mut();
        if let Ok(position) = waiters.binary_search_by_key(&self.number, |waiter| waiter.number) {
            waiters[position].waker.clone_from(context.waker());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let queue = &self.queue;
        {
            let mut waiters = queue.waiters.borrow_mut();
            if let Ok(position) = waiters.binary_search_by_key(&self.number, |waiter| waiter.number) {
                waiters.remove(position);
            }
        }
        queue.turns.workers[queue.worker].waiting.fetch_sub(1, Ordering::Relaxed);
        queue.turns.waiting.fetch_sub(1, Ordering::Relaxed);
        queue.handle_room();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, task::Wake};

    use super::*;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Flag {
        fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    fn join(queue: &Rc<Queue>) -> (Ticket, Arc<Flag>) {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        (queue.join(&Context::from_waker(&waker), u32::MAX).unwrap(), flag)
    }

    #[test]
    fn room_wakes_the_first_and_whoever_leaves_hands_the_turn_on() {
        let queue = Queue::new(Turns::new(1), 0);
        let (first, first_woken) = join(&queue);
        let (second, second_woken) = join(&queue);
        let (third, third_woken) = join(&queue);
        assert!(first.is_first() && !second.is_first());
        queue.handle_room();
        assert!(first_woken.take() && !second_woken.take());
        // Gone with its turn unused.
        drop(first);
        assert!(second_woken.take() && second.is_first());
        // Gone from the middle or the end: the first may try once more, which harms nobody.
        drop(third);
        assert!(second_woken.take() && !third_woken.take());
        drop(second);
        assert_eq!(queue.waiting(), 0);
        queue.handle_room();
    }

    #[test]
    fn a_queue_is_joined_up_to_the_limit_over_all_workers() {
        let turns = Turns::new(2);
        let queues = [Queue::new(turns.clone(), 0), Queue::new(turns, 1)];
        let context = Context::from_waker(Waker::noop());
        let tickets = [queues[0].join(&context, 2).unwrap(), queues[1].join(&context, 2).unwrap()];
        assert!(queues[0].join(&context, 2).is_none() && queues[1].join(&context, 2).is_none());
        drop(tickets);
        assert!(queues[0].join(&context, 2).is_some());
        assert!(queues[0].join(&context, 0).is_none());
    }

    #[tokio::test]
    async fn the_turn_goes_round_the_workers_that_have_somebody_waiting() {
        let turns = Turns::new(3);
        let queues: Vec<_> = (0..3).map(|worker| Queue::new(turns.clone(), worker)).collect();
        let (_a, woken_a) = join(&queues[0]);
        let (c, woken_c) = join(&queues[2]);
        let take_turn = async |queue: &Queue| {
            let once = std::time::Duration::ZERO;
            assert!(tokio::time::timeout(once, queue.take_turns()).await.is_err(), "it never ends");
        };
        queues[0].handle_room();
        assert!(!woken_a.take(), "not its own turn while others wait");
        take_turn(&queues[2]).await;
        assert!(woken_c.take());
        // It leaves after its turn was announced, before it is taken: the turn is handed on.
        queues[0].handle_room();
        drop(c);
        take_turn(&queues[0]).await;
        assert!(woken_a.take(), "by whoever left");
        take_turn(&queues[2]).await;
        take_turn(&queues[0]).await;
        assert!(woken_a.take(), "and by the worker that found nobody waiting");
    }
}
