//! How one end of a transfer reads or writes: in what pieces, and when it stands still.

use std::{fmt, time::Duration};

use rand::{RngExt, rngs::StdRng};

/// The largest piece: more than any buffer on the way holds.
const PIECE_BYTES_MAX: usize = 512 * 1024;

/// Pauses of a slow end: together they take less than a tenth of a second, however large the body is.
const PAUSES_COUNT_MAX: usize = 60;

/// A timer is no more exact than this.
const PAUSE: Duration = Duration::from_millis(1);

/// What a proxy holds at the end of a body is at most a full pipe and what the kernel's buffers have.
const TAIL_BYTES: usize = 600 * 1024;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pace {
    piece_bytes: usize,
    /// After each piece.
    pause: Duration,
    /// In the order of their positions.
    stalls: Vec<Stall>,
}

/// Standing still in front of the byte at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stall {
    at: usize,
    pause: Duration,
}

impl Pace {
    pub(crate) fn fast() -> Self {
        Self { piece_bytes: PIECE_BYTES_MAX, pause: Duration::ZERO, stalls: Vec::new() }
    }

    /// For a transfer of so many bytes: fast, slow, or stalling.
    pub(crate) fn draw(rng: &mut StdRng, bytes: usize) -> Self {
        match rng.random_range(0..10) {
            0..4 => Self::fast(),
            4..7 => {
                let least = bytes / PAUSES_COUNT_MAX + 1;
                let piece_bytes = least.max(1 << rng.random_range(0..17));
                Self { piece_bytes, pause: PAUSE, stalls: Vec::new() }
            }
            _ => {
                let piece_bytes = 1 << rng.random_range(14..20);
                let mut stalls: Vec<_> =
                    (0..rng.random_range(1..=3)).map(|_| Stall::draw(rng, bytes)).collect();
                stalls.sort();
                Self { piece_bytes, pause: Duration::ZERO, stalls }
            }
        }
    }

    /// How many bytes may be moved at once, after so many.
    pub(crate) fn piece_bytes(&self, moved: usize) -> usize {
        let until_stall = self.stalls.iter().map(|stall| stall.at).find(|at| *at > moved);
        until_stall.map_or(self.piece_bytes, |at| self.piece_bytes.min(at - moved))
    }

    /// How long to stand still when what was moved has grown.
    pub(crate) fn pause(&self, before: usize, now: usize) -> Duration {
        let passed = self.stalls.iter().filter(|stall| (before + 1..=now).contains(&stall.at));
        self.pause + passed.map(|stall| stall.pause).sum::<Duration>()
    }
}

impl Stall {
    /// As often in the tail as anywhere: that is where a receiver that is full for a moment has cost bytes.
    fn draw(rng: &mut StdRng, bytes: usize) -> Self {
        let from = if rng.random_bool(0.5) { bytes.saturating_sub(TAIL_BYTES) } else { 0 };
        let at = 1 + rng.random_range(from..=bytes);
        Self { at, pause: draw_pause(rng) }
    }
}

/// As long as somebody may be busy with something else.
pub(crate) fn draw_pause(rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(10..=60))
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::fast() {
            return f.write_str("fast");
        }
        write!(f, "by {}", self.piece_bytes)?;
        if !self.pause.is_zero() {
            write!(f, " each {:?}", self.pause)?;
        }
        self.stalls.iter().try_for_each(|Stall { at, pause }| write!(f, ", {pause:?} at {at}"))
    }
}

#[test]
fn an_end_stalls_exactly_where_it_is_to() {
    let stall = |at| Stall { at, pause: Duration::from_millis(10) };
    let pace = Pace { stalls: vec![stall(5), stall(7)], ..Pace::fast() };
    assert_eq!([0, 4, 5, 6, 7].map(|moved| pace.piece_bytes(moved)), [5, 1, 2, 1, PIECE_BYTES_MAX]);
    let pauses =
        [(0, 4), (0, 5), (5, 6), (6, 7), (7, 9)].map(|(before, now)| pace.pause(before, now).as_millis());
    assert_eq!(pauses, [0, 10, 0, 10, 0]);
}
