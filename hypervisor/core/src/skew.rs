//! How far apart the time-stamp counters of two CPUs are, from messages that go to and fro between them.
//!
//! One CPU notes its counter, asks, gets the other's counter and notes its own again. Whatever a message takes, the other's
//! counter was read in between, which bounds the difference from both sides; the quickest of many rounds bounds it best.

use core::fmt;

/// What is known of the difference between another CPU's counter and the own one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skew {
    /// The other is ahead by at least this.
    least: i64,
    /// The other is ahead by at most this.
    most: i64,
}

impl Default for Skew {
    fn default() -> Self {
        Self {
            least: i64::MIN,
            most: i64::MAX,
        }
    }
}

impl Skew {
    /// One round: the own counter before, the other's, the own one afterwards.
    #[must_use]
    pub const fn observe(self, before: u64, other: u64, after: u64) -> Self {
        // Counters are far from wrapping; a difference of two of them is signed.
        let least = other.wrapping_sub(after) as i64;
        let most = other.wrapping_sub(before) as i64;
        Self {
            least: if least > self.least {
                least
            } else {
                self.least
            },
            most: if most < self.most { most } else { self.most },
        }
    }

    /// Whether the counters cannot be equal.
    #[must_use]
    pub const fn is_certain(self) -> bool {
        self.least > 0 || self.most < 0
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { least, most } = self;
        if *least > 0 {
            write!(f, "ahead by {least} to {most} ticks")
        } else if *most < 0 {
            let (least, most) = (most.unsigned_abs(), least.unsigned_abs());
            write!(f, "behind by {least} to {most} ticks")
        } else {
            write!(f, "equal, as far as {} ticks show", most.abs_diff(*least))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_counters_are_never_called_different() {
        let skew = Skew::default()
            .observe(100, 130, 150)
            .observe(200, 203, 210);
        assert!(!skew.is_certain());
        assert_eq!(skew.to_string(), "equal, as far as 10 ticks show");
    }

    #[test]
    fn the_quickest_round_bounds_best() {
        let ahead = Skew::default()
            .observe(1_000, 6_500, 2_000)
            .observe(3_000, 8_040, 3_050);
        assert!(ahead.is_certain());
        assert_eq!(ahead.to_string(), "ahead by 4990 to 5040 ticks");
        let behind = Skew::default().observe(9_000, 4_010, 9_020);
        assert_eq!(behind.to_string(), "behind by 4990 to 5010 ticks");
    }

    proptest! {
        #[test]
        fn the_true_difference_is_always_within_the_bounds(
            difference in -1_000_000_i64..1_000_000,
            rounds in prop::collection::vec((0_u64..1_000, 0_u64..1_000), 1..20),
        ) {
            let mut skew = Skew::default();
            let mut now = 1_u64 << 40;
            for (there, back) in rounds {
                let other = (now + there).wrapping_add_signed(difference);
                skew = skew.observe(now, other, now + there + back);
                now += 5_000;
            }
            prop_assert!(skew.least <= difference && difference <= skew.most);
        }
    }
}
