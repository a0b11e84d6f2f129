//! How long a VM that crashes again and again stays down each time.
//!
//! The first crash costs nothing. A VM that then crashes again soon after its start waits a second, and twice as long with
//! each further time, up to a minute. Having run for a minute clears the record.

use super::Millis;

/// A crash after less than this much running is one more in the row.
const SOON: Millis = Millis::from_secs(60);
/// The first wait.
const SHORTEST: Millis = Millis::from_secs(1);
/// No wait is longer.
const LONGEST: Millis = Millis::from_secs(60);

/// Crashes that followed each other soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Crashes(u32);

impl Crashes {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(0)
    }

    /// How many there were.
    pub(super) const fn in_a_row(self) -> u32 {
        self.0
    }

    /// One more, after the VM ran for so long; how long it has to wait.
    pub(super) fn another(&mut self, ran: Millis) -> Millis {
        self.0 = if ran < SOON {
            self.0.saturating_add(1)
        } else {
            1
        };
        let Some(doublings) = self.0.checked_sub(2) else {
            return Millis(0);
        };
        let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
        Millis(SHORTEST.0.saturating_mul(factor)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_second_to_a_minute() {
        let mut crashes = Crashes::new();
        let waits: Vec<u64> = (0..10).map(|_| crashes.another(Millis(10)).0).collect();
        assert_eq!(
            waits,
            [
                0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000
            ]
        );
    }

    #[test]
    fn a_minute_of_running_clears_the_record() {
        let mut crashes = Crashes::new();
        for _ in 0..5 {
            crashes.another(Millis(59_999));
        }
        assert_eq!(crashes.another(Millis(60_000)), Millis(0));
        assert_eq!(crashes.another(Millis(0)), Millis(1000));
    }

    #[test]
    fn no_number_of_crashes_overflows() {
        let mut crashes = Crashes(u32::MAX - 1);
        for _ in 0..3 {
            assert_eq!(crashes.another(Millis(0)), LONGEST);
        }
        let mut crashes = Crashes(64);
        assert_eq!(crashes.another(Millis(0)), LONGEST);
    }
}
