//! What Bulkhead needs to know from the host firmware's ACPI tables.
//!
//! [`HostAcpi::read`] walks RSDP, XSDT (or RSDT) and every table they name, checking lengths and checksums. A
//! malformed table is skipped with a [`Warning`]; only a machine without a usable root table is an [`AcpiError`].
//! Found are: how to power off and reset ([`Fadt`], [`SleepType`]), processors and interrupt controllers ([`Madt`]), and
//! where DMAR, TPM2 and MCFG are. Layouts: ACPI specification, "ACPI Software Programming Model".
//!
//! Own code instead of the `acpi` crate: its handler hands out pointers into firmware memory
//! (an `unsafe` contract this library cannot sign) and it reads tables in place, before any bound of ours, and
//! `\_S5_` would need its AML interpreter, which runs the firmware's code. What we need is a few fields.

mod aml;
mod fadt;
mod madt;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use crate::addr::Hpa;

pub use aml::SleepType;
pub use fadt::{AddressSpace, BootFlags, Fadt, GenericAddress, SmiHandover};
pub use madt::{InterruptOverride, IoApic, Madt, Processor};
pub use table::TableRef;

use table::{HEADER_LEN, Header, sum};

/// Host physical memory as the firmware left it.
pub trait HostPhys {
    /// Fills `into` from `at`, or returns false where that is no memory.
    fn read(&mut self, at: Hpa, into: &mut [u8]) -> bool;
}

/// A table's four-letter name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 4]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Why there are no tables at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// There is no readable RSDP with a right signature and checksum at this address.
    BadRsdp(Hpa),
    /// Neither XSDT nor RSDT can be used.
    NoRootTable,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRsdp(at) => write!(f, "no valid ACPI RSDP at {at}; the firmware is broken"),
            Self::NoRootTable => {
                write!(f, "neither XSDT nor RSDT is valid; the firmware is broken")
            }
        }
    }
}

impl core::error::Error for AcpiError {}

/// Something wrong with the firmware's tables that Bulkhead worked around by skipping it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// No memory at the address of a table.
    Unreadable(Hpa),
    /// A table is shorter than its fields or longer than sense.
    BadLength(TableRef),
    /// A table's bytes do not sum to zero.
    BadChecksum(TableRef),
    /// Another table than expected is there.
    WrongSignature {
        /// What should be there.
        expected: Signature,
        /// What is there.
        found: TableRef,
    },
    /// The root table names more tables than are looked at.
    TooManyTables(usize),
    /// An entry of the MADT does not fit its type or the table; the rest is skipped.
    BadMadtEntry {
        /// Offset in the table.
        offset: usize,
        /// Entry type.
        kind: u8,
    },
    /// An entry of the MADT is one more of its type than are kept.
    SurplusMadtEntry {
        /// Offset in the table.
        offset: usize,
        /// Entry type.
        kind: u8,
    },
    /// No such table.
    Missing(Signature),
    /// No table has a `\_S5_` package of small integers: power-off by ACPI is not possible.
    NoSleepType,
    /// So many more, after the first [`MAX_WARNINGS`].
    Further(usize),
}

impl Warning {
    /// Adds this to a list that firmware cannot make arbitrarily long.
    fn note(self, list: &mut Vec<Self>) {
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
        match self {
            Self::Unreadable(at) => write!(f, "ACPI table at {at} is not in memory, skipped"),
            Self::BadLength(t) => {
                write!(
                    f,
                    "ACPI table {} at {} has a bad length {}, skipped",
                    t.signature, t.at, t.length
                )
            }
            Self::BadChecksum(t) => {
                write!(
                    f,
                    "ACPI table {} at {} has a bad checksum, skipped",
                    t.signature, t.at
                )
            }
            Self::WrongSignature { expected, found } => {
                write!(
                    f,
                    "ACPI table {} at {}: {expected} expected",
                    found.signature, found.at
                )
            }
            Self::TooManyTables(count) => {
                write!(
                    f,
                    "{count} ACPI tables; only the first {MAX_TABLES} are read"
                )
            }
            Self::BadMadtEntry { offset, kind } => {
                write!(
                    f,
                    "ACPI MADT entry of type {kind} at offset {offset} is malformed"
                )
            }
            Self::SurplusMadtEntry { offset, kind } => {
                write!(
                    f,
                    "ACPI MADT entry of type {kind} at offset {offset} is one too many, skipped"
                )
            }
            Self::Missing(signature) => write!(f, "no valid ACPI table {signature}"),
            Self::NoSleepType => f.write_str("no ACPI \\_S5_ package: power-off is not available"),
            Self::Further(count) => write!(f, "{count} further warnings about ACPI tables"),
        }
    }
}

