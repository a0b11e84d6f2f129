//! A guest with page tables, the frames of its split, and the walk of a processor through both.

use std::collections::BTreeSet;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa, Gva};
use crate::ept::{EptCaps, EptFeatures, EptPerms};
use crate::ledger::{Entry, FrameRun, Ledger, MapRight, Rights};
use crate::split::{
    HALF_BYTES, KernelEntry, KernelHalf, Name, Named, Pages, Places, Side, Split, SplitError, words,
};
use crate::table::fake::FakeMemory;
use crate::table::{ENTRIES, Invalidate, PageSize};
use crate::testing::Random;
use crate::views::tests::{Machine, VM};
use crate::views::{ViewId, Views};

/// Pages of guest memory.
pub(super) const RAM: u64 = 192;
/// Pages of it that are no tables: what the guest maps page by page.
pub(super) const DATA: u64 = 32;
/// Slots of the top-level table that the kernel half uses.
pub(super) const SLOTS: [u64; 5] = [256, 257, 300, 510, 511];
/// Top-level tables.
pub(super) const PROCESSES: usize = 3;
/// Entries of the tables below that the kernel uses.
const USED: [u64; 3] = [0, 7, 511];
/// The most private pages.
pub(super) const MOST_PRIVATE: u32 = 3;
/// Width of a physical address.
pub(super) const WIDTH: u32 = 46;

pub(super) const PRESENT: u64 = 1;
pub(super) const WRITE: u64 = 2;
pub(super) const USER: u64 = 4;
const LARGE: u64 = 1 << 7;
pub(super) const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

type Table = [u64; ENTRIES];

pub(super) const fn address(slot: u64, high: u64, middle: u64, low: u64) -> Gva {
    let sign = if slot >= 256 { 0xffff << 48 } else { 0 };
    Gva(sign | slot << 39 | high << 30 | middle << 21 | low << 12)
}

pub(super) const fn slot_of(gva: Gva) -> u64 {
    gva.0 >> 39 & 0x1ff
}

/// What the guest keeps in its memory.
pub(super) struct Guest {
    pages: Vec<Table>,
    next: u64,
    /// Top-level tables by their pages.
    pub(super) tops: [u64; PROCESSES],
    /// The level-3 table of each of [`SLOTS`].
    pub(super) tables: [u64; SLOTS.len()],
}

impl Guest {
    fn new(random: &mut Random) -> Self {
        let mut guest = Self {
            pages: vec![[0; ENTRIES]; RAM as usize],
            next: DATA,
            tops: [0; PROCESSES],
            tables: [0; SLOTS.len()],
        };
        let user = guest.table();
        let (middle, low) = (guest.table(), guest.table());
        guest.write(user, 0, middle << 12 | 7);
        guest.write(middle, 0, low << 12 | 7);
        for entry in 0..4 {
            guest.write(low, entry, random.below(DATA) << 12 | 7);
        }
        guest.tops = std::array::from_fn(|_| guest.table());
        for top in guest.tops {
            guest.write(top, 0, user << 12 | 7);
        }
        guest.tables = std::array::from_fn(|_| guest.table());
        for table in guest.tables {
            guest.populate(table, 3, random);
        }
        guest
    }

    /// A new table.
    fn table(&mut self) -> u64 {
        self.next += 1;
        assert!(self.next <= RAM, "the guest's tables fill its memory");
        self.next - 1
    }

    /// Fills a table of the kernel half, and what is below it. Bits that would let user code in are set as often as not.
    fn populate(&mut self, table: u64, level: u32, random: &mut Random) {
        for index in USED {
            let rights = PRESENT | random.of(&[0, WRITE]) | random.of(&[0, USER]);
            let entry = match (level, random.below(8)) {
                (_, 0 | 1) => continue,
                (1, _) => random.below(DATA) << 12,
                // All of the guest's memory, as a kernel has it somewhere.
                (_, 2) => LARGE,
                (2, _) | (3, 3..) if self.next + 1 < RAM => {
                    let below = self.table();
                    self.populate(below, level - 1, random);
                    below << 12
                }
                _ => continue,
            };
            self.write(table, index, entry | rights);
        }
    }

    pub(super) fn write(&mut self, table: u64, index: u64, entry: u64) {
        self.pages[table as usize][index as usize] = entry;
    }

    pub(super) fn read(&self, table: u64, index: u64) -> u64 {
        self.pages[table as usize][index as usize]
    }

    pub(super) fn half(&self, process: usize) -> KernelHalf {
        let mut bytes = [0; HALF_BYTES];
        let entries = &self.pages[self.tops[process] as usize][ENTRIES / 2..];
        for (bytes, entry) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(entries) {
            *bytes = entry.to_le_bytes();
        }
        KernelHalf::new(bytes)
    }

