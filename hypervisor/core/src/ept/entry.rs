//! EPT entries and the EPT pointer, bit by bit.
//!
//! Intel SDM vol. 3C, "EPT Translation Mechanism" (entry formats) and "Extended-Page-Table Pointer
//! (EPTP)".

use bitflags::bitflags;

use crate::addr::{Frame, Gpa};
use crate::ledger::Rights;
use crate::mtrr::MemoryType;
use crate::table::{Entry, Format, PageSize};

bitflags! {
    /// What a guest may do with a page, as the entry's own bits.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct EptPerms: u64 {
        /// Read.
        const READ = 1 << 0;
        /// Write.
        const WRITE = 1 << 1;
        /// Fetch instructions; with mode-based execute control only from supervisor-mode addresses.
        const EXECUTE = 1 << 2;
        /// Fetch instructions from user-mode addresses; ignored without mode-based execute control.
        const USER_EXECUTE = 1 << 10;
        /// All of them: what RAM has.
        const ALL = Self::READ.bits() | Self::WRITE.bits() | Self::EXECUTE.bits() | Self::USER_EXECUTE.bits();
    }

    /// The other bits of an entry.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Bits: u64 {
        const IGNORE_PAT = 1 << 6;
        const LARGE = 1 << 7;
        const ACCESSED = 1 << 8;
        const DIRTY = 1 << 9;
        const SUPPRESS_VE = 1 << 63;
    }
}

impl EptPerms {
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
        if self.intersects(Self::EXECUTE.union(Self::USER_EXECUTE)) {
            rights = rights.union(Rights::EXECUTE);
        }
        rights
    }
}

/// Permissions and memory type of an EPT page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptAttr {
    /// What the guest may do.
    pub perms: EptPerms,
    /// The memory type, combined with the guest's PAT unless that is ignored.
    pub memory_type: MemoryType,
    /// Whether the guest's PAT is ignored.
    pub ignore_pat: bool,
    /// Whether a violation always exits, even where #VE is enabled.
    pub suppress_ve: bool,
}

impl EptAttr {
    /// A page whose type the guest's PAT may refine and whose violations exit.
    #[must_use]
    pub const fn new(perms: EptPerms, memory_type: MemoryType) -> Self {
        Self {
            perms,
            memory_type,
            ignore_pat: false,
            suppress_ve: true,
        }
    }
}

/// What a processor sets in an entry that it uses.
pub(crate) const ACCESSED: u64 = Bits::ACCESSED.bits();

const MEMORY_TYPE_SHIFT: u32 = 3;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// The flags, the type field and the address together, without overlap.
const _: () = assert!(
    EptPerms::all().bits() & Bits::all().bits() == 0
        && (EptPerms::all().bits() | Bits::all().bits()) & (7 << MEMORY_TYPE_SHIFT | ADDRESS) == 0
);

/// The EPT entry format.
#[derive(Clone, Copy, Debug)]
pub enum EptFormat {}

impl Format for EptFormat {
    type Input = Gpa;
    type Attr = EptAttr;
    const LEVELS: u8 = 4;
    // An absent page must exit: without this bit it could become a #VE in a guest that enables them.
    const ABSENT: u64 = Bits::SUPPRESS_VE.bits();
    const STICKY: u64 = Bits::ACCESSED.bits() | Bits::DIRTY.bits();

    fn leaf(frame: Frame, size: PageSize, attr: EptAttr) -> u64 {
        let mut bits = Bits::empty();
        bits.set(Bits::LARGE, size != PageSize::Size4K);
        bits.set(Bits::IGNORE_PAT, attr.ignore_pat);
        bits.set(Bits::SUPPRESS_VE, attr.suppress_ve);
        let memory_type = (attr.memory_type as u64) << MEMORY_TYPE_SHIFT;
        frame.start().0 | attr.perms.bits() | memory_type | bits.bits()
    }

    fn table(table: Frame) -> u64 {
        table.start().0 | EptPerms::all().bits()
    }

    fn decode(entry: u64, level: u8) -> Entry<EptAttr> {
        let perms = EptPerms::from_bits_truncate(entry);
        let bits = Bits::from_bits_truncate(entry);
        let frame = Frame((entry & ADDRESS) >> 12);
        if perms.is_empty() {
            return Entry::Absent;
        }
        if level > 1 && !bits.contains(Bits::LARGE) {
            return Entry::Table(frame);
        }
        let memory_type = MemoryType::from_raw(((entry >> MEMORY_TYPE_SHIFT) & 7) as u8);
        Entry::Leaf(
            frame,
            EptAttr {
                perms,
                // The engine writes only valid types; a reserved one would be a misconfiguration exit.
                memory_type: memory_type.unwrap_or(MemoryType::Uncacheable),
                ignore_pat: bits.contains(Bits::IGNORE_PAT),
                suppress_ve: bits.contains(Bits::SUPPRESS_VE),
            },
        )
    }
}

/// The entry that points to `table` and takes all but `perms` from whatever it maps: a walk may do what all of its entries allow.
pub(crate) fn masked_table(table: Frame, perms: EptPerms) -> u64 {
    table.start().0 | perms.bits()
}

/// The value of the VMCS field "EPT pointer".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Eptp(u64);

impl Eptp {
    const WALK_LENGTH_4: u64 = 3 << 3;
    const ACCESSED_DIRTY: u64 = 1 << 6;

    /// The pointer to `root`: tables in write-back memory, four levels.
    pub(crate) const fn new(root: Frame, accessed_dirty: bool) -> Self {
        let flags = if accessed_dirty {
            Self::ACCESSED_DIRTY
        } else {
            0
        };
        Self(root.start().0 | MemoryType::WriteBack as u64 | Self::WALK_LENGTH_4 | flags)
    }

    /// The root that a pointer of this value names.
    pub(crate) const fn root_of(raw: u64) -> Frame {
        Frame((raw & ADDRESS) >> 12)
    }

    /// The field's value.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}
