//! Windows: how the hypervisor reaches guest memory, a few pages at a time.
//!
//! A window is a small range of virtual addresses with one page-table entry per slot. Opening it writes
//! the entries for frames that the ledger granted; closing it clears them, has this CPU forget them and
//! gives the right back. Each CPU has windows of its own and touches no other's, so
//! forgetting on one CPU is enough.

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Hva};
use crate::ledger::MapRight;
use crate::table::{ENTRIES, Format, PageSize, Table, TableMemory};

use super::{HostAttr, HostError, HostFormat, Rejected, check};

/// Makes the running CPU forget one page (INVLPG); implemented by the shell.
pub trait InvalidatePage {
    /// Returns when this CPU's TLB holds nothing for the page at `at`.
    fn invalidate_page(&mut self, at: Hva);
}

/// A few pages of address space through which one CPU copies from and to guest memory.
#[derive(Debug)]
pub struct Window {
    base: Hva,
    table: Frame,
    first_slot: usize,
    slots: FrameCount,
    /// What the window shows, kept until it closes.
    open: Option<MapRight>,
}

impl Window {
    pub(super) fn new(
        table: &mut Table<HostFormat>,
        memory: &mut impl TableMemory,
        base: Hva,
        slots: FrameCount,
    ) -> Result<Self, HostError> {
        let first_slot = (base.0 / FRAME_SIZE) as usize % ENTRIES;
        if slots.0 == 0 || slots.0 > (ENTRIES - first_slot) as u64 {
            return Err(HostError::BadWindow(base));
        }
        if let Some(page) = table.leaves(memory, base, slots)?.next() {
            return Err(HostError::WindowBusy(page.input));
        }
        let table = table.leaf_table(memory, base)?;
        Ok(Self {
            base,
            table,
            first_slot,
            slots,
            open: None,
        })
    }

    /// How many frames the window can show at once.
    #[must_use]
    pub const fn slots(&self) -> FrameCount {
        self.slots
    }

    /// Shows the frames of `right` as data (read-only where the right is), under the key that they are under, and says where.
    ///
    /// # Errors
    /// The right comes back with the reason: the window is open, too small, or the right is not the
    /// hypervisor's.
    pub fn open(
        &mut self,
        memory: &mut impl TableMemory,
        right: MapRight,
    ) -> Result<Hva, Rejected> {
        if self.open.is_some() {
            return Err(Rejected {
                error: HostError::WindowBusy(self.base),
                right,
            });
        }
        let wanted = right.run().count;
        if wanted > self.slots {
            let error = HostError::WindowTooSmall {
                slots: self.slots,
                wanted,
            };
            return Err(Rejected { error, right });
        }
        let attr = match check(&right, HostAttr::DATA) {
            Ok(()) => HostAttr::DATA,
            Err(HostError::ExceedsRight { .. }) => HostAttr::RODATA,
            Err(error) => return Err(Rejected { error, right }),
        };
        if let Err(error) = check(&right, attr) {
            return Err(Rejected { error, right });
        }
        let (first, tag) = (right.run().first, right.tag());
        for slot in 0..wanted.0 {
            let frame = tag.on(Frame(first.0 + slot));
            let entry = HostFormat::leaf(frame, PageSize::Size4K, attr);
            memory.write(self.table, self.first_slot + slot as usize, entry);
        }
        self.open = Some(right);
        Ok(self.base)
    }

    /// Hides the frames, has this CPU forget them, and gives the right back for
    /// [`crate::ledger::Ledger::surrender`]; `None` where the window was closed.
    pub fn close(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl InvalidatePage,
    ) -> Option<MapRight> {
        let right = self.open.take()?;
        for slot in 0..right.run().count.0 {
            memory.write(
                self.table,
                self.first_slot + slot as usize,
                HostFormat::ABSENT,
            );
            tlb.invalidate_page(Hva(self.base.0 + slot * FRAME_SIZE));
        }
        Some(right)
    }
}
