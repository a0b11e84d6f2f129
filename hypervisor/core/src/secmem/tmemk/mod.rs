//! TME-MK: the memory controller encrypts a VM's frames under a key of the VM's own. **Never run on hardware.**
//!
//! The firmware turns it on and locks it. From then on the topmost bits of a physical address are no address any more: they
//! name the key under which the line is encrypted on its way to memory. Key id 0 is the machine's one key, or none. So
//! a frame has as many physical addresses as there are keys, caches take them for different memory, and nothing keeps
//! them coherent: a frame has to be reached under one key at a time, by everybody.
//!
//! Who has to know what, since MAXPHYADDR goes on counting the key id's bits:
//!
//! | who | what |
//! |---|---|
//! | ledger | which key a VM's frames are under ([`crate::ledger::Ledger::rekey`]); every map right says it |
//! | EPT, window | put the right's key above the frame number ([`KeyTag`]), and [`KeyField::split`] what is in an entry |
//! | page-table engine | nothing: to it, as to the processor, a frame with a key is a frame with a higher number |
//! | the hypervisor's own tables, VT-d | refuse rights with a key; all that is mapped there is under key id 0 |
//! | MTRRs | have to give an address the same type under every key, or TME-MK is not used |
//! | machine checks | strip the key off an address that a bank reports |
//!
//! [`KeyIds::find`] decides from [`Registers`] whether there are keys to use, [`HardwareKeys`] makes and erases them in the one
//! order that is safe, [`KeyProgram`] is what PCONFIG reads. Neighbours: the shell's `secmem::tmemk` reads registers and
//! executes instructions; [`crate::topology`] knows packages. See "Intel Architecture Memory Encryption Technologies Specification" (336907) and
//! Intel SDM vol. 2B, "PCONFIG—Platform Configuration".

mod address;
mod keys;
mod program;
#[cfg(test)]
mod tests;

use core::fmt;

use bitflags::bitflags;

use crate::addr::Hpa;
use crate::cpuid::CpuidResult;
use crate::mtrr::Mtrrs;

pub use address::{HardwareKeyId, KeyField, KeyTag};
pub use keys::{Engines, HardwareKey, HardwareKeys, KeyError};
pub use program::{KeyProgram, ProgramError};

/// IA32_TME_CAPABILITY.
pub const MSR_TME_CAPABILITY: u32 = 0x981;
/// IA32_TME_ACTIVATE.
pub const MSR_TME_ACTIVATE: u32 = 0x982;

/// More subleaves of CPUID's PCONFIG leaf than any processor has.
const MAX_SUBLEAVES: u32 = 4;

bitflags! {
    /// IA32_TME_ACTIVATE's flags, less its numbers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Activate: u64 {
        const LOCKED = 1 << 0;
        const ENCRYPTS = 1 << 1;
        const AES_XTS_256 = 1 << 50;
    }
}

/// What one CPU says of TME-MK.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// CPUID announces the two registers below.
    pub has_tme: bool,
    /// CPUID announces PCONFIG, and TME-MK as a target of it.
    pub has_pconfig: bool,
    /// MAXPHYADDR, key id bits included.
    pub physical_bits: u32,
    /// IA32_TME_CAPABILITY.
    pub capability: u64,
    /// IA32_TME_ACTIVATE.
    pub activate: u64,
}

impl Registers {
    /// Reads them on the CPU that this is executed on. `rdmsr` is asked only for registers that are there.
    pub fn read(host: &mut dyn FnMut(u32, u32) -> CpuidResult, rdmsr: impl Fn(u32) -> u64) -> Self {
        const TME: u32 = 1 << 13;
        const PCONFIG: u32 = 1 << 18;
        const PCONFIG_LEAF: u32 = 0x1b;
        let max = host(0, 0).eax;
        let features = if max >= 7 {
            host(7, 0)
        } else {
            CpuidResult::default()
        };
        if features.ecx & TME == 0 {
            return Self::default();
        }
        Self {
            has_tme: true,
            has_pconfig: features.edx & PCONFIG != 0
                && max >= PCONFIG_LEAF
                && is_target(&mut |subleaf| host(PCONFIG_LEAF, subleaf)),
            physical_bits: host(0x8000_0008, 0).eax & 0xff,
            capability: rdmsr(MSR_TME_CAPABILITY),
            activate: rdmsr(MSR_TME_ACTIVATE),
        }
    }

    /// The most bits that a key id can have on this processor.
    const fn max_bits(&self) -> u32 {
        (self.capability >> 32 & 0xf) as u32
    }

    /// How many keys there are at most, key id 0 not counted.
    const fn max_keys(&self) -> u16 {
        (self.capability >> 36 & 0x7fff) as u16
    }

    /// How many bits of an address the firmware made a key id of, those for TDX included.
    const fn key_bits(&self) -> u32 {
        (self.activate >> 32 & 0xf) as u32
    }

    /// How many of them, from the top, are TDX's: set, they are a reserved bit to everybody else.
    const fn tdx_bits(&self) -> u32 {
        (self.activate >> 36 & 0xf) as u32
    }
}

