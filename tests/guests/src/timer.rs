//! The local APIC timer in TSC-deadline mode, and waiting: halted until something holds, or until the time is over.

use crate::trap::{self, Fault};
use crate::{apic, cpu};

/// The timer's vector.
pub const VECTOR: u8 = 0xe0;
const TSC_DEADLINE_MODE: u64 = 2 << 17;
const TSC_LEAF: u32 = 0x15;
const FREQUENCY_LEAF: u32 = 0x16;
/// Where CPUID does not tell the TSC's frequency.
const DEFAULT_FREQUENCY: u64 = 100_000_000;

/// Ticks of the TSC in a second, as CPUID gives them.
#[must_use]
pub fn frequency() -> u64 {
    let highest = cpu::cpuid(0, 0).eax;
    if highest >= TSC_LEAF {
        let tsc = cpu::cpuid(TSC_LEAF, 0);
        let ticks = u64::from(tsc.ecx) * u64::from(tsc.ebx);
        if let Some(frequency) = ticks.checked_div(u64::from(tsc.eax)).filter(|&hz| hz != 0) {
            return frequency;
        }
    }
    if highest >= FREQUENCY_LEAF {
        let megahertz = u64::from(cpu::cpuid(FREQUENCY_LEAF, 0).eax & 0xffff);
        if megahertz != 0 {
            return megahertz * 1_000_000;
        }
    }
    DEFAULT_FREQUENCY
}

/// Has the timer interrupt this vCPU when the TSC reaches `deadline`.
///
/// # Errors
/// The fault that refused it.
pub fn arm(deadline: u64) -> Result<(), Fault> {
    apic::write(apic::LVT_TIMER, TSC_DEADLINE_MODE | u64::from(VECTOR))?;
    apic::write(apic::TSC_DEADLINE, deadline)
}

/// How often the timer interrupted this vCPU.
#[must_use]
pub fn count() -> u32 {
    trap::count(VECTOR)
}

/// Sleeps until `holds`, for `limit` ticks at most; whether it holds. Interrupts are off before and after, so that none
/// that makes it hold can come between looking and sleeping. Some interrupt has to come when the time is over: see [`doze`].
pub fn sleep_until(limit: u64, holds: impl Fn() -> bool) -> bool {
    sleep_to(cpu::ticks().saturating_add(limit), holds)
}

/// As [`sleep_until`], with the timer to end it. Both have the same deadline: one that is a little later than the timer's
/// would have the vCPU sleep on after its only interrupt.
///
/// # Errors
/// The fault that refused the timer.
pub fn doze(limit: u64, holds: impl Fn() -> bool) -> Result<bool, Fault> {
    let deadline = cpu::ticks().saturating_add(limit);
    arm(deadline)?;
    Ok(sleep_to(deadline, holds))
}

fn sleep_to(deadline: u64, holds: impl Fn() -> bool) -> bool {
    loop {
        if holds() {
            return true;
        }
        if cpu::ticks() >= deadline {
            return false;
        }
        cpu::halt_for_interrupt();
    }
}

/// Loops until `holds`, for `limit` ticks at most; whether it holds.
pub fn spin_until(limit: u64, holds: impl Fn() -> bool) -> bool {
    let start = cpu::ticks();
    while !holds() {
        if cpu::ticks().wrapping_sub(start) > limit {
            return holds();
        }
        core::hint::spin_loop();
    }
    true
}
