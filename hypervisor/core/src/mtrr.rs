//! Memory types, and which one the MTRRs give a physical range.
//!
//! EPT entries carry a memory type that has to agree with what the firmware programmed into the memory
//! type range registers: a device cached, or memory uncached, is a slow or silent disaster. [`Mtrrs`]
//! is their decoded content; [`Mtrrs::runs`] cuts a run of frames where the type changes. See Intel SDM
//! vol. 3A, "Memory Type Range Registers (MTRRs)" and "MTRR Precedences".
//! Neighbours: [`crate::ept`] puts the type into entries, the shell reads the registers.

#[cfg(test)]
mod tests;

use core::fmt;

use bitflags::bitflags;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Hpa};
use crate::ledger::FrameRun;

/// A memory type, numbered as MTRRs, PAT entries and EPT entries number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// Not cached, ordered: devices.
    Uncacheable = 0,
    /// Not cached, writes combined: framebuffers.
    WriteCombining = 1,
    /// Cached, every write goes through.
    WriteThrough = 4,
    /// Cached for reading, writes invalidate.
    WriteProtected = 5,
    /// Cached: memory.
    WriteBack = 6,
}

impl MemoryType {
    /// The type with number `raw`, or `None` for a reserved number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Uncacheable),
            1 => Some(Self::WriteCombining),
            4 => Some(Self::WriteThrough),
            5 => Some(Self::WriteProtected),
            6 => Some(Self::WriteBack),
            _ => None,
        }
    }

    /// The type where two variable ranges overlap. Pairs the manual leaves undefined get
    /// Uncacheable, which is always correct.
    const fn overlap(self, other: Self) -> Self {
        match (self, other) {
            (Self::WriteThrough, Self::WriteBack) | (Self::WriteBack, Self::WriteThrough) => {
                Self::WriteThrough
            }
            _ if self as u8 == other as u8 => self,
            _ => Self::Uncacheable,
        }
    }
}

bitflags! {
    /// IA32_MTRRCAP without its count.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Capability: u64 {
        const FIXED = 1 << 8;
        const WRITE_COMBINING = 1 << 10;
    }

    /// IA32_MTRR_DEF_TYPE without its type.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct DefaultType: u64 {
        const FIXED_ENABLE = 1 << 10;
        const ENABLE = 1 << 11;
    }
}

/// IA32_MTRRCAP.
pub const MSR_MTRRCAP: u32 = 0xfe;
/// IA32_MTRR_DEF_TYPE.
pub const MSR_DEF_TYPE: u32 = 0x2ff;
/// IA32_MTRR_PHYSBASE0; base and mask of range `n` are at `2n` and `2n + 1` from here.
pub const MSR_PHYSBASE0: u32 = 0x200;
/// The fixed-range registers in address order: one of 64 KiB, two of 16 KiB, eight of 4 KiB ranges.
pub const FIXED_MSRS: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// More variable ranges than any processor has; the count in IA32_MTRRCAP could say 255.
pub const MAX_VARIABLE: usize = 32;

/// Variable ranges have a valid bit in their mask.
const MASK_VALID: u64 = 1 << 11;
/// Fixed ranges end at 1 MiB.
const FIXED_END: u64 = 1 << 20;
const FIXED_64K_END: u64 = 0x8_0000;
const FIXED_16K_END: u64 = 0xc_0000;

/// Why the MTRRs make no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MtrrError {
    /// IA32_MTRR_DEF_TYPE holds a reserved type.
    DefaultType(u64),
    /// A fixed-range register holds a reserved type.
    FixedType {
        /// The register.
        msr: u32,
        /// Its value.
        value: u64,
    },
    /// A variable range's base register holds a reserved type.
    VariableType {
        /// Which range.
        index: usize,
        /// The base register.
        base: u64,
    },
    /// A variable range uses address bits that the processor does not have.
    AddressWidth {
        /// Which range.
        index: usize,
        /// Its base register.
        base: u64,
        /// Its mask register.
        mask: u64,
    },
    /// IA32_MTRRCAP counts more variable ranges than [`MAX_VARIABLE`].
    TooManyRanges(usize),
    /// MAXPHYADDR is not between 32 and 52.
    PhysicalBits(u32),
}

