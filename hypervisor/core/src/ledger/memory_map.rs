//! Building the ledger from the firmware's memory map.
//!
//! Where descriptors overlap, the more careful reading wins: a device over the firmware's memory over
//! usable memory. Frame 0 is withheld, so that a zero frame number never means memory of anybody.

use crate::addr::{Frame, FrameCount};

use super::alloc::FIRST_ORDINARY;
use super::books::{Books, Move};
use super::entry::{Entry, Owner, Rights, State};
use super::{FrameRun, Ledger};

/// What the firmware says a range is, as far as the ledger cares; later ones win over earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MemoryKind {
    /// Memory for anyone, once boot services have ended.
    Usable,
    /// Memory the firmware keeps: runtime services, ACPI tables, reserved, unusable.
    Firmware,
    /// Device registers.
    Mmio,
}

impl MemoryKind {
    /// The kind of an `EFI_MEMORY_TYPE` (UEFI specification, "Memory Type Usage after
    /// ExitBootServices()"). Types this code does not know stay the firmware's.
    #[must_use]
    pub const fn from_uefi(memory_type: u32) -> Self {
        match memory_type {
            // EfiLoaderCode, EfiLoaderData, EfiBootServicesCode, EfiBootServicesData, EfiConventionalMemory
            1 | 2 | 3 | 4 | 7 => Self::Usable,
            // EfiMemoryMappedIO, EfiMemoryMappedIOPortSpace
            11 | 12 => Self::Mmio,
            // ACPI memory holds tables we read, runtime memory code we might call, the rest is not ours.
            _ => Self::Firmware,
        }
    }

    const fn entry(self) -> Entry {
        match self {
            Self::Usable => Entry::described(Owner::Nobody, State::Dirty, Rights::empty()),
            Self::Firmware => Entry::described(Owner::Firmware, State::Clear, Rights::READ),
            Self::Mmio => {
                let rights = Rights::READ.union(Rights::WRITE);
                Entry::described(Owner::Mmio, State::Device, rights)
            }
        }
    }

    fn of(entry: &Entry) -> Option<Self> {
        match entry.kind().get() {
            (_, State::Absent) => None,
            (Owner::Nobody, _) => Some(Self::Usable),
            (Owner::Mmio, _) => Some(Self::Mmio),
            _ => Some(Self::Firmware),
        }
    }
}

/// One range of the firmware's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// The frames; what lies beyond the ledger is ignored.
    pub run: FrameRun,
    /// What they are.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// The range of one UEFI memory descriptor.
    #[must_use]
    pub const fn from_uefi(memory_type: u32, physical_start: u64, pages: u64) -> Self {
        let first = Frame(physical_start / crate::addr::FRAME_SIZE);
        Self {
            run: FrameRun::new(first, FrameCount(pages)),
            kind: MemoryKind::from_uefi(memory_type),
        }
    }
}

/// How many entries a ledger for these ranges needs: one for each frame up to the last of memory.
/// Device ranges above all memory need none.
#[must_use]
pub fn frames_needed(ranges: impl Iterator<Item = MemoryRange>) -> FrameCount {
    let ends = ranges
        .filter(|range| range.kind == MemoryKind::Usable)
        .map(|r| r.run.end().0);
    FrameCount(ends.max().unwrap_or(0))
}

impl<'a> Ledger<'a> {
    /// The ledger of the frames in `ranges`, kept in `entries`, whose old content does not matter.
    #[must_use]
    pub fn new(entries: &'a mut [Entry], ranges: impl Iterator<Item = MemoryRange>) -> Self {
        entries.fill(Entry::ABSENT);
        let mut books = Books::default();
        books.add(Entry::ABSENT.kind(), entries.len() as u64);
        let mut ledger = Self {
            entries,
            books,
            claims: super::devices::Claims::NONE,
            keys: super::keys::Keys::NONE,
            hint: FIRST_ORDINARY.0,
        };
        let first = FrameRun::new(Frame(0), FrameCount(1));
        let null = MemoryRange {
            run: first,
            kind: MemoryKind::Firmware,
        };
        for range in ranges.chain([null]) {
            ledger.describe(range);
        }
        ledger
    }

    fn describe(&mut self, range: MemoryRange) {
        let known = self.frames().0;
        let (first, end) = (range.run.first.0.min(known), range.run.end().0.min(known));
        let new = range.kind.entry();
        let mut rest = self
            .entries
            .get_mut(first as usize..end as usize)
            .unwrap_or_default();
        // By stretches of one kind, which is all there is to an entry before the first allocation: this
        // goes over all of the machine's memory while it boots.
        while let Some(&old) = rest.first() {
            let count = rest
                .iter()
                .take_while(|entry| entry.kind() == old.kind())
                .count();
            let (stretch, more) = rest.split_at_mut(count);
            rest = more;
            if MemoryKind::of(&old) < Some(range.kind) {
                stretch.fill(new);
                let moved = Move {
                    before: old.kind(),
                    after: new.kind(),
                };
                self.books.record(moved, count as u64);
            }
        }
    }
}
