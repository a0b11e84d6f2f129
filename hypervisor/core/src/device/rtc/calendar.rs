//! The Gregorian calendar as seconds since 1970 and back, for the real-time clock.

const DAY: i64 = 86_400;
/// Days in 400 years, after which the calendar repeats.
const DAYS_OF_CYCLE: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// A date and a time of day, in the ranges a clock shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DateTime {
    /// 0 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl DateTime {
    /// The date and time `seconds` after the start of 1970. A clock has four digits for its year.
    pub(super) const fn from_unix(seconds: i64) -> Self {
        let time = seconds.rem_euclid(DAY);
        // Years that begin in March have their leap day at the end, where it moves no month.
        let days = seconds.div_euclid(DAY) + EPOCH;
        let cycle = days.div_euclid(DAYS_OF_CYCLE);
        let day_of_cycle = days.rem_euclid(DAYS_OF_CYCLE);
        let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524
            - day_of_cycle / 146_096)
            / 365;
        let day_of_year =
            day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        let year = cycle * 400 + year_of_cycle + (month <= 2) as i64;
        Self {
            year: year.rem_euclid(10_000) as u16,
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            hour: (time / 3_600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// Seconds since the start of 1970; none where there is no such date or time.
    #[must_use]
    pub const fn to_unix(self) -> Option<i64> {
        if self.month < 1 || self.month > 12 || self.year > 9_999 {
            return None;
        }
        if self.hour > 23 || self.minute > 59 || self.second > 59 {
            return None;
        }
        if self.day < 1 || self.day > self.days_of_month() {
            return None;
        }
        let year = self.year as i64 - (self.month <= 2) as i64;
        let year_of_cycle = year.rem_euclid(400);
        let month_from_march = (self.month as i64 + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day as i64 - 1;
        let day_of_cycle =
            365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
        let days = year.div_euclid(400) * DAYS_OF_CYCLE + day_of_cycle - EPOCH;
        Some(days * DAY + self.hour as i64 * 3_600 + self.minute as i64 * 60 + self.second as i64)
    }

    const fn days_of_month(self) -> u8 {
        let leap = self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

/// The day of the week `seconds` after the start of 1970: 1 is Sunday.
pub(super) const fn weekday(seconds: i64) -> u8 {
    // 1970 began on a Thursday.
    ((seconds.div_euclid(DAY) + 4).rem_euclid(7) + 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u16, month: u8, day: u8) -> DateTime {
        DateTime {
            year,
            month,
            day,
            hour: 0,
            minute: 0,
            second: 0,
        }
    }

    #[test]
    fn known_moments_convert_both_ways() {
        let full = |year, month, day, hour, minute, second| DateTime {
            hour,
            minute,
            second,
            ..date(year, month, day)
        };
        for (seconds, shown) in [
            (0, full(1970, 1, 1, 0, 0, 0)),
            (-1, full(1969, 12, 31, 23, 59, 59)),
            (951_782_400, full(2000, 2, 29, 0, 0, 0)),
            (1_234_567_890, full(2009, 2, 13, 23, 31, 30)),
            (4_107_542_399, full(2100, 2, 28, 23, 59, 59)),
            (4_107_542_400, full(2100, 3, 1, 0, 0, 0)),
        ] {
            assert_eq!(DateTime::from_unix(seconds), shown);
            assert_eq!(shown.to_unix(), Some(seconds));
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_follows_the_one_before() {
        let mut expected = date(0, 1, 1);
        let first = expected.to_unix().unwrap();
        for number in 0..3_652_425 {
            let seconds = first + number * DAY;
            assert_eq!(DateTime::from_unix(seconds), expected);
            assert_eq!(expected.to_unix(), Some(seconds));
            expected.day += 1;
            if expected.to_unix().is_none() {
                (expected.month, expected.day) = (expected.month + 1, 1);
            }
            if expected.month == 13 {
                (expected.year, expected.month) = (expected.year + 1, 1);
            }
        }
        assert_eq!(expected, date(10_000, 1, 1));
    }

    #[test]
    fn weekdays_repeat_from_a_known_one() {
        // 2000-01-01 was a Saturday, 1969-12-28 a Sunday.
        assert_eq!(weekday(946_684_800), 7);
        assert_eq!(weekday(946_684_800 + DAY), 1);
        assert_eq!(weekday(-4 * DAY), 1);
    }

    #[test]
    fn dates_and_times_that_do_not_exist_have_no_seconds() {
        for wrong in [
            date(2023, 2, 29),
            date(1900, 2, 29),
            date(2024, 4, 31),
            date(2024, 0, 1),
            date(2024, 13, 1),
            date(2024, 1, 0),
            date(10_000, 1, 1),
            DateTime {
                hour: 24,
                ..date(2024, 1, 1)
            },
            DateTime {
                minute: 60,
                ..date(2024, 1, 1)
            },
            DateTime {
                second: 60,
                ..date(2024, 1, 1)
            },
        ] {
            assert_eq!(wrong.to_unix(), None, "{wrong:?}");
        }
    }
}
