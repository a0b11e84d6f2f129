//! Model-specific registers: what passes through, what is emulated, and that everything else is #GP.
//!
//! Pass-through is only for registers that the VM switch saves and restores: those in the VMCS guest-state area and
//! [`SWITCHED_MSRS`]. [`classify`] is the policy in one match; [`build_bitmap`] turns it into the VMCS bitmap and
//! [`read()`]/[`write()`] emulate the rest over [`MsrState`] and the vCPU's [`LocalApic`].
//!
//! Denied MSRs include all that Linux only probes by its fault-tolerant accessors (`TEST_CTRL`, `PLATFORM_INFO`,
//! `MISC_FEATURES_ENABLES`, RAPL, uncore); those that it reads unguarded on an Intel CPU are emulated.

mod bitmap;
mod mtrr;
#[cfg(test)]
mod tests;

pub use bitmap::{BITMAP_SIZE, X2apicAssist, build_bitmap, watch_entry_points};

use crate::apic::{
    APIC_BASE_MSR, ApicEffect, LocalApic, TSC_DEADLINE_MSR, X2APIC_FIRST_MSR, X2APIC_LAST_MSR,
};
use crate::fault::GuestFault;
use mtrr::Mtrrs;

/// `IA32_TIME_STAMP_COUNTER`.
pub const TSC: u32 = 0x10;
/// KVM's clock MSR before it had a range of its own.
const KVM_SYSTEM_TIME: u32 = 0x12;
/// `IA32_PLATFORM_ID`.
const PLATFORM_ID: u32 = 0x17;
/// `IA32_FEATURE_CONTROL`.
const FEATURE_CONTROL: u32 = 0x3a;
/// `IA32_TSC_ADJUST`.
pub const TSC_ADJUST: u32 = 0x3b;
/// `IA32_BIOS_SIGN_ID`, the microcode revision.
const MICROCODE_REVISION: u32 = 0x8b;
/// `IA32_SYSENTER_CS`, in the VMCS.
const SYSENTER_CS: u32 = 0x174;
/// `IA32_SYSENTER_EIP`, in the VMCS.
pub const SYSENTER_EIP: u32 = 0x176;
/// `IA32_MISC_ENABLE`.
const MISC_ENABLE: u32 = 0x1a0;
/// `IA32_DEBUGCTL`.
const DEBUGCTL: u32 = 0x1d9;
/// `IA32_PAT`.
pub const PAT: u32 = 0x277;
/// `IA32_EFER`.
pub const EFER: u32 = 0xc000_0080;
/// `IA32_STAR`.
pub const STAR: u32 = 0xc000_0081;
/// `IA32_LSTAR`.
pub const LSTAR: u32 = 0xc000_0082;
/// `IA32_CSTAR`.
pub const CSTAR: u32 = 0xc000_0083;
/// `IA32_FMASK`.
pub const FMASK: u32 = 0xc000_0084;
/// `IA32_FS_BASE`, in the VMCS.
const FS_BASE: u32 = 0xc000_0100;
/// `IA32_GS_BASE`, in the VMCS.
const GS_BASE: u32 = 0xc000_0101;
/// `IA32_KERNEL_GS_BASE`.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// `IA32_TSC_AUX`.
pub const TSC_AUX: u32 = 0xc000_0103;

/// Pass-through MSRs outside the VMCS guest state: the shell saves and restores each at a VM switch.
pub const SWITCHED_MSRS: [u32; 6] = [STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX];

/// `IA32_PAT` after reset: WB, WT, UC-, UC, twice.
pub const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

bitflags::bitflags! {
    /// `IA32_MISC_ENABLE` (Intel SDM vol. 4, "Architectural MSRs").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct MiscEnable: u64 {
        const FAST_STRINGS = 1 << 0;
        const THERMAL_CONTROL = 1 << 3;
        const PERFORMANCE_MONITORING = 1 << 7;
        const BTS_UNAVAILABLE = 1 << 11;
        const PEBS_UNAVAILABLE = 1 << 12;
        const SPEEDSTEP = 1 << 16;
        const MONITOR = 1 << 18;
        const LIMIT_CPUID = 1 << 22;
        const XTPR_DISABLE = 1 << 23;
        const XD_DISABLE = 1 << 34;
    }

    /// `IA32_EFER` bits that exist for guests; everything else is reserved.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Efer: u64 {
        /// SYSCALL is enabled.
        const SCE = 1 << 0;
        /// Long mode is enabled.
        const LME = 1 << 8;
        /// Long mode is active: follows from LME and CR0.PG.
        const LMA = 1 << 10;
        /// Execute disable is enabled.
        const NXE = 1 << 11;
    }

    /// `IA32_DEBUGCTL` bits that are stored and have no effect: branch tracing is hidden.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct DebugCtl: u64 {
        const LBR = 1 << 0;
        const BTF = 1 << 1;
    }
}

