//! How long a VM that ends again and again stays down each time.
//!
//! Each start has the boot CPU clear the VM's memory and load its guest, so nobody gets many in a row for nothing, whether it
//! crashes or ends itself. The first ends of a [`Row`] cost nothing. Who then ends again soon after its start waits a second, and
//! twice as long with each further time, up to a minute. A run that was long enough clears the record.

use core::time::Duration;

/// The first wait.
const SHORTEST: Duration = Duration::from_secs(1);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Ends that followed each other soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    count: u32,
    /// How many of them cost nothing.
    free: u32,
    /// An end after less than this much running is one more in the row.
    soon: Duration,
}

impl Row {
    /// No crash yet. A guest that crashed twice within a minute will most likely do so a third time.
    pub(super) const CRASHES: Self = Self {
        count: 0,
        free: 1,
        soon: Duration::from_secs(60),
    };

    /// No reboot yet, and no power-off that is answered with a start. An installer or a firmware update reboots a few times
    /// in a row, and shortly after its start.
    pub(super) const REBOOTS: Self = Self {
        count: 0,
        free: 8,
        soon: Duration::from_secs(10),
    };

    /// How many there were.
    pub(super) const fn len(self) -> u32 {
        self.count
    }

    /// One more, after the VM ran for so long; how long it has to wait.
    pub(super) fn another(&mut self, ran: Duration) -> Duration {
        self.count = if ran < self.soon {
            self.count.saturating_add(1)
        } else {
            1
        };
        let Some(above) = self.count.checked_sub(self.free).filter(|above| *above > 0) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(above - 1).unwrap_or(u32::MAX);
        SHORTEST.saturating_mul(factor).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(mut row: Row, ends: usize) -> Vec<u128> {
        let waits = (0..ends).map(|_| row.another(Duration::ZERO).as_millis());
        waits.collect()
    }

    #[test]
    fn waits_double_from_a_second_to_a_minute() {
        assert_eq!(
            waits(Row::CRASHES, 10),
            [
                0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000
            ]
        );
    }

    #[test]
    fn a_few_reboots_in_a_row_cost_nothing_and_more_wait_as_crashes_do() {
        assert_eq!(
            waits(Row::REBOOTS, 12),
            [0, 0, 0, 0, 0, 0, 0, 0, 1000, 2000, 4000, 8000]
        );
    }

    #[test]
    fn a_long_run_clears_the_record() {
        for row in [Row::CRASHES, Row::REBOOTS] {
            let mut row = row;
            for _ in 0..row.free {
                assert_eq!(row.another(Duration::ZERO), Duration::ZERO);
            }
            assert_eq!(row.another(row.soon - Duration::from_nanos(1)), SHORTEST);
            for _ in 0..row.free {
                assert_eq!(row.another(row.soon), Duration::ZERO);
                assert_eq!(row.len(), 1);
            }
        }
    }

    #[test]
    fn no_number_of_ends_overflows() {
        for row in [Row::CRASHES, Row::REBOOTS] {
            for count in [40, u32::MAX - 1] {
                let mut row = Row { count, ..row };
                for _ in 0..3 {
                    assert_eq!(row.another(Duration::ZERO), LONGEST);
                }
            }
        }
    }
}
