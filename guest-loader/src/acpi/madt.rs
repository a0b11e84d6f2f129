//! MADT: the vCPUs' local APICs and the I/O APIC (ACPI 6.5, "Multiple APIC Description Table").

use alloc::vec::Vec;

use acpi_tables::sdt::Sdt;
use bulkhead_core::platform;

/// MADT revision of ACPI 6.3 and later.
const REVISION: u8 = 5;

const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const LOCAL_X2APIC: u8 = 9;
/// Largest id a local APIC structure can name; the structure of the x2APIC is for those beyond.
const MAX_XAPIC_ID: u32 = 254;
const ENABLED: u32 = 1;

/// The MADT of a VM whose vCPUs have `apic_ids`; a vCPU's unique id is its position.
pub(super) fn table(apic_ids: &[u32]) -> Sdt {
    let mut body = Vec::new();
    body.extend((platform::LAPIC_BASE.0 as u32).to_le_bytes());
    // Flags: PCAT_COMPAT is clear, there are no 8259s to mask.
    body.extend(0_u32.to_le_bytes());
    for (&apic_id, uid) in apic_ids.iter().zip(0_u32..) {
        body.extend(cpu(apic_id, uid));
    }
    body.extend([IO_APIC, 12, platform::IOAPIC_ID, 0]);
    body.extend((platform::IOAPIC_BASE.0 as u32).to_le_bytes());
    body.extend(platform::IOAPIC_GSI_BASE.to_le_bytes());
    super::table(*b"APIC", REVISION, &body)
}

/// A vCPU's interrupt controller structure, in the form its APIC id calls for.
fn cpu(apic_id: u32, uid: u32) -> Vec<u8> {
    let mut entry = Vec::with_capacity(16);
    match (u8::try_from(apic_id), u8::try_from(uid)) {
        (Ok(small_id), Ok(small_uid)) if apic_id <= MAX_XAPIC_ID => {
            entry.extend([LOCAL_APIC, 8, small_uid, small_id]);
            entry.extend(ENABLED.to_le_bytes());
        }
        _ => {
            entry.extend([LOCAL_X2APIC, 16, 0, 0]);
            entry.extend(apic_id.to_le_bytes());
            entry.extend(ENABLED.to_le_bytes());
            entry.extend(uid.to_le_bytes());
        }
    }
    entry
}
