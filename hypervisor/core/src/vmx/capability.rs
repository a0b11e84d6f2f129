//! Capability negotiation: from the IA32_VMX_* MSRs to the control words Bulkhead runs with
//! (Intel SDM vol. 3D, appendix "VMX Capability Reporting Facility").
//!
//! A required feature that the processor lacks is a [`Missing`] with the feature's name; optional ones
//! are taken when there. [`Negotiated`] is the only source of control words, so a VMCS cannot be
//! built with bits nobody checked.

use super::controls::{Entry, Exit, Pin, Primary, Secondary};
use core::fmt;

/// The capability MSRs, read once on each CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapabilityMsrs {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_(TRUE_)PINBASED_CTLS.
    pub pin: u64,
    /// IA32_VMX_(TRUE_)PROCBASED_CTLS.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2, 0 where the primary controls do not allow it.
    pub secondary: u64,
    /// IA32_VMX_(TRUE_)EXIT_CTLS.
    pub exit: u64,
    /// IA32_VMX_(TRUE_)ENTRY_CTLS.
    pub entry: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1.
    pub cr4_fixed1: u64,
}

/// A required VT-x feature that this processor lacks, or must not have on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// CPUID.1:ECX.VMX is clear.
    Vmx,
    /// IA32_FEATURE_CONTROL is locked with VMX outside SMX off.
    DisabledByFirmware,
    /// A pin-based control.
    Pin(Pin),
    /// A primary control.
    Primary(Primary),
    /// A secondary control.
    Secondary(Secondary),
    /// A VM-exit control.
    Exit(Exit),
    /// A VM-entry control.
    Entry(Entry),
    /// Bits that the processor forces on and Bulkhead does not know, by control word.
    ForcedOn(&'static str, u32),
    /// The VMCS region is larger than a frame or not write-back.
    VmcsRegion,
    /// Activity state HLT (IA32_VMX_MISC bit 6).
    ActivityHlt,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmx => f.write_str(
                "VT-x is missing: CPUID.1:ECX.VMX is clear. Bulkhead needs an Intel processor with VT-x; \
                 under another hypervisor, turn nested virtualisation on",
            ),
            Self::DisabledByFirmware => f.write_str(
                "VT-x is switched off and locked by the firmware (IA32_FEATURE_CONTROL). Turn on \
                 'Intel Virtualization Technology' in the firmware set-up",
            ),
            Self::Pin(bits) => write!(f, "the processor lacks the pin-based VMX control {bits:?}"),
            Self::Primary(bits) => write!(f, "the processor lacks the primary VMX control {bits:?}"),
            Self::Secondary(bits) => write!(f, "the processor lacks the secondary VMX control {bits:?}"),
            Self::Exit(bits) => write!(f, "the processor lacks the VM-exit control {bits:?}"),
            Self::Entry(bits) => write!(f, "the processor lacks the VM-entry control {bits:?}"),
            Self::ForcedOn(word, bits) => {
                write!(f, "the processor forces unknown {word} controls on: {bits:#x}")
            }
            Self::VmcsRegion => f.write_str("the VMCS region is larger than 4 KiB or not write-back"),
            Self::ActivityHlt => f.write_str("the processor lacks the HLT activity state"),
        }
    }
}

impl core::error::Error for Missing {}

/// Reserved bits that older processors force to 1 ("default1 class"); harmless wherever forced.
const PIN_DEFAULT1: u32 = 0x16;
const PRIMARY_DEFAULT1: u32 = 0x0401_e172;
const EXIT_DEFAULT1: u32 = 0x0003_6dff;
const ENTRY_DEFAULT1: u32 = 0x0000_11ff;

/// Which optional features the configuration allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// Use APIC virtualisation and virtual-interrupt delivery where the processor has them.
    pub apicv: bool,
    /// Tell the execution of user code from a kernel's where the processor can (mode-based execute control for EPT).
    pub mbec: bool,
    /// Have guests switch views by VMFUNC where the processor can.
    pub vmfunc: bool,
}

impl Wishes {
    /// Whatever the processor has.
    pub const ALL: Self = Self {
        apicv: true,
        mbec: true,
        vmfunc: true,
    };
}

/// What a processor without mode-based execute control and without VMFUNC is to do for a VM with the kernel/user split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Help {
    /// It has to have one of the two at least.
    Required,
    /// It may have neither: the VM is slow then.
    Dispensable,
}

/// Why a processor cannot run a VM with the kernel/user split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSplit {
    /// It has no monitor trap flag, so a guest cannot be taken through a single instruction.
    NoSteps,
    /// It has neither mode-based execute control nor VMFUNC.
    NoHelp,
}

