//! Reads the firmware's ACPI tables while the firmware still maps all memory.
#![allow(unsafe_code, reason = "tables lie at physical addresses")]

use alloc::vec::Vec;
use bulkhead_core::addr::Hpa;
use bulkhead_core::hostacpi::{HostAcpi, HostPhys};
use bulkhead_core::pci::EcamWindow;
use bulkhead_core::vtd::dmar::{Dmar, DmarError};
use core::ptr;
use uefi::boot::{self, MemoryType};
use uefi::mem::memory_map::MemoryMap;
use uefi::table::cfg::ConfigTableEntry;

/// What the firmware's map calls memory; a table may lie nowhere else.
struct Mapped(Vec<(u64, u64)>);

impl HostPhys for Mapped {
    fn read(&mut self, at: Hpa, into: &mut [u8]) -> bool {
        let Some(end) = at.checked_add(into.len() as u64) else {
            return false;
        };
        if !self
            .0
            .iter()
            .any(|(start, stop)| *start <= at.0 && end.0 <= *stop)
        {
            return false;
        }
        // SAFETY: the range is memory by the firmware's own map, which it keeps mapped where addresses are equal;
        // bytes are copied, and `into` is ours.
        unsafe { ptr::copy_nonoverlapping(at.0 as *const u8, into.as_mut_ptr(), into.len()) };
        true
    }
}

/// What the firmware's tables say.
#[derive(Default)]
pub struct Tables {
    /// The facts that every machine has.
    pub facts: HostAcpi,
    /// Its remapping units, where there are any.
    pub dmar: Option<Result<Dmar, DmarError>>,
    /// Where the configuration space of PCI functions lies in memory.
    pub windows: Vec<EcamWindow>,
}

/// What the tables say. Without tables, or with broken ones, there are fewer facts and a warning each.
#[must_use]
pub fn read() -> Tables {
    let Some(rsdp) = rsdp() else {
        log::warn!(
            "the firmware gives no ACPI tables; one CPU is assumed, and switching off is left to you"
        );
        return Tables::default();
    };
    let Ok(map) = boot::memory_map(MemoryType::LOADER_DATA) else {
        return Tables::default();
    };
    let ranges = map
        .entries()
        .filter(|entry| holds_tables(entry.ty))
        .filter_map(|entry| {
            let bytes = entry.page_count.checked_mul(4096)?;
            Some((entry.phys_start, entry.phys_start.checked_add(bytes)?))
        })
        .collect();
    let mut mapped = Mapped(ranges);
    let facts = match HostAcpi::read(&mut mapped, rsdp) {
        Ok(facts) => facts,
        Err(error) => {
            log::warn!("{error}");
            return Tables::default();
        }
    };
    for warning in &facts.warnings {
        log::warn!("{warning}");
    }
    let dmar = facts.dmar.map(|table| {
        // A table that cannot be loaded is longer than any: none of its bytes say more.
        Dmar::parse(&table.load(&mut mapped).unwrap_or_default())
    });
    let mcfg = facts.mcfg.and_then(|table| table.load(&mut mapped));
    let windows = EcamWindow::parse(&mcfg.unwrap_or_default(), &mut |bad| log::warn!("{bad}"));
    Tables {
        facts,
        dmar,
        windows,
    }
}

/// Memory that the firmware surely maps, and in which tables may lie. Reserved memory is among it because
/// firmware made for older systems keeps its root pointer there.
fn holds_tables(kind: MemoryType) -> bool {
    matches!(
        kind,
        MemoryType::ACPI_RECLAIM
            | MemoryType::ACPI_NON_VOLATILE
            | MemoryType::RUNTIME_SERVICES_DATA
            | MemoryType::BOOT_SERVICES_DATA
            | MemoryType::LOADER_DATA
            | MemoryType::CONVENTIONAL
            | MemoryType::RESERVED
    )
}

/// The ACPI root pointer, version 2 preferred.
fn rsdp() -> Option<Hpa> {
    uefi::system::with_config_table(|entries| {
        [ConfigTableEntry::ACPI2_GUID, ConfigTableEntry::ACPI_GUID]
            .into_iter()
            .find_map(|guid| {
                entries
                    .iter()
                    .find(|entry| entry.guid == guid)
                    .map(|entry| Hpa(entry.address as u64))
            })
    })
}
