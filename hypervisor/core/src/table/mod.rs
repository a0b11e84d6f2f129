//! A page-table engine, generic over the entry format and over how table memory is reached.
//!
//! [`Table`] holds one tree of 512-entry tables: EPT, the hypervisor's own long-mode tables, later
//! VT-d second level. A [`Format`] says what an entry means; a [`TableMemory`] reads and writes
//! entries and hands out zeroed frames for tables. What the engine guarantees:
//!
//! - **No moment with a wrong translation.** A CPU may walk the tree between any two writes, so new
//!   subtrees are complete before the one write that links them; every page translates as before
//!   the operation or as after it, never to anything else.
//! - **All or nothing.** What can fail (running out of tables) happens before the first change to any
//!   translation.
//! - **Nothing is reused before the flush.** Whatever an operation takes away comes back inside a
//!   [`Stale`], which opens only against a [`Flushed`] made after it.
//!
//! Neighbours: [`crate::ept`] and [`crate::hostpt`] wrap the engine so that only frames the
//! [`crate::ledger`] granted can be mapped; [`crate::views`] hangs further trees onto the tables of one.

mod engine;
#[cfg(test)]
pub(crate) mod fake;
mod leaves;
mod stale;
#[cfg(test)]
mod tests;

use core::fmt;
use core::fmt::Debug;
use core::marker::PhantomData;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa, Hva};

pub use engine::{Run, StaleRun};
pub(crate) use engine::{Span, index, span};
pub use leaves::{Leaf, Leaves};
pub use stale::{Flushed, Invalidate, Stale};

/// Entries in one table.
pub const ENTRIES: usize = 512;

/// How the engine reaches table memory. The shell implements it over the frames it owns.
pub trait TableMemory {
    /// The entry at `index` (below [`ENTRIES`]) of `table`.
    fn read(&self, table: Frame, index: usize) -> u64;
    /// Replaces that entry by one 8-byte store, which no later store may overtake.
    fn write(&mut self, table: Frame, index: usize, entry: u64);
    /// A zeroed frame for a table, or `None` when there is none left.
    fn alloc(&mut self) -> Option<Frame>;
    /// Takes back a frame that came from `alloc` and that no CPU can reach any more.
    fn free(&mut self, table: Frame);
}

/// An address that a tree translates from.
pub trait Address: Copy + Debug {
    /// The address at `raw` bytes.
    fn from_raw(raw: u64) -> Self;
    /// The address in bytes.
    fn raw(self) -> u64;
}

impl Address for Gpa {
    fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    fn raw(self) -> u64 {
        self.0
    }
}

impl Address for Hva {
    fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    fn raw(self) -> u64 {
        self.0
    }
}

/// The meaning of one entry of a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<A> {
    /// Translates nothing.
    Absent,
    /// Points to a table one level down.
    Table(Frame),
    /// Maps a page that starts at the frame.
    Leaf(Frame, A),
}

/// An entry format: what the bits of one kind of page table mean.
pub trait Format {
    /// The address the tree translates.
    type Input: Address;
    /// Permissions and memory type of a page.
    type Attr: Copy + PartialEq + Debug;
    /// Depth of the tree; level 1 maps 4 KiB pages.
    const LEVELS: u8;
    /// What an entry that translates nothing holds.
    const ABSENT: u64;
    /// Bits the CPU sets by itself (accessed, dirty), kept when an entry is rewritten.
    const STICKY: u64;

    /// The entry that maps a page of `size` at `frame`.
    fn leaf(frame: Frame, size: PageSize, attr: Self::Attr) -> u64;
    /// The entry that points to `table`.
    fn table(table: Frame) -> u64;
    /// What `entry` means at `level`.
    fn decode(entry: u64, level: u8) -> Entry<Self::Attr>;
}

/// A page size, ordered from small to large.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB, level 1.
    Size4K = 1,
    /// 2 MiB, level 2.
    Size2M = 2,
    /// 1 GiB, level 3.
    Size1G = 3,
}

impl PageSize {
    /// Frames in a page of this size.
    #[must_use]
    pub const fn frames(self) -> FrameCount {
        FrameCount(pages_per_entry(self as u8))
    }

    /// The size of a leaf at `level`, or `None` where the architecture has none.
    #[must_use]
    pub const fn at_level(level: u8) -> Option<Self> {
        match level {
            1 => Some(Self::Size4K),
            2 => Some(Self::Size2M),
            3 => Some(Self::Size1G),
            _ => None,
        }
    }
}

const _: () = assert!(PageSize::Size2M.frames().0 * FRAME_SIZE == crate::addr::SIZE_2M);
const _: () = assert!(PageSize::Size1G.frames().0 * FRAME_SIZE == crate::addr::SIZE_1G);

/// 4 KiB pages that one entry of a table at `level` covers.
pub(crate) const fn pages_per_entry(level: u8) -> u64 {
    1 << (9 * (level as u32 - 1))
}

/// Why a page table could not be changed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError<A> {
    /// The address is not a multiple of 4 KiB, or the range is empty.
    Misaligned(A),
    /// The range reaches beyond what the tree or the physical address width can hold.
    OutOfRange(A),
    /// Something is mapped at the address already.
    AlreadyMapped(A),
    /// Nothing is mapped at the address.
    NotMapped(A),
    /// No frame is left for a table.
    OutOfTables,
}

impl<A: fmt::Display> fmt::Display for TableError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(at) => write!(f, "page range at {at} is empty or not 4 KiB aligned"),
            Self::OutOfRange(at) => write!(f, "page range at {at} exceeds the address width"),
            Self::AlreadyMapped(at) => {
                write!(f, "a page is mapped at {at} already; unmap it first")
            }
            Self::NotMapped(at) => write!(f, "no page is mapped at {at}"),
            Self::OutOfTables => write!(f, "no frame left for a page table; reserve more memory"),
        }
    }
}

impl<A: fmt::Display + Debug> core::error::Error for TableError<A> {}

/// One tree of page tables.
#[derive(Debug)]
pub struct Table<F: Format> {
    root: Frame,
    largest: PageSize,
    /// Counts the operations that left something stale; see [`Stale`].
    generation: u64,
    format: PhantomData<F>,
}