impl fmt::Display for MtrrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultType(raw) => write!(f, "IA32_MTRR_DEF_TYPE {raw:#x} has a reserved type"),
            Self::FixedType { msr, value } => {
                write!(
                    f,
                    "fixed-range MTRR {msr:#x} = {value:#x} has a reserved memory type"
                )
            }
            Self::VariableType { index, base } => {
                write!(
                    f,
                    "IA32_MTRR_PHYSBASE{index} = {base:#x} has a reserved memory type"
                )
            }
            Self::AddressWidth { index, base, mask } => write!(
                f,
                "variable MTRR {index} (base {base:#x}, mask {mask:#x}) exceeds the address width"
            ),
            Self::TooManyRanges(count) => write!(f, "IA32_MTRRCAP counts {count} variable ranges"),
            Self::PhysicalBits(bits) => write!(f, "MAXPHYADDR is {bits}, not between 32 and 52"),
        }?;
        write!(f, "; the firmware set the MTRRs up wrongly")
    }
}

impl core::error::Error for MtrrError {}

/// One variable range: it covers each address whose masked bits equal the base's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Variable {
    base: u64,
    mask: u64,
    memory_type: MemoryType,
}

impl Variable {
    const fn covers(&self, address: u64) -> bool {
        address & self.mask == self.base & self.mask
    }

    /// The first address after `address` at which `covers` may change. Masks may have holes, so
    /// this is the end of the block that the lowest mask bit defines.
    const fn next_change(&self, address: u64) -> u64 {
        if self.mask == 0 {
            return u64::MAX;
        }
        let block = 1u64 << self.mask.trailing_zeros();
        (address & !(block - 1)).saturating_add(block)
    }
}

/// The decoded MTRRs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mtrrs {
    enabled: bool,
    default: MemoryType,
    fixed: Option<[[u8; 8]; FIXED_MSRS.len()]>,
    variable: [Option<Variable>; MAX_VARIABLE],
    /// The address bits that some variable range compares.
    compared: u64,
}

impl Mtrrs {
    /// What a processor without (or with disabled) MTRRs does: everything uncacheable.
    pub const DISABLED: Self = Self {
        enabled: false,
        default: MemoryType::Uncacheable,
        fixed: None,
        variable: [None; MAX_VARIABLE],
        compared: 0,
    };

    /// Reads and decodes the registers through `rdmsr`, which is asked only for those that exist.
    ///
    /// # Errors
    /// Any [`MtrrError`].
    pub fn read(physical_bits: u32, mut rdmsr: impl FnMut(u32) -> u64) -> Result<Self, MtrrError> {
        if !(32..=52).contains(&physical_bits) {
            return Err(MtrrError::PhysicalBits(physical_bits));
        }
        let raw = rdmsr(MSR_MTRRCAP);
        let count = (raw & 0xff) as usize;
        let capability = Capability::from_bits_truncate(raw);
        if count > MAX_VARIABLE {
            return Err(MtrrError::TooManyRanges(count));
        }
        let raw = rdmsr(MSR_DEF_TYPE);
        let control = DefaultType::from_bits_truncate(raw);
        if !control.contains(DefaultType::ENABLE) {
            return Ok(Self::DISABLED);
        }
        let default = MemoryType::from_raw(raw as u8).ok_or(MtrrError::DefaultType(raw))?;
        let has_fixed =
            capability.contains(Capability::FIXED) && control.contains(DefaultType::FIXED_ENABLE);
        let fixed = if has_fixed {
            Some(read_fixed(&mut rdmsr)?)
        } else {
            None
        };
        let mut variable = [None; MAX_VARIABLE];
        let mut compared = 0;
        for (index, slot) in variable.iter_mut().enumerate().take(count) {
            let base = rdmsr(MSR_PHYSBASE0 + 2 * index as u32);
            let mask = rdmsr(MSR_PHYSBASE0 + 2 * index as u32 + 1);
            *slot = decode_variable(index, base, mask, physical_bits)?;
            compared |= slot.map_or(0, |range| range.mask);
        }
        Ok(Self {
            enabled: true,
            default,
            fixed,
            variable,
            compared,
        })
    }

