//! A VM's cap on one CPU: a budget of ticks per short window, with what was overdrawn carried on.
//!
//! A VM that runs a little past its budget pays in the next window, so that the average is exact; what it leaves unused
//! is lost, so that a VM cannot save up for a burst.

use super::Lengths;

/// At most so many windows' worth of overdraft is remembered. Only a clock that jumped can owe more.
const DEBT_WINDOWS: u64 = 50;

/// The budget of one VM on one CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct CapWindow {
    length: u64,
    budget: u64,
    /// When the present window began, in host TSC.
    start: u64,
    /// Ticks used of this window's budget, including what earlier windows overdrew.
    used: u64,
}

impl CapWindow {
    pub(super) fn new(percent: u32, lengths: &Lengths, now: u64) -> Self {
        let length = lengths.window;
        // Both factors are small: a window is 20 ms, a percentage at most 100.
        let budget = u128::from(length) * u128::from(percent) / 100;
        Self {
            length,
            budget: u64::try_from(budget).unwrap_or(u64::MAX).max(1),
            start: now,
            used: 0,
        }
    }

    /// The same use under another percentage.
    pub(super) fn changed(self, percent: u32, lengths: &Lengths) -> Self {
        Self {
            start: self.start,
            used: self.used,
            ..Self::new(percent, lengths, self.start)
        }
    }

    pub(super) fn charge(&mut self, ticks: u64) {
        let most = self.budget.saturating_mul(DEBT_WINDOWS);
        self.used = self.used.saturating_add(ticks).min(most);
    }

    /// Opens the window that `now` lies in.
    pub(super) fn advance(&mut self, now: u64) {
        let Some(elapsed) = now.checked_sub(self.start) else {
            // The clock went back: this window starts again, and nothing waits for a time that may never come.
            self.start = now;
            return;
        };
        let windows = elapsed.checked_div(self.length).unwrap_or(0);
        if windows > 0 {
            self.start = self
                .start
                .saturating_add(windows.saturating_mul(self.length));
            self.used = self
                .used
                .saturating_sub(windows.saturating_mul(self.budget));
        }
    }

    /// Ticks that may still be used in this window.
    pub(super) const fn left(&self) -> u64 {
        self.budget.saturating_sub(self.used)
    }

    /// When there will be budget again, counted from the present window.
    pub(super) fn reopens(&self) -> u64 {
        let windows = self.used.checked_div(self.budget).unwrap_or(0).max(1);
        self.start
            .saturating_add(windows.saturating_mul(self.length))
    }
}
