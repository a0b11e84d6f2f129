//! The local APIC timer as arithmetic on the guest's TSC; nothing here runs by itself.
//!
//! The timer's input clock is the core crystal clock that CPUID leaf 0x15 announces, which this platform defines as
//! the TSC divided by a power of two: a count is a shift, never a division (Intel SDM vol. 3A, "APIC Timer").

use super::Lvt;

/// Timer modes, bits 18:17 of the timer's LVT entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerMode {
    /// Count down once.
    OneShot,
    /// Count down and start again.
    Periodic,
    /// Fire when the TSC reaches `IA32_TSC_DEADLINE`.
    TscDeadline,
}

impl TimerMode {
    /// The mode in an LVT value; the fourth encoding is reserved.
    #[inline]
    #[must_use]
    pub const fn from_lvt(lvt: u32) -> Option<Self> {
        match lvt >> 17 & 3 {
            0 => Some(Self::OneShot),
            1 => Some(Self::Periodic),
            2 => Some(Self::TscDeadline),
            _ => None,
        }
    }
}

/// Timer state beyond what the register page holds.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    mode: TimerMode,
    /// The guest TSC at which the timer expires next.
    deadline: Option<u64>,
    initial: u32,
    /// log2 of the divide configuration, 0 to 7.
    divide_shift: u32,
    /// log2 of TSC ticks in a crystal tick.
    crystal_shift: u32,
}

impl Timer {
    pub(super) const fn new(crystal_shift: u32) -> Self {
        // The divide configuration's reset value 0 means "divide by 2".
        Self {
            mode: TimerMode::OneShot,
            deadline: None,
            initial: 0,
            divide_shift: 1,
            crystal_shift,
        }
    }

    pub(super) const fn reset(&mut self) {
        *self = Self::new(self.crystal_shift);
    }

    const fn shift(&self) -> u32 {
        self.divide_shift + self.crystal_shift
    }

    /// The expiry to arm a host timer for.
    #[inline]
    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// `IA32_TSC_DEADLINE` as a guest reads it: zero unless armed in that mode.
    #[inline]
    pub(super) fn tsc_deadline(&self) -> u64 {
        match self.mode {
            TimerMode::TscDeadline => self.deadline.unwrap_or(0),
            TimerMode::OneShot | TimerMode::Periodic => 0,
        }
    }

