//! The kernel's code, where the processor does not tell it from user code's.
//!
//! Without mode-based execute control a page can be executed or not, whoever does it. So nothing can be executed in `kernel` but what was found to be the
//! kernel's: a page comes in when it is fetched from at an address that the guest's tables keep from user mode. While it is in, no CPU writes to it
//! unseen: a page that the kernel gives to user code afterwards was written to, and is out again.

use alloc::vec::Vec;

use super::{ONE, Pages, Split, SplitError, settle};
use crate::addr::{FrameCount, Gpa};
use crate::ept::EptPerms;
use crate::views::{ViewId, Views, Withdrawn};

/// What came of a fetch of the kernel's from a page that `kernel` did not let it execute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetch {
    /// It may now.
    Allowed,
    /// The page is user code's, or kept as it is for a reason: no code of the kernel's.
    Refused,
    /// There is no such page in the base, or none that anybody may execute: that is why.
    Elsewhere,
}

/// The pages that are in, in order.
#[derive(Debug, Default)]
pub(super) struct KernelCode {
    pages: Vec<Gpa>,
}

impl KernelCode {
    /// The most pages that are in. With one more all go, and those in use come again.
    pub(super) const MOST: usize = 1024;

    pub(super) fn has(&self, page: Gpa) -> bool {
        self.pages.binary_search(&page).is_ok()
    }

    /// The view shows a page otherwise from now on: should it be executed, it is found again.
    pub(super) fn lose(&mut self, page: Gpa) {
        if let Ok(place) = self.pages.binary_search(&page) {
            self.pages.remove(place);
        }
    }

    /// Counts as many pages as there may be, of which all but those that are in are nowhere.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        let end = 1 << 40;
        let missing = Self::MOST.saturating_sub(self.pages.len()) as u64;
        self.pages
            .extend((0..missing).map(|page| Gpa(end + page * 4096)));
    }

    /// The views are as if none had ever been in.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
    }
}

impl Split {
    /// Whether the kernel's code has to be found, page by page.
    #[must_use]
    pub const fn finds_code(&self) -> bool {
        self.code.is_some()
    }

    /// Tables that `kernel` can need besides [`Split::tables`], where the kernel's code has to be found: one for each 2 MiB that has some.
    #[must_use]
    pub const fn code_tables(ram: u64) -> FrameCount {
        let blocks = ram.div_ceil(crate::addr::SIZE_2M);
        FrameCount(match blocks < KernelCode::MOST as u64 {
            true => blocks,
            false => KernelCode::MOST as u64,
        })
    }

    /// The kernel executes the page of `gpa`, which its tables keep from user mode.
    ///
    /// # Errors
    /// No table is left for it, not even with all others out.
    pub fn find_code<P: Pages>(
        &mut self,
        gpa: Gpa,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<Fetch, SplitError> {
        let page = Gpa(gpa.0 - gpa.page_offset());
        let perms_in = |views: &Views, pages: &mut P, view| {
            let leaf = pages.books(|_, tables| views.translate(tables, view, page));
            leaf.map(|leaf| leaf.attr.perms)
        };
        let Some(code) = &self.code else {
            return Ok(Fetch::Elsewhere);
        };
        let base = perms_in(views, pages, ViewId::BASE);
        if !base.is_some_and(|perms| perms.contains(EptPerms::EXECUTE)) {
            return Ok(Fetch::Elsewhere);
        }
        let shown = perms_in(views, pages, self.kernel);
        if shown.is_some_and(|perms| perms.contains(EptPerms::EXECUTE)) {
            // Another CPU was faster.
            return Ok(Fetch::Allowed);
        }
        if self.private.has(page) || self.passage.iter().any(|passage| passage.guards(page)) {
            return Ok(Fetch::Refused);
        }
        let mut stale = Vec::new();
        let is_full = code.pages.len() >= KernelCode::MOST;
        let mut done = match is_full {
            true => Err(SplitError::NoPage),
            false => self.take_in(page, views, pages, &mut stale),
        };
        if done.is_err() {
            done = self
                .take_all_out(views, pages, &mut stale)
                .and_then(|()| self.take_in(page, views, pages, &mut stale));
        }
        settle(stale, views, pages);
        done.map(|()| Fetch::Allowed)
    }

    /// Of `count` pages from that of `gpa` on, the first that is in.
    #[must_use]
    pub fn first_code(&self, gpa: Gpa, count: FrameCount) -> Option<Gpa> {
        let code = self.code.as_ref()?;
        super::first_within(&code.pages, gpa, count)
    }

    /// The page of `gpa`, which is in, was written to or is about to be: it is out.
    ///
    /// # Errors
    /// The view could not be changed.
    pub fn lose_code<P: Pages>(
        &mut self,
        gpa: Gpa,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<(), SplitError> {
        let page = Gpa(gpa.0 - gpa.page_offset());
        let code = self.code.as_mut();
        let place = code.and_then(|code| {
            let place = code.pages.binary_search(&page).ok()?;
            Some(code.pages.remove(place))
        });
        let mut stale = Vec::new();
        let done = match place {
            Some(page) => self.take_out(page, views, pages, &mut stale),
            None => Ok(()),
        };
        settle(stale, views, pages);
        done
    }

    fn take_in<P: Pages>(
        &mut self,
        page: Gpa,
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<(), SplitError> {
        const CODE: EptPerms = EptPerms::ALL.difference(EptPerms::WRITE);
        stale.push(pages.books(|_, tables| views.limit(tables, self.kernel, page, ONE, CODE))?);
        if let Some(code) = &mut self.code
            && let Err(place) = code.pages.binary_search(&page)
        {
            code.pages.insert(place, page);
        }
        Ok(())
    }

    /// Has `kernel` show a page as if it had never been in.
    fn take_out<P: Pages>(
        &self,
        page: Gpa,
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<(), SplitError> {
        if self.passage.iter().any(|passage| passage.guards(page)) {
            // It shows a copy by now, or is the interrupt descriptor table.
            return Ok(());
        }
        let (view, guards) = (self.kernel, self.guards(page));
        stale.push(pages.books(|_, tables| match guards {
            true => views.limit(tables, view, page, ONE, self.guard),
            false => views.reset(tables, view, page, ONE),
        })?);
        Ok(())
    }

    fn take_all_out<P: Pages>(
        &mut self,
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<(), SplitError> {
        while let Some(page) = self.code.as_mut().and_then(|code| code.pages.pop()) {
            self.take_out(page, views, pages, stale)?;
        }
        Ok(())
    }
}
