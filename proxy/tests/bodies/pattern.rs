//! Bytes that say where they belong: each is a function of whose body it is and of its position.

use std::{ops::Range, sync::LazyLock};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Blocks are slices of one table, so that making and comparing them are copies and comparisons of memory.
const BLOCK_BYTES: usize = 1024;

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0; 64 * 1024];
    StdRng::seed_from_u64(0).fill_bytes(&mut table);
    table
});

/// Whose body it is: no two have the same bytes at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) u64);

impl Pattern {
    /// The bytes at these positions.
    pub(crate) fn bytes(self, positions: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(positions.len());
        while bytes.len() < positions.len() {
            let at = positions.start + bytes.len();
            let block = self.block(at);
            bytes.extend_from_slice(&block[..block.len().min(positions.end - at)]);
        }
        bytes
    }

    /// The position of the first byte that is wrong, if `bytes` begin at `position`.
    pub(crate) fn first_wrong(self, position: usize, bytes: &[u8]) -> Option<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let block = self.block(position + done);
            let seen = &bytes[done..bytes.len().min(done + block.len())];
            if *seen != block[..seen.len()] {
                let right = seen.iter().zip(block).take_while(|(seen, right)| seen == right).count();
                return Some(position + done + right);
            }
            done += seen.len();
        }
        None
    }

    /// From this position to the end of its block.
    fn block(self, position: usize) -> &'static [u8] {
        let number = (position / BLOCK_BYTES) as u64;
        let place =
            mix(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number) % (TABLE.len() - BLOCK_BYTES) as u64;
        let place = usize::try_from(place).unwrap_or_default();
        &TABLE[place + position % BLOCK_BYTES..place + BLOCK_BYTES]
    }
}

/// The last step of splitmix64: neighbours end up far apart.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[test]
fn a_wrong_byte_is_named_by_its_position() {
    let pattern = Pattern(7);
    let all = pattern.bytes(0..5000);
    assert_eq!(pattern.bytes(1000..3000), all[1000..3000]);
    assert_eq!(pattern.first_wrong(1000, &all[1000..]), None);
    for at in [0, 1023, 1024, 4999] {
        let mut wrong = all.clone();
        wrong[at] ^= 1;
        assert_eq!(pattern.first_wrong(0, &wrong), Some(at));
    }
    assert!(pattern.first_wrong(0, &all[1..]).is_some(), "one byte is missing");
    assert!(Pattern(8).first_wrong(0, &all).is_some(), "another's body");
}
