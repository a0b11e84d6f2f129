//! Changing what all views see: the base's own operations, each followed by every view.

use crate::addr::{FRAME_SIZE, FrameCount, Gpa};
use crate::ept::{ACCESSED, EptAttr, EptError, EptFormat, EptPerms, Rejected, Unmapped};
use crate::ledger::MapRight;
use crate::mtrr::Mtrrs;
use crate::table::{Span, Stale, TableMemory, span};

use super::{Views, tree};

impl Views {
    /// Maps the frames of `right` at `gpa`, as [`crate::ept::Ept::map`] does.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing is mapped.
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        right: MapRight,
        attr: EptAttr,
    ) -> Result<(), Rejected> {
        let (span, right) = pages(gpa, right)?;
        let mapped = self.base.map(memory, gpa, right, attr);
        self.follow(memory, span);
        mapped
    }

    /// Maps memory with the memory types that the MTRRs give its frames, as [`crate::ept::Ept::map_memory`] does.
    ///
    /// # Errors
    /// The reason with the right to what is not mapped. Parts of other memory types before the failure
    /// stay mapped; a caller that gives up unmaps its range.
    pub fn map_memory(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        right: MapRight,
        perms: EptPerms,
        mtrrs: &Mtrrs,
    ) -> Result<(), Rejected> {
        let (span, right) = pages(gpa, right)?;
        let mapped = self.base.map_memory(memory, gpa, right, perms, mtrrs);
        self.follow(memory, span);
        mapped
    }

    /// Takes the first contiguous run within `count` frames from `gpa` out of all views, as [`crate::ept::Ept::unmap_run`] does.
    /// Overrides stay.
    ///
    /// # Errors
    /// A bad range, or no frame left to split a large page; nothing changed.
    pub fn unmap_run(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        count: FrameCount,
    ) -> Result<Option<Unmapped>, EptError> {
        let asked = span::<EptFormat>(gpa, count)?;
        let unmapped = self.base.unmap_run(memory, gpa, count);
        let mut changed = asked;
        let unmapped = unmapped.map(|unmapped| {
            unmapped.map(|stale| {
                stale.map(|(gpa, right)| {
                    let first = gpa.0 / FRAME_SIZE;
                    let end = first + right.run().count.0;
                    changed = Span { first, end };
                    (gpa, right)
                })
            })
        });
        // A refusal, too, may have split pages.
        if !matches!(unmapped, Ok(None)) {
            self.follow(memory, changed);
        }
        unmapped
    }

    /// Changes the base's permissions of the frames of `evidence`, mapped in one run at `gpa`, as [`crate::ept::Ept::protect`] does.
    ///
    /// # Errors
    /// Other frames are mapped there, or the permissions exceed the evidence; nothing changed.
    pub fn protect(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        perms: EptPerms,
        evidence: &MapRight,
    ) -> Result<Stale<EptFormat, ()>, EptError> {
        let span = span::<EptFormat>(gpa, evidence.run().count)?;
        let stale = self.base.protect(memory, gpa, perms, evidence);
        self.follow(memory, span);
        stale
    }

    /// Whether the page that the base has at `gpa` was accessed, through whichever view, since the last time this was asked and the
    /// views were flushed; false where the processor does not note that. It is a hint: what was noted goes where a view's override changes.
    pub fn take_accessed(&mut self, memory: &mut impl TableMemory, gpa: Gpa) -> bool {
        let Some(page) = tree::page_of(gpa) else {
            return false;
        };
        let Some(base) = tree::walk(memory, self.base.root(), page) else {
            return false;
        };
        let frame = base.frame_of(page);
        let mut accessed = self.base.take_accessed(memory, gpa);
        for view in &self.others {
            let Some(found) = tree::walk(memory, view.root, page) else {
                continue;
            };
            // What lies there in place of the base's page is another matter.
            if found.entry & ACCESSED != 0 && found.frame_of(page) == frame {
                memory.write(found.table, found.index, found.entry & !ACCESSED);
                accessed = true;
            }
        }
        accessed
    }

    fn follow(&self, memory: &mut impl TableMemory, span: Span) {
        for view in &self.others {
            tree::follow(memory, self.base.root(), view.root, &view.overrides, span);
        }
    }
}

fn pages(gpa: Gpa, right: MapRight) -> Result<(Span, MapRight), Rejected> {
    match span::<EptFormat>(gpa, right.run().count) {
        Ok(span) => Ok((span, right)),
        Err(error) => Err(Rejected {
            error: error.into(),
            right,
        }),
    }
}
