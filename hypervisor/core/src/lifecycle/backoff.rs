//! How long a VM that crashes again and again stays down each time.
//!
//! The first crash costs nothing. A VM that then crashes again soon after its start waits a second, and twice as long with
//! each further time, up to a minute. Having run for a minute clears the record.

use core::time::Duration;

/// A crash after less than this much running is one more in the row.
const SOON: Duration = Duration::from_secs(60);
/// The first wait.
const SHORTEST: Duration = Duration::from_secs(1);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(60);

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
    pub(super) fn another(&mut self, ran: Duration) -> Duration {
        self.0 = if ran < SOON {
            self.0.saturating_add(1)
        } else {
            1
        };
        let Some(doublings) = self.0.checked_sub(2) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        SHORTEST.saturating_mul(factor).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_second_to_a_minute() {
        let mut crashes = Crashes::new();
        let waits: Vec<u128> = (0..10)
            .map(|_| crashes.another(Duration::ZERO).as_millis())
            .collect();
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
            crashes.another(SOON - Duration::from_nanos(1));
        }
        assert_eq!(crashes.another(SOON), Duration::ZERO);
        assert_eq!(crashes.another(Duration::ZERO), SHORTEST);
    }

    #[test]
    fn no_number_of_crashes_overflows() {
        let mut crashes = Crashes(u32::MAX - 1);
        for _ in 0..3 {
            assert_eq!(crashes.another(Duration::ZERO), LONGEST);
        }
        let mut crashes = Crashes(64);
        assert_eq!(crashes.another(Duration::ZERO), LONGEST);
    }
}
