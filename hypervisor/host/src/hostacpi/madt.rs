//! Processors and interrupt controllers (ACPI specification, "Multiple APIC Description Table (MADT)").

use alloc::vec::Vec;

use crate::addr::Hpa;

use super::Warning;
use super::table::{byte, u16_at, u32_at, u64_at};

/// A processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor {
    /// Its local APIC's id, of 8 or 32 bits.
    pub apic_id: u32,
    /// The firmware's number for it.
    pub uid: u32,
    /// Whether it can be started now.
    pub enabled: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// Its registers.
    pub at: Hpa,
    /// The number of its first interrupt.
    pub first_gsi: u32,
}

/// An ISA interrupt that is wired otherwise than by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptOverride {
    /// The ISA interrupt.
    pub isa: u8,
    /// The interrupt it really is.
    pub gsi: u32,
    /// Polarity (bits 0 and 1) and trigger mode (bits 2 and 3).
    pub flags: u16,
}

/// What the MADT says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Madt {
    /// The local APICs' registers.
    pub local_apic: Hpa,
    /// Whether there are two 8259s to be masked.
    pub has_pic: bool,
    /// Processors, each once, in the table's order.
    pub processors: Vec<Processor>,
    /// I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// Overrides.
    pub overrides: Vec<InterruptOverride>,
}

/// What is kept of each kind: several times what the largest machines have, and little enough for the heap.
const MAX_PROCESSORS: usize = 4096;
const MAX_IO_APICS: usize = 256;
const MAX_OVERRIDES: usize = 256;

const FIRST_ENTRY: usize = 44;
const PCAT_COMPAT: u32 = 1 << 0;
const ENABLED: u32 = 1 << 0;

impl Madt {
    /// The facts in the table's bytes, or `None` where it is too short. A malformed entry ends the list
    /// if its length is impossible, and is left out otherwise; so is what no machine has that many of.
    pub(super) fn parse(bytes: &[u8], warnings: &mut Vec<Warning>) -> Option<Self> {
        let mut madt = Self {
            local_apic: Hpa(u32_at(bytes, 36)?.into()),
            has_pic: u32_at(bytes, 40)? & PCAT_COMPAT != 0,
            processors: Vec::new(),
            io_apics: Vec::new(),
            overrides: Vec::new(),
        };
        let mut offset = FIRST_ENTRY;
        while let Some(kind) = byte(bytes, offset) {
            let length = byte(bytes, offset + 1).map_or(0, usize::from);
            let entry = bytes.get(offset..offset + length).filter(|_| length >= 2);
            let Some(entry) = entry else {
                Warning::BadMadtEntry { offset, kind }.note(warnings);
                break;
            };
            match madt.add(kind, entry) {
                Some(true) => {}
                Some(false) => Warning::SurplusMadtEntry { offset, kind }.note(warnings),
                None => Warning::BadMadtEntry { offset, kind }.note(warnings),
            }
            offset += length;
        }
        Some(madt)
    }

    /// Takes one entry in; `None` where it is too short for its kind, false where its list is full.
    fn add(&mut self, kind: u8, entry: &[u8]) -> Option<bool> {
        let kept = match kind {
            0 => {
                let (uid, apic_id) = (byte(entry, 2)?, byte(entry, 3)?);
                self.add_processor(apic_id.into(), uid.into(), u32_at(entry, 4)?)
            }
            1 => {
                let io_apic = IoApic {
                    id: byte(entry, 2)?,
                    at: Hpa(u32_at(entry, 4)?.into()),
                    first_gsi: u32_at(entry, 8)?,
                };
                push(&mut self.io_apics, MAX_IO_APICS, io_apic)
            }
            2 => {
                let wiring = InterruptOverride {
                    isa: byte(entry, 3)?,
                    gsi: u32_at(entry, 4)?,
                    flags: u16_at(entry, 8)?,
                };
                push(&mut self.overrides, MAX_OVERRIDES, wiring)
            }
            5 => {
                self.local_apic = Hpa(u64_at(entry, 4)?);
                true
            }
            9 => {
                let (apic_id, flags) = (u32_at(entry, 4)?, u32_at(entry, 8)?);
                self.add_processor(apic_id, u32_at(entry, 12)?, flags)
            }
            // NMI sources and what later revisions add: not needed.
            _ => true,
        };
        Some(kept)
    }

    /// Firmware may list a processor both by its 8-bit and its 32-bit id: it counts once, enabled if either says so.
    /// False where there are too many.
    fn add_processor(&mut self, apic_id: u32, uid: u32, flags: u32) -> bool {
        let enabled = flags & ENABLED != 0;
        match self
            .processors
            .iter_mut()
            .find(|known| known.apic_id == apic_id)
        {
            Some(known) => {
                known.enabled |= enabled;
                true
            }
            None => {
                let processor = Processor {
                    apic_id,
                    uid,
                    enabled,
                };
                push(&mut self.processors, MAX_PROCESSORS, processor)
            }
        }
    }
}

/// Adds to a list that may not grow beyond `limit`; false where it would.
fn push<T>(list: &mut Vec<T>, limit: usize, item: T) -> bool {
    let room = list.len() < limit;
    if room {
        list.push(item);
    }
    room
}
