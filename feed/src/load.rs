//! How weights hold under load: the rule by which a consumer that chooses between two endpoints compares them.
//!
//! Two are drawn, each independently with a chance in proportion to its share, and the one that has less to do for its share is
//! chosen. Bare counts would make all equal as soon as there is load. Their quotients alone are no better: counts are whole
//! numbers, so that one request is little to a heavy endpoint and a lot to a light one, which would get nothing until the heavy
//! one has as many requests as the light one is to get a fraction of. So counts are rounded at random, by up to a half either way,
//! which favours neither: without load the draw decides, and with load the quotients do.

/// What an endpoint has to do, and how much of the work is meant for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests or connections under way.
    pub in_flight: u32,
    /// Its share of the work beside others, in whatever unit they all have.
    pub share: u32,
}

impl Load {
    /// Whether this one has less to do for its share than another one, if both were drawn independently. `random` is any number.
    pub fn is_less(self, than: Self, random: u64) -> bool {
        self.rounded(random) * i128::from(than.share) < than.rounded(random >> 16) * i128::from(self.share)
    }

    /// Whether this one has less to do for its share even with one more request, if the other one was drawn already and this one only
    /// beside it. Of equals, being no busier is enough.
    pub fn is_clearly_less(self, than: Self) -> bool {
        let with_one_more = (u128::from(self.in_flight) + 1) * u128::from(than.share);
        let without = u128::from(than.in_flight) * u128::from(self.share);
        with_one_more < without || (with_one_more == without && self.share == than.share)
    }

    /// The count in 65,536ths, moved by less than a half either way. In fractions of the same size for all, so that a difference of
    /// one between equals always tells.
    fn rounded(self, random: u64) -> i128 {
        (i128::from(self.in_flight) << 16) + i128::from(random & 0xffff) - 0x8000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(in_flight: u32, share: u32) -> Load {
        Load { in_flight, share }
    }

    #[test]
    fn of_equals_the_less_busy_is_less_whatever_the_chance() {
        for random in [0, u64::MAX, 0xffff, 0xffff_0000] {
            assert!(load(0, 100).is_less(load(1, 100), random));
            assert!(!load(1, 100).is_less(load(0, 100), random));
            assert!(load(u32::MAX - 1, u32::MAX).is_less(load(u32::MAX, u32::MAX), random));
        }
        assert!(load(0, 100).is_clearly_less(load(1, 100)));
        assert!(!load(1, 100).is_clearly_less(load(1, 100)));
    }

    #[test]
    fn without_load_chance_decides_evenly() {
        let mut random = 1_u64;
        let less = (0..10_000).filter(|_| {
            random = random.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
            load(0, 10).is_less(load(0, 1000), random >> 32)
        });
        let count = less.count();
        assert!((4800..5200).contains(&count), "{count}");
        assert!(!load(0, 1000).is_clearly_less(load(0, 10)), "and who was drawn first stays");
    }

    #[test]
    fn with_load_the_share_decides() {
        assert!(load(50, 100).is_less(load(7, 10), 0) && !load(7, 10).is_less(load(50, 100), 0));
        assert!(load(50, 100).is_clearly_less(load(7, 10)));
        assert!(!load(0, 10).is_clearly_less(load(10, 100)), "with one more it would have as much");
        assert!(load(0, 10).is_clearly_less(load(11, 100)));
    }
}
