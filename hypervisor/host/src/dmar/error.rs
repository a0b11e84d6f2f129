//! What can be wrong with a DMAR table: what ends its reading, and what is only noted.

use alloc::vec::Vec;
use core::fmt;

use crate::addr::Hpa;

use super::entry::EntryKind;

/// Warnings kept one by one; a table of nothing but errors would have a hundred times as many.
pub const MAX_WARNINGS: usize = 32;

/// Why the table cannot be relied on: part of the machine might stay open to DMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmarError {
    /// The table's length is not that of its bytes, or is beyond sense.
    BadLength {
        /// What the table says.
        stated: u32,
        /// How many bytes there are.
        held: usize,
    },
    /// This is another table.
    NotDmar,
    /// The table's bytes sum to this and not to zero.
    BadChecksum(u8),
    /// No platform has addresses of so many bits.
    AddressWidth(u16),
    /// The entry at this offset has an impossible length, so what follows cannot be found.
    BrokenChain {
        /// Offset in the table.
        offset: usize,
    },
    /// A unit or a reserved region cannot be read.
    BadEntry {
        /// Offset in the table.
        offset: usize,
        /// Which of the two.
        kind: EntryKind,
        /// What is wrong.
        fault: Fault,
    },
    /// There is no unit in the table.
    NoUnits,
    /// Two units' registers overlap.
    UnitsOverlap {
        /// The lower one's registers.
        first: Hpa,
        /// The other's.
        second: Hpa,
    },
    /// A reserved region would give a device a unit's registers.
    RegionOverUnit {
        /// The region.
        base: Hpa,
        /// The unit.
        registers: Hpa,
    },
    /// Two units both have everything that is not named.
    TwoCatchAlls {
        /// The PCI segment.
        segment: u16,
        /// One's registers.
        first: Hpa,
        /// The other's.
        second: Hpa,
    },
}

impl fmt::Display for DmarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ACPI DMAR table: ")?;
        match self {
            Self::BadLength { stated, held } => {
                write!(f, "{stated} bytes stated, {held} there")
            }
            Self::NotDmar => f.write_str("its signature is another"),
            Self::BadChecksum(sum) => write!(f, "its bytes sum to {sum:#04x}, not to zero"),
            Self::AddressWidth(width) => write!(f, "a host address width of {width} bits"),
            Self::BrokenChain { offset } => {
                write!(f, "the entry at offset {offset} has an impossible length")
            }
            Self::BadEntry {
                offset,
                kind,
                fault,
            } => write!(f, "{kind} at offset {offset}: {fault}"),
            Self::NoUnits => f.write_str("it names no remapping unit"),
            Self::UnitsOverlap { first, second } => {
                write!(f, "the units at {first} and {second} overlap")
            }
            Self::RegionOverUnit { base, registers } => {
                write!(
                    f,
                    "the reserved region at {base} holds the unit at {registers}"
                )
            }
            Self::TwoCatchAlls {
                segment,
                first,
                second,
            } => write!(
                f,
                "the units at {first} and {second} both claim the rest of segment {segment}"
            ),
        }?;
        f.write_str("; the firmware is broken, look for an update of it")
    }
}

impl core::error::Error for DmarError {}

/// What is wrong with one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It ends before its fields do.
    TooShort,
    /// The length of the device scope at this offset in the table does not fit it or the entry.
    ScopeLength(usize),
    /// The path of the device scope at this offset in the table is no path.
    ScopePath(usize),
    /// Registers at zero, or not at the start of a page.
    Registers(Hpa),
    /// An address that is wider than the platform's.
    BeyondWidth(Hpa),
    /// A region that is not whole pages, or ends before it begins.
    Region {
        /// Its first byte.
        base: Hpa,
        /// Its last byte.
        limit: Hpa,
    },
    /// A device's ACPI path that is empty, endless or not text.
    Name,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("it is too short"),
            Self::ScopeLength(at) => {
                write!(
                    f,
                    "its device scope at offset {at} has an impossible length"
                )
            }
            Self::ScopePath(at) => write!(f, "its device scope at offset {at} has no valid path"),
            Self::Registers(at) => write!(f, "no registers can be at {at}"),
            Self::BeyondWidth(at) => write!(f, "{at} is beyond the host address width"),
            Self::Region { base, limit } => {
                write!(f, "{base} to {limit} is not a range of whole pages")
            }
            Self::Name => f.write_str("its ACPI path is not text"),
        }
    }
}