/// The facts found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostAcpi {
    /// Fixed hardware: power management ports, reset register.
    pub fadt: Option<Fadt>,
    /// Processors and interrupt controllers.
    pub madt: Option<Madt>,
    /// What to write to power the machine off.
    pub power_off: Option<SleepType>,
    /// DMA remapping.
    pub dmar: Option<TableRef>,
    /// TPM 2.0.
    pub tpm2: Option<TableRef>,
    /// PCI Express configuration space.
    pub mcfg: Option<TableRef>,
    /// What was skipped: at most [`MAX_WARNINGS`], then how many there are besides.
    pub warnings: Vec<Warning>,
}

/// Warnings kept one by one; a table of nothing but errors would have a thousand times as many.
pub const MAX_WARNINGS: usize = 32;
/// Tables that the root table may name; real machines have some thirty.
const MAX_TABLES: usize = 256;
const FADT: Signature = Signature(*b"FACP");
const MADT: Signature = Signature(*b"APIC");
const DSDT: Signature = Signature(*b"DSDT");
const SSDT: Signature = Signature(*b"SSDT");

impl HostAcpi {
    /// Reads the tables that the RSDP at `rsdp` leads to.
    ///
    /// # Errors
    /// [`AcpiError`] where there is no root table. Anything less is a warning in the result.
    #[inline(never)]
    pub fn read(memory: &mut dyn HostPhys, rsdp: Hpa) -> Result<Self, AcpiError> {
        let mut facts = Self::default();
        let tables = facts.root(memory, rsdp)?;
        let mut definitions = Vec::new();
        for at in tables {
            let Some(table) = facts.checked(memory, at) else {
                continue;
            };
            match table.signature {
                FADT => facts.read_fadt(memory, table, &mut definitions),
                MADT => facts.read_madt(memory, table),
                SSDT => definitions.push(table),
                Signature(name) => {
                    let slot = match &name {
                        b"DMAR" => &mut facts.dmar,
                        b"TPM2" => &mut facts.tpm2,
                        b"MCFG" => &mut facts.mcfg,
                        _ => continue,
                    };
                    slot.get_or_insert(table);
                }
            }
        }
        facts.power_off = definitions
            .iter()
            .find_map(|table| aml::find_s5(memory, *table));
        if facts.power_off.is_none() && facts.fadt.is_some_and(|fadt| !fadt.hardware_reduced) {
            facts.warn(Warning::NoSleepType);
        }
        for (found, signature) in [(facts.fadt.is_some(), FADT), (facts.madt.is_some(), MADT)] {
            if !found {
                facts.warn(Warning::Missing(signature));
            }
        }
        Ok(facts)
    }

    fn warn(&mut self, warning: Warning) {
        warning.note(&mut self.warnings);
    }

