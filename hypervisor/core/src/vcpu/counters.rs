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
    root_ticks: u64,
    idle_ticks: u64,
    /// Host TSC of the first entry, 0 before it.
    started: u64,
    /// Host TSC up to which every tick is accounted for, or is the guest's.
    seen: u64,
    /// Host TSC at which the vCPU was entered halted, 0 while it is not.
    halted_since: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            exits: [0; REASON_COUNT],
            faults: 0,
            root_ticks: 0,
            idle_ticks: 0,
            started: 0,
            seen: 0,
            halted_since: 0,
        }
    }
}

impl Counters {
    /// Notes an exit for the raw `reason`.
    #[inline(always)]
    pub fn count_exit(&mut self, reason: u32) {
        if let Some(count) = self.exits.get_mut((reason & 0xffff) as usize) {
            *count += 1;
        }
    }

    /// Notes that the hypervisor worked from host TSC `from` to `to`.
    #[inline(always)]
    pub fn count_root(&mut self, from: u64, to: u64) {
        self.root_ticks = self.root_ticks.wrapping_add(to.wrapping_sub(from));
    }

    /// Notes at host TSC `now` that the guest was left; ends an idle time.
    #[inline]
    pub fn leave(&mut self, now: u64) {
        if self.halted_since != 0 {
            self.idle_ticks = self
                .idle_ticks
                .wrapping_add(now.wrapping_sub(self.halted_since));
            self.halted_since = 0;
        }
        self.seen = now;
    }

    /// Notes at host TSC `now` that the guest is about to be entered, halted or not.
    #[inline]
    pub fn enter(&mut self, now: u64, halted: bool) {
        if self.started == 0 {
            self.started = now;
        } else {
            self.count_root(self.seen, now);
        }
        self.seen = now;
        self.halted_since = if halted { now } else { 0 };
    }

    /// Exits by reason, those that happened.
    pub fn exits(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REASON_NAMES
            .iter()
            .zip(self.exits)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (*name, count))
    }

    /// All exits.
    #[must_use]
    pub fn total_exits(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// Ticks in the guest while it had something to do, up to the last time it was left.
    #[must_use]
    pub fn guest_ticks(&self) -> u64 {
        let all = self.seen.wrapping_sub(self.started);
        all.saturating_sub(self.root_ticks())
            .saturating_sub(self.idle_ticks)
    }

    /// Ticks in the hypervisor on the vCPU's behalf, the unseen ones included.
    #[must_use]
    pub fn root_ticks(&self) -> u64 {
        self.root_ticks
            .saturating_add(self.total_exits().saturating_mul(UNSEEN_TICKS))
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
        counters.enter(1_000, false);
        counters.count_exit(10);
        counters.count_root(3_000, 3_200);
        counters.leave(5_000);
        counters.enter(5_100, true);
        counters.count_exit(52);
        counters.leave(9_100);
        counters.enter(9_300, false);
        counters.leave(9_400);
        assert_eq!(counters.idle_ticks(), 4_000);
        assert_eq!(counters.root_ticks(), 200 + 100 + 200 + 2 * UNSEEN_TICKS);
        assert_eq!(
            counters.guest_ticks(),
            8_400 - 4_000 - counters.root_ticks()
        );
        assert_eq!(
            counters.exits().collect::<Vec<_>>(),
            [("cpuid", 1), ("preemption-timer", 1)]
        );
    }

    #[test]
    fn preparing_an_entry_twice_counts_no_tick_twice() {
        let mut counters = Counters::default();
        counters.enter(100, false);
        counters.leave(200);
        counters.enter(250, false);
        counters.enter(300, false);
        assert_eq!(counters.root_ticks(), 100);
    }

    #[test]
    fn an_absurd_reason_is_not_counted_out_of_bounds() {
        let mut counters = Counters::default();
        counters.count_exit(0x8000_ffff);
        assert_eq!(counters.total_exits(), 0);
    }
}
