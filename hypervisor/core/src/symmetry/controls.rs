//! VT-x capabilities of two CPUs brought together (Intel SDM vol. 3D, appendix "VMX Capability Reporting Facility").

use core::fmt;

use crate::flags;
use crate::vmx::capability::CapabilityMsrs;
use crate::vmx::controls::{Entry, Exit, Pin, Primary, Secondary};

/// A difference of two CPUs that no common set hides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmxDifference {
    /// Other VMCS revisions.
    Revision {
        /// The one before.
        expected: u32,
        /// This CPU's.
        found: u32,
    },
    /// Other memory types for VMCS regions.
    MemoryType {
        /// The one before.
        expected: u32,
        /// This CPU's.
        found: u32,
    },
}

impl fmt::Display for VmxDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision { expected, found } => {
                write!(f, "VMCS revision {found:#x} instead of {expected:#x}")
            }
            Self::MemoryType { expected, found } => {
                write!(f, "VMCS memory type {found} instead of {expected}")
            }
        }
    }
}

/// IA32_VMX_BASIC ("Basic VMX Information").
mod basic {
    pub(super) const REVISION: u64 = 0x7fff_ffff;
    pub(super) const SIZE: u64 = 0x1fff << 32;
    pub(super) const ADDRESSES_32_BITS: u64 = 1 << 48;
    pub(super) const MEMORY_TYPE: u64 = 0xf << 50;
    pub(super) const MEMORY_TYPE_SHIFT: u32 = 50;
}

/// IA32_VMX_MISC ("Miscellaneous Data").
mod misc {
    pub(super) const TIMER_SHIFT: u64 = 0x1f;
    pub(super) const CR3_TARGETS: u64 = 0x1ff << 16;
    pub(super) const MSR_LISTS: u64 = 0x7 << 25;
    pub(super) const MSEG_REVISION: u64 = 0xffff_ffff << 32;
}

impl CapabilityMsrs {
    /// What both CPUs allow; what either forces is forced.
    ///
    /// # Errors
    /// [`VmxDifference`] where one VMCS layout cannot serve both.
    pub fn common(&self, other: &Self) -> Result<Self, VmxDifference> {
        Ok(Self {
            basic: common_basic(self.basic, other.basic)?,
            pin: common_controls(self.pin, other.pin),
            primary: common_controls(self.primary, other.primary),
            secondary: common_controls(self.secondary, other.secondary),
            exit: common_controls(self.exit, other.exit),
            entry: common_controls(self.entry, other.entry),
            misc: common_misc(self.misc, other.misc),
            cr0_fixed0: self.cr0_fixed0 | other.cr0_fixed0,
            cr0_fixed1: self.cr0_fixed1 & other.cr0_fixed1,
            cr4_fixed0: self.cr4_fixed0 | other.cr4_fixed0,
            cr4_fixed1: self.cr4_fixed1 & other.cr4_fixed1,
        })
    }
}

fn common_basic(a: u64, b: u64) -> Result<u64, VmxDifference> {
    let revision = |word: u64| (word & basic::REVISION) as u32;
    if revision(a) != revision(b) {
        return Err(VmxDifference::Revision {
            expected: revision(a),
            found: revision(b),
        });
    }
    let memory_type = |word: u64| ((word & basic::MEMORY_TYPE) >> basic::MEMORY_TYPE_SHIFT) as u32;
    if memory_type(a) != memory_type(b) {
        return Err(VmxDifference::MemoryType {
            expected: memory_type(a),
            found: memory_type(b),
        });
    }
    let limits = basic::SIZE | basic::ADDRESSES_32_BITS;
    let size = (a & basic::SIZE).max(b & basic::SIZE);
    Ok(a & b & !limits | size | (a | b) & basic::ADDRESSES_32_BITS)
}

/// Low half: forced on by either. High half: allowed by both.
const fn common_controls(a: u64, b: u64) -> u64 {
    const FORCED: u64 = 0xffff_ffff;
    (a | b) & FORCED | a & b & !FORCED
}

fn common_misc(a: u64, b: u64) -> u64 {
    let numbers = misc::TIMER_SHIFT | misc::CR3_TARGETS | misc::MSR_LISTS | misc::MSEG_REVISION;
    let least = |field: u64| (a & field).min(b & field);
    // The slower timer: where the other runs, it is early and set again, and never late.
    let timer = (a & misc::TIMER_SHIFT).max(b & misc::TIMER_SHIFT);
    let mseg = if (a ^ b) & misc::MSEG_REVISION == 0 {
        a & misc::MSEG_REVISION
    } else {
        0
    };
    a & b & !numbers | timer | least(misc::CR3_TARGETS) | least(misc::MSR_LISTS) | mseg
}

/// Controls of one word, named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlBits {
    /// Pin-based.
    Pin(Pin),
    /// Primary.
    Primary(Primary),
    /// Secondary.
    Secondary(Secondary),
    /// VM-exit.
    Exit(Exit),
    /// VM-entry.
    Entry(Entry),
}

impl fmt::Display for ControlBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(bits) => flags::write(bits, f)?,
            Self::Primary(bits) => flags::write(bits, f)?,
            Self::Secondary(bits) => flags::write(bits, f)?,
            Self::Exit(bits) => flags::write(bits, f)?,
            Self::Entry(bits) => flags::write(bits, f)?,
        }
        f.write_str(match self {
            Self::Pin(_) => " (pin-based VMX controls)",
            Self::Primary(_) => " (primary VMX controls)",
            Self::Secondary(_) => " (secondary VMX controls)",
            Self::Exit(_) => " (VM-exit controls)",
            Self::Entry(_) => " (VM-entry controls)",
        })
    }
}

/// The controls that Bulkhead knows, `a` allows and `b` does not.
pub(super) fn beyond(a: &CapabilityMsrs, b: &CapabilityMsrs) -> impl Iterator<Item = ControlBits> {
    let extra = |a: u64, b: u64| ((a & !b) >> 32) as u32;
    let pin = Pin::from_bits_truncate(extra(a.pin, b.pin));
    let primary = Primary::from_bits_truncate(extra(a.primary, b.primary));
    let secondary = Secondary::from_bits_truncate(extra(a.secondary, b.secondary));
    let exit = Exit::from_bits_truncate(extra(a.exit, b.exit));
    let entry = Entry::from_bits_truncate(extra(a.entry, b.entry));
    [
        (!pin.is_empty()).then_some(ControlBits::Pin(pin)),
        (!primary.is_empty()).then_some(ControlBits::Primary(primary)),
        (!secondary.is_empty()).then_some(ControlBits::Secondary(secondary)),
        (!exit.is_empty()).then_some(ControlBits::Exit(exit)),
        (!entry.is_empty()).then_some(ControlBits::Entry(entry)),
    ]
    .into_iter()
    .flatten()
}
