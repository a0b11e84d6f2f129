//! What a vCPU did: exits by reason, and the ticks it spent in the guest, in the hypervisor, idle, and waiting for its CPU.

use crate::vmx::exit::{REASON_COUNT, REASON_NAMES};

/// Instructions around each exit that the time stamps do not see: saving and loading the general registers,
/// the call, the entry instruction.
const UNSEEN_TICKS: u64 = 44;

/// What the kernel/user split did on exits of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SplitCounts {
    /// Switches to the `user` view.
    pub to_user: u64,
    /// Switches to the `kernel` view.
    pub to_kernel: u64,
    /// Instructions carried out in the `base` view, because they write to a guarded table.
    pub steps: u64,
    /// Page faults of user code that reached for the kernel's half.
    pub faults: u64,
    /// Pages of the kernel's code that were found.
    pub code: u64,
}

impl SplitCounts {
    /// Each by its name in events, those that are not 0.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("to-user", self.to_user),
            ("to-kernel", self.to_kernel),
            ("steps", self.steps),
            ("faults", self.faults),
            ("code", self.code),
        ];
        all.into_iter().filter(|(_, count)| *count > 0)
    }
}

/// One vCPU's counters; all only grow.
#[derive(Clone, Debug)]
pub struct Counters {
    exits: [u64; REASON_COUNT],
    /// Exceptions injected because of something the guest may not do.
    pub faults: u64,
    /// What the kernel/user split did.
    pub split: SplitCounts,
    root_ticks: u64,
    idle_ticks: u64,
    steal_ticks: u64,
    /// How often the vCPU was given a CPU that another had before.
    pub switches: u64,
    /// Host TSC of the first entry, 0 before it.
    started: u64,
    /// Host TSC up to which every tick is accounted for, or is the guest's.
    seen: u64,
    /// Whether the vCPU waits for an event while it has no CPU.
    waits: bool,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            exits: [0; REASON_COUNT],
            faults: 0,
            split: SplitCounts::default(),
            root_ticks: 0,
            idle_ticks: 0,
            steal_ticks: 0,
            switches: 0,
            started: 0,
            seen: 0,
            waits: false,
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

    /// Notes at host TSC `now` that the guest was left.
    #[inline]
    pub fn leave(&mut self, now: u64) {
        self.seen = now;
    }

    /// Notes at host TSC `now` that the guest is about to be entered.
    #[inline]
    pub fn enter(&mut self, now: u64) {
        self.count_root(self.seen, now);
        self.seen = now;
    }

    /// Notes at host TSC `now` that the vCPU got its CPU.
    pub fn resume(&mut self, now: u64) {
        if self.started == 0 {
            self.started = now;
            self.seen = now;
        } else {
            self.settle(now);
        }
    }

    /// Accounts at host TSC `now` for the time since the vCPU gave its CPU back, which it still has not got again.
    pub fn settle(&mut self, now: u64) {
        if self.started == 0 {
            return;
        }
        let away = now.saturating_sub(self.seen);
        let sink = if self.waits {
            &mut self.idle_ticks
        } else {
            &mut self.steal_ticks
        };
        *sink = sink.wrapping_add(away);
        self.seen = self.seen.wrapping_add(away);
    }

    /// Notes at host TSC `now`, while it has no CPU, whether the vCPU waits for an event, or for its CPU alone.
    pub fn set_waits(&mut self, now: u64, waits: bool) {
        self.settle(now);
        self.waits = waits;
    }

    /// Notes at host TSC `now` that the vCPU gave its CPU back, to wait for an event or because it had to.
    pub fn suspend(&mut self, now: u64, waits: bool) {
        self.count_root(self.seen, now);
        self.seen = now;
        self.waits = waits;
    }

