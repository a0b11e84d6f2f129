//! Tables of the hypervisor's that stand in for those of the kernel half: they lead to named pages and nowhere else.
//!
//! A replica of a level-3 table shows where that table is. The tables below it show in [`Places`], whatever the guest has there: so
//! a named page that the guest maps with a large page is alone all the same. Entries that lead nowhere are present and lead to
//! the void of [`Places`]: whoever follows one exits, instead of meeting the guest's page-fault handler that user code has no way to.

use alloc::vec::Vec;

use super::{Name, Places, SplitError};
use crate::addr::{Gpa, Gva};

/// Entries as the guest's processor reads them (Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging"). Accessed and dirty are set, so that the processor
/// never writes.
mod entry {
    const PRESENT: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    /// Not to execute.
    pub(super) const NX: u64 = 1 << 63;
    /// A table of the kernel's.
    pub(super) const TABLE: u64 = PRESENT | WRITE | ACCESSED;
    /// A page of the kernel's, to read.
    pub(super) const PAGE: u64 = PRESENT | ACCESSED | DIRTY;
}

/// A table's level: 3, 2 or 1.
type Level = u32;

/// The level whose tables all address spaces of a guest share.
const TOP: Level = 3;

/// One table.
#[derive(Clone, Copy, Debug)]
struct Table {
    page: usize,
    shows_at: Gpa,
}

/// One table, and what it is for.
#[derive(Debug)]
struct Replica {
    level: Level,
    /// Which part of the address space.
    prefix: u64,
    /// The guest's level-3 table that it, or what leads to it, stands in for.
    top: Gpa,
    table: Table,
}

/// All replicas of a VM.
#[derive(Debug)]
pub(super) struct Replicas {
    places: Places,
    tables: Vec<Replica>,
    /// The first page that is a replica's.
    first: usize,
    /// Pages that a processor may still read as the tables that they were.
    departing: Vec<usize>,
}

/// An entry to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Write {
    pub(super) page: usize,
    pub(super) index: usize,
    pub(super) entry: u64,
}

/// The entry for one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    page: usize,
    index: usize,
}

/// The way to a page.
pub(super) struct Reached {
    /// Entries that make the way, the lower first: each leads to a table that is whole.
    pub(super) links: [Write; 2],
    /// The entry for the page.
    pub(super) leaf: Leaf,
}

/// Which part of the address space a table of `level` on the way to `gva` is for.
const fn prefix(level: Level, gva: Gva) -> u64 {
    gva.0 >> (12 + 9 * level)
}

/// Which of its entries is on the way.
const fn index(level: Level, gva: Gva) -> usize {
    ((gva.0 >> (3 + 9 * level)) & 0x1ff) as usize
}

impl Replicas {
    pub(super) const fn new(places: Places, first: usize) -> Self {
        Self {
            places,
            first,
            tables: Vec::new(),
            departing: Vec::new(),
        }
    }

    /// How many there are.
    pub(super) const fn count(&self) -> u64 {
        self.tables.len() as u64
    }

    /// Whether a replica of a level-3 table shows at `page`.
    pub(super) fn stands_at(&self, page: Gpa) -> bool {
        let mut tables = self.tables.iter();
        tables.any(|replica| replica.level == TOP && replica.top == page)
    }

    /// Whether there are tables on the way from the guest's level-3 table at `top` to `gva`.
    pub(super) fn leads_to(&self, top: Gpa, gva: Gva) -> bool {
        self.find(1, prefix(1, gva), top).is_some()
    }

    /// What fills a table of `level`.
    const fn nowhere(&self, level: Level) -> u64 {
        let kind = if level == 1 {
            // To execute, too: a system call's target is fetched here, and that has to exit.
            entry::PAGE | entry::WRITE
        } else {
            entry::TABLE
        };
        self.places.void().0 | kind
    }

    /// Makes the tables on the way to `gva` below the guest's level-3 table at `top`, those that are not there. `show` shows a page, full of
    /// an entry, at an address.
    pub(super) fn reach(
        &mut self,
        top: Gpa,
        gva: Gva,
        show: &mut impl FnMut(usize, u64, Gpa) -> Result<(), SplitError>,
    ) -> Result<Reached, SplitError> {
        // From the page up, so that each table is whole before anything leads to it.
        let low = self.table(1, gva, top, show)?;
        let middle = self.table(2, gva, top, show)?;
        let top = self.table(TOP, gva, top, show)?;
        let link = |from: Table, level, to: Table| Write {
            page: from.page,
            index: index(level, gva),
            entry: to.shows_at.0 | entry::TABLE,
        };
        Ok(Reached {
            links: [link(middle, 2, low), link(top, TOP, middle)],
            leaf: Leaf {
                page: low.page,
                index: index(1, gva),
            },
        })
    }

