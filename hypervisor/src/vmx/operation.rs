//! Turning VMX operation on, and the feature gate before it.

use super::instruction::{self, VmxFailed};
use crate::arch::cpu::{self, cpuid, rdmsr, wrmsr};
use bulkhead_core::addr::Hpa;
use bulkhead_core::ept::{EptCapError, EptCaps};
use bulkhead_core::symmetry::VmxReport;
use bulkhead_core::vmx::capability::{CapabilityMsrs, FeatureControl, Missing, Negotiated, Wishes};
use bulkhead_core::vmx::controls::{Primary, Secondary};
use core::fmt;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

const IA32_VMX_BASIC: u32 = 0x480;
const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
const IA32_VMX_EXIT_CTLS: u32 = 0x483;
const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
const IA32_VMX_MISC: u32 = 0x485;
const IA32_VMX_CR0_FIXED0: u32 = 0x486;
const IA32_VMX_CR0_FIXED1: u32 = 0x487;
const IA32_VMX_CR4_FIXED0: u32 = 0x488;
const IA32_VMX_CR4_FIXED1: u32 = 0x489;
const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
const IA32_VMX_VMFUNC: u32 = 0x491;
/// The TRUE_ variants follow the first four in the same order.
const TRUE_CONTROLS: u32 = 0x48d - IA32_VMX_PINBASED_CTLS;

/// Why this processor cannot run VMs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// A VMX feature.
    Vmx(Missing),
    /// An EPT or VPID feature.
    Ept(EptCapError),
    /// VMXON itself failed.
    Vmxon(VmxFailed),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmx(missing) => missing.fmt(f),
            Self::Ept(error) => error.fmt(f),
            Self::Vmxon(failed) => failed.fmt(f),
        }
    }
}

impl core::error::Error for Unfit {}

/// What VT-x offers on every CPU, and the control words that follow.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// VMX controls.
    pub vmx: Negotiated,
    /// EPT and VPID.
    pub ept: EptCaps,
}

impl Features {
    /// Chooses from what a CPU offers, or all have in common.
    ///
    /// # Errors
    /// The first required feature that is missing, by name.
    pub fn negotiate(offer: &VmxReport, wishes: Wishes) -> Result<Self, Unfit> {
        Ok(Self {
            vmx: Negotiated::from_msrs(&offer.msrs, wishes).map_err(Unfit::Vmx)?,
            ept: EptCaps::negotiate(offer.ept).map_err(Unfit::Ept)?,
        })
    }
}

/// Reads every capability register of this CPU, and sees whether it could run VMs by itself. Changes nothing.
///
/// # Errors
/// The first required feature that is missing, by name.
pub fn examine(wishes: Wishes) -> Result<VmxReport, Unfit> {
    if cpuid(1, 0).ecx & (1 << 5) == 0 {
        return Err(Unfit::Vmx(Missing::Vmx));
    }
    FeatureControl::decide(read(cpu::IA32_FEATURE_CONTROL)).map_err(Unfit::Vmx)?;
    let report = report();
    Features::negotiate(&report, wishes)?;
    Ok(report)
}

fn report() -> VmxReport {
    let basic = read(IA32_VMX_BASIC);
    let shift = if basic & (1 << 55) != 0 {
        TRUE_CONTROLS
    } else {
        0
    };
    let allows = |controls: u64, bit: u32| controls >> 32 & u64::from(bit) != 0;
    let primary = read(IA32_VMX_PROCBASED_CTLS + shift);
    let secondary = if allows(primary, Primary::SECONDARY.bits()) {
        read(IA32_VMX_PROCBASED_CTLS2)
    } else {
        0
    };
    // A VMFUNC that does not switch views is of no use to anybody here.
    let functions = Secondary::VMFUNC.bits();
    let secondary = match allows(secondary, functions) && read(IA32_VMX_VMFUNC) & 1 != 0 {
        true => secondary,
        false => secondary & !(u64::from(functions) << 32),
    };
    let tagged = Secondary::EPT.union(Secondary::VPID).bits();
    VmxReport {
        msrs: CapabilityMsrs {
            basic,
            pin: read(IA32_VMX_PINBASED_CTLS + shift),
            primary,
            secondary,
            exit: read(IA32_VMX_EXIT_CTLS + shift),
            entry: read(IA32_VMX_ENTRY_CTLS + shift),
            misc: read(IA32_VMX_MISC),
            cr0_fixed0: read(IA32_VMX_CR0_FIXED0),
            cr0_fixed1: read(IA32_VMX_CR0_FIXED1),
            cr4_fixed0: read(IA32_VMX_CR4_FIXED0),
            cr4_fixed1: read(IA32_VMX_CR4_FIXED1),
        },
        ept: if allows(secondary, tagged) {
            read(IA32_VMX_EPT_VPID_CAP)
        } else {
            0
        },
    }
}

fn read(msr: u32) -> u64 {
    // SAFETY: only called for registers that exist on a processor whose CPUID shows VMX, guarded where one
    // needs a capability bit (Intel SDM vol. 3D, "VMX Capability Reporting Facility").
    unsafe { rdmsr(msr) }
}

/// Enters VMX operation on this CPU with `region` as its VMXON region.
///
/// # Errors
/// The firmware locked VMX off, or VMXON failed.
///
/// # Safety
/// `region` must be a zeroed frame of the hypervisor's that is used for nothing else from now on.
pub unsafe fn turn_on(features: &Features, region: Hpa) -> Result<(), Unfit> {
    if let FeatureControl::Write(value) =
        FeatureControl::decide(read(cpu::IA32_FEATURE_CONTROL)).map_err(Unfit::Vmx)?
    {
        // SAFETY: the register is unlocked; this locks it with VMX on, as firmware should have.
        unsafe { wrmsr(cpu::IA32_FEATURE_CONTROL, value) };
    }
    let cr0 = (Cr0::read_raw() | features.vmx.cr0_fixed0) & features.vmx.cr0_fixed1;
    // SAFETY: adds what VMX operation demands: protection, paging and native FPU errors are on already.
    unsafe { Cr0::write(Cr0Flags::from_bits_retain(cr0)) };
    let cr4 = (Cr4::read_raw() | features.vmx.cr4_fixed0) & features.vmx.cr4_fixed1;
    // SAFETY: adds VMXE and takes nothing away that the running code needs.
    unsafe { Cr4::write(Cr4Flags::from_bits_retain(cr4)) };
    // SAFETY: the caller gives this frame to VMXON; it is mapped where its addresses are equal.
    unsafe { (region.0 as *mut u32).write_volatile(features.vmx.revision) };
    // SAFETY: as above, and it starts with the revision now.
    unsafe { instruction::vmxon(region) }.map_err(Unfit::Vmxon)
}

/// Leaves VMX operation on this CPU, for good: while it is on, the CPU does not take the INIT that a reset sends.
pub fn turn_off() {
    instruction::vmxoff();
    // SAFETY: the bit only allows VMX operation, which is over.
    unsafe { Cr4::update(|cr4| cr4.remove(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS)) };
}
