//! The ACPI tables, as far as guests need them: which vCPUs there are (MADT), where configuration space lies (MCFG).
//!
//! ACPI 6.5, "System Description Table Header", "Multiple APIC Description Table (MADT)"; PCI Firmware Specification 3.3,
//! "MCFG Table Description".

use crate::params::{Params, peek};

/// The RSDP's revision; before 2 it names an RSDT, whose addresses have 32 bits, and no XSDT.
const REVISION_OFFSET: u64 = 15;
const RSDT_OFFSET: u64 = 16;
const XSDT_OFFSET: u64 = 24;
const HEADER: u64 = 36;
const LENGTH_OFFSET: u64 = 4;
const MADT_ENTRIES: u64 = 44;
const MADT_LOCAL_APIC: u8 = 0;
const MADT_LOCAL_X2APIC: u8 = 9;
const MADT_ENABLED: u32 = 1;
const MCFG_FIRST: u64 = 44;
const MCFG_FIRST_END: u64 = MCFG_FIRST + 16;

/// One table.
#[derive(Clone, Copy, Debug)]
struct Table {
    address: u64,
    length: u64,
}

/// The local APIC identifiers of the vCPUs, in the MADT's order.
pub fn apic_ids(params: &Params) -> impl Iterator<Item = u32> {
    let madt = find(params, *b"APIC").unwrap_or(Table {
        address: 0,
        length: 0,
    });
    let mut offset = MADT_ENTRIES;
    core::iter::from_fn(move || {
        while offset + 2 <= madt.length {
            let entry = madt.address + offset;
            let kind: u8 = peek(entry);
            let size: u8 = peek(entry + 1);
            if size < 2 {
                return None;
            }
            offset += u64::from(size);
            let (id, flags) = match kind {
                MADT_LOCAL_APIC => (u32::from(peek::<u8>(entry + 3)), peek::<u32>(entry + 4)),
                MADT_LOCAL_X2APIC => (peek::<u32>(entry + 4), peek::<u32>(entry + 8)),
                _ => continue,
            };
            if flags & MADT_ENABLED != 0 {
                return Some(id);
            }
        }
        None
    })
}

/// Where the configuration space of PCI bus 0 lies in memory.
#[must_use]
pub fn ecam(params: &Params) -> Option<u64> {
    let mcfg = find(params, *b"MCFG").filter(|table| table.length >= MCFG_FIRST_END)?;
    Some(peek(mcfg.address + MCFG_FIRST))
}

fn find(params: &Params, signature: [u8; 4]) -> Option<Table> {
    let rsdp = Some(params.rsdp()).filter(|&rsdp| rsdp != 0)?;
    let extended = peek::<u8>(rsdp + REVISION_OFFSET) >= 2;
    let list = if extended {
        table(peek(rsdp + XSDT_OFFSET))
    } else {
        table(u64::from(peek::<u32>(rsdp + RSDT_OFFSET)))
    };
    (HEADER..list.length)
        .step_by(if extended { 8 } else { 4 })
        .map(|offset| list.address + offset)
        .map(|entry| match extended {
            true => peek::<u64>(entry),
            false => u64::from(peek::<u32>(entry)),
        })
        .find(|&address| peek::<[u8; 4]>(address) == signature)
        .map(table)
}

fn table(address: u64) -> Table {
    Table {
        address,
        length: u64::from(peek::<u32>(address + LENGTH_OFFSET)),
    }
}
