//! Where a VM has its pages, which [`Backing`] numbers and knows the frames of: RAM at the guest's addresses, the memory for changed
//! blocks of its disks at none.

use crate::addr::{FRAME_SIZE, FrameCount, Gpa};
use crate::backing::Backing;
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
#[derive(Clone, Copy, Debug)]
pub struct PageMap<'a> {
    /// Which frame is which page.
    pub backing: &'a Backing,
    /// The VM's RAM, in the order of its addresses.
    pub ram: &'a [RamRange],
}

impl PageMap<'_> {
    /// How many pages there are.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.backing.wanted().0
    }

    /// Whether a guest reaches the page.
    #[must_use]
    pub fn is_ram(self, page: u64) -> bool {
        page < self.backing.ram().0
    }

    /// The page at `gpa`, if that is RAM.
    #[must_use]
    pub fn page_at(self, gpa: Gpa) -> Option<u64> {
        let mut first = 0;
        for range in self.ram {
            let into = gpa
                .0
                .checked_sub(range.gpa.0)
                .map(|bytes| bytes / FRAME_SIZE);
            if let Some(into) = into.filter(|into| *into < range.count.0) {
                return Some(first + into);
            }
            first += range.count.0;
        }
        None
    }

    /// Where the page is: for one that is no RAM, an address that no guest has, and no other page.
    #[must_use]
    pub fn gpa(self, page: u64) -> Gpa {
        let mut first = 0;
        for range in self.ram {
            if page - first < range.count.0 {
                return Gpa(range.gpa.0 + (page - first) * FRAME_SIZE);
            }
            first += range.count.0;
        }
        Gpa(BEYOND + (page - first) * FRAME_SIZE)
    }

    /// The frame of the page; `None` where there is no such page.
    #[must_use]
    pub fn frame(self, page: u64) -> Option<FrameRun> {
        self.backing.piece(page, FrameCount(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;

    const RAM: [RamRange; 2] = [
        RamRange {
            gpa: Gpa(0),
            count: FrameCount(3),
        },
        RamRange {
            gpa: Gpa(0x10_0000),
            count: FrameCount(4),
        },
    ];

    fn backing() -> Backing {
        let mut backing = Backing::new(FrameCount(7), [FrameCount(3)]);
        for (first, count) in [(512, 5), (100, 2), (900, 3)] {
            backing.add(FrameRun::new(Frame(first), FrameCount(count)));
        }
        backing
    }

    #[test]
    fn each_page_has_one_place_and_one_frame() {
        let backing = backing();
        let map = PageMap {
            backing: &backing,
            ram: &RAM,
        };
        assert_eq!(map.pages(), 10);
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
        let backing = backing();
        let map = PageMap {
            backing: &backing,
            ram: &RAM,
        };
        for gpa in [0x3000, 0xf_f000, 0x10_4000, BEYOND, u64::MAX] {
            assert_eq!(map.page_at(Gpa(gpa)), None, "{gpa:#x}");
        }
        let beyond: Vec<_> = (7..10).map(|page| map.gpa(page).0 - BEYOND).collect();
        assert_eq!(beyond, [0, 0x1000, 0x2000]);
    }
}
