//! The views of one VM: its base view, and any number that differ from it.
//!
//! [`Views`] owns the base's [`Ept`] and the trees of the other views, so nothing changes the base behind their backs. A view shows
//! what the base has, with at most its default permissions, except where it has an *override*: other permissions, nothing, or frames of
//! its own. It points at the base's tables wherever one rule is enough for what they map, and has own tables only on the
//! way to where it takes several. See `docs/views.md`. What holds, beyond what [`crate::table`] says:
//!
//! - **A view never allows what the base does not**, but for remapped frames, whose right is the view's. A page that the base lacks is in no
//!   view; when it comes, every override is as it was.
//! - **Changes of the base take no table of a view** and give none up. They change entries in place.
//! - **All or nothing.** An override that is refused changed nothing.
//! - **One flush is for all views** ([`Views::flush`]), and nothing else makes a proof that opens what a change took away.
//!
//! Parts: `base` changing what all views see, `change` the overrides and the views, `switching` which views are reached without an exit; `overrides` what is known of a view,
//! `tree` its tables, [`list`] EPTP lists, [`stale`] what a change gives up, [`error`] refusals. Neighbours: [`crate::ept`] and
//! [`crate::ledger`] as for a single view; the shell writes the VMCS fields and flushes.
//! See Intel SDM vol. 3C, "EPT Translation Mechanism" (permissions are the AND of all entries on the way) and "EPTP Switching".

mod base;
mod change;
pub mod error;
pub mod list;
mod overrides;
pub mod stale;
mod switching;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ept::{Ept, EptAttr, Eptp};
use crate::ledger::Holding;
use crate::table::{Flushed, Invalidate, Leaf, TableMemory};

use list::EptpList;
use overrides::Overrides;

pub use error::{RemapRejected, ViewError};
pub use list::{ListId, Slot};
pub use stale::Withdrawn;

/// The name of a view of one VM. It is never another view's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ViewId(u32);

impl ViewId {
    /// The view that shows all that is mapped.
    pub const BASE: Self = Self(0);
}

/// All views of a VM.
#[derive(Debug)]
pub struct Views {
    base: Ept,
    /// In the order of their ids.
    others: Vec<View>,
    /// The last view's id.
    last: ViewId,
    /// The rights to what is remapped, in all views.
    remapped: Holding,
    lists: Vec<EptpList>,
    /// Roots of removed views that the next flush has to be for.
    departing: Vec<Frame>,
}

/// A view that is not the base.
#[derive(Debug)]
struct View {
    id: ViewId,
    root: Frame,
    overrides: Overrides,
    /// Tables of its own, the root among them.
    tables: usize,
}

impl Views {
    /// The views of `base`'s VM: so far the base alone, with whatever is mapped in it.
    #[must_use]
    pub const fn new(base: Ept) -> Self {
        let remapped = Holding::new(base.holder());
        Self {
            base,
            others: Vec::new(),
            last: ViewId::BASE,
            remapped,
            lists: Vec::new(),
            departing: Vec::new(),
        }
    }

    /// What the VMCS points to `view` with; `None` once it was removed. Whoever has a vCPU enter a view asks for this each time after a flush.
    #[must_use]
    pub fn eptp(&self, view: ViewId) -> Option<Eptp> {
        Some(Eptp::new(
            self.root(view)?,
            self.base.caps().has_accessed_dirty(),
        ))
    }

    /// Whether permissions tell the execution of user code from that of a kernel's: VMs run with mode-based execute control.
    #[must_use]
    pub const fn tell_user_code(&self) -> bool {
        self.base.caps().has_mode_based_execute()
    }

    /// How many frames are mapped in the base.
    #[must_use]
    pub const fn mapped(&self) -> FrameCount {
        self.base.mapped()
    }

    /// How many frames are remapped, in all views.
    #[must_use]
    pub const fn remapped(&self) -> FrameCount {
        self.remapped.frames()
    }

    /// How many tables `view` has of its own, beside the base's; `None` for the base and where there is no such view.
    #[must_use]
    pub fn own_tables(&self, view: ViewId) -> Option<FrameCount> {
        let view = self.view(view).ok()?;
        Some(FrameCount(view.tables as u64))
    }

    /// The page of `view` that holds `gpa`, with what the guest may do there; `None` where there is nothing.
    pub fn translate(
        &self,
        memory: &impl TableMemory,
        view: ViewId,
        gpa: Gpa,
    ) -> Option<Leaf<Gpa, EptAttr>> {
        let page = tree::page_of(gpa)?;
        let found = tree::walk(memory, self.root(view)?, page)?;
        let first = page & !(found.size.frames().0 - 1);
        let (frame, _) = self.base.caps().keys().split(found.frame);
        Some(Leaf {
            input: Gpa(first * FRAME_SIZE),
            frame,
            size: found.size,
            attr: found.attr,
        })
    }

    /// Has every CPU forget all views, those that were removed since the last time among them, and proves it. No CPU may enter a removed
    /// view again: before this returns, each vCPU that was in one has to be out of it.
    pub fn flush(&mut self, tlb: &mut impl Invalidate) -> Flushed {
        let others = self.others.iter().map(|view| view.root);
        let all = others.chain(self.departing.iter().copied());
        let proof = self.base.flush_with(tlb, all);
        self.departing.clear();
        proof
    }

    /// Frees the tables and lists of views that nothing is mapped in. No VMCS may name any of it any more; what is still stale is lost.
    ///
    /// # Errors
    /// `self` where something is mapped, in the base or in place of it.
    pub fn destroy(
        mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl Invalidate,
    ) -> Result<(), Box<Self>> {
        if self.remapped.frames().0 != 0 || !self.base.is_empty(memory) {
            return Err(Box::new(self));
        }
        self.flush(tlb);
        for view in &self.others {
            let tables = view.own_tables(memory);
            tables.into_iter().for_each(|table| memory.free(table));
        }
        self.lists.drain(..).for_each(|list| list.free(memory));
        self.others.clear();
        match self.base.destroy(memory, tlb) {
            Ok(()) => Ok(()),
            Err(_) => unreachable!("an empty base is not empty"),
        }
    }

    fn root(&self, view: ViewId) -> Option<Frame> {
        match view {
            ViewId::BASE => Some(self.base.root()),
            other => self.view(other).ok().map(|view| view.root),
        }
    }

    fn place(&self, id: ViewId) -> Result<usize, ViewError> {
        if id == ViewId::BASE {
            return Err(ViewError::IsBase);
        }
        self.others
            .binary_search_by_key(&id, |view| view.id)
            .map_err(|_| ViewError::NoView(id))
    }

    fn view(&self, id: ViewId) -> Result<&View, ViewError> {
        let place = self.place(id)?;
        self.others.get(place).ok_or(ViewError::NoView(id))
    }
}
