//! The last of something.

/// As many as there is room for, which is had from the start: whoever comes then takes the place of the oldest. Memory that was never
/// written to costs nothing.
#[derive(Debug)]
pub(super) struct Ring<T> {
    places: Vec<T>,
    room: usize,
    /// The oldest, where there is no room left.
    next: usize,
}

impl<T> Ring<T> {
    pub(super) fn new(room: usize) -> Self {
        Self { places: Vec::with_capacity(room), room, next: 0 }
    }

    pub(super) fn push(&mut self, item: T) {
        match self.places.get_mut(self.next) {
            Some(oldest) => *oldest = item,
            None => self.places.push(item),
        }
        self.next = (self.next + 1) % self.room;
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = &T> {
        let (newer, older) = self.places.split_at(self.next.min(self.places.len()));
        newer.iter().rev().chain(older.iter().rev())
    }

    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// None where there is room left.
    pub(super) fn oldest_of_full(&self) -> Option<&T> {
        self.places.get(self.next).filter(|_| self.places.len() == self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_room_for_so_many_and_one_more_takes_the_place_of_the_oldest() {
        let mut ring = Ring::new(3);
        let all = |ring: &Ring<u32>| ring.newest_first().copied().collect::<Vec<_>>();
        assert!(all(&ring).is_empty());
        [1, 2].into_iter().for_each(|item| ring.push(item));
        assert_eq!((all(&ring), ring.oldest_of_full()), (vec![2, 1], None));
        ring.push(3);
        assert_eq!((all(&ring), ring.oldest_of_full(), ring.count()), (vec![3, 2, 1], Some(&1), 3));
        ring.push(4);
        assert_eq!((all(&ring), ring.oldest_of_full(), ring.count()), (vec![4, 3, 2], Some(&2), 3));
        (5..=9).for_each(|item| ring.push(item));
        assert_eq!(
            (all(&ring), ring.places.capacity()),
            (vec![9, 8, 7], 3),
            "in the room that it began with"
        );
    }
}
