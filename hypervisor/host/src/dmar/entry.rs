//! The table's entries, one by one (VT-d specification, "Remapping Structure Types").

use alloc::string::{String, ToString};
use core::fmt;

use crate::addr::{FRAME_SIZE, Hpa};
use crate::hostacpi::table::{byte, u16_at, u32_at, u64_at};

use super::error::{DmarError, Fault, Warning};
use super::scope::Scope;
use super::{
    Affinity, AtsPorts, DeviceProperties, Dmar, IntegratedCaches, NamedDevice, ReservedRegion, Unit,
};

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// DMA remapping hardware unit definition.
    Drhd,
    /// Reserved memory region reporting.
    Rmrr,
    /// Root port ATS capability reporting.
    Atsr,
    /// Remapping hardware static affinity.
    Rhsa,
    /// ACPI name-space device declaration.
    Andd,
    /// SoC integrated address translation cache reporting.
    Satc,
    /// SoC integrated device property reporting.
    Sidp,
    /// What the specification does not define.
    Unknown(u16),
}

impl EntryKind {
    /// Whether to be without such an entry lets a device go where it must not.
    const fn is_vital(self) -> bool {
        matches!(self, Self::Drhd | Self::Rmrr)
    }
}

impl From<u16> for EntryKind {
    fn from(raw: u16) -> Self {
        match raw {
            0 => Self::Drhd,
            1 => Self::Rmrr,
            2 => Self::Atsr,
            3 => Self::Rhsa,
            4 => Self::Andd,
            5 => Self::Satc,
            6 => Self::Sidp,
            _ => Self::Unknown(raw),
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drhd => f.write_str("DRHD"),
            Self::Rmrr => f.write_str("RMRR"),
            Self::Atsr => f.write_str("ATSR"),
            Self::Rhsa => f.write_str("RHSA"),
            Self::Andd => f.write_str("ANDD"),
            Self::Satc => f.write_str("SATC"),
            Self::Sidp => f.write_str("SIDP"),
            Self::Unknown(raw) => write!(f, "entry of type {raw}"),
        }
    }
}

/// What the bytes at some offset are.
pub(super) enum Next<'a> {
    /// An entry, with all its bytes.
    Entry(EntryKind, &'a [u8]),
    /// Zeros to the end of the table.
    Padding,
}

/// What begins at `offset`, or `None` at the end of the table.
pub(super) fn next(table: &[u8], offset: usize) -> Result<Option<Next<'_>>, DmarError> {
    let rest = table.get(offset..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    // Type and length 0 can be no entry, so what firmware left over hides none.
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(Some(Next::Padding));
    }
    let length = u16_at(rest, 2).map_or(0, usize::from);
    match (u16_at(rest, 0), rest.get(..length)) {
        (Some(kind), Some(bytes)) if length >= 4 => Ok(Some(Next::Entry(kind.into(), bytes))),
        // Where the next entry begins is not known, and it may be a unit.
        _ => Err(DmarError::BrokenChain { offset }),
    }
}

const INCLUDE_PCI_ALL: u8 = 1 << 0;
const ALL_PORTS: u8 = 1 << 0;
const ATC_REQUIRED: u8 = 1 << 0;
/// The bits of a unit's size field that count.
const SIZE: u8 = 0xf;

