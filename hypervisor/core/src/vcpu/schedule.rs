//! When a vCPU is left next, and what the next entry takes along: timers, looks at the console, waking and halting.

use super::{Cpu, Vcpu, event};
use crate::vmx::field;

/// Guest activity state HLT (Intel SDM vol. 3C, "Guest Non-Register State").
const ACTIVITY_HLT: u32 = 1;
const ACTIVITY_ACTIVE: u32 = 0;

/// Host TSC ticks that the guest runs after its timer expired before it can expire again: a periodic timer faster
/// than an exit would otherwise have the guest leave before its first instruction, for ever. A handler
/// takes longer than this; other deadlines are not held back, because the guest sets each anew.
const MIN_PERIOD: u64 = 2_000;

impl Vcpu {
    /// Brings timers up to date, delivers what is pending and sets the preemption timer. False where a
    /// look at the console is due first; call again after it.
    #[inline(always)]
    pub fn prepare_entry<C: Cpu>(&mut self, cpu: &mut C) -> bool {
        let now = cpu.tsc();
        let mut on_time = true;
        if now >= self.wake_at {
            on_time = self.wake(now);
        }
        if self.attention {
            self.attend(cpu);
        }
        self.set_timer(cpu, now);
        self.counters.enter(now, self.halted);
        on_time
    }

    /// Has the guest left again when something is due. Times beyond the timer's 32 bits wake early, for nothing.
    #[inline(always)]
    pub(super) fn set_timer<C: Cpu>(&self, cpu: &mut C, now: u64) {
        let ticks = self.wake_at.saturating_sub(now) >> self.controls.preemption_timer_shift;
        cpu.write(
            field::PREEMPTION_TIMER,
            ticks.min(u64::from(u32::MAX)) as u32,
        );
    }

    /// Runs what is due at `now`; false where that includes a look at the console.
    #[cold]
    fn wake(&mut self, now: u64) -> bool {
        let poll = now >= self.poll_at;
        if poll {
            self.poll_at = now.saturating_add(self.poll_every);
        }
        let expired = self
            .apic
            .next_deadline()
            .is_some_and(|deadline| self.guest_tsc(now) >= deadline);
        if expired {
            self.apic.on_time(self.guest_tsc(now));
            self.attention = true;
        }
        self.rearm(now);
        if expired {
            self.wake_at = self.wake_at.max(now.saturating_add(MIN_PERIOD));
        }
        !poll
    }

    /// Recomputes when something is due next.
    pub(super) fn rearm(&mut self, now: u64) {
        let timer = self.apic.next_deadline().map_or(u64::MAX, |deadline| {
            now.saturating_add(deadline.saturating_sub(self.guest_tsc(now)))
        });
        self.wake_at = timer.min(self.poll_at);
    }

    /// Puts pending events into the next entry and wakes or halts the vCPU accordingly.
    fn attend<C: Cpu>(&mut self, cpu: &mut C) {
        self.attention = false;
        self.deliver_pending(cpu);
        if self.halted {
            let woken = event::entry_is_taken(cpu)
                || (self.hardware_delivery
                    && event::is_open(cpu)
                    && self.apic.highest_pending().is_some());
            self.halted = !woken;
            let activity = if self.halted {
                ACTIVITY_HLT
            } else {
                ACTIVITY_ACTIVE
            };
            cpu.write(field::GUEST_ACTIVITY, activity);
        }
    }
}
