//! What the processor must have besides VT-x, checked while the firmware can still show why nothing starts.

use crate::Refusal;
use crate::arch::cpu::cpuid;
use crate::iommu::IommuError;
use bulkhead_core::manifest::IommuPolicy;
use bulkhead_core::vtd::dmar::{Dmar, DmarError};
use core::fmt;
use x86_64::registers::control::{Cr4, Cr4Flags};

/// In CPUID.1:ECX.
const X2APIC: u32 = 1 << 21;
const XSAVE: u32 = 1 << 26;

/// A feature that Bulkhead cannot do without, or a mode of the firmware's that it cannot take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsuitable {
    /// No x2APIC mode.
    NoX2Apic,
    /// No XSAVE.
    NoXsave,
    /// The time-stamp counter changes its rate.
    NoInvariantTsc,
    /// The local APIC's timer has no TSC-deadline mode.
    NoTscDeadline,
    /// The firmware runs on 5-level page tables.
    FiveLevelPaging,
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoX2Apic => {
                "the processor has no x2APIC mode (CPUID.1:ECX bit 21); turn it on in the firmware set-up, or \
                 under another hypervisor give the machine an x2APIC"
            }
            Self::NoXsave => {
                "the processor has no XSAVE (CPUID.1:ECX bit 26); under another hypervisor, let the machine have it"
            }
            Self::NoInvariantTsc => {
                "the time-stamp counter is not invariant (CPUID.80000007H:EDX bit 8): guests could not keep time; \
                 under another hypervisor, let the machine have the flag invtsc"
            }
            Self::NoTscDeadline => {
                "the local APIC's timer has no TSC-deadline mode (CPUID.1:ECX bit 24), by which idle processors wake; under \
                 another hypervisor, let the machine have the flag tsc-deadline"
            }
            Self::FiveLevelPaging => {
                "the firmware runs on 5-level page tables (CR4.LA57), which cannot be left without losing \
                 control; turn 5-level paging off in the firmware set-up"
            }
        })
    }
}

impl core::error::Error for Unsuitable {}

/// Whether a processor that cannot run VMs can still run what shows the machine's devices: Bulkhead's own page tables,
/// exceptions and x2APIC.
#[must_use]
pub fn shows_devices() -> bool {
    const MACHINE_CHECKS: u32 = 1 << 7 | 1 << 14;
    const NEEDED: u32 = X2APIC | XSAVE;
    let found = cpuid(1, 0);
    found.ecx & NEEDED == NEEDED
        && found.edx & MACHINE_CHECKS == MACHINE_CHECKS
        && !Cr4::read().contains(Cr4Flags::L5_PAGING)
}

/// The DMAR table, where it can be used or the policy does without.
///
/// # Errors
/// The policy wants units, and there is no table, or none that can be trusted.
pub fn accept(
    dmar: Option<Result<Dmar, DmarError>>,
    policy: IommuPolicy,
) -> Result<Option<Dmar>, Refusal> {
    match (dmar, policy) {
        (Some(Ok(dmar)), _) => Ok(Some(dmar)),
        (Some(Err(error)), IommuPolicy::Required) => Err(error.into()),
        (None, IommuPolicy::Required) => Err(IommuError::Required.into()),
        (Some(Err(_)) | None, IommuPolicy::Auto | IommuPolicy::Off) => Ok(None),
    }
}

/// Checks each, without changing anything.
///
/// # Errors
/// The first that is not as Bulkhead needs it.
pub fn check() -> Result<(), Unsuitable> {
    const VMX: u32 = 1 << 5;
    const TSC_DEADLINE: u32 = 1 << 24;
    const INVARIANT_TSC: u32 = 1 << 8;
    const POWER_LEAF: u32 = 0x8000_0007;
    let features = cpuid(1, 0).ecx;
    // A processor without VT-x is told so, whatever else it lacks: `vmx::operation::examine` comes next.
    if features & VMX == 0 {
        return Ok(());
    }
    if features & X2APIC == 0 {
        return Err(Unsuitable::NoX2Apic);
    }
    if features & XSAVE == 0 {
        return Err(Unsuitable::NoXsave);
    }
    if cpuid(0x8000_0000, 0).eax < POWER_LEAF || cpuid(POWER_LEAF, 0).edx & INVARIANT_TSC == 0 {
        return Err(Unsuitable::NoInvariantTsc);
    }
    if features & TSC_DEADLINE == 0 {
        return Err(Unsuitable::NoTscDeadline);
    }
    if Cr4::read().contains(Cr4Flags::L5_PAGING) {
        return Err(Unsuitable::FiveLevelPaging);
    }
    Ok(())
}
