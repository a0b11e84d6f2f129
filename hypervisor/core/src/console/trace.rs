//! How many of a VM's exits are logged while `trace` is on: few enough that the log stays usable and the VMs run on.

use core::time::Duration;

/// The most exits that are logged in a [`PERIOD`].
const PER_PERIOD: u32 = 50;
/// What the limit is counted over.
const PERIOD: Duration = Duration::from_secs(1);

/// Whether a VM's exits are logged, and which. Off at first.
#[derive(Clone, Debug, Default)]
pub struct ExitTrace {
    on: bool,
    /// When the period began.
    began: Duration,
    logged: u32,
    left_out: u64,
}

impl ExitTrace {
    /// Logs exits from here on, or no more.
    pub fn set(&mut self, on: bool) {
        *self = Self {
            on,
            ..Self::default()
        };
    }

    /// Whether exits are logged.
    #[inline]
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// An exit happened, `now` after the hypervisor began: whether to log it, and how many were left out since the last one
    /// that was logged.
    #[must_use]
    pub fn admit(&mut self, now: Duration) -> Option<u64> {
        if !self.on {
            return None;
        }
        if now.saturating_sub(self.began) >= PERIOD {
            self.began = now;
            self.logged = 0;
        }
        if self.logged == PER_PERIOD {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.logged += 1;
        Some(core::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_logged_until_it_is_asked_for() {
        let mut trace = ExitTrace::default();
        assert_eq!(trace.admit(Duration::ZERO), None);
        trace.set(true);
        assert!(trace.is_on());
        assert_eq!(trace.admit(Duration::ZERO), Some(0));
        trace.set(false);
        assert_eq!(trace.admit(Duration::ZERO), None);
    }

    #[test]
    fn a_storm_of_exits_is_cut_and_what_was_left_out_is_told() {
        let mut trace = ExitTrace::default();
        trace.set(true);
        let start = Duration::from_secs(7);
        let logged =
            |trace: &mut ExitTrace, now| (0..1000).filter_map(|_| trace.admit(now)).count();
        assert_eq!(logged(&mut trace, start), 50);
        assert_eq!(logged(&mut trace, start + Duration::from_millis(999)), 0);
        assert_eq!(trace.admit(start + PERIOD), Some(1950));
        assert_eq!(trace.admit(start + PERIOD), Some(0));
    }
}