    /// The addresses in the XSDT, or in the RSDT where there is no valid XSDT.
    fn root(&mut self, memory: &mut dyn HostPhys, at: Hpa) -> Result<Vec<Hpa>, AcpiError> {
        // The 20 bytes of ACPI 1.0, then what revision 2 added.
        let mut rsdp = [0; 36];
        let (first, second) = rsdp.split_at_mut(20);
        if !memory.read(at, first) || !first.starts_with(b"RSD PTR ") || sum(first) != 0 {
            return Err(AcpiError::BadRsdp(at));
        }
        let revision_2 = table::byte(first, 15).is_some_and(|revision| revision >= 2);
        let has_xsdt = revision_2
            && at
                .checked_add(20)
                .is_some_and(|rest| memory.read(rest, second))
            && sum(&rsdp) == 0;
        let xsdt = table::u64_at(&rsdp, 24)
            .filter(|at| has_xsdt && *at != 0)
            .map(Hpa);
        let rsdt = table::u32_at(&rsdp, 16)
            .filter(|at| *at != 0)
            .map(|at| Hpa(at.into()));
        let xsdt = xsdt.and_then(|at| self.pointers::<8>(memory, at, Signature(*b"XSDT")));
        xsdt.or_else(|| self.pointers::<4>(memory, rsdt?, Signature(*b"RSDT")))
            .ok_or(AcpiError::NoRootTable)
    }

    /// The addresses, `N` bytes each, in the root table at `at`.
    fn pointers<const N: usize>(
        &mut self,
        memory: &mut dyn HostPhys,
        at: Hpa,
        expected: Signature,
    ) -> Option<Vec<Hpa>> {
        let found = self.checked(memory, at)?;
        if found.signature != expected {
            self.warn(Warning::WrongSignature { expected, found });
            return None;
        }
        let bytes = self.load(memory, found)?;
        let entries = bytes.get(HEADER_LEN..)?.as_chunks::<N>().0;
        if entries.len() > MAX_TABLES {
            self.warn(Warning::TooManyTables(entries.len()));
        }
        let address = |entry: &[u8; N]| {
            let mut wide = [0; 8];
            wide.iter_mut()
                .zip(entry)
                .for_each(|(to, from)| *to = *from);
            Hpa(u64::from_le_bytes(wide))
        };
        let addresses = entries.iter().take(MAX_TABLES).map(address);
        Some(addresses.filter(|at| at.0 != 0).collect())
    }

    fn read_fadt(
        &mut self,
        memory: &mut dyn HostPhys,
        table: TableRef,
        definitions: &mut Vec<TableRef>,
    ) {
        let Some(bytes) = self.load(memory, table) else {
            return;
        };
        let Some(fadt) = Fadt::parse(&bytes) else {
            self.warn(Warning::BadLength(table));
            return;
        };
        if self.fadt.is_some() {
            return;
        }
        self.fadt = Some(fadt);
        if let Some(found) = fadt.dsdt.and_then(|at| self.checked(memory, at)) {
            match found.signature == DSDT {
                // First, because that is where `\_S5_` is on nearly every machine.
                true => definitions.insert(0, found),
                false => self.warn(Warning::WrongSignature {
                    expected: DSDT,
                    found,
                }),
            }
        }
    }

    fn read_madt(&mut self, memory: &mut dyn HostPhys, table: TableRef) {
        let Some(bytes) = self.load(memory, table) else {
            return;
        };
        match Madt::parse(&bytes, &mut self.warnings) {
            Some(madt) => _ = self.madt.get_or_insert(madt),
            None => self.warn(Warning::BadLength(table)),
        }
    }

    /// The table at `at`, its length and checksum checked, or a warning.
    fn checked(&mut self, memory: &mut dyn HostPhys, at: Hpa) -> Option<TableRef> {
        let warning = match Header::read(memory, at) {
            None => Warning::Unreadable(at),
            Some(header) => match header.check(memory) {
                Ok(table) => return Some(table),
                Err(warning) => warning,
            },
        };
        self.warn(warning);
        None
    }

    /// All bytes of a table that is small enough to hold in memory.
    fn load(&mut self, memory: &mut dyn HostPhys, table: TableRef) -> Option<Vec<u8>> {
        let bytes = table.load(memory);
        if bytes.is_none() {
            self.warn(Warning::BadLength(table));
        }
        bytes
    }
}