    /// The memory type of one address.
    #[must_use]
    pub fn type_at(&self, address: Hpa) -> MemoryType {
        if !self.enabled {
            return MemoryType::Uncacheable;
        }
        if let Some(memory_type) = self.fixed_at(address.0) {
            return memory_type;
        }
        let covering = self
            .variable
            .iter()
            .flatten()
            .filter(|range| range.covers(address.0));
        covering
            .map(|range| range.memory_type)
            .reduce(MemoryType::overlap)
            .unwrap_or(self.default)
    }

    /// Whether these bits of an address do not matter to its type.
    #[must_use]
    pub const fn ignore(&self, bits: u64) -> bool {
        self.compared & bits == 0
    }

    /// Cuts `run` into pieces of one memory type each, in order and as long as possible.
    pub fn runs(&self, run: FrameRun) -> impl Iterator<Item = (FrameRun, MemoryType)> {
        let mut next = run.first.0;
        core::iter::from_fn(move || {
            let first = next;
            if first >= run.end().0 {
                return None;
            }
            let memory_type = self.type_at(Frame(first).start());
            loop {
                next = self.next_change(next).min(run.end().0);
                if next >= run.end().0 || self.type_at(Frame(next).start()) != memory_type {
                    break;
                }
            }
            Some((
                FrameRun::new(Frame(first), FrameCount(next - first)),
                memory_type,
            ))
        })
    }

    /// The first frame after `frame` whose type may differ.
    fn next_change(&self, frame: u64) -> u64 {
        if !self.enabled {
            return u64::MAX;
        }
        let address = frame.saturating_mul(FRAME_SIZE);
        if self.fixed.is_some() && address < FIXED_END {
            return frame + 1;
        }
        let changes = self
            .variable
            .iter()
            .flatten()
            .map(|range| range.next_change(address));
        changes
            .min()
            .unwrap_or(u64::MAX)
            .div_ceil(FRAME_SIZE)
            .max(frame + 1)
    }

    fn fixed_at(&self, address: u64) -> Option<MemoryType> {
        let fixed = self.fixed.as_ref()?;
        // Eight ranges a register: 64 KiB each, then 16 KiB, then 4 KiB.
        let range = match address {
            0..FIXED_64K_END => address >> 16,
            FIXED_64K_END..FIXED_16K_END => 8 + ((address - FIXED_64K_END) >> 14),
            FIXED_16K_END..FIXED_END => 24 + ((address - FIXED_16K_END) >> 12),
            _ => return None,
        };
        let raw = *fixed.get((range / 8) as usize)?.get((range % 8) as usize)?;
        MemoryType::from_raw(raw)
    }
}

fn read_fixed(rdmsr: &mut dyn FnMut(u32) -> u64) -> Result<[[u8; 8]; FIXED_MSRS.len()], MtrrError> {
    let mut fixed = [[0; 8]; FIXED_MSRS.len()];
    for (types, msr) in fixed.iter_mut().zip(FIXED_MSRS) {
        let value = rdmsr(msr);
        *types = fixed_types(value).ok_or(MtrrError::FixedType { msr, value })?;
    }
    Ok(fixed)
}

/// The eight types of a register, each of them one that there is.
#[inline(never)]
fn fixed_types(value: u64) -> Option<[u8; 8]> {
    let types = value.to_le_bytes();
    let exist = types.iter().all(|raw| MemoryType::from_raw(*raw).is_some());
    exist.then_some(types)
}

fn decode_variable(
    index: usize,
    base: u64,
    mask: u64,
    physical_bits: u32,
) -> Result<Option<Variable>, MtrrError> {
    if mask & MASK_VALID == 0 {
        return Ok(None);
    }
    if (base | mask) >> physical_bits != 0 {
        return Err(MtrrError::AddressWidth { index, base, mask });
    }
    let memory_type =
        MemoryType::from_raw(base as u8).ok_or(MtrrError::VariableType { index, base })?;
    let address = !(FRAME_SIZE - 1);
    Ok(Some(Variable {
        base: base & address,
        mask: mask & address,
        memory_type,
    }))
}
