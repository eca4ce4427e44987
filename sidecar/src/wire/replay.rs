//! What keeps a recorded packet from being believed twice: its age, and a window of sequence numbers for each sender.
//!
//! Only what was opened with a key is shown here, so that strangers cannot fill it.

use std::collections::BTreeMap;

use crate::wire::{packet::PacketError, window::Window};

/// How far a sender's clock and its packets' way may be off, either way, in milliseconds. Containers of one host share
/// its clock, and hosts that keep time by NTP differ by less than a second: this is for those that keep it badly.
pub const SKEW_MS_MAX: u64 = 30_000;
/// How many packets later than others of its sender a packet may come. Networks swap neighbours, not hundreds.
pub const WINDOW_PACKETS: u64 = Packets::WIDTH;
/// Most senders remembered, more than the members of a large cluster: about a megabyte.
pub const SENDERS_COUNT_MAX: usize = 16_384;

/// What one process calls itself in its packets: drawn at its start.
pub type SenderId = [u8; 16];

/// The packets of one sender.
type Packets = Window<2>;

#[derive(Debug)]
struct Sender {
    packets: Packets,
    /// The latest time at which one of its packets was sealed.
    sent_ms: u64,
    heard_ms: u64,
}

/// The senders that were heard lately.
#[derive(Debug, Default)]
pub struct Senders {
    by_id: BTreeMap<SenderId, Sender>,
    /// Whoever is not remembered may have been: what it sealed until then may have come before.
    forgotten_ms: u64,
}

impl Senders {
    /// Takes a packet, or says why it must not be believed. Times are milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`PacketError::Stale`], [`PacketError::Replayed`].
    pub fn handle(
        &mut self,
        sender: SenderId,
        sequence: u64,
        sent_ms: u64,
        now_ms: u64,
    ) -> Result<(), PacketError> {
        let away_ms = sent_ms.abs_diff(now_ms);
        if away_ms > SKEW_MS_MAX {
            return Err(PacketError::Stale(away_ms / 1000));
        }
        if let Some(known) = self.by_id.get_mut(&sender) {
            if !known.packets.take(sequence) {
                return Err(PacketError::Replayed);
            }
            known.sent_ms = known.sent_ms.max(sent_ms);
            known.heard_ms = now_ms;
            return Ok(());
        }
        if sent_ms <= self.forgotten_ms {
            return Err(PacketError::Replayed);
        }
        if self.by_id.len() == SENDERS_COUNT_MAX {
            self.make_room(now_ms);
        }
        let packets = Packets::starting_with(sequence);
        self.by_id.insert(sender, Sender { packets, sent_ms, heard_ms: now_ms });
        Ok(())
    }

    /// Forgets who can no longer be replayed, or else the one that was not heard for longest.
    fn make_room(&mut self, now_ms: u64) {
        self.by_id.retain(|_, sender| sender.sent_ms + SKEW_MS_MAX >= now_ms);
        if self.by_id.len() < SENDERS_COUNT_MAX {
            return;
        }
        let quietest = self.by_id.iter().min_by_key(|(_, sender)| sender.heard_ms);
        if let Some(sender) = quietest.map(|(sender, _)| *sender)
            && let Some(forgotten) = self.by_id.remove(&sender)
        {
            self.forgotten_ms = self.forgotten_ms.max(forgotten.sent_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_820_000_000;

    fn sender(n: usize) -> SenderId {
        (n as u128).to_be_bytes()
    }

    #[test]
    fn each_packet_is_taken_once_in_whatever_order() {
        let mut senders = Senders::default();
        for sequence in [5, 3, 4, 132, 9, 131] {
            assert_eq!(senders.handle(sender(1), sequence, NOW, NOW), Ok(()), "{sequence}");
            let again = senders.handle(sender(1), sequence, NOW, NOW);
            assert_eq!(again, Err(PacketError::Replayed), "{sequence}");
        }
        assert_eq!(senders.handle(sender(2), 5, NOW, NOW), Ok(()), "another sender counts by itself");
    }

    #[test]
    fn clocks_may_differ_by_the_skew_and_no_more() {
        let mut senders = Senders::default();
        for (sequence, sent_ms) in [(1, NOW - SKEW_MS_MAX), (2, NOW + SKEW_MS_MAX)] {
            assert_eq!(senders.handle(sender(1), sequence, sent_ms, NOW), Ok(()));
        }
        for sent_ms in [NOW - SKEW_MS_MAX - 1, NOW + SKEW_MS_MAX + 1] {
            assert_eq!(senders.handle(sender(1), 3, sent_ms, NOW), Err(PacketError::Stale(30)));
        }
    }

    #[test]
    fn senders_are_remembered_up_to_the_limit_and_the_quietest_is_forgotten_without_opening_a_door() {
        let mut senders = Senders::default();
        for n in 0..SENDERS_COUNT_MAX {
            senders.handle(sender(n), 1, NOW + n as u64 / 1000, NOW + n as u64 / 1000).unwrap();
        }
        senders.handle(sender(0), 2, NOW + 20, NOW + 20).unwrap();
        senders.handle(sender(SENDERS_COUNT_MAX), 1, NOW + 21, NOW + 21).unwrap();
        assert_eq!(senders.by_id.len(), SENDERS_COUNT_MAX);
        assert!(senders.by_id.contains_key(&sender(0)), "heard a moment ago");
        assert!(!senders.by_id.contains_key(&sender(1)));
        let replayed = senders.handle(sender(1), 1, NOW, NOW + 22);
        assert_eq!(replayed, Err(PacketError::Replayed), "forgotten, and refused all the same");
        assert_eq!(senders.handle(sender(1), 2, NOW + 22, NOW + 22), Ok(()), "what it says now is heard");

        let later = NOW + SKEW_MS_MAX + 1000;
        senders.handle(sender(SENDERS_COUNT_MAX + 1), 1, later, later).unwrap();
        assert_eq!(senders.by_id.len(), 1, "too old to be replayed: not kept");
    }
}
