//! A VM's pages by number: its RAM in the order of addresses, then the memory for changed blocks of its disks.

use alloc::vec::Vec;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::FrameRun;

/// Where pages that are no RAM are said to be: above every address that a guest can name.
const BEYOND: u64 = 1 << 52;

/// A run of RAM, as the guest has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// Its first address, a multiple of the page size.
    pub gpa: Gpa,
    /// Its length.
    pub count: FrameCount,
}

/// What is where: pages, guest addresses, frames.
#[derive(Debug)]
pub struct PageMap {
    ram: Vec<RamRange>,
    ram_pages: u64,
    /// The first page of each run, and the run.
    runs: Vec<(u64, FrameRun)>,
    pages: u64,
}

impl PageMap {
    /// The map of `ram`, which `frames` fill in their order; those left over are no RAM.
    #[must_use]
    pub fn new(ram: Vec<RamRange>, frames: &[FrameRun]) -> Self {
        let mut pages = 0;
        let mut runs = Vec::with_capacity(frames.len());
        for run in frames {
            runs.push((pages, *run));
            pages += run.count.0;
        }
        Self {
            ram_pages: ram.iter().map(|range| range.count.0).sum(),
            ram,
            runs,
            pages,
        }
    }

    /// How many pages there are.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// The first page that is no RAM.
    #[must_use]
    pub const fn ram_pages(&self) -> u64 {
        self.ram_pages
    }

    /// Whether a guest reaches the page.
    #[must_use]
    pub const fn is_ram(&self, page: u64) -> bool {
        page < self.ram_pages
    }

    /// The page at `gpa`, if that is RAM.
    #[must_use]
    pub fn page_at(&self, gpa: Gpa) -> Option<u64> {
        let mut first = 0;
        for range in &self.ram {
            let into = gpa
                .0
                .checked_sub(range.gpa.0)
                .map(|bytes| bytes / FRAME_SIZE);
            if let Some(into) = into.filter(|into| *into < range.count.0) {
                return Some(first + into).filter(|page| *page < self.pages);
            }
            first += range.count.0;
        }
        None
    }

    /// Where the page is: for one that is no RAM, an address that no guest has, and no other page.
    #[must_use]
    pub fn gpa(&self, page: u64) -> Gpa {
        let mut first = 0;
        for range in &self.ram {
            if page - first < range.count.0 {
                return Gpa(range.gpa.0 + (page - first) * FRAME_SIZE);
            }
            first += range.count.0;
        }
        Gpa(BEYOND + (page - first) * FRAME_SIZE)
    }

    /// The frames from the page's on, as far as they lie in a row; `None` where there is no such page.
    #[must_use]
    pub fn frames_from(&self, page: u64) -> Option<FrameRun> {
        let after = self.runs.partition_point(|(first, _)| *first <= page);
        let (first, run) = self.runs.get(after.checked_sub(1)?)?;
        let into = page - first;
        let count = run.count.0.checked_sub(into).filter(|count| *count > 0)?;
        Some(FrameRun::new(Frame(run.first.0 + into), FrameCount(count)))
    }

    /// The frame of the page.
    #[must_use]
    pub fn frame(&self, page: u64) -> Option<FrameRun> {
        let run = self.frames_from(page)?;
        Some(FrameRun::new(run.first, FrameCount(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PageMap {
        let ram = [(0, 3), (0x10_0000, 4)].map(|(gpa, count)| RamRange {
            gpa: Gpa(gpa),
            count: FrameCount(count),
        });
        let frames = [(512, 5), (100, 2), (900, 3)]
            .map(|(first, count)| FrameRun::new(Frame(first), FrameCount(count)));
        PageMap::new(ram.to_vec(), &frames)
    }

    #[test]
    fn each_page_has_one_place_and_one_frame() {
        let map = map();
        assert_eq!((map.pages(), map.ram_pages()), (10, 7));
        let frames: Vec<_> = (0..10)
            .map(|page| map.frame(page).unwrap().first.0)
            .collect();
        assert_eq!(frames, [512, 513, 514, 515, 516, 100, 101, 900, 901, 902]);
        assert_eq!(map.frame(10), None);
        for page in 0..7 {
            assert!(map.is_ram(page));
            assert_eq!(map.page_at(map.gpa(page)), Some(page));
        }
        assert_eq!(map.gpa(6), Gpa(0x10_3000));
        assert_eq!(map.page_at(Gpa(0x10_3fff)), Some(6));
    }

    #[test]
    fn what_is_no_ram_is_at_no_address_of_the_guest() {
        let map = map();
        for gpa in [0x3000, 0xf_f000, 0x10_4000, BEYOND, u64::MAX] {
            assert_eq!(map.page_at(Gpa(gpa)), None, "{gpa:#x}");
        }
        let beyond: Vec<_> = (7..10).map(|page| map.gpa(page).0 - BEYOND).collect();
        assert_eq!(beyond, [0, 0x1000, 0x2000]);
    }

    #[test]
    fn frames_in_a_row_end_with_their_run() {
        let map = map();
        let run = map.frames_from(3).unwrap();
        assert_eq!((run.first, run.count), (Frame(515), FrameCount(2)));
    }
}