/// What happens to one kind of access to one MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// No exit.
    PassThrough,
    /// Decided by [`read()`] or [`write()`].
    Emulated,
    /// #GP.
    Denied,
}

impl Access {
    const fn is_pass_through(self) -> bool {
        matches!(self, Self::PassThrough)
    }
}

/// What happens to reads and writes of one MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// RDMSR.
    pub read: Access,
    /// WRMSR.
    pub write: Access,
}

impl Class {
    const PASS: Self = Self {
        read: Access::PassThrough,
        write: Access::PassThrough,
    };
    /// Reads find the guest's value in the CPU, writes have to be checked.
    const CHECKED: Self = Self {
        read: Access::PassThrough,
        write: Access::Emulated,
    };
    const EMULATED: Self = Self {
        read: Access::Emulated,
        write: Access::Emulated,
    };
    const READ_ONLY: Self = Self {
        read: Access::Emulated,
        write: Access::Denied,
    };
    const WRITE_ONLY: Self = Self {
        read: Access::Denied,
        write: Access::Emulated,
    };
    const DENIED: Self = Self {
        read: Access::Denied,
        write: Access::Denied,
    };
}

/// The policy. A number that is not here is denied.
#[must_use]
pub const fn classify(msr: u32) -> Class {
    match msr {
        SYSENTER_CS..=SYSENTER_EIP | FS_BASE | GS_BASE => Class::PASS,
        STAR | LSTAR | CSTAR | FMASK | KERNEL_GS_BASE | TSC_AUX => Class::PASS,
        TSC | PAT | EFER => Class::CHECKED,
        TSC_ADJUST | MICROCODE_REVISION | MISC_ENABLE | DEBUGCTL => Class::EMULATED,
        APIC_BASE_MSR | TSC_DEADLINE_MSR | X2APIC_FIRST_MSR..=X2APIC_LAST_MSR => Class::EMULATED,
        mtrr::DEF_TYPE | mtrr::VARIABLE_FIRST..=mtrr::VARIABLE_LAST => Class::EMULATED,
        _ if mtrr::is_fixed(msr) => Class::EMULATED,
        PLATFORM_ID | FEATURE_CONTROL | mtrr::CAP => Class::READ_ONLY,
        KVM_SYSTEM_TIME => Class::WRITE_ONLY,
        _ => Class::DENIED,
    }
}

/// Values of emulated MSRs that neither the VMCS nor the APIC holds.
#[derive(Clone, Debug)]
pub struct MsrState {
    tsc_adjust: u64,
    misc_enable: MiscEnable,
    debugctl: DebugCtl,
    microcode_revision: u32,
    pat: u64,
    mtrrs: Mtrrs,
}

impl MsrState {
    /// The state at reset, for a guest whose physical addresses have `physical_bits` and whose CPU has this microcode.
    #[must_use]
    pub const fn new(physical_bits: u32, microcode_revision: u32) -> Self {
        Self {
            tsc_adjust: 0,
            // Linux drops fast string operations where firmware has not enabled them.
            misc_enable: MiscEnable::FAST_STRINGS
                .union(MiscEnable::BTS_UNAVAILABLE)
                .union(MiscEnable::PEBS_UNAVAILABLE),
            debugctl: DebugCtl::empty(),
            microcode_revision,
            pat: PAT_AT_RESET,
            mtrrs: Mtrrs::new(physical_bits),
        }
    }

    /// `IA32_PAT`, for the VMCS.
    #[must_use]
    pub const fn pat(&self) -> u64 {
        self.pat
    }
}

/// What the dispatcher has to do after an MSR was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum MsrEffect {
    /// Nothing.
    None,
    /// Carry out the APIC's effect.
    Apic(ApicEffect),
    /// Add this to the TSC offset (wrapping), then re-arm the host timer.
    TscStepped(u64),
    /// Put this into the VMCS's guest `IA32_PAT`.
    SetPat(u64),
    /// Check with [`validate_efer`] against the current CR0 and `IA32_EFER`, then put it into the VMCS.
    SetEfer(u64),
}

/// The value of an emulated MSR that is only stored; `None` for all others.
#[inline(always)]
#[must_use]
pub const fn read_stored(msr: u32, state: &MsrState) -> Option<u64> {
    match msr {
        MISC_ENABLE => Some(state.misc_enable.bits()),
        TSC_ADJUST => Some(state.tsc_adjust),
        _ => None,
    }
}