    /// The table of `level` on the way from `top` to `gva`, made if it is not there.
    fn table(
        &mut self,
        level: Level,
        gva: Gva,
        top: Gpa,
        show: &mut impl FnMut(usize, u64, Gpa) -> Result<(), SplitError>,
    ) -> Result<Table, SplitError> {
        let prefix = prefix(level, gva);
        if let Some(table) = self.find(level, prefix, top) {
            return Ok(table);
        }
        let page = self.unused_page();
        let shows_at = if level == TOP {
            top
        } else {
            self.places.page(page)
        };
        show(page, self.nowhere(level), shows_at)?;
        let table = Table { page, shows_at };
        self.tables.push(Replica {
            level,
            prefix,
            top,
            table,
        });
        Ok(table)
    }

    /// A level-3 table is one whatever the slots that lead to it.
    fn find(&self, level: Level, prefix: u64, top: Gpa) -> Option<Table> {
        let is_it = |replica: &&Replica| {
            replica.level == level
                && replica.top == top
                && (level == TOP || replica.prefix == prefix)
        };
        self.tables.iter().find(is_it).map(|replica| replica.table)
    }

    /// The first page that is in no use.
    fn unused_page(&self) -> usize {
        let tables = self.tables.iter().map(|replica| replica.table.page);
        let used = tables.chain(self.departing.iter().copied());
        let used: Vec<_> = used.collect();
        let end = self.first + used.len();
        let unused = (self.first..end).find(|page| !used.contains(page));
        unused.unwrap_or(end)
    }

    /// What makes the entries for `gva` lead nowhere again.
    pub(super) fn forget(&self, gva: Gva) -> impl Iterator<Item = Write> + '_ {
        let last = move |replica: &&Replica| replica.level == 1 && replica.prefix == prefix(1, gva);
        self.tables.iter().filter(last).map(move |replica| Write {
            page: replica.table.page,
            index: index(1, gva),
            entry: self.nowhere(1),
        })
    }

    /// Takes out a table that leads to none of `names`: what cuts the way to it, and where it shows. `None` where there is none. A level-3
    /// table stays: the guest's is behind it.
    pub(super) fn take_idle(&mut self, names: &[Gva]) -> Option<(Write, Gpa)> {
        let leads_to = |replica: &Replica, gva: &Gva| prefix(replica.level, *gva) == replica.prefix;
        let is_idle = |level, replica: &Replica| {
            replica.level == level && !names.iter().any(|gva| leads_to(replica, gva))
        };
        // Those further down first, so that there still is what leads to them.
        let place = (1..TOP).find_map(|level| {
            let mut tables = self.tables.iter();
            tables.position(|replica| is_idle(level, replica))
        })?;
        let idle = self.tables.get(place)?;
        let above = self.find(idle.level + 1, idle.prefix >> 9, idle.top);
        let idle = self.tables.remove(place);
        self.departing.push(idle.table.page);
        // Where nothing leads to it yet, nothing is to be cut but itself.
        let above = above.unwrap_or(idle.table);
        let cut = Write {
            page: above.page,
            index: (idle.prefix & 0x1ff) as usize,
            entry: self.nowhere(idle.level + 1),
        };
        Some((cut, idle.table.shows_at))
    }

    /// No processor reads what was taken out any more.
    pub(super) fn flushed(&mut self) {
        self.departing.clear();
    }
}

impl Leaf {
    /// What makes the entry lead to `name`.
    pub(super) const fn leading_to(self, name: &Name) -> Write {
        Write {
            page: self.page,
            index: self.index,
            entry: entry_for(name),
        }
    }
}

/// The entry of a level-1 table that leads to `name`.
const fn entry_for(name: &Name) -> u64 {
    let write = if name.writable { entry::WRITE } else { 0 };
    let execute = if name.executable { 0 } else { entry::NX };
    name.gpa.0 | entry::PAGE | write | execute
}
