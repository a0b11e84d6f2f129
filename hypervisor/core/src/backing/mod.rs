//! What a VM's pages lie in: its RAM's pages in the order of their addresses, then those of its disks' overlays, disk by
//! disk, numbered through from 0.
//!
//! [`Backing`] knows how many frames a VM is to have and which it has; it gets them and loses them a run at a time, as the
//! shell takes them from the [`crate::ledger`] and gives them back. Work on all of a VM's memory, be it scrubbing or
//! mapping, goes from page to page by [`Backing::piece`], as far at a time as its author likes.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use crate::addr::{Frame, FrameCount};
use crate::ledger::FrameRun;

/// A VM's pages and the frames that they lie in.
#[derive(Debug)]
pub struct Backing {
    /// The first page after the RAM, after each overlay, and after what there is for the split.
    ends: Vec<u64>,
    /// How many of the last pages are the split's.
    split: FrameCount,
    /// In the order of their pages, without a gap from page 0 on.
    runs: Vec<Placed>,
}

/// A run of frames, and the page that its first frame is.
#[derive(Clone, Copy, Debug)]
struct Placed {
    page: u64,
    run: FrameRun,
}

impl Placed {
    const fn end(&self) -> u64 {
        self.page + self.run.count.0
    }
}

impl Backing {
    /// For a VM with so many frames of RAM and of each disk's overlay; it has none of them yet.
    #[must_use]
    pub fn new(ram: FrameCount, overlays: impl IntoIterator<Item = FrameCount>) -> Self {
        let mut end = 0_u64;
        let ends = core::iter::once(ram).chain(overlays).map(|count| {
            end = end.saturating_add(count.0);
            end
        });
        Self {
            ends: ends.collect(),
            split: FrameCount(0),
            runs: Vec::new(),
        }
    }

    /// The same, and so many frames more, for the kernel/user split.
    #[must_use]
    pub fn with_split(mut self, count: FrameCount) -> Self {
        self.ends.push(self.wanted().0.saturating_add(count.0));
        self.split = count;
        self
    }

    /// Which page is page `page` of those for the split; `None` where there are fewer.
    #[must_use]
    pub fn split_page(&self, page: usize) -> Option<u64> {
        let first = self.wanted().0 - self.split.0;
        (page < self.split.0 as usize).then_some(first + page as u64)
    }

    /// How many pages of RAM there are.
    #[must_use]
    pub fn ram(&self) -> FrameCount {
        FrameCount(self.ends.first().copied().unwrap_or(0))
    }

    /// How many frames it is to have.
    #[must_use]
    pub fn wanted(&self) -> FrameCount {
        FrameCount(self.ends.last().copied().unwrap_or(0))
    }

    /// How many it has.
    #[must_use]
    pub fn taken(&self) -> FrameCount {
        FrameCount(self.runs.last().map_or(0, Placed::end))
    }

    /// How many frames to take next, `most` at a time and not for RAM and overlays together; `None` where it has all.
    #[must_use]
    pub fn next(&self, most: FrameCount) -> Option<FrameCount> {
        let taken = self.taken().0;
        let end = self.ends.iter().find(|end| **end > taken)?;
        Some(FrameCount((end - taken).min(most.0)))
    }

    /// The VM's next pages lie in `run`.
    pub fn add(&mut self, run: FrameRun) {
        let page = self.taken().0;
        self.runs.push(Placed { page, run });
    }

    /// It has none any more: they were given back.
    pub fn clear(&mut self) {
        self.runs = Vec::new();
    }

    /// Its frames.
    pub fn runs(&self) -> impl Iterator<Item = FrameRun> {
        self.runs.iter().map(|placed| placed.run)
    }

    /// The frames of `page` and of the pages that follow it, as far as they follow it in memory too, `most` at a time; `None`
    /// where it has no such page.
    #[must_use]
    pub fn piece(&self, page: u64, most: FrameCount) -> Option<FrameRun> {
        let after = self.runs.partition_point(|placed| placed.page <= page);
        let placed = self.runs.get(after.checked_sub(1)?)?;
        let left = placed.end().checked_sub(page).filter(|left| *left > 0)?;
        let first = Frame(placed.run.first.0 + (page - placed.page));
        Some(FrameRun::new(first, FrameCount(left.min(most.0))))
    }

    /// The page that block `block` of disk `disk`'s overlay is, or `None` where the overlay has no such block.
    #[must_use]
    pub fn overlay_page(&self, disk: usize, block: u32) -> Option<u64> {
        let first = self.ends.get(disk)?;
        let end = self.ends.get(disk.checked_add(1)?)?;
        let page = first.checked_add(block.into())?;
        (page < *end).then_some(page)
    }
}
