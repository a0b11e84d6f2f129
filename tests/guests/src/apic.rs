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
/// End of interrupt.
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
/// The vector that the guests give to spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// A destination, or a shorthand, and what is sent there: the interrupt command register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub u64);

impl Command {
    const DELIVERY_SHIFT: u32 = 8;
    const LOGICAL: u64 = 1 << 11;
    const ASSERT: u64 = 1 << 14;
    const SHORTHAND_SHIFT: u32 = 18;
    const DESTINATION_SHIFT: u32 = 32;

    /// An interrupt.
    #[must_use]
    pub const fn interrupt(vector: u8) -> Self {
        Self(vector as u64 | Self::ASSERT)
    }

    /// A non-maskable interrupt.
    #[must_use]
    pub const fn nmi() -> Self {
        Self((4 << Self::DELIVERY_SHIFT) | Self::ASSERT)
    }

    /// INIT.
    #[must_use]
    pub const fn init() -> Self {
        Self((5 << Self::DELIVERY_SHIFT) | Self::ASSERT)
    }

    /// Start-up at 4 KiB page `page`.
    #[must_use]
    pub const fn startup(page: u8) -> Self {
        Self(page as u64 | (6 << Self::DELIVERY_SHIFT) | Self::ASSERT)
    }

    /// To the local APIC with this identifier.
    #[must_use]
    pub const fn to(self, id: u32) -> Self {
        Self(self.0 | ((id as u64) << Self::DESTINATION_SHIFT))
    }

    /// To the local APICs that the logical destination `mask` names.
    #[must_use]
    pub const fn to_logical(self, mask: u32) -> Self {
        Self(self.to(mask).0 | Self::LOGICAL)
    }

    /// To the sender.
    #[must_use]
    pub const fn to_self(self) -> Self {
        Self(self.0 | (1 << Self::SHORTHAND_SHIFT))
    }

    /// To all.
    #[must_use]
    pub const fn to_all(self) -> Self {
        Self(self.0 | (2 << Self::SHORTHAND_SHIFT))
    }

    /// To all but the sender.
    #[must_use]
    pub const fn to_others(self) -> Self {
        Self(self.0 | (3 << Self::SHORTHAND_SHIFT))
    }
}

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Switches to x2APIC mode and enables the APIC.
///
/// # Errors
/// The fault that refused it.
pub fn enable() -> Result<(), Fault> {
    let base = try_rdmsr(APIC_BASE)?;
    write(APIC_BASE, base | ENABLE | ENABLE_X2APIC)?;
    write(SPURIOUS, SOFTWARE_ENABLE | u64::from(SPURIOUS_VECTOR))?;
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

/// Sends `command`.
///
/// # Errors
/// The fault it met.
pub fn send(command: Command) -> Result<(), Fault> {
    write(ICR, command.0)
}

/// This vCPU's identifier; all ones where it cannot be read.
#[must_use]
pub fn id() -> u32 {
    try_rdmsr(ID).map_or(u32::MAX, |id| id as u32)
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    if ENABLED.load(Relaxed) {
        // SAFETY: as for `write`; without an attempt, because an interrupted attempt must keep its own resume point.
        unsafe {
            core::arch::asm!("wrmsr", in("ecx") EOI, in("eax") 0, in("edx") 0, options(nomem, nostack, preserves_flags));
        }
    }
}