/// The control words to run with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// IA32_VMX_BASIC bits 30:0, the first word of each VMXON and VMCS region.
    pub revision: u32,
    /// Pin-based controls, raw.
    pub pin: u32,
    /// Primary controls, raw.
    pub primary: u32,
    /// Secondary controls, raw.
    pub secondary: u32,
    /// VM-exit controls, raw.
    pub exit: u32,
    /// VM-entry controls, raw, without IA-32e mode.
    pub entry: u32,
    /// The preemption timer counts once each `1 << shift` TSC ticks.
    pub preemption_timer_shift: u32,
    /// Optional secondary controls that are on.
    pub optional: Secondary,
    /// Those that some VMs run with besides, where they are there.
    pub on_demand: Secondary,
    /// VMs can be taken through a single instruction: the monitor trap flag is there.
    pub steps: bool,
    /// CR0 bits that must be 1 outside unrestricted guests.
    pub cr0_fixed0: u64,
    /// CR0 bits that may be 1.
    pub cr0_fixed1: u64,
    /// CR4 bits that must be 1.
    pub cr4_fixed0: u64,
    /// CR4 bits that may be 1.
    pub cr4_fixed1: u64,
}

/// Splits a control capability MSR: bits forced on, bits allowed on.
const fn halves(msr: u64) -> (u32, u32) {
    (msr as u32, (msr >> 32) as u32)
}

/// Why a control word cannot be had.
enum Refusal {
    /// Wanted bits that are not allowed.
    Absent(u32),
    /// Unknown bits that are forced on.
    Forced(u32),
}

impl Refusal {
    fn name(self, word: &'static str, absent: fn(u32) -> Missing) -> Missing {
        match self {
            Self::Absent(bits) => absent(bits),
            Self::Forced(bits) => Missing::ForcedOn(word, bits),
        }
    }
}

/// `wanted` and what the processor forces, as one control word.
const fn adjust(msr: u64, wanted: u32, default1: u32) -> Result<u32, Refusal> {
    let (forced, allowed) = halves(msr);
    let absent = wanted & !allowed;
    let surprising = forced & !(wanted | default1);
    if absent != 0 {
        // One at a time, so that the message names one feature.
        Err(Refusal::Absent(absent & absent.wrapping_neg()))
    } else if surprising != 0 {
        Err(Refusal::Forced(surprising))
    } else {
        Ok(wanted | forced)
    }
}

/// What every vCPU needs.
const PIN: Pin = Pin::EXTERNAL_INTERRUPT
    .union(Pin::NMI)
    .union(Pin::VIRTUAL_NMI)
    .union(Pin::PREEMPTION_TIMER);
const PRIMARY: Primary = Primary::TSC_OFFSETTING
    .union(Primary::HLT)
    .union(Primary::MWAIT)
    .union(Primary::RDPMC)
    .union(Primary::TPR_SHADOW)
    .union(Primary::IO_BITMAPS)
    .union(Primary::MSR_BITMAPS)
    .union(Primary::MONITOR)
    .union(Primary::SECONDARY);
const SECONDARY: Secondary = Secondary::EPT
    .union(Secondary::UNRESTRICTED_GUEST)
    .union(Secondary::VPID)
    .union(Secondary::WBINVD);
const EXIT: Exit = Exit::SAVE_DEBUG
    .union(Exit::HOST_64)
    .union(Exit::ACK_INTERRUPT)
    .union(Exit::SAVE_PAT)
    .union(Exit::LOAD_PAT)
    .union(Exit::SAVE_EFER)
    .union(Exit::LOAD_EFER);
const ENTRY: Entry = Entry::LOAD_DEBUG
    .union(Entry::LOAD_PAT)
    .union(Entry::LOAD_EFER);

/// Taken when there.
const OPTIONAL: Secondary = Secondary::RDTSCP
    .union(Secondary::INVPCID)
    .union(Secondary::TSC_SCALING)
    .union(Secondary::CONCEAL_FROM_PT);
/// Taken for VMs that need them.
const ON_DEMAND: Secondary = Secondary::MBEC
    .union(Secondary::VMFUNC)
    .union(Secondary::DESCRIPTOR_TABLE);
/// Taken with the next when there. Without it the sender kicks the other CPU, which costs that one an exit.
const POSTED: Pin = Pin::POSTED_INTERRUPTS;
/// Taken together when there and wished for.
const APICV: Secondary = Secondary::VIRTUALIZE_X2APIC
    .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
    .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY);

/// What there is of [`ON_DEMAND`], as far as it is wished for and of use: switching between views without exits takes seeing descriptor tables
/// change.
fn on_demand(msrs: &CapabilityMsrs, wishes: Wishes) -> Secondary {
    let (_, secondary) = halves(msrs.secondary);
    let mut there = ON_DEMAND.intersection(Secondary::from_bits_retain(secondary));
    if !wishes.mbec {
        there.remove(Secondary::MBEC);
    }
    if !wishes.vmfunc || !there.contains(Secondary::DESCRIPTOR_TABLE) {
        there.remove(Secondary::VMFUNC);
    }
    there
}

