//! Deadlines without timers: a column of times that one ticker looks through.
//!
//! Arming is one store. A look at ten thousand of them takes some ten microseconds, ten times a second; a timer object for
//! each request would cost every request more than that costs them all together.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use tokio::time::{Instant, error::Elapsed, timeout_at};

/// How exact deadlines are, and how often the ticker looks.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The most that the clock moves at a tick. A process that was stopped, paused or starved for longer did not wait all that time: what
/// came meanwhile is to be looked at before anybody is told to have been too slow.
const STEP_MAX: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Slot {
    /// On the worker's clock; `u64::MAX` for never.
    at_ms: u64,
    /// The task asked for the next tick, whenever its time comes.
    at_next_tick: bool,
    /// None: the slot is free.
    waker: Option<Waker>,
}

const FREE: Slot = Slot { at_ms: u64::MAX, at_next_tick: false, waker: None };

/// All deadlines of a worker, and its clock, which moves with the ticker.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    now_ms: Cell<u64>,
    /// When it moved last, by a clock that does not stand still.
    passed: Cell<Duration>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
}

/// One task's deadline; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Deadline {
    all: Rc<Deadlines>,
    slot: u32,
}

impl Deadlines {
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// A deadline for the task of this waker, not armed.
    pub(crate) fn register(self: &Rc<Self>, waker: &Waker) -> Deadline {
        let occupied = Slot { at_ms: u64::MAX, at_next_tick: false, waker: Some(waker.clone()) };
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(FREE);
            u32::try_from(slots.len() - 1).expect("fewer connections than 2^32")
        });
        slots[slot as usize] = occupied;
        Deadline { all: self.clone(), slot }
    }

    /// Moves the clock to `elapsed`, but no further than the process may be thought to have run, and wakes everybody whose time has come.
    pub(crate) fn pass(&self, elapsed: Duration) {
        let step = elapsed.saturating_sub(self.passed.replace(elapsed)).min(STEP_MAX);
        self.tick(self.now_ms() + u64::try_from(step.as_millis()).unwrap_or_default());
    }

    /// Moves the clock and wakes everybody whose time has come.
    fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        self.wake(|slot| slot.at_ms <= now_ms || std::mem::take(&mut slot.at_next_tick));
    }

    /// Wakes everybody, for news that concerns all.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, is_due: impl Fn(&mut Slot) -> bool) {
        for slot in &mut *self.slots.borrow_mut() {
            if is_due(slot)
                && let Some(waker) = &slot.waker
            {
                waker.wake_by_ref();
            }
        }
    }
}

impl Deadline {
    /// Wakes by this waker from now on; the same one again costs a comparison.
    pub(crate) fn wake_by(&self, waker: &Waker) {
        let known = &mut self.all.slots.borrow_mut()[self.slot as usize].waker;
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Arms it anew, counting from the last tick.
    pub(crate) fn set(&self, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.all.slots.borrow_mut()[self.slot as usize].at_ms = self.all.now_ms().saturating_add(after_ms);
    }

    /// Arms it anew, unless it is over sooner.
    pub(crate) fn hasten(&self, after: Duration) {
        let before_ms = self.all.slots.borrow()[self.slot as usize].at_ms;
        self.set(after);
        let slot = &mut self.all.slots.borrow_mut()[self.slot as usize];
        slot.at_ms = slot.at_ms.min(before_ms);
    }

    /// The workers' clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.all.now_ms()
    }

    /// Has the task woken by the next tick too, once.
    pub(crate) fn wake_at_next_tick(&self) {
        self.all.slots.borrow_mut()[self.slot as usize].at_next_tick = true;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.all.slots.borrow()[self.slot as usize].at_ms <= self.all.now_ms()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.all.slots.borrow_mut()[self.slot as usize] = FREE;
        self.all.free.borrow_mut().push(self.slot);
    }
}