    /// The page of the level-3 table that a process has on the way to `gva`.
    pub(super) fn table_of(&self, process: usize, gva: Gva) -> Option<u64> {
        let entry = self.read(self.tops[process], slot_of(gva));
        (entry & PRESENT != 0).then_some((entry & ADDRESS) >> 12)
    }

    /// Lets a process have the kernel's table of a slot.
    pub(super) fn share(&mut self, process: usize, slot: usize) {
        let entry = self.tables[slot] << 12 | PRESENT | WRITE | USER;
        self.write(self.tops[process], SLOTS[slot], entry);
    }
}

/// Every address of the kernel half that a kernel may have something at, and neighbours that it has not.
pub(super) fn addresses() -> impl Iterator<Item = Gva> {
    let lows = || USED.into_iter().chain([1, 2]);
    let all = move |slot: u64| {
        USED.into_iter().chain([1]).flat_map(move |high| {
            USED.into_iter()
                .flat_map(move |middle| lows().map(move |low| address(slot, high, middle, low)))
        })
    };
    SLOTS.into_iter().flat_map(all)
}

/// The frames of the split, and the books.
pub(super) struct Frames<'a, 'b> {
    pub(super) ledger: &'a mut Ledger<'b>,
    pub(super) memory: &'a mut FakeMemory,
    pages: &'a mut [Table],
    first: u64,
    is_stale: &'a mut bool,
    wiped: &'a mut Vec<u64>,
}

impl Invalidate for Frames<'_, '_> {
    fn invalidate(&mut self, _root: Frame) {
        *self.is_stale = false;
        self.memory.log.clear();
    }
}

impl Pages for Frames<'_, '_> {
    type Tables = FakeMemory;

    fn is_ram(&self, gpa: Gpa) -> bool {
        // And, for whoever needs many tables, from 4 GiB on, where nothing is looked at.
        gpa.0 < RAM * FRAME_SIZE || gpa.0 >= 1 << 32
    }

    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut FakeMemory) -> T) -> T {
        work(self.ledger, self.memory)
    }

    fn right(&mut self, page: usize, rights: Rights) -> Option<MapRight> {
        self.pages.get(page)?;
        let frame = Frame(self.first + page as u64);
        let maps = self.ledger.info(frame).unwrap().maps;
        // Those of the gates show in both views.
        assert!(
            maps == 0 || page < crate::split::passage::PAGES,
            "page {page} is taken while processors may read it"
        );
        let run = FrameRun::new(frame, FrameCount(1));
        Some(self.ledger.grant(VM, run, rights).unwrap())
    }

    fn copy(&mut self, page: usize, bytes: &[u8]) {
        for (entry, word) in self.pages[page].iter_mut().zip(words::of_page(bytes)) {
            *entry = word;
        }
    }

    fn wipe(&mut self, frame: Frame) {
        self.wiped.push(frame.0 + RAM - self.first);
    }

    fn write(&mut self, page: usize, index: usize, entry: u64) {
        self.pages[page][index] = entry;
        *self.is_stale = true;
    }
}

/// A VM with the split.
pub(super) struct World<'a> {
    pub(super) machine: Machine<'a>,
    pub(super) guest: Guest,
    pub(super) split: Split,
    /// The split's pages.
    pages: Vec<Table>,
    /// An entry was written after the last flush.
    is_stale: bool,
    /// Pages of the guest's that were wiped.
    pub(super) wiped: Vec<u64>,
}

impl<'a> World<'a> {
    pub(super) fn new(entries: &'a mut Vec<Entry>, vcpus: u32, seed: u64) -> Self {
        Self::on(true, entries, vcpus, seed)
    }

    /// On a processor that tells user code from the kernel's, or one that does not.
    pub(super) fn on(tells: bool, entries: &'a mut Vec<Entry>, vcpus: u32, seed: u64) -> Self {
        let pages = Split::pages(vcpus).0;
        let caps = EptCaps::negotiate(EptFeatures::all().bits()).unwrap();
        let mut caps = caps.without_accessed_dirty();
        if tells {
            caps = caps.with_mode_based_execute();
        }
        let mut machine = Machine::new(entries, RAM + pages, PageSize::Size4K, caps);
        machine.map(0, 0, RAM, EptPerms::ALL);
        let places = Places::for_width(WIDTH);
        let Machine { views, memory, .. } = &mut machine;
        let split = Split::new(views, memory, places, vcpus, MOST_PRIVATE).unwrap();
        Self {
            machine,
            guest: Guest::new(&mut Random(seed | 1)),
            split,
            pages: vec![[0; ENTRIES]; pages as usize],
            is_stale: false,
            wiped: Vec::new(),
        }
    }

