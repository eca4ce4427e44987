//! How much room a client's streams have left for their answers (RFC 9113 6.9).
//!
//! Who reads small messages grants little at a time, as gRPC does; who has made its windows small makes its answers small. Only by the room that
//! is left are they told apart.

use crate::limits::H2_STREAMS_COUNT_MAX;

/// What a stream has before its client says otherwise (RFC 9113 6.9.2).
const INITIAL_BYTES: i64 = 65_535;

/// The identifier of the setting that does (RFC 9113 6.5.2), and how many bytes each setting has.
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
const SETTING_BYTES: usize = 6;

/// Streams that are known at a time: those that may be open, and as many that `h2` is about to refuse. Of others nothing is known.
const STREAMS_COUNT_MAX: usize = 2 * H2_STREAMS_COUNT_MAX as usize;

/// The room of one stream.
#[derive(Debug, Clone, Copy)]
struct Room {
    stream: u32,
    bytes: i64,
}

/// That of all of a connection.
#[derive(Debug)]
pub(super) struct Rooms {
    initial_bytes: i64,
    /// The newest is last, but for those that took the place of one that ended.
    open: Vec<Room>,
}

impl Rooms {
    pub(super) fn new() -> Self {
        Self { initial_bytes: INITIAL_BYTES, open: Vec::new() }
    }

    /// Takes a client's settings, of which only so much may be known: where a setting may be missing, streams are taken to begin without room.
    pub(super) fn apply_settings(&mut self, said: &[u8], is_whole: bool) {
        let settings = said.chunks_exact(SETTING_BYTES).rev();
        let initial =
            settings.filter_map(|setting| setting.strip_prefix(&INITIAL_WINDOW_SIZE)?.first_chunk());
        let initial = initial.map(|bytes| i64::from(u32::from_be_bytes(*bytes))).next();
        let Some(initial) = (if is_whole { initial } else { Some(0) }) else { return };
        let change = initial - self.initial_bytes;
        self.open.iter_mut().for_each(|room| room.bytes += change);
        self.initial_bytes = initial;
    }

    pub(super) fn begin(&mut self, stream: u32) {
        if self.open.len() == STREAMS_COUNT_MAX {
            self.open.swap_remove(0);
        }
        self.open.push(Room { stream, bytes: self.initial_bytes });
    }

    /// Nothing more is sent to it.
    pub(super) fn end(&mut self, stream: u32) {
        if let Some(position) = self.open.iter().rposition(|room| room.stream == stream) {
            self.open.swap_remove(position);
        }
    }

    /// What a stream has left after this change; none: it is not open.
    pub(super) fn change(&mut self, stream: u32, bytes: i64) -> Option<i64> {
        let room = self.open.iter_mut().rfind(|room| room.stream == stream)?;
        room.bytes = room.bytes.saturating_add(bytes);
        Some(room.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(bytes: u32) -> Vec<u8> {
        [&[0, 3, 0, 0, 0, 100][..], &INITIAL_WINDOW_SIZE, &bytes.to_be_bytes()].concat()
    }

    #[test]
    fn a_stream_has_what_the_settings_say_less_what_it_got_and_with_what_was_granted() {
        let mut rooms = Rooms::new();
        rooms.begin(1);
        assert_eq!(rooms.change(1, -100), Some(65_435));
        rooms.apply_settings(&initial(200), true);
        assert_eq!(rooms.change(1, 0), Some(100), "those that are open change with it (RFC 9113 6.9.2)");
        rooms.begin(3);
        assert_eq!(rooms.change(3, 50), Some(250));
        // The last of several holds; other settings say nothing of it.
        rooms.apply_settings(&[initial(7), initial(9)].concat(), true);
        rooms.apply_settings(&[0, 1, 0, 0, 0, 0], true);
        rooms.begin(5);
        assert_eq!(rooms.change(5, 0), Some(9));
        rooms.end(3);
        assert_eq!((rooms.change(3, 1), rooms.change(1, 0)), (None, Some(-91)));
    }

    #[test]
    fn settings_that_are_too_many_to_be_looked_at_leave_no_room() {
        let mut rooms = Rooms::new();
        rooms.apply_settings(&initial(1 << 20), false);
        rooms.begin(1);
        assert_eq!(rooms.change(1, 0), Some(0));
    }

    #[test]
    fn of_so_many_streams_something_is_known_and_of_no_more() {
        let mut rooms = Rooms::new();
        let last = u32::try_from(STREAMS_COUNT_MAX).unwrap();
        (0..last).for_each(|number| rooms.begin(2 * number + 1));
        assert!(rooms.change(1, 0).is_some());
        rooms.begin(2 * last + 1);
        assert!(rooms.change(1, 0).is_none() && rooms.change(2 * last + 1, 0).is_some());
        assert_eq!(rooms.open.len(), STREAMS_COUNT_MAX);
    }
}
