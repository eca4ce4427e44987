//! Places for those who are served at a time: few enough for the descriptors of this process, and shared among those who come.
//!
//! Where all are taken, or all that one source may have, a newcomer gets the place of whoever is missed least: of the source with the
//! most, who has proved least, and of those who was heard longest ago. So a source that fills up what it may have is in its own
//! way alone.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;

/// How many may be served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) all: usize,
    pub(crate) of_source: usize,
}

impl Limits {
    /// At most so many, and no more than a quarter of the descriptors of this process: listeners, the role's check, files and
    /// consumers need theirs. One source gets one place of `share`.
    pub(crate) fn within_descriptors(all_max: usize, share: usize) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.and_then(|count| usize::try_from(count).ok());
        let all = descriptors.map_or(all_max, |count| (count / 4).clamp(1, all_max));
        Self { all, of_source: (all / share).max(1) }
    }
}

/// What the holder of a place has shown so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Nothing.
    Silent,
    /// That it speaks the protocol.
    Spoke,
    /// That its place must not be taken from it.
    Proven,
}

#[derive(Debug)]
struct Holder<S> {
    source: S,
    standing: Standing,
    /// Grows with everything that is heard of anybody.
    heard: u64,
    /// Told when the place is another's.
    evict: Rc<Notify>,
}

#[derive(Debug)]
struct Inner<S> {
    limits: Limits,
    /// Numbers that were given out.
    counter: u64,
    holders: BTreeMap<u64, Holder<S>>,
    counts: BTreeMap<S, usize>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Seats<S: Ord + Clone>(Rc<RefCell<Inner<S>>>);

/// What place a newcomer gets.
enum Room {
    Free,
    /// That of this one.
    Of(u64),
    None,
}

/// A place. It is given back when this is dropped.
pub(crate) struct Seat<S: Ord + Clone> {
    number: u64,
    seats: Seats<S>,
    evicted: Rc<Notify>,
}

impl<S: Ord + Clone> Clone for Seats<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Ord + Clone> Seats<S> {
    pub(crate) fn new(limits: Limits) -> Self {
        let (holders, counts) = (BTreeMap::new(), BTreeMap::new());
        Self(Rc::new(RefCell::new(Inner { limits, counter: 0, holders, counts })))
    }

    /// A place for who comes from this source; none where nobody can be asked to go.
    pub(crate) fn take(&self, source: S) -> Option<Seat<S>> {
        let mut inner = self.0.borrow_mut();
        match inner.room_for(&source) {
            Room::Free => {}
            Room::Of(victim) => inner.remove(victim).iter().for_each(|victim| victim.evict.notify_one()),
            Room::None => return None,
        }
        let evicted = Rc::new(Notify::new());
        let number = inner.next();
        *inner.counts.entry(source.clone()).or_default() += 1;
        let holder = Holder { source, standing: Standing::Silent, heard: number, evict: evicted.clone() };
        inner.holders.insert(number, holder);
        Some(Seat { number, seats: self.clone(), evicted })
    }
}

impl<S: Ord + Clone> Inner<S> {
    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn count(&self, source: &S) -> usize {
        self.counts.get(source).copied().unwrap_or_default()
    }

    fn room_for(&self, source: &S) -> Room {
        let is_own_share_taken = self.count(source) >= self.limits.of_source;
        if !is_own_share_taken && self.holders.len() < self.limits.all {
            return Room::Free;
        }
        let movable = self.holders.iter().filter(|(_, holder)| {
            holder.standing < Standing::Proven && (!is_own_share_taken || holder.source == *source)
        });
        let least = movable.min_by_key(|(_, holder)| {
            (std::cmp::Reverse(self.count(&holder.source)), holder.standing, holder.heard)
        });
        least.map_or(Room::None, |(number, _)| Room::Of(*number))
    }

    fn remove(&mut self, number: u64) -> Option<Holder<S>> {
        let holder = self.holders.remove(&number)?;
        match self.counts.get_mut(&holder.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.counts.remove(&holder.source)),
        }
        Some(holder)
    }
}

impl<S: Ord + Clone> Seat<S> {
    /// Notes that something was heard, and what its sender has shown by it.
    pub(crate) fn note(&self, standing: Standing) {
        let mut inner = self.seats.0.borrow_mut();
        let heard = inner.next();
        if let Some(holder) = inner.holders.get_mut(&self.number) {
            (holder.standing, holder.heard) = (standing, heard);
        }
    }

    /// Waits until the place is another's.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl<S: Ord + Clone> Drop for Seat<S> {
    fn drop(&mut self) {
        let _ = self.seats.0.borrow_mut().remove(self.number);
    }
}

impl<S: Ord + Clone> fmt::Debug for Seat<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LIMITS: Limits = Limits { all: 4, of_source: 2 };

    /// Whose places were given to others; asked once.
    fn evicted(seats: &[Seat<&'static str>]) -> Vec<bool> {
        seats.iter().map(|seat| seat.evicted().now_or_never().is_some()).collect()
    }

    #[test]
    fn a_source_that_has_its_share_loses_its_own_that_was_heard_longest_ago() {
        let seats = Seats::new(LIMITS);
        let mut held: Vec<_> = ["b", "a", "a"].map(|source| seats.take(source).unwrap()).into();
        assert_eq!(evicted(&held), [false; 3], "at the limit");
        held[1].note(Standing::Silent);
        held.push(seats.take("a").unwrap());
        assert_eq!(evicted(&held), [false, false, true, false], "one over it");
    }

    #[test]
    fn where_all_are_taken_the_source_with_the_most_gives_one_and_the_silent_go_first() {
        let seats = Seats::new(LIMITS);
        let mut held: Vec<_> = ["a", "b", "b", "c"].map(|source| seats.take(source).unwrap()).into();
        held[1].note(Standing::Spoke);
        held.push(seats.take("d").unwrap());
        assert_eq!(evicted(&held), [false, false, true, false, false]);
    }

    #[test]
    fn who_is_proven_stays_and_a_place_that_is_given_back_is_free() {
        let seats = Seats::new(LIMITS);
        let mut held: Vec<_> = ["a", "b", "c", "d"].map(|source| seats.take(source).unwrap()).into();
        held.iter().for_each(|seat| seat.note(Standing::Proven));
        assert!(seats.take("e").is_none());
        held.pop();
        assert!(seats.take("e").is_some());
        drop(held);
        assert!(seats.0.borrow().counts.is_empty() && seats.0.borrow().holders.is_empty());
    }
}
