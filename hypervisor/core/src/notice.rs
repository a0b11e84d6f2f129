//! Telling of things that may happen ten thousand times a second, at most once a period.

/// What was told of a counter that only grows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Notices {
    told: u64,
    next: u64,
}

impl Notices {
    /// How much of `count` is to be told at `now`, if anything; not again for `period` then.
    pub const fn due(&mut self, count: u64, now: u64, period: u64) -> Option<u64> {
        if count == self.told || now < self.next {
            return None;
        }
        let new = count.wrapping_sub(self.told);
        self.told = count;
        self.next = now.saturating_add(period);
        Some(new)
    }

    /// When there is something to tell of `count` next, if nothing more is counted.
    #[must_use]
    pub const fn next(&self, count: u64) -> Option<u64> {
        if count == self.told {
            None
        } else {
            Some(self.next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_a_storm_once_a_period() {
        let mut notices = Notices::default();
        assert_eq!(notices.due(0, 5, 100), None);
        assert_eq!(notices.due(1, 10, 100), Some(1));
        assert_eq!(notices.due(500, 50, 100), None);
        assert_eq!(notices.next(500), Some(110));
        assert_eq!(notices.due(700, 110, 100), Some(699));
        assert_eq!(notices.next(700), None);
    }

    #[test]
    fn nothing_is_told_twice() {
        let mut notices = Notices::default();
        assert_eq!(notices.due(3, 0, 10), Some(3));
        assert_eq!(notices.due(3, 1_000, 10), None);
    }
}
