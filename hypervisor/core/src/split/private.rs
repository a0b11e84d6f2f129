//! Private pages: what user code asked its kernel to be kept from reading.
//!
//! A private page is absent from `kernel`, and as it was from `user`. A kernel that writes to one by an address of its own, as it does before a page is put to
//! another use, gets it back wiped. Neighbours: [`crate::vcpu`] has what a kernel's access means, the shell keeps devices' copies away.

use alloc::vec::Vec;

use super::{ONE, Pages, Place, Side, Split, SplitError, settle};
use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ept::EptPerms;
use crate::views::{ViewId, Views};

/// Why a page cannot be private.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is something else to the split, or not there.
    NotOrdinary,
    /// The VM may have none.
    NoneAllowed,
    /// There are as many as the VM may have.
    TooMany,
    /// The view could not be changed.
    Views(SplitError),
}

/// The private pages, in order.
#[derive(Debug)]
pub(super) struct Private {
    pages: Vec<Gpa>,
    most: u32,
}

impl Private {
    pub(super) const fn new(most: u32) -> Self {
        Self {
            pages: Vec::new(),
            most,
        }
    }

    pub(super) fn has(&self, page: Gpa) -> bool {
        self.pages.binary_search(&page).is_ok()
    }
}

impl Split {
    /// Has the page of `gpa` be private. One that is already stays so.
    ///
    /// # Errors
    /// Why it cannot be; nothing changed.
    pub fn conceal<P: Pages>(
        &mut self,
        gpa: Gpa,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<(), Refusal> {
        let page = Gpa(gpa.0 - gpa.page_offset());
        let Err(place) = self.private.pages.binary_search(&page) else {
            return Ok(());
        };
        if self.private.most == 0 {
            return Err(Refusal::NoneAllowed);
        }
        let is_ordinary = |side| self.place(side, page) == Place::Elsewhere;
        let is_there = pages.is_ram(page) && frame_of(page, views, pages).is_some();
        // Before there is a kernel, nobody is kept from anything.
        if self.entry.is_none()
            || !is_there
            || !is_ordinary(Side::Kernel)
            || !is_ordinary(Side::User)
        {
            return Err(Refusal::NotOrdinary);
        }
        if self.private.pages.len() >= self.private.most as usize {
            return Err(Refusal::TooMany);
        }
        let absent = EptPerms::empty();
        let limited = pages.books(|_, t| views.limit(t, self.kernel, page, ONE, absent));
        let withdrawn = limited.map_err(|error| Refusal::Views(error.into()))?;
        self.private.pages.insert(place, page);
        settle(Vec::from([withdrawn]), views, pages);
        Ok(())
    }

    /// Whether the page of `gpa` is private.
    #[must_use]
    pub fn is_private(&self, gpa: Gpa) -> bool {
        self.private.has(Gpa(gpa.0 - gpa.page_offset()))
    }

    /// Gives the page of `gpa` back to the kernel as it is; false where it is not private.
    ///
    /// # Errors
    /// The view could not be changed.
    pub fn reveal<P: Pages>(
        &mut self,
        gpa: Gpa,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<bool, SplitError> {
        let page = Gpa(gpa.0 - gpa.page_offset());
        let Ok(place) = self.private.pages.binary_search(&page) else {
            return Ok(false);
        };
        let guards = self.guards(page);
        let withdrawn = pages.books(|_, tables| match guards {
            true => views.limit(tables, self.kernel, page, ONE, self.guard),
            false => views.reset(tables, self.kernel, page, ONE),
        })?;
        self.private.pages.remove(place);
        settle(Vec::from([withdrawn]), views, pages);
        Ok(true)
    }

    /// Gives the page of `gpa` back to the kernel with nothing in it; false where it is not private.
    ///
    /// # Errors
    /// The view could not be changed.
    pub fn give_up<P: Pages>(
        &mut self,
        gpa: Gpa,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<bool, SplitError> {
        let page = Gpa(gpa.0 - gpa.page_offset());
        if self.private.has(page) {
            wipe(page, views, pages);
        }
        self.reveal(page, views, pages)
    }

    /// Of `count` pages from that of `gpa` on, the first that is private.
    #[must_use]
    pub fn first_private(&self, gpa: Gpa, count: FrameCount) -> Option<Gpa> {
        super::first_within(&self.private.pages, gpa, count)
    }

    /// Wipes all of them; the caller has `kernel` show them.
    pub(super) fn wipe_private<P: Pages>(&mut self, views: &Views, pages: &mut P) {
        for page in self.private.pages.drain(..) {
            wipe(page, views, pages);
        }
    }
}

fn frame_of<P: Pages>(page: Gpa, views: &Views, pages: &mut P) -> Option<Frame> {
    let leaf = pages.books(|_, tables| views.translate(tables, ViewId::BASE, page))?;
    Some(Frame(leaf.frame.0 + (page.0 - leaf.input.0) / FRAME_SIZE))
}

fn wipe<P: Pages>(page: Gpa, views: &Views, pages: &mut P) {
    // One that is there no more has lost what was in it.
    if let Some(frame) = frame_of(page, views, pages) {
        pages.wipe(frame);
    }
}
