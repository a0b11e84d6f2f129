//! Long-mode entries of the hypervisor's own tables.
//!
//! Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging" (entry formats) and "Page Attribute Table
//! (PAT)".

use bitflags::bitflags;

use crate::addr::{Frame, Hva};
use crate::ledger::Rights;
use crate::mtrr::MemoryType;
use crate::table::{Entry, Format, PageSize};

/// What the hypervisor may do with a page of its own. Writable and executable does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Code.
    ReadExecute,
    /// Constants, firmware tables, payloads.
    ReadOnly,
    /// Data, stacks, device registers.
    ReadWrite,
}

impl Access {
    /// The rights a mapping with this access uses.
    #[must_use]
    pub const fn rights(self) -> Rights {
        match self {
            Self::ReadExecute => Rights::READ.union(Rights::EXECUTE),
            Self::ReadOnly => Rights::READ,
            Self::ReadWrite => Rights::READ.union(Rights::WRITE),
        }
    }
}

/// How a page of the hypervisor is cached: an index into [`HOST_PAT`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Cache {
    /// Memory.
    WriteBack = 0,
    /// Framebuffers.
    WriteCombining = 1,
    /// Device registers.
    Uncacheable = 3,
}

/// The value of IA32_PAT while the hypervisor runs. As at reset, except that entry 1 is
/// write-combining; until the shell has written it, such pages are write-through: slow but correct.
pub const HOST_PAT: u64 = {
    // Entry 2 (and 6) is UC-, which has no number in MTRRs.
    const UC_MINUS: u64 = 7;
    let half = MemoryType::WriteBack as u64
        | (MemoryType::WriteCombining as u64) << 8
        | UC_MINUS << 16
        | (MemoryType::Uncacheable as u64) << 24;
    half | half << 32
};
const _: () = assert!(HOST_PAT == 0x0007_0106_0007_0106);

/// Access and caching of a page of the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostAttr {
    /// What the hypervisor may do.
    pub access: Access,
    /// How the page is cached.
    pub cache: Cache,
}

impl HostAttr {
    /// Code in memory.
    pub const CODE: Self = Self {
        access: Access::ReadExecute,
        cache: Cache::WriteBack,
    };
    /// Read-only data in memory.
    pub const RODATA: Self = Self {
        access: Access::ReadOnly,
        cache: Cache::WriteBack,
    };
    /// Data in memory.
    pub const DATA: Self = Self {
        access: Access::ReadWrite,
        cache: Cache::WriteBack,
    };
    /// Device registers.
    pub const DEVICE: Self = Self {
        access: Access::ReadWrite,
        cache: Cache::Uncacheable,
    };
    /// A framebuffer.
    pub const FRAMEBUFFER: Self = Self {
        access: Access::ReadWrite,
        cache: Cache::WriteCombining,
    };
}

bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Bits: u64 {
        const PRESENT = 1 << 0;
        const WRITE = 1 << 1;
        const WRITE_THROUGH = 1 << 3;
        const CACHE_DISABLE = 1 << 4;
        const ACCESSED = 1 << 5;
        const DIRTY = 1 << 6;
        const LARGE = 1 << 7;
        const NO_EXECUTE = 1 << 63;
    }
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const _: () = assert!(Bits::all().bits() & ADDRESS == 0);

/// The long-mode entry format, lower half of the address space, supervisor only.
#[derive(Clone, Copy, Debug)]
pub enum HostFormat {}

impl Format for HostFormat {
    type Input = Hva;
    type Attr = HostAttr;
    const LEVELS: u8 = 4;
    const ABSENT: u64 = 0;
    const STICKY: u64 = Bits::ACCESSED.bits() | Bits::DIRTY.bits();

    #[inline]
    fn leaf(frame: Frame, size: PageSize, attr: HostAttr) -> u64 {
        // Set by us, the CPU never has to write accessed and dirty into the tables.
        let mut bits = Bits::PRESENT | Bits::ACCESSED | Bits::DIRTY;
        bits.set(Bits::WRITE, attr.access == Access::ReadWrite);
        bits.set(Bits::NO_EXECUTE, attr.access != Access::ReadExecute);
        bits.set(Bits::WRITE_THROUGH, attr.cache != Cache::WriteBack);
        bits.set(Bits::CACHE_DISABLE, attr.cache == Cache::Uncacheable);
        bits.set(Bits::LARGE, size != PageSize::Size4K);
        frame.start().0 | bits.bits()
    }

    #[inline]
    fn table(table: Frame) -> u64 {
        table.start().0 | (Bits::PRESENT | Bits::WRITE | Bits::ACCESSED).bits()
    }

    #[inline]
    fn decode(entry: u64, level: u8) -> Entry<HostAttr> {
        let bits = Bits::from_bits_truncate(entry);
        let frame = Frame((entry & ADDRESS) >> 12);
        if !bits.contains(Bits::PRESENT) {
            return Entry::Absent;
        }
        if level > 1 && !bits.contains(Bits::LARGE) {
            return Entry::Table(frame);
        }
        let access = match (bits.contains(Bits::WRITE), bits.contains(Bits::NO_EXECUTE)) {
            (true, _) => Access::ReadWrite,
            (false, true) => Access::ReadOnly,
            (false, false) => Access::ReadExecute,
        };
        let cache = match (
            bits.contains(Bits::CACHE_DISABLE),
            bits.contains(Bits::WRITE_THROUGH),
        ) {
            (true, _) => Cache::Uncacheable,
            (false, true) => Cache::WriteCombining,
            (false, false) => Cache::WriteBack,
        };
        Entry::Leaf(frame, HostAttr { access, cache })
    }
}
