//! Which views a vCPU can switch to without an exit.

use crate::addr::Hpa;
use crate::ept::Eptp;
use crate::table::{TableError, TableMemory};

use super::list::{EptpList, ListId, Slot};
use super::{ViewError, ViewId, Views};

impl Views {
    /// A list without views, for one more vCPU.
    ///
    /// # Errors
    /// No frame is left.
    pub fn add_list(&mut self, memory: &mut impl TableMemory) -> Result<ListId, ViewError> {
        let list = EptpList::new(memory).ok_or(TableError::OutOfTables)?;
        self.lists.push(list);
        Ok(ListId(self.lists.len() - 1))
    }

    /// What the vCPU's VMCS field "EPTP-list address" holds.
    #[must_use]
    pub fn list_address(&self, list: ListId) -> Option<Hpa> {
        self.lists.get(list.0).map(EptpList::address)
    }

    /// The view that a list has at `slot`: what the vCPU is in when its EPTP index is this one.
    pub fn listed(&self, memory: &impl TableMemory, list: ListId, slot: Slot) -> Option<ViewId> {
        let root = self.lists.get(list.0)?.root(memory, slot)?;
        if root == self.base.root() {
            return Some(ViewId::BASE);
        }
        let view = self.others.iter().find(|view| view.root == root);
        view.map(|view| view.id)
    }

    /// Lets a vCPU switch to `view` by `slot`. Nothing has to be flushed: the root was not another's since the last flush.
    ///
    /// # Errors
    /// No such list or view, or the slot is taken.
    pub fn show(
        &mut self,
        memory: &mut impl TableMemory,
        list: ListId,
        slot: Slot,
        view: ViewId,
    ) -> Result<(), ViewError> {
        let eptp = self.eptp(view).ok_or(ViewError::NoView(view))?;
        let list = self.list(list)?;
        if list.root(memory, slot).is_some() {
            return Err(ViewError::SlotTaken(slot));
        }
        list.set(memory, slot, Some(eptp));
        Ok(())
    }

    /// Lets a vCPU no longer switch to the view at `slot`; `None` where there was none. The vCPU may be in that view, by
    /// the pointer that this returns, until it has exited and was entered by another one.
    ///
    /// # Errors
    /// No such list.
    #[must_use = "the vCPU may still be in the view"]
    pub fn hide(
        &mut self,
        memory: &mut impl TableMemory,
        list: ListId,
        slot: Slot,
    ) -> Result<Option<Eptp>, ViewError> {
        let listed = self.listed(memory, list, slot);
        self.list(list)?.set(memory, slot, None);
        Ok(listed.and_then(|view| self.eptp(view)))
    }

    /// Where a view is listed, if it is.
    pub(super) fn find_listed(
        &self,
        memory: &impl TableMemory,
        view: ViewId,
    ) -> Option<(ListId, Slot)> {
        let root = self.root(view)?;
        self.lists.iter().enumerate().find_map(|(number, list)| {
            let slot = Slot::all().find(|slot| list.root(memory, *slot) == Some(root))?;
            Some((ListId(number), slot))
        })
    }

    fn list(&self, list: ListId) -> Result<&EptpList, ViewError> {
        self.lists.get(list.0).ok_or(ViewError::NoList(list))
    }
}
