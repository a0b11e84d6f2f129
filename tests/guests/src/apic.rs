//! The local APIC in x2APIC mode.
#![allow(unsafe_code, reason = "writes APIC MSRs")]

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::cpu::{try_rdmsr, try_wrmsr};
use crate::trap::Fault;

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// Local APIC id.
pub const ID: u32 = 0x802;
/// Logical destination.
pub const LOGICAL_DESTINATION: u32 = 0x80d;
/// Task priority.
pub const TPR: u32 = 0x808;
const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
/// Interrupt command register.
pub const ICR: u32 = 0x830;
/// Timer entry of the local vector table.
pub const LVT_TIMER: u32 = 0x832;
/// Self-IPI register.
pub const SELF_IPI: u32 = 0x83f;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;

const ENABLE: u64 = 1 << 11;
const ENABLE_X2APIC: u64 = 1 << 10;
const SOFTWARE_ENABLE: u64 = 1 << 8;
const SPURIOUS_VECTOR: u64 = 0xff;

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Switches to x2APIC mode and enables the APIC.
///
/// # Errors
/// The fault that refused it.
pub fn enable() -> Result<(), Fault> {
    let base = try_rdmsr(APIC_BASE)?;
    write(APIC_BASE, base | ENABLE | ENABLE_X2APIC)?;
    write(SPURIOUS, SOFTWARE_ENABLE | SPURIOUS_VECTOR)?;
    ENABLED.store(true, Relaxed);
    Ok(())
}

/// Writes an APIC register.
///
/// # Errors
/// The fault it met.
pub fn write(register: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: APIC registers raise interrupts, for which there are handlers; they change no memory.
    unsafe { try_wrmsr(register, value) }
}

/// Ends the interrupt in service.
pub(crate) fn end_of_interrupt() {
    if ENABLED.load(Relaxed) {
        // SAFETY: as for `write`; without an attempt, because an interrupted attempt must keep its own resume point.
        unsafe {
            core::arch::asm!("wrmsr", in("ecx") EOI, in("eax") 0, in("edx") 0, options(nomem, nostack, preserves_flags));
        }
    }
}