    /// Writes `IA32_TSC_DEADLINE`; ignored outside TSC-deadline mode, zero disarms.
    #[inline]
    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.deadline = (value != 0).then_some(value);
        }
    }

    /// Arms the timer for a TSC deadline later than `now`; false, and nothing done, for an earlier one or outside that mode.
    #[inline(always)]
    pub(super) fn arm_tsc_deadline(&mut self, value: u64, now: u64) -> bool {
        let arms = self.mode == TimerMode::TscDeadline && value > now;
        if arms {
            self.deadline = Some(value);
        }
        arms
    }

    /// Applies a mode; going into or out of TSC-deadline mode disarms the timer.
    pub(super) fn set_mode(&mut self, mode: TimerMode) {
        if (mode == TimerMode::TscDeadline) != (self.mode == TimerMode::TscDeadline) {
            self.deadline = None;
            self.initial = 0;
        }
        self.mode = mode;
    }

    /// Writes the initial count: (re)starts a counting timer, stops it with zero. False where the mode ignores it.
    pub(super) fn set_initial(&mut self, count: u32, now: u64) -> bool {
        if self.mode == TimerMode::TscDeadline {
            return false;
        }
        self.initial = count;
        self.deadline = (count != 0).then(|| now.saturating_add(self.ticks(count)));
        true
    }

    /// The current count.
    pub(super) fn current(&self, now: u64) -> u32 {
        if self.mode == TimerMode::TscDeadline {
            return 0;
        }
        let left = self
            .deadline
            .map_or(0, |deadline| deadline.saturating_sub(now));
        u32::try_from(left >> self.shift()).unwrap_or(u32::MAX)
    }

    /// Writes the divide configuration (bits 0, 1 and 3); a running count goes on at the new rate.
    pub(super) fn set_divide(&mut self, register: u32, now: u64) {
        let left = self.current(now);
        let code = register & 3 | register >> 1 & 4;
        self.divide_shift = (code + 1) & 7;
        if self.mode != TimerMode::TscDeadline && self.deadline.is_some() {
            self.deadline = Some(now.saturating_add(self.ticks(left)));
        }
    }

    const fn ticks(&self, count: u32) -> u64 {
        (count as u64) << self.shift()
    }

    /// Whether the timer expired by `now`; a periodic timer starts its next period, others disarm.
    #[inline]
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        if now < deadline {
            return false;
        }
        self.deadline = match self.mode {
            TimerMode::Periodic => {
                // Periods that passed unseen are one interrupt: the IRR has one bit for them anyway.
                let period = self.ticks(self.initial).max(1);
                let late = (now - deadline) % period;
                Some(now.saturating_add(period - late))
            }
            TimerMode::OneShot | TimerMode::TscDeadline => None,
        };
        true
    }

    /// The guest's TSC jumped by `delta`: counting timers follow the crystal, a TSC deadline does not.
    pub(super) fn tsc_stepped(&mut self, delta: u64) {
        if self.mode != TimerMode::TscDeadline {
            self.deadline = self.deadline.map(|deadline| deadline.wrapping_add(delta));
        }
    }

    /// Whether an expiry would be seen: a masked timer needs no host timer.
    #[inline]
    pub(super) const fn is_audible(lvt: u32) -> bool {
        lvt & Lvt::MASKED.bits() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(mode: TimerMode, count: u32, divide: u32) -> Timer {
        let mut timer = Timer::new(0);
        timer.set_mode(mode);
        timer.set_divide(divide, 0);
        assert!(timer.set_initial(count, 1000));
        timer
    }

    #[test]
    fn divide_register_encodes_the_eight_ratios() {
        for (register, ratio) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ] {
            let timer = counting(TimerMode::OneShot, 10, register);
            assert_eq!(timer.deadline(), Some(1000 + 10 * ratio), "{register:#x}");
        }
    }

    #[test]
    fn one_shot_fires_once() {
        let mut timer = counting(TimerMode::OneShot, 100, 11);
        assert_eq!(timer.current(1040), 60);
        assert!(!timer.expire(1099));
        assert!(timer.expire(1100));
        assert!(!timer.expire(5000));
        assert_eq!(timer.current(5000), 0);
    }

    #[test]
    fn periodic_keeps_its_phase_when_late() {
        let mut timer = counting(TimerMode::Periodic, 100, 11);
        assert!(timer.expire(1350));
        assert_eq!(timer.deadline(), Some(1400));
        assert!(timer.expire(1400));
        assert_eq!(timer.deadline(), Some(1500));
    }

    #[test]
    fn deadline_is_ignored_outside_its_mode_and_cleared_on_expiry() {
        let mut timer = counting(TimerMode::OneShot, 0, 0);
        timer.set_tsc_deadline(77);
        assert_eq!((timer.deadline(), timer.tsc_deadline()), (None, 0));
        timer.set_mode(TimerMode::TscDeadline);
        timer.set_tsc_deadline(77);
        assert_eq!(timer.tsc_deadline(), 77);
        assert!(!timer.set_initial(5, 0));
        assert!(timer.expire(77));
        assert_eq!(timer.tsc_deadline(), 0);
    }

    #[test]
    fn leaving_deadline_mode_disarms() {
        let mut timer = Timer::new(0);
        timer.set_mode(TimerMode::TscDeadline);
        timer.set_tsc_deadline(500);
        timer.set_mode(TimerMode::OneShot);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn new_divide_keeps_the_remaining_count() {
        let mut timer = counting(TimerMode::OneShot, 100, 11);
        timer.set_divide(0, 1050);
        assert_eq!(timer.current(1050), 50);
        assert_eq!(timer.deadline(), Some(1150));
    }

    #[test]
    fn counting_timer_does_not_follow_a_tsc_step() {
        let mut timer = counting(TimerMode::OneShot, 100, 11);
        timer.tsc_stepped(1_000_000);
        assert_eq!(timer.current(1_001_000), 100);
        timer.tsc_stepped(1_000_000_u64.wrapping_neg());
        assert_eq!(timer.deadline(), Some(1100));
    }

    #[test]
    fn crystal_shift_scales_counts() {
        let mut timer = Timer::new(1);
        timer.set_divide(11, 0);
        assert!(timer.set_initial(10, 0));
        assert_eq!(timer.deadline(), Some(20));
    }
}
