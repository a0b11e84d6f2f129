//! A token bucket in integers: exact at any TSC frequency and any rate.
//!
//! One tick of the TSC earns as many credits as the rate has bits per second, and one bit costs as many credits as
//! the TSC has ticks per second. Nothing is ever divided, so no remainder is lost however often the bucket is asked.

use core::num::NonZeroU64;

use crate::manifest::BitRate;

/// The bucket holds at least this much, so that full frames pass at any rate: four of the longest.
const MIN_BURST_BITS: u64 = 4 * 8 * super::MAX_FRAME as u64;
/// Above that, it holds what this part of a second earns: one sixteenth.
const BURST_SHIFT: u32 = 4;

/// What a sender may send now, and how fast that grows back.
#[derive(Clone, Debug)]
pub(super) struct TokenBucket {
    /// Credits a tick of the TSC earns.
    bits_per_second: u64,
    /// Credits a bit costs.
    tsc_hz: u64,
    /// Credits held, at most `burst`.
    credits: u128,
    burst: u128,
    /// The TSC up to which credits were earned.
    earned_until: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(rate: BitRate, tsc_hz: NonZeroU64) -> Self {
        let (rate, hz) = (rate.bits_per_second(), tsc_hz.get());
        let burst_bits = (rate >> BURST_SHIFT).max(MIN_BURST_BITS);
        let burst = u128::from(burst_bits) * u128::from(hz);
        Self {
            bits_per_second: rate,
            tsc_hz: hz,
            credits: burst,
            burst,
            earned_until: 0,
        }
    }

    /// Whether `bytes` may pass at `now_tsc`; if so, they are paid for. A TSC that went back earns nothing.
    pub(super) fn take(&mut self, bytes: usize, now_tsc: u64) -> bool {
        let ticks = now_tsc.saturating_sub(self.earned_until);
        self.earned_until = self.earned_until.max(now_tsc);
        let earned = u128::from(ticks) * u128::from(self.bits_per_second);
        self.credits = self.credits.saturating_add(earned).min(self.burst);
        let cost = (bytes as u128)
            .saturating_mul(8)
            .saturating_mul(u128::from(self.tsc_hz));
        match self.credits.checked_sub(cost) {
            Some(left) => {
                self.credits = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(rate: u64, hz: u64) -> TokenBucket {
        TokenBucket::new(BitRate(rate), NonZeroU64::new(hz).unwrap())
    }

    /// Bits that pass in `seconds` for a sender that offers frames of `bytes` every `step` ticks.
    fn passed(rate: u64, hz: u64, bytes: usize, step: u64, seconds: u64) -> u64 {
        let start = 0x1234_5678_9abc;
        let mut bucket = bucket(rate, hz);
        while bucket.take(bytes, start) {}
        let mut bits = 0;
        let mut now = start;
        while now < start + hz * seconds {
            now += step;
            while bucket.take(bytes, now) {
                bits += 8 * bytes as u64;
            }
        }
        bits
    }

    #[test]
    fn long_run_rate_is_within_one_percent() {
        for (rate, hz, seconds) in [
            (1_000_000, 3_000_000_000, 10),
            (100_000_000, 2_399_999_999, 2),
            (10_000_000_000, 1_000_003, 1),
            (64_000, 25_000_000, 100),
            (3, 7, 2_000_000),
        ] {
            for bytes in [60, 777, 1514] {
                let step = (hz / 997).max(1);
                let bits = passed(rate, hz, bytes, step, seconds);
                let expected = rate * seconds;
                let error = bits.abs_diff(expected);
                assert!(
                    error * 100 <= expected,
                    "rate {rate}, TSC {hz} Hz, frames of {bytes}: {bits} for {expected}"
                );
            }
        }
    }

    #[test]
    fn asking_often_earns_no_more() {
        let every_tick = passed(1_000_000, 1_000_000, 100, 1, 3);
        let seldom = passed(1_000_000, 1_000_000, 100, 5000, 3);
        assert!(every_tick.abs_diff(seldom) <= 8000, "{every_tick} {seldom}");
    }

    #[test]
    fn idle_time_earns_one_burst_only() {
        let mut bucket = bucket(8_000_000, 1_000_000_000);
        assert!(bucket.take(1514, u64::MAX));
        let mut frames = 1;
        while bucket.take(1514, u64::MAX) {
            frames += 1;
        }
        assert_eq!(frames, 8_000_000 / 16 / 8 / 1514);
    }

    #[test]
    fn clock_that_goes_back_earns_nothing() {
        let mut bucket = bucket(1_000_000, 1_000_000);
        while bucket.take(1000, 5_000_000) {}
        for _ in 0..1000 {
            assert!(!bucket.take(1000, 1));
            assert!(!bucket.take(1000, 5_000_000));
        }
        assert!(bucket.take(1000, 5_008_000));
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let mut bucket = bucket(u64::MAX, u64::MAX);
        assert!(bucket.take(1514, 0));
        assert!(bucket.take(1514, u64::MAX));
        assert!(!bucket.take(usize::MAX, u64::MAX));
    }
}