impl Negotiated {
    /// Chooses control words from what the processor reports.
    ///
    /// # Errors
    /// The first required feature that is missing, or a bit forced on that Bulkhead does not know.
    pub fn from_msrs(msrs: &CapabilityMsrs, wishes: Wishes) -> Result<Self, Missing> {
        let region = (msrs.basic >> 32) & 0x1fff;
        let memory_type = (msrs.basic >> 50) & 0xf;
        if region > 4096 || memory_type != 6 {
            return Err(Missing::VmcsRegion);
        }
        if msrs.misc & (1 << 6) == 0 {
            return Err(Missing::ActivityHlt);
        }
        let (_, allowed_pin) = halves(msrs.pin);
        let (_, allowed) = halves(msrs.secondary);
        let apicv = wishes.apicv && APICV.bits() & !allowed == 0;
        let posted = POSTED.intersection(Pin::from_bits_retain(allowed_pin));
        let wanted_pin = if apicv { PIN.union(posted) } else { PIN };
        let pin = adjust(msrs.pin, wanted_pin.bits(), PIN_DEFAULT1)
            .map_err(|r| r.name("pin-based", |b| Missing::Pin(Pin::from_bits_retain(b))))?;
        let primary = adjust(msrs.primary, PRIMARY.bits(), PRIMARY_DEFAULT1).map_err(|r| {
            r.name("primary", |b| {
                Missing::Primary(Primary::from_bits_retain(b))
            })
        })?;
        let mut optional = OPTIONAL.intersection(Secondary::from_bits_retain(allowed));
        if apicv {
            optional |= APICV;
        }
        let secondary =
            adjust(msrs.secondary, SECONDARY.union(optional).bits(), 0).map_err(|r| {
                r.name("secondary", |b| {
                    Missing::Secondary(Secondary::from_bits_retain(b))
                })
            })?;
        let exit = adjust(msrs.exit, EXIT.bits(), EXIT_DEFAULT1)
            .map_err(|r| r.name("VM-exit", |b| Missing::Exit(Exit::from_bits_retain(b))))?;
        let entry = adjust(msrs.entry, ENTRY.bits(), ENTRY_DEFAULT1)
            .map_err(|r| r.name("VM-entry", |b| Missing::Entry(Entry::from_bits_retain(b))))?;
        Ok(Self {
            revision: (msrs.basic & 0x7fff_ffff) as u32,
            pin,
            primary,
            secondary,
            exit,
            entry,
            preemption_timer_shift: (msrs.misc & 0x1f) as u32,
            optional,
            on_demand: on_demand(msrs, wishes),
            steps: halves(msrs.primary).1 & Primary::MONITOR_TRAP.bits() != 0,
            cr0_fixed0: msrs.cr0_fixed0,
            cr0_fixed1: msrs.cr0_fixed1,
            cr4_fixed0: msrs.cr4_fixed0,
            cr4_fixed1: msrs.cr4_fixed1,
        })
    }

    /// Whether the CPU takes interrupts that another CPU posted without an exit.
    #[must_use]
    pub const fn posts_interrupts(&self) -> bool {
        self.pin & Pin::POSTED_INTERRUPTS.bits() != 0
    }

    /// The same for a VM with the kernel/user split.
    ///
    /// # Errors
    /// What the processor lacks.
    pub const fn for_split(mut self, help: Help) -> Result<Self, NoSplit> {
        // Instructions on descriptor tables exit when they have to.
        let on = self.on_demand.difference(Secondary::DESCRIPTOR_TABLE);
        if !self.steps {
            Err(NoSplit::NoSteps)
        } else if on.is_empty() && matches!(help, Help::Required) {
            Err(NoSplit::NoHelp)
        } else {
            self.secondary |= on.bits();
            Ok(self)
        }
    }

    /// Whether the processor of a VM with the split tells the execution of user code from that of a kernel's.
    #[must_use]
    pub const fn tells_user_code(&self) -> bool {
        self.secondary & Secondary::MBEC.bits() != 0
    }

    /// Whether a VM with the split switches views without an exit.
    #[must_use]
    pub const fn switches_views(&self) -> bool {
        self.secondary & Secondary::VMFUNC.bits() != 0
    }

    /// Whether the CPU delivers virtual interrupts by itself.
    #[must_use]
    pub const fn apicv(&self) -> bool {
        self.optional.contains(APICV)
    }
}

/// What IA32_FEATURE_CONTROL allows (Intel SDM vol. 3C, "Enabling and Entering VMX Operation").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureControl {
    /// Locked with VMX outside SMX on: VMXON works.
    Ready,
    /// Unlocked: write this value, then VMXON works.
    Write(u64),
}

