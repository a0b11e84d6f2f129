//! Second-level entries: what a device's addresses mean, bit by bit.
//!
//! [`SecondLevel`] is the entry format for trees of three or four levels, which [`super::domain`] builds with the
//! table code that EPT uses. See Intel VT-d, "Second-Level Paging Entries".

use bitflags::bitflags;

use crate::addr::{Frame, Gpa};
use crate::ledger::Rights;
use crate::table::{Entry, Format, PageSize};

bitflags! {
    /// What a device may do with a page.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct DmaPerms: u64 {
        /// Read.
        const READ = 1 << 0;
        /// Write.
        const WRITE = 1 << 1;
    }

    /// The other bits of an entry.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Bits: u64 {
        const LARGE = 1 << 7;
        const ACCESSED = 1 << 8;
        const DIRTY = 1 << 9;
        const SNOOP = 1 << 11;
    }
}

impl DmaPerms {
    /// The rights a mapping with these permissions uses.
    #[must_use]
    pub const fn rights(self) -> Rights {
        let mut rights = Rights::empty();
        if self.contains(Self::READ) {
            rights = rights.union(Rights::READ);
        }
        if self.contains(Self::WRITE) {
            rights = rights.union(Rights::WRITE);
        }
        rights
    }
}

/// Permissions of a page, and whether accesses to it snoop the processors' caches whatever the device says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaAttr {
    /// What the device may do.
    pub perms: DmaPerms,
    /// Whether snooping is forced; a reserved bit on units without snoop control.
    pub snoop: bool,
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// Flags and address together, without overlap.
const _: () = assert!(
    DmaPerms::all().bits() & Bits::all().bits() == 0
        && (DmaPerms::all().bits() | Bits::all().bits()) & ADDRESS == 0
);

/// The second-level entry format in a tree of `DEPTH` levels.
#[derive(Clone, Copy, Debug)]
pub enum SecondLevel<const DEPTH: u8> {}

impl<const DEPTH: u8> Format for SecondLevel<DEPTH> {
    type Input = Gpa;
    type Attr = DmaAttr;
    const LEVELS: u8 = DEPTH;
    const ABSENT: u64 = 0;
    const STICKY: u64 = Bits::ACCESSED.bits() | Bits::DIRTY.bits();

    fn leaf(frame: Frame, size: PageSize, attr: DmaAttr) -> u64 {
        let mut bits = Bits::empty();
        bits.set(Bits::LARGE, size != PageSize::Size4K);
        bits.set(Bits::SNOOP, attr.snoop);
        frame.start().0 | attr.perms.bits() | bits.bits()
    }

    fn table(table: Frame) -> u64 {
        table.start().0 | DmaPerms::all().bits()
    }

    fn decode(entry: u64, level: u8) -> Entry<DmaAttr> {
        let perms = DmaPerms::from_bits_truncate(entry);
        let bits = Bits::from_bits_truncate(entry);
        let frame = Frame((entry & ADDRESS) >> 12);
        if perms.is_empty() {
            return Entry::Absent;
        }
        if level > 1 && !bits.contains(Bits::LARGE) {
            return Entry::Table(frame);
        }
        let snoop = bits.contains(Bits::SNOOP);
        Entry::Leaf(frame, DmaAttr { perms, snoop })
    }
}
