//! Ranges that changed since the last flush, gathered so that one submission forgets them all.

use crate::addr::{FRAME_SIZE, FrameCount, Gpa};

use super::capability::DomainId;
use super::invalidate::{BATCH, Batch, PageBlock, Request};

/// What is to be forgotten of a domain: a few ranges, or everything.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// First page and number of pages.
    ranges: [Option<(u64, u64)>; BATCH],
    used: usize,
    everything: bool,
}

impl Pending {
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0 && !self.everything
    }

    pub(super) const fn add_everything(&mut self) {
        self.everything = true;
    }

    /// Adds a range; one that goes on where the last ended makes that one longer.
    pub(super) fn add(&mut self, gpa: Gpa, count: FrameCount) {
        let first = gpa.0 / FRAME_SIZE;
        let last = self
            .used
            .checked_sub(1)
            .and_then(|at| self.ranges.get_mut(at));
        if let Some(Some((start, pages))) = last
            && start.checked_add(*pages) == Some(first)
        {
            *pages += count.0;
            return;
        }
        match self.ranges.get_mut(self.used) {
            Some(slot) => {
                *slot = Some((first, count.0));
                self.used += 1;
            }
            None => self.everything = true,
        }
    }

    /// The batch that forgets it all, nothing being pending afterwards.
    pub(super) fn take(&mut self, id: DomainId, page_selective: Option<u8>) -> Batch {
        let pending = core::mem::take(self);
        if pending.is_empty() {
            return Batch::EMPTY;
        }
        pending
            .by_pages(id, page_selective)
            .unwrap_or_else(|| Batch::of(&[Request::Domain(id)]))
    }

    /// One request a range, where each is within what one can say.
    fn by_pages(&self, id: DomainId, page_selective: Option<u8>) -> Option<Batch> {
        let order = page_selective.filter(|_| !self.everything)?;
        let mut batch = Batch::EMPTY;
        for (first, count) in self.ranges.iter().flatten() {
            let block = PageBlock::covering(*first, *count, order)?;
            if !batch.push(Request::Pages(id, block)) {
                return None;
            }
        }
        Some(batch)
    }
}