impl FeatureControl {
    /// Decides from the MSR's value.
    ///
    /// # Errors
    /// [`Missing::DisabledByFirmware`] when it is locked with VMX off.
    pub const fn decide(value: u64) -> Result<Self, Missing> {
        const LOCK: u64 = 1;
        const VMX_OUTSIDE_SMX: u64 = 1 << 2;
        if value & LOCK == 0 {
            Ok(Self::Write(value | LOCK | VMX_OUTSIDE_SMX))
        } else if value & VMX_OUTSIDE_SMX != 0 {
            Ok(Self::Ready)
        } else {
            Err(Missing::DisabledByFirmware)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor that allows everything and forces only the default1 class.
    fn generous() -> CapabilityMsrs {
        CapabilityMsrs {
            basic: 0x12 | (4096 << 32) | (6 << 50) | (1 << 55),
            pin: u64::from(PIN_DEFAULT1) | 0xffff_ffff_0000_0000,
            primary: u64::from(PRIMARY_DEFAULT1) | 0xffff_ffff_0000_0000,
            secondary: 0xffff_ffff_0000_0000,
            exit: u64::from(EXIT_DEFAULT1) | 0xffff_ffff_0000_0000,
            entry: u64::from(ENTRY_DEFAULT1) | 0xffff_ffff_0000_0000,
            misc: (1 << 6) | 5,
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: u64::MAX,
            cr4_fixed0: 0x2000,
            cr4_fixed1: u64::MAX,
        }
    }

    #[test]
    fn everything_wanted_is_on_and_forced_bits_stay() {
        let n = Negotiated::from_msrs(&generous(), Wishes::ALL).unwrap();
        assert_eq!(
            n.pin & (PIN.bits() | PIN_DEFAULT1),
            PIN.bits() | PIN_DEFAULT1
        );
        assert!(n.apicv());
        assert_eq!(n.preemption_timer_shift, 5);
        assert_eq!(n.revision, 0x12);
    }

    #[test]
    fn apicv_is_left_out_when_not_wished_for_or_incomplete() {
        assert!(
            !Negotiated::from_msrs(
                &generous(),
                Wishes {
                    apicv: false,
                    ..Wishes::ALL
                }
            )
            .unwrap()
            .apicv()
        );
        let mut partial = generous();
        partial.secondary &= !(u64::from(Secondary::VIRTUAL_INTERRUPT_DELIVERY.bits()) << 32);
        assert!(
            !Negotiated::from_msrs(&partial, Wishes::ALL)
                .unwrap()
                .apicv()
        );
    }

    #[test]
    fn each_missing_required_bit_is_named() {
        for bit in SECONDARY.iter() {
            let mut msrs = generous();
            msrs.secondary &= !(u64::from(bit.bits()) << 32);
            assert_eq!(
                Negotiated::from_msrs(&msrs, Wishes::ALL),
                Err(Missing::Secondary(bit))
            );
        }
        for bit in PIN.iter() {
            let mut msrs = generous();
            msrs.pin &= !(u64::from(bit.bits()) << 32);
            assert_eq!(
                Negotiated::from_msrs(&msrs, Wishes::ALL),
                Err(Missing::Pin(bit))
            );
        }
        for bit in PRIMARY.iter() {
            let mut msrs = generous();
            msrs.primary &= !(u64::from(bit.bits()) << 32);
            assert_eq!(
                Negotiated::from_msrs(&msrs, Wishes::ALL),
                Err(Missing::Primary(bit))
            );
        }
        for bit in EXIT.iter() {
            let mut msrs = generous();
            msrs.exit &= !(u64::from(bit.bits()) << 32);
            assert_eq!(
                Negotiated::from_msrs(&msrs, Wishes::ALL),
                Err(Missing::Exit(bit))
            );
        }
        for bit in ENTRY.iter() {
            let mut msrs = generous();
            msrs.entry &= !(u64::from(bit.bits()) << 32);
            assert_eq!(
                Negotiated::from_msrs(&msrs, Wishes::ALL),
                Err(Missing::Entry(bit))
            );
        }
    }

    #[test]
    fn a_control_forced_on_that_nobody_knows_is_refused() {
        let mut msrs = generous();
        msrs.secondary |= 1 << 30;
        assert_eq!(
            Negotiated::from_msrs(&msrs, Wishes::ALL),
            Err(Missing::ForcedOn("secondary", 1 << 30))
        );
    }

    #[test]
    fn feature_control_is_written_only_when_unlocked() {
        assert_eq!(FeatureControl::decide(0), Ok(FeatureControl::Write(5)));
        assert_eq!(FeatureControl::decide(5), Ok(FeatureControl::Ready));
        assert_eq!(FeatureControl::decide(1), Err(Missing::DisabledByFirmware));
    }
}