/// Emulates RDMSR at guest TSC `now`.
///
/// # Errors
/// #GP for an MSR that guests may not read. Reads that the bitmap lets through need no emulation; those
/// of `IA32_EFER` and the switched MSRs are refused here.
#[inline]
pub fn read(msr: u32, state: &MsrState, apic: &LocalApic, now: u64) -> Result<u64, GuestFault> {
    match msr {
        X2APIC_FIRST_MSR..=X2APIC_LAST_MSR | TSC_DEADLINE_MSR | APIC_BASE_MSR => {
            apic.read_msr(msr, now)
        }
        MISC_ENABLE => Ok(state.misc_enable.bits()),
        TSC_ADJUST => Ok(state.tsc_adjust),
        TSC => Ok(now),
        // Locked with VMX and SGX off: nothing a guest could change.
        FEATURE_CONTROL => Ok(1),
        MICROCODE_REVISION => Ok(u64::from(state.microcode_revision) << 32),
        PLATFORM_ID => Ok(0),
        DEBUGCTL => Ok(state.debugctl.bits()),
        PAT => Ok(state.pat),
        _ => state.mtrrs.read(msr).ok_or(GuestFault::GP0),
    }
}

/// Emulates WRMSR at guest TSC `now`.
///
/// # Errors
/// #GP for an MSR that guests may not write and for values that the architecture reserves.
#[inline]
pub fn write(
    msr: u32,
    value: u64,
    state: &mut MsrState,
    apic: &mut LocalApic,
    now: u64,
) -> Result<MsrEffect, GuestFault> {
    match msr {
        TSC_DEADLINE_MSR => Ok(MsrEffect::Apic(apic.write_tsc_deadline(value, now))),
        X2APIC_FIRST_MSR..=X2APIC_LAST_MSR | APIC_BASE_MSR => {
            apic.write_msr(msr, value, now).map(MsrEffect::Apic)
        }
        _ => write_other(msr, value, state, apic, now),
    }
}

fn write_other(
    msr: u32,
    value: u64,
    state: &mut MsrState,
    apic: &mut LocalApic,
    now: u64,
) -> Result<MsrEffect, GuestFault> {
    match msr {
        // Intel SDM vol. 3B, "Time-Stamp Counter Adjustment": a write to either register moves both.
        TSC => Ok(step_tsc(value.wrapping_sub(now), state, apic)),
        TSC_ADJUST => Ok(step_tsc(value.wrapping_sub(state.tsc_adjust), state, apic)),
        PAT => {
            state.pat = validate_pat(value)?;
            Ok(MsrEffect::SetPat(value))
        }
        EFER => Efer::from_bits(value)
            .map(|_| MsrEffect::SetEfer(value))
            .ok_or(GuestFault::GP0),
        MISC_ENABLE => {
            let wanted = MiscEnable::from_bits(value).ok_or(GuestFault::GP0)?;
            // Of the bits that exist only this one is a guest's to change; the others keep their value.
            state.misc_enable.set(
                MiscEnable::FAST_STRINGS,
                wanted.contains(MiscEnable::FAST_STRINGS),
            );
            Ok(MsrEffect::None)
        }
        DEBUGCTL => {
            state.debugctl = DebugCtl::from_bits(value).ok_or(GuestFault::GP0)?;
            Ok(MsrEffect::None)
        }
        // The documented way to read the revision is to write zero first.
        MICROCODE_REVISION => Ok(MsrEffect::None),
        // Some Linux kernels before 6.3 switch KVM's clock off at reboot without having switched it on.
        KVM_SYSTEM_TIME if value == 0 => Ok(MsrEffect::None),
        _ => state.mtrrs.write(msr, value).map(|()| MsrEffect::None),
    }
}

fn step_tsc(delta: u64, state: &mut MsrState, apic: &mut LocalApic) -> MsrEffect {
    state.tsc_adjust = state.tsc_adjust.wrapping_add(delta);
    apic.tsc_stepped(delta);
    MsrEffect::TscStepped(delta)
}

/// Checks a value for `IA32_PAT`: eight memory types (Intel SDM vol. 3A, "IA32_PAT MSR").
///
/// # Errors
/// #GP for an encoding that is reserved.
pub fn validate_pat(value: u64) -> Result<u64, GuestFault> {
    let valid = value
        .to_le_bytes()
        .into_iter()
        .all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7));
    if valid {
        Ok(value)
    } else {
        Err(GuestFault::GP0)
    }
}

/// Decides the new `IA32_EFER` where the guest writes `value` while it has `current` and CR0.PG is `paging`.
///
/// # Errors
/// #GP for reserved bits and for a change of LME while paging (Intel SDM vol. 3A, "Initializing IA-32e Mode").
pub fn validate_efer(value: u64, current: u64, paging: bool) -> Result<Efer, GuestFault> {
    let wanted = Efer::from_bits(value).ok_or(GuestFault::GP0)?;
    let current = Efer::from_bits_truncate(current);
    if paging && (wanted ^ current).contains(Efer::LME) {
        return Err(GuestFault::GP0);
    }
    // LMA is the CPU's: a write does not change it.
    Ok((wanted - Efer::LMA) | (current & Efer::LMA))
}
