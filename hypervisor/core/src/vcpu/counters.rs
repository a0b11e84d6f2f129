//! What a vCPU did: exits by reason, and the ticks it spent in the guest, in the hypervisor and idle.

use crate::vmx::exit::{REASON_COUNT, REASON_NAMES};

/// Instructions around each exit that the time stamps do not see: saving and loading the general registers,
/// the call, the entry instruction.
const UNSEEN_TICKS: u64 = 44;

/// One vCPU's counters; all only grow.
#[derive(Clone, Debug)]
pub struct Counters {
    exits: [u64; REASON_COUNT],
    /// Exceptions injected because of something the guest may not do.
    pub faults: u64,
    /// Whether the vCPU was entered halted: the ticks until the next exit are idle ones.
    pub idle: bool,
    guest_ticks: u64,
    root_ticks: u64,
    idle_ticks: u64,
    /// Host TSC of the last exit.
    exited: u64,
    /// Host TSC of the last entry.
    entered: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            exits: [0; REASON_COUNT],
            faults: 0,
            idle: false,
            guest_ticks: 0,
            root_ticks: 0,
            idle_ticks: 0,
            exited: 0,
            entered: 0,
        }
    }
}

impl Counters {
    /// Notes an exit for the raw `reason` at host TSC `now`.
    #[inline(always)]
    pub fn count_exit(&mut self, reason: u32, now: u64) {
        if let Some(count) = self.exits.get_mut((reason & 0xffff) as usize) {
            *count += 1;
        }
        if self.entered != 0 {
            let ticks = now.wrapping_sub(self.entered);
            if self.idle {
                self.idle_ticks = self.idle_ticks.wrapping_add(ticks);
            } else {
                self.guest_ticks = self.guest_ticks.wrapping_add(ticks);
            }
        }
        self.exited = now;
    }

    /// Notes an entry at host TSC `now`.
    #[inline(always)]
    pub fn count_entry(&mut self, now: u64) {
        if self.exited != 0 {
            self.root_ticks = self.root_ticks.wrapping_add(now.wrapping_sub(self.exited));
        }
        // A second preparation of the same entry counts only what it added.
        self.exited = now;
        self.entered = now;
    }

    /// Exits by reason, those that happened.
    pub fn exits(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REASON_NAMES.iter().zip(self.exits).filter(|(_, count)| *count > 0).map(|(name, count)| (*name, count))
    }

    /// All exits.
    #[must_use]
    pub fn total_exits(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// Ticks in the guest while it had something to do.
    #[must_use]
    pub fn guest_ticks(&self) -> u64 {
        self.guest_ticks.saturating_sub(self.total_exits().saturating_mul(UNSEEN_TICKS))
    }

    /// Ticks in the hypervisor on the vCPU's behalf, the unseen ones included.
    #[must_use]
    pub fn root_ticks(&self) -> u64 {
        self.root_ticks.saturating_add(self.total_exits().saturating_mul(UNSEEN_TICKS))
    }

    /// Ticks halted.
    #[must_use]
    pub const fn idle_ticks(&self) -> u64 {
        self.idle_ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_where_they_were_spent() {
        let mut counters = Counters::default();
        counters.count_entry(1_000);
        counters.count_exit(10, 3_000);
        counters.count_entry(3_200);
        counters.idle = true;
        counters.count_exit(52, 9_200);
        counters.idle = false;
        counters.count_entry(9_300);
        assert_eq!(counters.idle_ticks(), 6_000);
        assert_eq!(counters.root_ticks(), 200 + 100 + 2 * UNSEEN_TICKS);
        assert_eq!(counters.guest_ticks(), 2_000 - 2 * UNSEEN_TICKS);
        assert_eq!(counters.exits().collect::<Vec<_>>(), [("cpuid", 1), ("preemption-timer", 1)]);
    }

    #[test]
    fn an_absurd_reason_is_not_counted_out_of_bounds() {
        let mut counters = Counters::default();
        counters.count_exit(0x8000_ffff, 1);
        assert_eq!(counters.total_exits(), 0);
    }
}
