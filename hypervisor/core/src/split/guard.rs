//! What `kernel` keeps from being written unseen, and how often that was written to.

use alloc::vec::Vec;

use super::{ONE, Pages, Split, SplitError};
use crate::addr::Gpa;
use crate::views::{Views, Withdrawn};

impl Split {
    /// How often the guest changed something that it was kept from changing unseen, or was not kept from that before: what was read of it earlier may be no
    /// more.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Has `kernel` keep a vCPU's `tables` from being written unseen, and not those that it had before.
    pub(super) fn guard<P: Pages>(
        &mut self,
        number: usize,
        tables: &[Gpa],
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<(), SplitError> {
        let own = self.paths.get_mut(number).ok_or(SplitError::NoVcpu)?;
        if own.as_slice() == tables {
            return Ok(());
        }
        let before = core::mem::take(own);
        for table in tables {
            let is_free = !self.guards(*table) && !self.private.has(*table);
            if !before.contains(table) && is_free && pages.is_ram(*table) {
                // Until now it could be written to unseen, since it was read, too.
                self.changes += 1;
                let guard = self.guard;
                stale.push(pages.books(|_, t| views.limit(t, self.kernel, *table, ONE, guard))?);
                self.code.iter_mut().for_each(|code| code.lose(*table));
            }
        }
        for table in &before {
            let is_free = !self.guards(*table) && !self.private.has(*table);
            if !tables.contains(table) && is_free {
                stale.push(pages.books(|_, t| views.reset(t, self.kernel, *table, ONE))?);
                self.code.iter_mut().for_each(|code| code.lose(*table));
            }
        }
        if let Some(own) = self.paths.get_mut(number) {
            own.extend_from_slice(tables);
        }
        Ok(())
    }

    /// Whether `kernel` keeps a page from being written unseen.
    pub(super) fn guards(&self, page: Gpa) -> bool {
        self.guarded == Some(page)
            || self
                .passage
                .as_ref()
                .is_some_and(|passage| passage.guards(page))
            || self.paths.iter().any(|tables| tables.contains(&page))
    }
}
