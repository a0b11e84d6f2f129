//! One unit's interrupt-remapping table: who has which entries, and what is in them.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::{FRAME_SIZE, Frame, FrameCount};
use crate::table::TableMemory;

use super::super::SourceId;
use super::super::capability::InterruptMode;
use super::super::invalidate::{Batch, Request, Ticket, UnitId, UnitSet};
use super::super::unit::InterruptPointer;
use super::entry::{Posted, Remapped, Words};

const ENTRY_BYTES: u64 = size_of::<Words>() as u64;
const ENTRIES_PER_FRAME: u64 = FRAME_SIZE / ENTRY_BYTES;

/// A device's places in the table: `1 << order` consecutive ones, aligned to that.
#[must_use = "clear them when the device is taken away; dropped, they are never used again"]
#[derive(PartialEq, Eq, Debug)]
pub struct Handles {
    index: u16,
    order: u8,
    source: SourceId,
}

impl Handles {
    /// The first index.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        1 << self.order
    }

    /// The device that they are for.
    #[must_use]
    pub const fn source(&self) -> SourceId {
        self.source
    }
}

/// Handles whose entries are gone and that the unit has forgotten.
#[must_use = "give them back with `InterruptTable::free`"]
#[derive(Debug)]
pub struct Freed(Handles);

/// Why an entry was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleError {
    /// The table has no run of that many free entries.
    Full {
        /// How many were wanted.
        wanted: u32,
    },
    /// The device has not that many handles.
    NoSuchHandle {
        /// Which was named.
        number: u16,
        /// How many there are.
        count: u32,
    },
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { wanted } => write!(
                f,
                "interrupt remapping: no {wanted} entries left in a row; make the table larger"
            ),
            Self::NoSuchHandle { number, count } => {
                write!(f, "interrupt remapping: handle {number} of {count}")
            }
        }
    }
}

impl core::error::Error for HandleError {}

/// One unit's table.
#[derive(Debug)]
pub struct InterruptTable {
    pointer: InterruptPointer,
    unit: UnitId,
    /// Which entries are reserved.
    used: Vec<bool>,
}

impl InterruptTable {
    /// The frames that a table of `1 << order` entries takes; they are aligned to their size.
    #[must_use]
    pub const fn frames(order: u8) -> FrameCount {
        FrameCount((1u64 << order).div_ceil(ENTRIES_PER_FRAME))
    }

    /// An empty table of `1 << order` entries, 1 to 16, in zeroed frames from `table` on; `None` for another order or
    /// a table that is not aligned.
    #[must_use]
    pub fn new(unit: UnitId, table: Frame, order: u8, mode: InterruptMode) -> Option<Self> {
        if !(1..=16).contains(&order) || !table.0.is_multiple_of(Self::frames(order).0) {
            return None;
        }
        Some(Self {
            pointer: InterruptPointer { table, order, mode },
            unit,
            used: vec![false; 1 << order],
        })
    }

    /// What the unit is told about it.
    #[must_use]
    pub const fn pointer(&self) -> InterruptPointer {
        self.pointer
    }

    /// Reserves `1 << order` handles for a device. Until entries are set, its interrupts are blocked.
    ///
    /// # Errors
    /// [`HandleError::Full`].
    pub fn reserve(&mut self, source: SourceId, order: u8) -> Result<Handles, HandleError> {
        let wanted = 1u32.checked_shl(u32::from(order)).unwrap_or(u32::MAX);
        let free = self
            .used
            .chunks_mut(wanted as usize)
            .enumerate()
            .find(|(_, block)| block.len() == wanted as usize && !block.contains(&true));
        let Some((at, block)) = free else {
            return Err(HandleError::Full { wanted });
        };
        block.fill(true);
        Ok(Handles {
            index: (at * wanted as usize) as u16,
            order,
            source,
        })
    }

    /// Has the device's interrupt `number` go where `entry` says. It does at the latest when the ticket is redeemed; until then
    /// it may go where it went before.
    ///
    /// # Errors
    /// [`HandleError::NoSuchHandle`].
    pub fn remap(
        &mut self,
        memory: &mut impl TableMemory,
        handles: &Handles,
        number: u16,
        entry: Remapped,
    ) -> Result<Ticket<()>, HandleError> {
        self.set(memory, handles, number, entry.encode(handles.source))
    }

    /// Has the device's interrupt `number` posted to a vCPU. Never run on hardware.
    ///
    /// # Errors
    /// [`HandleError::NoSuchHandle`].
    pub fn post(
        &mut self,
        memory: &mut impl TableMemory,
        handles: &Handles,
        number: u16,
        entry: Posted,
    ) -> Result<Ticket<()>, HandleError> {
        self.set(memory, handles, number, entry.encode(handles.source))
    }

    /// Takes a device's entries away: the handles come back once the unit has forgotten them.
    pub fn clear(&mut self, memory: &mut impl TableMemory, handles: Handles) -> Ticket<Freed> {
        for number in 0..handles.count() {
            let (frame, word) = self.place(u64::from(handles.index) + u64::from(number));
            memory.write(frame, word, 0);
            memory.write(frame, word + 1, 0);
        }
        let request = Request::Interrupts {
            index: handles.index,
            order: handles.order,
        };
        self.ticket(Freed(handles), request)
    }

    /// Makes handles available again.
    pub fn free(&mut self, Freed(handles): Freed) {
        let first = usize::from(handles.index);
        let places = self.used.get_mut(first..first + handles.count() as usize);
        places.unwrap_or_default().fill(false);
    }

    fn set(
        &mut self,
        memory: &mut impl TableMemory,
        handles: &Handles,
        number: u16,
        [low, high]: Words,
    ) -> Result<Ticket<()>, HandleError> {
        let count = handles.count();
        if u32::from(number) >= count {
            return Err(HandleError::NoSuchHandle { number, count });
        }
        let index = handles.index + number;
        let (frame, word) = self.place(u64::from(index));
        if memory.read(frame, word + 1) != high {
            // Half of one entry and half of another would go to neither's place: nothing for a moment instead.
            memory.write(frame, word, 0);
            memory.write(frame, word + 1, high);
        }
        memory.write(frame, word, low);
        Ok(self.ticket((), Request::Interrupts { index, order: 0 }))
    }

    fn ticket<P>(&self, proof: P, request: Request) -> Ticket<P> {
        let unit = UnitSet::EMPTY.with(self.unit);
        Ticket::new(proof, Batch::of(&[request]), unit)
    }

    /// The frame and the first word of an entry.
    const fn place(&self, index: u64) -> (Frame, usize) {
        let frame = Frame(self.pointer.table.0 + index / ENTRIES_PER_FRAME);
        (frame, (index % ENTRIES_PER_FRAME) as usize * 2)
    }
}
