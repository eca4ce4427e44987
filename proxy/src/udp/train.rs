//! Trains: datagrams of one length behind each other, which the kernel takes in one call (`UDP_SEGMENT`, udp(7)).
//!
//! The last one may be shorter. What comes one by one, because whoever sent it or a driver on the way knows no trains, is coupled here:
//! copying a datagram costs a tenth of a call.

/// Datagrams in a train: the kernel's own limit (`UDP_MAX_SEGMENTS` until 6.9), which what it hands over keeps to as well.
pub(crate) const CARS_COUNT_MAX: usize = 64;

/// Bytes of a train: below what a packet of IP holds with all headers.
pub(crate) const TRAIN_BYTES_MAX: usize = 65_000;

/// Datagrams that leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Train<'a> {
    pub(crate) bytes: &'a [u8],
    /// The length of each but the last.
    pub(crate) car_bytes: usize,
}

impl<'a> Train<'a> {
    /// Each datagram.
    pub(crate) fn cars(self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // An empty datagram is one.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.car_bytes.max(1)))
    }

    pub(crate) fn cars_count(self) -> usize {
        self.bytes.len().div_ceil(self.car_bytes.max(1)).max(1)
    }

    pub(crate) fn is_single(self) -> bool {
        self.bytes.len() <= self.car_bytes
    }
}

/// Couples datagrams, in their order, to trains.
#[derive(Debug)]
pub(crate) struct Coupling {
    bytes: Vec<u8>,
    car_bytes: usize,
    count: usize,
    /// The last one is shorter: nothing can be behind it.
    is_closed: bool,
}

impl Default for Coupling {
    fn default() -> Self {
        Self { bytes: Vec::with_capacity(TRAIN_BYTES_MAX), car_bytes: 0, count: 0, is_closed: false }
    }
}

impl Coupling {
    /// Passes datagrams on to `leave`, as few trains as their lengths allow. Cars of more than `car_bytes_max` leave alone.
    pub(crate) fn couple<'a>(
        &mut self,
        arrived: impl IntoIterator<Item = Train<'a>>,
        car_bytes_max: usize,
        mut leave: impl FnMut(Train<'_>),
    ) {
        let mut arrived = arrived.into_iter();
        let first = arrived.next();
        let mut waiting = arrived.next();
        // What is one train already is not copied.
        if let (Some(train), None) = (first, waiting)
            && (train.is_single() || train.car_bytes <= car_bytes_max && train.cars_count() <= CARS_COUNT_MAX)
        {
            return leave(train);
        }
        let mut next = first;
        while let Some(train) = next {
            for car in train.cars() {
                self.push(car, car_bytes_max, &mut leave);
            }
            next = waiting.take().or_else(|| arrived.next());
        }
        self.flush(&mut leave);
    }

    fn push(&mut self, car: &[u8], car_bytes_max: usize, leave: &mut impl FnMut(Train<'_>)) {
        let fits = self.count > 0
            && !self.is_closed
            && self.count < CARS_COUNT_MAX
            && (1..=self.car_bytes).contains(&car.len())
            && self.bytes.len() + car.len() <= TRAIN_BYTES_MAX;
        if !fits {
            self.flush(leave);
            self.car_bytes = car.len();
            self.is_closed = car.is_empty() || car.len() > car_bytes_max;
        }
        self.is_closed |= car.len() < self.car_bytes;
        self.bytes.extend_from_slice(car);
        self.count += 1;
    }

    fn flush(&mut self, leave: &mut impl FnMut(Train<'_>)) {
        if self.count > 0 {
            leave(Train { bytes: &self.bytes, car_bytes: self.car_bytes });
        }
        self.bytes.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The trains that these lengths make.
    fn couple(lengths: &[usize], car_bytes_max: usize) -> Vec<(usize, usize)> {
        let cars: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        let mut left = Vec::new();
        let arrived = cars.iter().map(|car| Train { bytes: car, car_bytes: car.len() });
        Coupling::default().couple(arrived, car_bytes_max, |train| {
            left.push((train.cars_count(), train.bytes.len()));
        });
        left
    }

    #[test]
    fn datagrams_of_one_length_leave_together_and_a_shorter_one_is_the_last() {
        assert_eq!(couple(&[1200, 1200, 1200, 70, 70, 1200], 1400), [(4, 3670), (1, 70), (1, 1200)]);
        assert_eq!(couple(&[70, 1200], 1400), [(1, 70), (1, 1200)]);
    }

    #[test]
    fn empty_datagrams_are_datagrams() {
        assert_eq!(couple(&[0], 1400), [(1, 0)]);
        assert_eq!(couple(&[5, 0, 0, 5], 1400), [(1, 5), (1, 0), (1, 0), (1, 5)]);
        assert_eq!(Train { bytes: &[], car_bytes: 0 }.cars().count(), 1);
    }

    #[test]
    fn what_the_way_cannot_carry_in_trains_leaves_alone() {
        assert_eq!(couple(&[1400, 1400], 1400), [(2, 2800)]);
        assert_eq!(couple(&[1401, 1401], 1400), [(1, 1401), (1, 1401)]);
        let long = [9; 2802];
        let mut left = 0;
        let arrived = Train { bytes: &long, car_bytes: 1401 };
        Coupling::default().couple([arrived], 1400, |train| left += usize::from(train.is_single()));
        assert_eq!(left, 2);
    }

    #[test]
    fn a_train_has_as_many_cars_and_bytes_as_the_kernel_takes_and_not_one_more() {
        assert_eq!(couple(&[9; CARS_COUNT_MAX], 1400), [(CARS_COUNT_MAX, 9 * CARS_COUNT_MAX)]);
        assert_eq!(couple(&[9; CARS_COUNT_MAX + 1], 1400), [(CARS_COUNT_MAX, 9 * CARS_COUNT_MAX), (1, 9)]);
        let half = TRAIN_BYTES_MAX / 2;
        assert_eq!(couple(&[half, half], half), [(2, TRAIN_BYTES_MAX)]);
        assert_eq!(couple(&[half + 1, half + 1], half + 1), [(1, half + 1), (1, half + 1)]);
    }

    proptest! {
        #[test]
        fn the_datagrams_that_leave_are_those_that_arrived(
            trains in proptest::collection::vec((1..200_usize, 0..1200_usize), 0..20),
            car_bytes_max in 1..200_usize,
        ) {
            let bytes: Vec<Vec<u8>> =
                trains.iter().map(|(_, length)| (0..*length).map(|at| (at % 251) as u8).collect()).collect();
            let arrived = || {
                trains.iter().zip(&bytes).map(|((car_bytes, _), bytes)| Train { bytes, car_bytes: *car_bytes })
            };
            let mut left: Vec<Vec<u8>> = Vec::new();
            Coupling::default().couple(arrived(), car_bytes_max, |train| {
                assert!(train.is_single() || train.car_bytes <= car_bytes_max);
                assert!(train.cars_count() <= CARS_COUNT_MAX && train.bytes.len() <= TRAIN_BYTES_MAX);
                left.extend(train.cars().map(<[u8]>::to_vec));
            });
            let expected: Vec<Vec<u8>> = arrived().flat_map(Train::cars).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
