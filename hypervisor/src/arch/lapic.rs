//! Quiets the host's local APIC: the firmware may have left its timer or an LVT line running.
//!
//! The hypervisor takes no host interrupts: it polls its console and waits on the VMX-preemption
//! timer. What still arrives exits to it and is acknowledged here.

use super::cpu::{rdmsr, wrmsr};

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
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    // SAFETY: `quiet` put the APIC into x2APIC mode before any exit can happen; an EOI with nothing in
    // service has no effect.
    unsafe { wrmsr(X2APIC_EOI, 0) }
}
