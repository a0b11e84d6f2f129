//! When a vCPU gives its CPU back, and what the next entry takes along: timers, waking and halting.

use super::{Activity, Cpu, Readiness, Vcpu, event};
use crate::vmx::field;

/// Host TSC ticks that the guest runs after its timer expired before it can expire again: a periodic timer faster
/// than an exit would otherwise have the guest leave before its first instruction, for ever. A handler
/// takes longer than this; other deadlines are not held back, because the guest sets each anew.
const MIN_PERIOD: u64 = 2_000;

impl Vcpu {
    /// Gives the vCPU its CPU from host TSC `now` on until `leave_at`, or as long as the preemption timer can count.
    pub fn begin(&mut self, now: u64, leave_at: u64) {
        let longest = u64::from(u32::MAX) << self.controls.preemption_timer_shift;
        self.leave_at = leave_at.min(now.saturating_add(longest));
        self.rearm(now);
        self.counters.resume(now);
    }

    /// Notes that its CPU was given back at host TSC `now`.
    pub fn end(&mut self, now: u64) {
        let waits = self.activity != Activity::Active;
        self.counters.suspend(now, waits);
    }

    /// Brings timers up to date, delivers what is pending and sets the preemption timer.
    #[inline(always)]
    pub fn prepare_entry<C: Cpu>(&mut self, cpu: &mut C) -> Readiness {
        let now = cpu.tsc();
        let mut readiness = Readiness::Enter;
        if now >= self.wake_at {
            readiness = self.wake(now);
        }
        if self.attention {
            self.attend(cpu);
        }
        if self.activity != Activity::Active {
            return Readiness::Waiting;
        }
        self.set_timer(cpu, now);
        self.counters.enter(now);
        readiness
    }

    /// Has the guest left again when something is due, which [`Vcpu::begin`] saw is within the timer's 32 bits.
    #[inline(always)]
    pub(super) fn set_timer<C: Cpu>(&self, cpu: &mut C, now: u64) {
        let ticks = self.wake_at.saturating_sub(now) >> self.controls.preemption_timer_shift;
        cpu.write(field::PREEMPTION_TIMER, ticks as u32);
    }

    /// Runs what is due at `now`.
    #[cold]
    fn wake(&mut self, now: u64) -> Readiness {
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
        if now >= self.leave_at {
            Readiness::TimeIsOver
        } else {
            Readiness::Enter
        }
    }

    /// Host TSC at which the vCPU's timer is due, from what it is at `now`.
    #[inline(always)]
    #[must_use]
    pub fn next_timer(&self, now: u64) -> Option<u64> {
        let deadline = self.apic.next_deadline()?;
        Some(now.saturating_add(deadline.saturating_sub(self.guest_tsc(now))))
    }

    /// Recomputes when something is due next.
    #[inline(always)]
    pub(super) fn rearm(&mut self, now: u64) {
        let timer = self.next_timer(now).unwrap_or(u64::MAX);
        self.wake_at = timer.min(self.leave_at);
    }

    /// Puts pending events into the next entry and wakes the vCPU where one ends its halt.
    fn attend<C: Cpu>(&mut self, cpu: &mut C) {
        self.attention = false;
        if self.activity == Activity::WaitForSipi {
            return;
        }
        self.deliver_pending(cpu);
        let woken = self.activity == Activity::Halted
            && (event::entry_is_taken(cpu)
                || event::debug_trap_waits(cpu)
                || (self.hardware_delivery
                    && event::is_open(cpu)
                    && self.apic.highest_pending().is_some()));
        if woken {
            self.activity = Activity::Active;
        }
    }
}