/// Whether the PCONFIG leaf names TME-MK (Intel SDM vol. 2A, "CPUID—CPU Identification", leaf 1BH).
fn is_target(leaf: &mut dyn FnMut(u32) -> CpuidResult) -> bool {
    const TARGET_LIST: u32 = 1;
    const TME_MK: u32 = 1;
    for subleaf in 0..MAX_SUBLEAVES {
        let answer = leaf(subleaf);
        match answer.eax & 0xfff {
            // The first invalid subleaf is the last one.
            0 => return false,
            TARGET_LIST if [answer.ebx, answer.ecx, answer.edx].contains(&TME_MK) => return true,
            _ => {}
        }
    }
    false
}

/// The keys that can be used on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyIds {
    count: u16,
    field: KeyField,
}

impl KeyIds {
    /// The keys of a machine all of whose CPUs say `registers`, whose memory ends at `memory_end`, and whose memory types are
    /// `mtrrs`.
    ///
    /// # Errors
    /// Why there are none to be used.
    pub fn find(registers: &Registers, memory_end: Hpa, mtrrs: &Mtrrs) -> Result<Self, Unusable> {
        let Registers {
            physical_bits,
            activate,
            ..
        } = *registers;
        if !registers.has_tme {
            return Err(Unusable::Absent);
        }
        if !registers.has_pconfig || registers.max_bits() == 0 || registers.max_keys() == 0 {
            return Err(Unusable::OneKey);
        }
        let flags = Activate::from_bits_truncate(activate);
        if !flags.contains(Activate::ENCRYPTS) {
            return Err(Unusable::NotActivated);
        }
        if !flags.contains(Activate::LOCKED) {
            return Err(Unusable::NotLocked);
        }
        let (key_bits, tdx_bits) = (registers.key_bits(), registers.tdx_bits());
        if key_bits == 0 {
            return Err(Unusable::NoKeyIdBits);
        }
        if key_bits > registers.max_bits() || tdx_bits > key_bits {
            return Err(Unusable::Nonsense(activate));
        }
        if tdx_bits == key_bits {
            return Err(Unusable::TakenByTdx);
        }
        if !flags.contains(Activate::AES_XTS_256) {
            return Err(Unusable::NoAesXts256);
        }
        let field = physical_bits
            .checked_sub(key_bits)
            .and_then(|shift| KeyField::new(shift, key_bits - tdx_bits))
            .filter(|_| physical_bits <= KeyField::MAX_PHYSICAL_BITS)
            .ok_or(Unusable::Width(physical_bits))?;
        if memory_end > field.end_of_memory() {
            return Err(Unusable::MemoryBeyond(memory_end));
        }
        // TDX's bits, too: they are in a variable range's mask or not, as the others are.
        if !mtrrs.ignore(field.bits_from_shift_up()) {
            return Err(Unusable::Mtrrs);
        }
        Ok(Self {
            count: field.last_id().min(registers.max_keys()),
            field,
        })
    }

    /// How many keys there are; their ids are 1 to this.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Where in an address they stand.
    #[must_use]
    pub const fn field(&self) -> KeyField {
        self.field
    }
}

impl fmt::Display for KeyIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys; never run on hardware", self.count)
    }
}

/// Why TME-MK is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// CPUID does not announce memory encryption.
    Absent,
    /// The processor encrypts under one key only, or cannot be given another.
    OneKey,
    /// The firmware did not turn encryption on.
    NotActivated,
    /// The firmware did not lock it.
    NotLocked,
    /// The firmware made no bits of an address a key id.
    NoKeyIdBits,
    /// All of them are TDX's.
    TakenByTdx,
    /// The firmware does not allow the one algorithm that is used.
    NoAesXts256,
    /// IA32_TME_ACTIVATE holds what cannot be.
    Nonsense(u64),
    /// MAXPHYADDR leaves no address below the key ids, or is more than an address has.
    Width(u32),
    /// Memory reaches into the key ids.
    MemoryBeyond(Hpa),
    /// The memory type of an address would depend on the key.
    Mtrrs,
    /// A CPU says something else than the first one.
    Differs {
        /// Its number.
        cpu: u32,
    },
    /// Not every CPU runs: its package's memory controller may be out of reach, and its caches are.
    CpuAsleep,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::OneKey => "one key only",
            Self::NotActivated => "off in the firmware set-up",
            Self::NotLocked => "left unlocked by the firmware",
            Self::NoKeyIdBits => "given no key ids by the firmware",
            Self::TakenByTdx => "all key ids are for TDX",
            Self::NoAesXts256 => "AES-XTS-256 not allowed by the firmware",
            Self::Nonsense(_) => "IA32_TME_ACTIVATE makes no sense",
            Self::Width(_) => "no room in the width of addresses",
            Self::MemoryBeyond(_) => "memory reaches into the key ids",
            Self::Mtrrs => "memory types depend on the key id",
            Self::Differs { .. } => "set up differently on some CPU",
            Self::CpuAsleep => "not every CPU runs",
        })
    }
}

impl core::error::Error for Unusable {}