/// Waits for this no longer than that, by a timer: for what waits seldom. If the time is over late, the process stood still, and it begins
/// anew: see [`STEP_MAX`].
pub(crate) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    loop {
        let until = Instant::now() + time;
        match timeout_at(until, work.as_mut()).await {
            Err(_) if until.elapsed() >= STEP_MAX => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_deadline_wakes_its_task_when_its_time_has_come_and_not_before() {
        let (all, count) = (Rc::new(Deadlines::default()), Arc::new(Count::default()));
        let deadline = all.register(&Waker::from(count.clone()));
        deadline.set(Duration::from_millis(500));
        all.tick(499);
        assert!(!deadline.is_over());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        all.tick(500);
        assert!(deadline.is_over());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        deadline.set(Duration::from_millis(500));
        assert!(!deadline.is_over(), "armed anew");
    }

    #[test]
    fn time_in_which_the_process_stood_still_does_not_count() {
        let all = Rc::new(Deadlines::default());
        let deadline = all.register(Waker::noop());
        all.pass(Duration::from_millis(100));
        deadline.set(Duration::from_secs(5));
        all.pass(Duration::from_secs(3600));
        assert!(all.now_ms() == 600 && !deadline.is_over());
        // One that is late time and again is slow, and its clock goes right.
        for late in 1..=9 {
            all.pass(Duration::from_secs(3600) + STEP_MAX * late);
        }
        assert!(deadline.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn nor_does_it_where_a_timer_is_waited_for() {
        const TIME: Duration = Duration::from_secs(30);
        let almost = STEP_MAX - Duration::from_millis(1);
        for (stands_for, is_over) in [(TIME + almost, true), (TIME + STEP_MAX, false), (TIME * 100, false)] {
            let mut waiting = pin!(within(TIME, std::future::pending::<()>()));
            let mut is_ready = async || {
                std::future::poll_fn(|context| {
                    std::task::Poll::Ready(waiting.as_mut().poll(context).is_ready())
                })
                .await
            };
            assert!(!is_ready().await);
            tokio::time::advance(stands_for).await;
            assert_eq!(is_ready().await, is_over, "{stands_for:?}");
            if !is_over {
                tokio::time::advance(TIME).await;
                assert!(is_ready().await, "the whole time once more");
            }
        }
    }

    #[test]
    fn haste_never_gives_more_time() {
        let all = Rc::new(Deadlines::default());
        let deadline = all.register(Waker::noop());
        deadline.set(Duration::from_millis(200));
        deadline.hasten(Duration::from_millis(300));
        all.tick(200);
        assert!(deadline.is_over());
        deadline.set(Duration::from_millis(200));
        deadline.hasten(Duration::from_millis(100));
        all.tick(300);
        assert!(deadline.is_over());
    }

    #[test]
    fn the_next_tick_wakes_whoever_asked_for_it_once() {
        let (all, count) = (Rc::new(Deadlines::default()), Arc::new(Count::default()));
        let deadline = all.register(&Waker::from(count.clone()));
        deadline.wake_at_next_tick();
        all.tick(1);
        all.tick(2);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!deadline.is_over());
    }

    #[test]
    fn a_deadline_wakes_by_the_last_waker_only() {
        let (all, counts) = (Rc::new(Deadlines::default()), [(); 2].map(|()| Arc::new(Count::default())));
        let deadline = all.register(&Waker::from(counts[0].clone()));
        deadline.wake_by(&Waker::from(counts[1].clone()));
        deadline.set(Duration::ZERO);
        all.tick(0);
        assert_eq!([0, 1].map(|i: usize| counts[i].0.load(Ordering::Relaxed)), [0, 1]);
    }

    #[test]
    fn a_slot_is_used_again_and_a_free_one_wakes_nobody() {
        let (all, count) = (Rc::new(Deadlines::default()), Arc::new(Count::default()));
        drop(all.register(&Waker::from(count.clone())));
        all.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        let _again = all.register(&Waker::from(count));
        assert_eq!(all.slots.borrow().len(), 1);
    }
}
