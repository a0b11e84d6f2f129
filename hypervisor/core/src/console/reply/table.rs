//! Columns without memory: a value's width is found by writing it to nowhere.

use core::fmt::{self, Display, Write};

/// Counts the characters it is given.
#[derive(Default)]
struct Width(usize);

impl Write for Width {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.chars().count();
        Ok(())
    }
}

/// How many characters `value` displays as.
pub(super) fn width(value: &dyn Display) -> usize {
    let mut width = Width::default();
    // Nothing a width is asked of can fail to display; if it did, the column would be narrow.
    let _ = write!(width, "{value}");
    width.0
}

/// `value`, with spaces before it up to a width.
pub(super) struct Right<'a>(pub(super) &'a dyn Display, pub(super) usize);

impl Display for Right<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.1.saturating_sub(width(self.0));
        write!(f, "{:missing$}{}", "", self.0)
    }
}

/// One number's part of another, in percent with one decimal; of nothing it is 0.
#[derive(Clone, Copy)]
pub(super) struct Percent {
    pub(super) part: u64,
    pub(super) of: u64,
}

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (u128::from(self.part) * 1000)
            .checked_div(u128::from(self.of))
            .unwrap_or(0);
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_by_what_they_display_as() {
        assert_eq!(Right(&"ab", 5).to_string(), "   ab");
        assert_eq!(Right(&"abc", 2).to_string(), "abc");
        assert_eq!(width(&format_args!("{}é", 12)), 3);
    }

    #[test]
    fn percentages_have_no_overflow_and_no_zero_to_divide_by() {
        let percent = |part, of| Percent { part, of }.to_string();
        assert_eq!(percent(1, 8), "12.5");
        assert_eq!(percent(5, 0), "0.0");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0");
        assert_eq!(percent(3, 2), "150.0");
    }
}