impl Dmar {
    /// Takes one entry in.
    pub(super) fn take(
        &mut self,
        kind: EntryKind,
        offset: usize,
        entry: &[u8],
    ) -> Result<(), DmarError> {
        let taken = match kind {
            EntryKind::Drhd => self.add_unit(entry, offset),
            EntryKind::Rmrr => self.add_region(entry, offset),
            EntryKind::Atsr => self.add_ports(entry, offset),
            EntryKind::Rhsa => self.add_affinity(entry),
            EntryKind::Andd => self.add_named(entry),
            EntryKind::Satc => self.add_caches(entry, offset),
            EntryKind::Sidp => self.add_properties(entry, offset),
            EntryKind::Unknown(kind) => {
                self.warn(Warning::UnknownEntry { offset, kind });
                Ok(())
            }
        };
        match taken {
            Err(fault) if kind.is_vital() => Err(DmarError::BadEntry {
                offset,
                kind,
                fault,
            }),
            Err(fault) => {
                self.warn(Warning::BadEntry {
                    offset,
                    kind,
                    fault,
                });
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn add_unit(&mut self, entry: &[u8], offset: usize) -> Result<(), Fault> {
        let scopes = Scope::list(entry, 16, offset, &mut self.warnings)?;
        // Tables older than the size field have 0 there, which is one page.
        let pages = 1 << (byte_at(entry, 5)? & SIZE);
        let unit = Unit {
            segment: segment(entry)?,
            registers: address(entry, 8)?,
            size: pages * FRAME_SIZE,
            include_pci_all: byte_at(entry, 4)? & INCLUDE_PCI_ALL != 0,
            scopes,
        };
        let at = unit.registers;
        if at == Hpa(0) || !at.is_aligned(FRAME_SIZE) {
            return Err(Fault::Registers(at));
        }
        let last = at.checked_add(unit.size - 1);
        last.filter(|last| self.reaches(*last))
            .ok_or(Fault::BeyondWidth(at))?;
        if unit.scopes.is_empty() && !unit.include_pci_all {
            self.warn(Warning::NoScope {
                offset,
                kind: EntryKind::Drhd,
            });
        }
        self.units.push(unit);
        Ok(())
    }

    fn add_region(&mut self, entry: &[u8], offset: usize) -> Result<(), Fault> {
        let scopes = Scope::list(entry, 24, offset, &mut self.warnings)?;
        let region = ReservedRegion {
            segment: segment(entry)?,
            base: address(entry, 8)?,
            limit: address(entry, 16)?,
            scopes,
        };
        let (base, limit) = (region.base, region.limit);
        // A form that firmware did not fill in asks for no memory.
        if (base, limit) == (Hpa(0), Hpa(0)) {
            self.warn(Warning::EmptyRegion { offset });
            return Ok(());
        }
        let whole_pages = base.is_aligned(FRAME_SIZE) && limit.page_offset() == FRAME_SIZE - 1;
        if !whole_pages || base > limit {
            return Err(Fault::Region { base, limit });
        }
        if !self.reaches(limit) {
            return Err(Fault::BeyondWidth(limit));
        }
        if region.scopes.is_empty() {
            self.warn(Warning::NoScope {
                offset,
                kind: EntryKind::Rmrr,
            });
        }
        self.reserved.push(region);
        Ok(())
    }

    fn add_ports(&mut self, entry: &[u8], offset: usize) -> Result<(), Fault> {
        let ports = AtsPorts {
            scopes: Scope::list(entry, 8, offset, &mut self.warnings)?,
            segment: segment(entry)?,
            all: byte_at(entry, 4)? & ALL_PORTS != 0,
        };
        self.ats_ports.push(ports);
        Ok(())
    }

    fn add_affinity(&mut self, entry: &[u8]) -> Result<(), Fault> {
        let affinity = Affinity {
            registers: address(entry, 8)?,
            domain: u32_at(entry, 16).ok_or(Fault::TooShort)?,
        };
        self.affinities.push(affinity);
        Ok(())
    }

    fn add_named(&mut self, entry: &[u8]) -> Result<(), Fault> {
        let number = byte_at(entry, 7)?;
        let name = entry.get(8..).ok_or(Fault::TooShort)?;
        let path = text(name).ok_or(Fault::Name)?;
        self.named.push(NamedDevice { number, path });
        Ok(())
    }

    fn add_caches(&mut self, entry: &[u8], offset: usize) -> Result<(), Fault> {
        let caches = IntegratedCaches {
            scopes: Scope::list(entry, 8, offset, &mut self.warnings)?,
            segment: segment(entry)?,
            required: byte_at(entry, 4)? & ATC_REQUIRED != 0,
        };
        self.caches.push(caches);
        Ok(())
    }

    fn add_properties(&mut self, entry: &[u8], offset: usize) -> Result<(), Fault> {
        let properties = DeviceProperties {
            scopes: Scope::list(entry, 8, offset, &mut self.warnings)?,
            segment: segment(entry)?,
        };
        self.properties.push(properties);
        Ok(())
    }

    /// Whether DMA can have this address at all.
    fn reaches(&self, at: Hpa) -> bool {
        at.0 >> self.address_width == 0
    }
}

/// Every entry that has a segment has it here.
fn segment(entry: &[u8]) -> Result<u16, Fault> {
    u16_at(entry, 6).ok_or(Fault::TooShort)
}

fn byte_at(entry: &[u8], at: usize) -> Result<u8, Fault> {
    byte(entry, at).ok_or(Fault::TooShort)
}

fn address(entry: &[u8], at: usize) -> Result<Hpa, Fault> {
    u64_at(entry, at).map(Hpa).ok_or(Fault::TooShort)
}

/// The printable text before the first zero; `None` where there is none of either.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let text = core::str::from_utf8(bytes.get(..end)?).ok()?;
    let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    printable.then(|| text.to_string())
}
