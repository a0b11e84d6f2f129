//! The firmware's DMAR table: remapping units, what is behind each, memory that devices keep for themselves
//! (VT-d specification, "BIOS Considerations").
//!
//! [`Dmar::parse`] reads the table's bytes. What only an optimisation or a name needs is skipped with a [`Warning`]
//! where it is malformed. What safety needs is not: a unit that is left out stays off, and what is behind it reaches
//! all memory, so a unit or a reserved region that cannot be read is a [`DmarError`]; so is a table that may hide one.
//!
//! ```text
//! header | entry, entry, ...            type and length in front of each
//!            DRHD  a unit ............. scope, scope, ...   [`Scope`]: a start bus and the way down from it
//!            RMRR  a reserved region .. scope, ...
//!            ...
//! ```
//!
//! Bus numbers behind bridges are not in the table: [`Dmar::unit_of`] and its like ask a [`Bridges`] for them.

mod check;
mod entry;
mod error;
mod owner;
mod scope;
mod source;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

use bitflags::bitflags;

use crate::addr::Hpa;
use crate::hostacpi::table::{HEADER_LEN, byte, sum, u32_at};

pub use entry::EntryKind;
pub use error::{DmarError, Fault, MAX_WARNINGS, Warning};
pub use owner::Bridges;
pub use scope::{Buses, Hop, PathError, Scope, ScopeFlags, ScopeKind, resolve};
pub use source::SourceId;

use entry::Next;

bitflags! {
    /// What the platform says of itself. Bits that the specification keeps for later stay as they are.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PlatformFlags: u8 {
        /// Interrupts can be remapped.
        const INTERRUPT_REMAPPING = 1 << 0;
        /// The firmware asks not to be put into x2APIC mode; it means something only with
        /// [`Self::INTERRUPT_REMAPPING`].
        const X2APIC_OPT_OUT = 1 << 1;
        /// The firmware itself confined DMA before it handed over.
        const DMA_CONTROL_OPT_IN = 1 << 2;
    }
}

/// A remapping unit (DRHD).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unit {
    /// The PCI segment it serves.
    pub segment: u16,
    /// Its registers.
    pub registers: Hpa,
    /// How many bytes of registers there are: whole pages.
    pub size: u64,
    /// Whether every function of the segment that no other unit names is behind it.
    pub include_pci_all: bool,
    /// What it names.
    pub scopes: Vec<Scope>,
}

/// Memory that devices use from before boot on (RMRR).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedRegion {
    /// The devices' PCI segment.
    pub segment: u16,
    /// The first byte.
    pub base: Hpa,
    /// The last byte.
    pub limit: Hpa,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// Root ports behind which devices may cache translations (ATSR).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtsPorts {
    /// The ports' PCI segment.
    pub segment: u16,
    /// Whether all root ports of the segment are meant.
    pub all: bool,
    /// The ports, unless it is all.
    pub scopes: Vec<Scope>,
}

/// The NUMA node of a unit (RHSA).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// The registers of the unit.
    pub registers: Hpa,
    /// Its proximity domain.
    pub domain: u32,
}

/// A device that ACPI enumerates and not PCI (ANDD).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedDevice {
    /// Its number, which a scope of [`ScopeKind::Named`] has as its id.
    pub number: u8,
    /// Its ACPI path.
    pub path: String,
}

/// Devices inside the SoC that cache translations (SATC).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntegratedCaches {
    /// Their PCI segment.
    pub segment: u16,
    /// Whether they work only with their caches on.
    pub required: bool,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// Properties of devices inside the SoC (SIDP): the [`ScopeFlags`] of each scope.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceProperties {
    /// Their PCI segment.
    pub segment: u16,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// What the DMAR table says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dmar {
    /// Bits of the highest address that DMA can reach on this platform.
    pub address_width: u8,
    /// What else holds for the platform.
    pub flags: PlatformFlags,
    /// Remapping units: at least one, no two overlapping, at most one a segment with [`Unit::include_pci_all`].
    pub units: Vec<Unit>,
    /// Memory that devices keep for themselves; none of it holds a unit's registers.
    pub reserved: Vec<ReservedRegion>,
    /// Root ports behind which devices may cache translations.
    pub ats_ports: Vec<AtsPorts>,
    /// Units' NUMA nodes.
    pub affinities: Vec<Affinity>,
    /// Devices that only ACPI knows.
    pub named: Vec<NamedDevice>,
    /// Integrated devices that cache translations.
    pub caches: Vec<IntegratedCaches>,
    /// Properties of integrated devices.
    pub properties: Vec<DeviceProperties>,
    /// What was skipped or is odd: at most [`MAX_WARNINGS`], then how many there are besides.
    pub warnings: Vec<Warning>,
}

/// The longest table read: dozens of units with dozens of scopes each need a tenth. It bounds every list above.
pub const MAX_LENGTH: usize = 64 << 10;

/// Where the first entry begins: behind width, flags and ten reserved bytes.
const FIRST_ENTRY: usize = HEADER_LEN + 12;
/// Widths that make sense: no processor with VT-d has fewer address lines, no table format translates more bits.
const WIDTHS: core::ops::RangeInclusive<u16> = 32..=57;

impl Dmar {
    /// The facts in the table's bytes: all of them, header included.
    ///
    /// # Errors
    /// [`DmarError`] where the table is damaged, or what safety needs cannot be read or contradicts itself. Anything
    /// less is a warning in the result.
    #[inline(never)]
    pub fn parse(bytes: &[u8]) -> Result<Self, DmarError> {
        let mut dmar = Self::header(bytes)?;
        let mut offset = FIRST_ENTRY;
        while let Some(next) = entry::next(bytes, offset)? {
            let Next::Entry(kind, entry) = next else {
                dmar.warn(Warning::Padding { offset });
                break;
            };
            dmar.take(kind, offset, entry)?;
            offset += entry.len();
        }
        dmar.check()?;
        Ok(dmar)
    }

    /// An empty list of everything, once the table as a whole is sound.
    fn header(bytes: &[u8]) -> Result<Self, DmarError> {
        let held = bytes.len();
        let stated = u32_at(bytes, 4).unwrap_or(0);
        let whole = usize::try_from(stated).is_ok_and(|stated| stated == held);
        if !whole || !(FIRST_ENTRY..=MAX_LENGTH).contains(&held) {
            return Err(DmarError::BadLength { stated, held });
        }
        if !bytes.starts_with(b"DMAR") {
            return Err(DmarError::NotDmar);
        }
        let sum = sum(bytes);
        if sum != 0 {
            return Err(DmarError::BadChecksum(sum));
        }
        // The field holds one less than the width.
        let width = byte(bytes, HEADER_LEN).map_or(0, |field| u16::from(field) + 1);
        let address_width = u8::try_from(width)
            .ok()
            .filter(|_| WIDTHS.contains(&width))
            .ok_or(DmarError::AddressWidth(width))?;
        let flags = byte(bytes, HEADER_LEN + 1).unwrap_or(0);
        Ok(Self {
            address_width,
            flags: PlatformFlags::from_bits_retain(flags),
            units: Vec::new(),
            reserved: Vec::new(),
            ats_ports: Vec::new(),
            affinities: Vec::new(),
            named: Vec::new(),
            caches: Vec::new(),
            properties: Vec::new(),
            warnings: Vec::new(),
        })
    }

    fn warn(&mut self, warning: Warning) {
        warning.note(&mut self.warnings);
    }
}