/// Something wrong or odd that does no harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// An entry was skipped.
    BadEntry {
        /// Offset in the table.
        offset: usize,
        /// What it is.
        kind: EntryKind,
        /// What is wrong.
        fault: Fault,
    },
    /// An entry of a type that the specification does not define was skipped.
    UnknownEntry {
        /// Offset in the table.
        offset: usize,
        /// Its type.
        kind: u16,
    },
    /// A device scope of a type that the specification does not define means no device.
    UnknownScope {
        /// Offset in the table.
        offset: usize,
        /// Its type.
        kind: u8,
    },
    /// A unit or a region is there for no device.
    NoScope {
        /// Offset in the table.
        offset: usize,
        /// Which of the two.
        kind: EntryKind,
    },
    /// From here on the table or entry is zeros.
    Padding {
        /// Offset in the table.
        offset: usize,
    },
    /// A reserved region that was not filled in was skipped.
    EmptyRegion {
        /// Offset in the table.
        offset: usize,
    },
    /// A unit follows that which has all the rest of its segment, and should precede it.
    CatchAllNotLast {
        /// The PCI segment.
        segment: u16,
    },
    /// Two units name the same device, which is taken to be behind the one that the table has first.
    SharedScope {
        /// The lower one's registers.
        first: Hpa,
        /// The other's.
        second: Hpa,
    },
    /// A NUMA node is stated for a unit that does not exist.
    NoSuchUnit(Hpa),
    /// The ACPI path of a device with this number is missing.
    Undeclared(u8),
    /// So many more, after the first [`MAX_WARNINGS`].
    Further(usize),
}

impl Warning {
    /// Adds this to a list that firmware cannot make arbitrarily long.
    pub(super) fn note(self, list: &mut Vec<Self>) {
        if list.len() < MAX_WARNINGS {
            list.push(self);
            return;
        }
        match list.get_mut(MAX_WARNINGS) {
            Some(Self::Further(count)) => *count += 1,
            _ => list.push(Self::Further(1)),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ACPI DMAR table: ")?;
        match self {
            Self::BadEntry {
                offset,
                kind,
                fault,
            } => write!(f, "{kind} at offset {offset} skipped: {fault}"),
            Self::UnknownEntry { offset, kind } => {
                write!(f, "entry of unknown type {kind} at offset {offset} skipped")
            }
            Self::UnknownScope { offset, kind } => {
                write!(f, "device scope of unknown type {kind} at offset {offset}")
            }
            Self::NoScope { offset, kind } => {
                write!(f, "{kind} at offset {offset} is for no device")
            }
            Self::Padding { offset } => write!(f, "nothing but zeros from offset {offset}"),
            Self::EmptyRegion { offset } => {
                write!(f, "RMRR at offset {offset} is not filled in, skipped")
            }
            Self::CatchAllNotLast { segment } => write!(
                f,
                "the unit for the rest of segment {segment} is not the segment's last"
            ),
            Self::SharedScope { first, second } => {
                write!(f, "the units at {first} and {second} name the same device")
            }
            Self::NoSuchUnit(at) => write!(f, "a NUMA node for {at}, where no unit is"),
            Self::Undeclared(number) => write!(f, "no ACPI path for device number {number}"),
            Self::Further(count) => write!(f, "{count} further warnings"),
        }
    }
}