    /// Adds what another vCPU of the VM did.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.exits.iter_mut().zip(other.exits) {
            *sum = sum.wrapping_add(count);
        }
        self.faults = self.faults.wrapping_add(other.faults);
        self.split.to_user = self.split.to_user.wrapping_add(other.split.to_user);
        self.split.to_kernel = self.split.to_kernel.wrapping_add(other.split.to_kernel);
        self.split.steps = self.split.steps.wrapping_add(other.split.steps);
        self.split.faults = self.split.faults.wrapping_add(other.split.faults);
        self.split.code = self.split.code.wrapping_add(other.split.code);
        self.root_ticks = self.root_ticks.wrapping_add(other.root_ticks);
        self.idle_ticks = self.idle_ticks.wrapping_add(other.idle_ticks);
        self.steal_ticks = self.steal_ticks.wrapping_add(other.steal_ticks);
        self.switches = self.switches.wrapping_add(other.switches);
        // The times between first and last add up; when they began does not matter to a sum.
        let lasted = other.seen.wrapping_sub(other.started);
        self.seen = self.seen.wrapping_add(lasted);
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
            .saturating_sub(self.steal_ticks)
    }

    /// Ticks in the hypervisor on the vCPU's behalf, the unseen ones included.
    #[must_use]
    pub fn root_ticks(&self) -> u64 {
        self.root_ticks
            .saturating_add(self.total_exits().saturating_mul(UNSEEN_TICKS))
    }

    /// Ticks without a CPU because there was nothing to do.
    #[must_use]
    pub const fn idle_ticks(&self) -> u64 {
        self.idle_ticks
    }

    /// Ticks without a CPU although there was something to do.
    #[must_use]
    pub const fn steal_ticks(&self) -> u64 {
        self.steal_ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_where_they_were_spent() {
        let mut counters = Counters::default();
        counters.resume(1_000);
        counters.enter(1_000);
        counters.count_exit(10);
        counters.count_root(3_000, 3_200);
        counters.leave(5_000);
        counters.suspend(5_100, true);
        counters.resume(9_100);
        counters.enter(9_300);
        counters.count_exit(52);
        counters.leave(9_400);
        counters.suspend(9_450, false);
        counters.resume(9_950);
        counters.enter(10_000);
        counters.leave(10_000);
        assert_eq!(counters.idle_ticks(), 4_000);
        assert_eq!(counters.steal_ticks(), 500);
        assert_eq!(
            counters.root_ticks(),
            200 + 100 + 200 + 50 + 50 + 2 * UNSEEN_TICKS
        );
        assert_eq!(
            counters.guest_ticks(),
            9_000 - 4_000 - 500 - counters.root_ticks()
        );
        assert_eq!(
            counters.exits().collect::<Vec<_>>(),
            [("cpuid", 1), ("preemption-timer", 1)]
        );
    }

    #[test]
    fn time_without_a_cpu_can_be_accounted_for_before_it_ends() {
        let mut counters = Counters::default();
        counters.settle(500);
        assert_eq!(counters.idle_ticks() + counters.steal_ticks(), 0);
        counters.resume(1_000);
        counters.suspend(2_000, true);
        counters.settle(2_500);
        counters.settle(2_400);
        assert_eq!((counters.idle_ticks(), counters.steal_ticks()), (500, 0));
        counters.set_waits(2_600, false);
        counters.resume(3_000);
        assert_eq!((counters.idle_ticks(), counters.steal_ticks()), (600, 400));
    }

    #[test]
    fn preparing_an_entry_twice_counts_no_tick_twice() {
        let mut counters = Counters::default();
        counters.resume(100);
        counters.enter(100);
        counters.leave(200);
        counters.enter(250);
        counters.enter(300);
        assert_eq!(counters.root_ticks(), 100);
    }

    #[test]
    fn an_absurd_reason_is_not_counted_out_of_bounds() {
        let mut counters = Counters::default();
        counters.count_exit(0x8000_ffff);
        assert_eq!(counters.total_exits(), 0);
    }
}
