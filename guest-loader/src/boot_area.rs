//! What the loader keeps in the guest's first MiB, one constant each, and writes nowhere else.
//!
//! Everything below [`LEGACY_HOLE`] is RAM the guest may reuse once it has read it; the ACPI tables lie in
//! the range where a guest without the boot parameters would search for them.

use bulkhead_core::addr::Gpa;

use crate::memory::GpaRange;

const fn range(start: u64, end: u64) -> GpaRange {
    GpaRange {
        start: Gpa(start),
        end: Gpa(end),
    }
}

/// The GDT of the entry state.
pub(crate) const GDT: GpaRange = range(0x1000, 0x2000);
/// Identity-mapping page tables: PML4, page-directory-pointer table, four page directories.
pub(crate) const PAGE_TABLES: GpaRange = range(0x2000, 0x8000);
/// The Linux boot parameters ("zero page").
pub(crate) const ZERO_PAGE: GpaRange = range(0x8000, 0x9000);
/// The PVH start information with its memory map and module list.
pub(crate) const START_INFO: GpaRange = range(0x9000, 0xa000);
/// The command line, with its terminating zero.
pub(crate) const CMDLINE: GpaRange = range(0xa000, 0x1_a000);
/// The stack of a flat image's first instructions.
pub(crate) const STACK: GpaRange = range(0x2_0000, 0x3_0000);
/// Where a PC has its video memory and ROMs: RAM here, but reserved in the memory map, as guests expect.
pub(crate) const LEGACY_HOLE: GpaRange = range(0xa_0000, 0x10_0000);
/// The ACPI tables, the RSDP first.
pub(crate) const ACPI_TABLES: GpaRange = range(0xe_0000, 0xf_0000);
/// Where a PC's firmware is entered in real mode.
pub(crate) const RESET_VECTOR: GpaRange = range(0xf_fff0, 0x10_0000);
/// Where images may be placed: everything above the first MiB.
pub(crate) const IMAGE_START: Gpa = LEGACY_HOLE.end;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_disjoint_pages() {
        let areas = [
            GDT,
            PAGE_TABLES,
            ZERO_PAGE,
            START_INFO,
            CMDLINE,
            STACK,
            ACPI_TABLES,
        ];
        for (i, area) in areas.iter().enumerate() {
            assert!(area.start.is_aligned(4096) && area.end.is_aligned(4096) && !area.is_empty());
            assert!(areas.iter().skip(i + 1).all(|other| !area.overlaps(other)));
        }
        assert!(LEGACY_HOLE.contains(&ACPI_TABLES) && LEGACY_HOLE.contains(&RESET_VECTOR));
        assert!(!ACPI_TABLES.overlaps(&RESET_VECTOR));
        assert!(STACK.end < LEGACY_HOLE.start);
    }
}
