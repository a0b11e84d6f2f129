//! A processor's walk, from the manual and not from the code under test.
//!
//! Intel SDM vol. 3C, "EPT Translation Mechanism" and "EPT Misconfigurations".

use std::collections::BTreeSet;

use crate::addr::Frame;
use crate::ept::EptPerms;
use crate::table::ENTRIES;
use crate::table::fake::Tables;

/// With mode-based execute control, the bits any of which makes an entry present.
const PRESENT: u64 = 1 << 10 | 7;
const ACCESSED: u64 = 1 << 8;
const LARGE: u64 = 1 << 7;
const SUPPRESS_VE: u64 = 1 << 63;

fn next(entry: u64) -> u64 {
    entry >> 12 & ((1 << 40) - 1)
}

/// Panics where the processor would find a misconfiguration.
fn check(entry: u64, level: u32) {
    assert!(entry & 3 != 2, "writable, unreadable: {entry:#x}");
    let is_leaf = level == 1 || entry & LARGE != 0;
    assert!(!is_leaf || level < 4, "page of 512 GiB: {entry:#x}");
    if is_leaf {
        assert!(matches!(entry >> 3 & 7, 0 | 1 | 4 | 5 | 6), "{entry:#x}");
        let low = (1u64 << (9 * (level - 1))) - 1;
        assert_eq!(next(entry) & low, 0, "misaligned page: {entry:#x}");
    } else {
        assert_eq!(entry >> 3 & 0x1f, 0, "reserved bits: {entry:#x}");
    }
}

/// The frame of `page` and what all entries on the way to it allow; `None` where that is nothing.
pub(super) fn walk(tables: &Tables, root: Frame, page: u64) -> Option<(u64, EptPerms)> {
    let mut table = root.0;
    let mut perms = PRESENT;
    for level in (1..=4).rev() {
        let shift = 9 * (level - 1);
        let entry = tables[&table][(page >> shift) as usize % ENTRIES];
        if entry & PRESENT == 0 {
            assert!(
                entry & SUPPRESS_VE != 0,
                "#VE for what is absent: {entry:#x}"
            );
            return None;
        }
        check(entry, level);
        perms &= entry;
        if level == 1 || entry & LARGE != 0 {
            let frame = next(entry) + (page & ((1 << shift) - 1));
            return (perms != 0).then_some((frame, EptPerms::from_bits_truncate(perms)));
        }
        table = next(entry);
    }
    unreachable!("level 1 is always a page")
}

/// Uses `page`: every entry on the way notes it.
pub(super) fn touch(tables: &mut Tables, root: Frame, page: u64) {
    if walk(tables, root, page).is_none() {
        return;
    }
    let mut table = root.0;
    for level in (1..=4).rev() {
        let index = (page >> (9 * (level - 1))) as usize % ENTRIES;
        let entry = &mut tables.get_mut(&table).unwrap()[index];
        *entry |= ACCESSED;
        if level == 1 || *entry & LARGE != 0 {
            return;
        }
        table = next(*entry);
    }
}

/// A table as `visit` is told of it.
pub(super) struct Place {
    pub(super) table: u64,
    pub(super) level: u32,
    /// The page that its first entry is for.
    pub(super) first: u64,
}

/// Tells of every table that a walk from `root` can come to; `visit` says whether to go on below it.
pub(super) fn visit(tables: &Tables, root: Frame, visit: &mut dyn FnMut(&Place) -> bool) {
    let mut waiting = vec![Place {
        table: root.0,
        level: 4,
        first: 0,
    }];
    while let Some(place) = waiting.pop() {
        if !visit(&place) || place.level == 1 {
            continue;
        }
        for (index, entry) in tables[&place.table].iter().enumerate() {
            if entry & PRESENT != 0 && entry & LARGE == 0 {
                waiting.push(Place {
                    table: next(*entry),
                    level: place.level - 1,
                    first: place.first + ((index as u64) << (9 * (place.level - 1))),
                });
            }
        }
    }
}

/// Adds every table that a walk from `root` can come to.
pub(super) fn tables(tables: &Tables, root: Frame, found: &mut BTreeSet<u64>) {
    visit(tables, root, &mut |place| found.insert(place.table));
}
