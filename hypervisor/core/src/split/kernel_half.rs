//! A guest's kernel: where it is entered, and the upper half of its top-level page table, as it was read.

use crate::addr::{Gpa, Gva};

/// Where it begins in the table, in bytes.
pub const HALF_OFFSET: u64 = 2048;
/// Bytes that it has.
pub const HALF_BYTES: usize = 2048;

/// Entries of it.
const ENTRIES: usize = HALF_BYTES / 8;
const PRESENT: u64 = 1;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where SYSCALL enters a kernel, which tells it from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelEntry {
    /// The address.
    pub gva: Gva,
    /// Where that is in memory: of two kernels that are linked alike, one is elsewhere.
    pub gpa: Option<Gpa>,
}

/// The level-3 tables that the upper half of a top-level table points at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelHalf {
    bytes: [u8; HALF_BYTES],
}

impl KernelHalf {
    /// From what lies [`HALF_OFFSET`] bytes into the table.
    #[must_use]
    pub const fn new(bytes: [u8; HALF_BYTES]) -> Self {
        Self { bytes }
    }

    /// The tables, with their slots in the half, in order.
    pub fn tables(&self) -> impl Iterator<Item = (usize, Gpa)> + '_ {
        let (entries, _) = self.bytes.as_chunks::<8>();
        let entries = entries.iter().map(|entry| u64::from_le_bytes(*entry));
        entries
            .enumerate()
            .filter(|(_, entry)| entry & PRESENT != 0)
            .map(|(slot, entry)| (slot, Gpa(entry & ADDRESS)))
    }

    /// The table on the way to `gva`; `None` where it is not in this half, or there is no table.
    #[must_use]
    pub fn table_of(&self, gva: Gva) -> Option<Gpa> {
        let slot = ((gva.0 >> 39) & 0x1ff) as usize;
        let slot = slot.checked_sub(ENTRIES)?;
        let mut tables = self.tables();
        tables.find_map(|(at, table)| (at == slot).then_some(table))
    }
}
