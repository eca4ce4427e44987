//! Chance.

/// A small, fast generator (xorshift64*): choices need to be even, not secret.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// 64 bits, the upper ones the better.
    #[inline]
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below the bound, 0 if that is 0.
    #[inline]
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        scale(self.roll(), bound)
    }
}

/// A number below the bound, as far up as `fraction` is of 2^64.
#[inline]
pub(super) fn scale(fraction: u64, bound: u64) -> u64 {
    ((u128::from(fraction) * u128::from(bound)) >> 64) as u64
}
