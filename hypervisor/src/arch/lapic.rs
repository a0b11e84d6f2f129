//! The host's local APIC, in x2APIC mode: quiet but for the deadline timer and what other CPUs send.
//!
//! A CPU takes interrupts only where it waits, or by leaving its guest. Either way the vector means nothing but "look". The
//! processor takes [`POSTED_VECTOR`] by itself while it runs the guest that something was posted for.

use super::cpu::{self, cpuid, rdmsr, wrmsr};
use core::sync::atomic::{self, Ordering};

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;
const X2APIC_TPR: u32 = 0x808;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SVR: u32 = 0x80f;
/// Timer, thermal, performance counter, LINT0, LINT1, error.
const X2APIC_LVTS: [u32; 6] = [0x832, 0x833, 0x834, 0x835, 0x836, 0x837];
const LVT_MASKED: u64 = 1 << 16;
const SVR_ENABLE: u64 = 1 << 8;
const SPURIOUS_VECTOR: u64 = 0xff;
const X2APIC_ICR: u32 = 0x830;
const X2APIC_LVT_TIMER: u32 = 0x832;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const LVT_DEADLINE_MODE: u64 = 2 << 17;
const ICR_NMI: u64 = 4 << 8;
const ICR_INIT: u64 = 5 << 8;
const ICR_STARTUP: u64 = 6 << 8;
const ICR_ASSERT: u64 = 1 << 14;
const ICR_ALL_BUT_SELF: u64 = 3 << 18;

/// Has a CPU look at its letter-boxes.
pub const KICK_VECTOR: u8 = 0xf0;
/// Has a CPU take the interrupts posted for the vCPU that it runs, without an exit.
pub const POSTED_VECTOR: u8 = 0xf1;
/// The deadline timer.
const TIMER_VECTOR: u8 = 0xf2;
/// Vectors from here on are not ended: the spurious one is not in service.
pub const FIRST_UNENDED: u64 = SPURIOUS_VECTOR;

/// Whether this CPU's APIC has x2APIC mode.
#[must_use]
pub fn has_x2apic() -> bool {
    const X2APIC: u32 = 1 << 21;
    cpuid(1, 0).ecx & X2APIC != 0
}

/// Puts this CPU's APIC into x2APIC mode with every local line masked and every vector acceptable.
/// `boot::gate` saw that it has that mode.
pub fn quiet() {
    // SAFETY: every x86_64 processor has IA32_APIC_BASE.
    let base = unsafe { rdmsr(IA32_APIC_BASE) };
    // SAFETY: xAPIC to x2APIC is an allowed transition (Intel SDM vol. 3A, "x2APIC State
    // Transitions") and nothing holds a mapping of the xAPIC page.
    unsafe { wrmsr(IA32_APIC_BASE, base | APIC_ENABLE) };
    // SAFETY: as above; the APIC is enabled now.
    unsafe { wrmsr(IA32_APIC_BASE, base | APIC_ENABLE | X2APIC_ENABLE) };
    for lvt in X2APIC_LVTS {
        // SAFETY: these registers exist in x2APIC mode; masking a line is always valid.
        unsafe { wrmsr(lvt, LVT_MASKED | SPURIOUS_VECTOR) };
    }
    // SAFETY: as above.
    unsafe { wrmsr(X2APIC_TPR, 0) };
    // SAFETY: as above; the spurious vector is acknowledged like any other exit.
    unsafe { wrmsr(X2APIC_SVR, SVR_ENABLE | SPURIOUS_VECTOR) };
    // SAFETY: as above; `boot::gate` saw the deadline mode. The timer is not armed.
    unsafe {
        wrmsr(
            X2APIC_LVT_TIMER,
            LVT_DEADLINE_MODE | u64::from(TIMER_VECTOR),
        )
    };
}

/// Arms the timer for host TSC `deadline`; 0 disarms it.
pub fn set_deadline(deadline: u64) {
    // SAFETY: the register exists with the deadline mode, which `boot::gate` saw, and takes any value.
    unsafe { wrmsr(IA32_TSC_DEADLINE, deadline) };
}

/// Sends `vector` to the CPU with x2APIC identifier `to`.
pub fn send(to: u32, vector: u8) {
    command(u64::from(to) << 32 | ICR_ASSERT | u64::from(vector));
}

/// Sends an NMI to every other CPU.
pub fn send_nmi_to_others() {
    command(ICR_ALL_BUT_SELF | ICR_ASSERT | ICR_NMI);
}

/// Sends an NMI to the CPU with x2APIC identifier `to`.
pub fn send_nmi(to: u32) {
    command(u64::from(to) << 32 | ICR_ASSERT | ICR_NMI);
}

/// INIT for the CPU with x2APIC identifier `to`.
pub fn send_init(to: u32) {
    command(u64::from(to) << 32 | ICR_ASSERT | ICR_INIT);
}

/// A start-up interrupt for the CPU with x2APIC identifier `to`, which begins at the 4 KiB `page`.
pub fn send_startup(to: u32, page: u8) {
    command(u64::from(to) << 32 | ICR_ASSERT | ICR_STARTUP | u64::from(page));
}

fn command(icr: u64) {
    // A write to the ICR is no fence in x2APIC mode: what the receiver is to find must be seen before, which takes both
    // fences (Intel SDM vol. 3A, "MSR Access in x2APIC Mode").
    atomic::fence(Ordering::SeqCst);
    cpu::fence();
    // SAFETY: `quiet` put the APIC into x2APIC mode, and the callers compose valid commands.
    unsafe { wrmsr(X2APIC_ICR, icr) };
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    // SAFETY: `quiet` put the APIC into x2APIC mode before any exit can happen; an EOI with nothing in
    // service has no effect.
    unsafe { wrmsr(X2APIC_EOI, 0) }
}