    /// Works on the split, and makes sure that processors have forgotten what it changed.
    pub(super) fn work<T>(
        &mut self,
        work: impl FnOnce(&mut Split, &mut Views, &mut Frames<'_, 'a>) -> T,
    ) -> T {
        let Machine {
            ledger,
            memory,
            views,
            frames,
        } = &mut self.machine;
        memory.log.clear();
        let mut own = Frames {
            ledger,
            memory,
            pages: &mut self.pages,
            first: frames.first.0 + RAM,
            is_stale: &mut self.is_stale,
            wiped: &mut self.wiped,
        };
        let done = work(&mut self.split, views, &mut own);
        assert!(!self.is_stale, "a stand-in changed after the last flush");
        assert!(
            self.machine.memory.log.is_empty(),
            "a view changed after the last flush"
        );
        done
    }

    pub(super) fn admit(
        &mut self,
        vcpu: u32,
        process: usize,
        names: &[Name],
    ) -> Result<bool, SplitError> {
        self.admit_by(vcpu, process, names, &[])
    }

    /// The same, with these tables on the way to what is named.
    pub(super) fn admit_by(
        &mut self,
        vcpu: u32,
        process: usize,
        names: &[Name],
        tables: &[Gpa],
    ) -> Result<bool, SplitError> {
        let half = self.guest.half(process);
        let named = Named {
            names,
            tables,
            changes: 0,
        };
        self.work(|split, views, pages| split.admit(vcpu, &half, &named, views, pages))
    }

    /// A kernel begins whose top-level table this is; all are linked alike, and each is in frames of its own.
    pub(super) fn begin(&mut self, table: u64) -> Result<Gpa, SplitError> {
        let gpa = Gpa(table * FRAME_SIZE);
        let kernel = KernelEntry {
            gva: Gva(u64::MAX << 12),
            gpa: Some(gpa),
        };
        self.work(|split, views, pages| split.begin(kernel, gpa, views, pages))
    }

    pub(super) fn forget(&mut self) {
        self.work(|split, views, pages| split.forget(views, pages));
    }

    pub(super) const fn view(&self, side: Side) -> ViewId {
        self.split.view(side)
    }

    /// What a view shows at a guest physical page: a frame, by its number within the VM's, and what may be done with it.
    pub(super) fn shows(&self, side: Side, page: u64) -> Option<(u64, EptPerms)> {
        self.machine.sees(self.view(side), page)
    }

    /// What is in the page that a view shows at a guest physical page.
    pub(super) fn contents(&self, side: Side, page: u64) -> Option<&Table> {
        let (frame, _) = self.shows(side, page)?;
        match frame.checked_sub(RAM) {
            None => self.guest.pages.get(frame as usize),
            Some(own) => self.pages.get(own as usize),
        }
    }

    /// The frame that a processor comes to at `gva`, with a process's tables and in a view, whatever the privilege level: an attack on the
    /// processor may not care for that.
    pub(super) fn reach(&self, side: Side, process: usize, gva: Gva) -> Option<u64> {
        let (_, page) = self.leaf(side, process, gva)?;
        self.shows(side, page).map(|(frame, _)| frame)
    }

    /// The last entry on the way to `gva`, and the guest physical page that it leads to; `None` where the way ends before.
    pub(super) fn leaf(&self, side: Side, process: usize, gva: Gva) -> Option<(u64, u64)> {
        let mut table = self.guest.tops[process];
        for level in (1..=4u32).rev() {
            let (_, perms) = self.shows(side, table)?;
            assert!(perms.contains(EptPerms::READ));
            let contents = self.contents(side, table)?;
            let shift = 12 + 9 * (level - 1);
            let entry = contents[(gva.0 >> shift) as usize % ENTRIES];
            if entry & PRESENT == 0 {
                return None;
            }
            let next = (entry & ADDRESS) >> 12;
            if level == 1 || entry & LARGE != 0 {
                let into = (gva.0 >> 12) & ((1 << (shift - 12)) - 1);
                return Some((entry, next + into));
            }
            table = next;
        }
        unreachable!("level 1 is always a page")
    }

    /// The page at `gva` as a kernel would have it named; `None` where it has none that is its own.
    pub(super) fn name(&self, process: usize, gva: Gva) -> Option<Name> {
        let page = self.reach(Side::Base, process, gva)?;
        (page < DATA).then_some(Name {
            gva,
            gpa: Gpa(page * FRAME_SIZE),
            writable: page % 2 == 0,
            executable: page % 3 == 0,
        })
    }

    /// Frames of the split that show somewhere.
    pub(super) fn used_pages(&self) -> BTreeSet<u64> {
        let first = self.machine.frames.first.0 + RAM;
        let maps = |page: &u64| self.machine.ledger.info(Frame(first + page)).unwrap().maps;
        let pages = 0..self.pages.len() as u64;
        pages.filter(|page| maps(page) > 0).collect()
    }

    /// Ends the VM, and checks that no right and no table is lost.
    pub(super) fn end(mut self) {
        self.machine.memory.budget = 100_000;
        self.forget();
        assert!(self.used_pages().is_empty());
        let views = [Side::Kernel, Side::User].map(|side| self.view(side));
        self.machine.end(&views);
    }
}
