//! A processor that walks between any two writes.

use std::collections::BTreeMap;

use crate::addr::Frame;
use crate::table::ENTRIES;
use crate::table::fake::Tables;

use super::hardware;

/// Where each table shows: below which root, from which page on, at which level.
type Places = BTreeMap<u64, Vec<(Frame, u64, u32)>>;

/// Replays `log` upon the tables `before`; after each write, looks at every page that the entry is for, in every tree that has it.
/// Each has to be as before, or as it is with `after`.
pub(super) fn check(before: &Tables, after: &Tables, roots: &[Frame], log: &[(Frame, usize, u64)]) {
    let mut now = before.clone();
    let mut places = find(&now, roots);
    for (step, (table, index, entry)) in log.iter().enumerate() {
        now.entry(table.0).or_insert([0; ENTRIES])[*index] = *entry;
        let Some(showing) = places.get(&table.0) else {
            continue;
        };
        for (root, first, level) in showing {
            let pages = 1u64 << (9 * (level - 1));
            let first = first + *index as u64 * pages;
            for page in samples(first, pages) {
                let seen = hardware::walk(&now, *root, page);
                let allowed = [
                    hardware::walk(before, *root, page),
                    hardware::walk(after, *root, page),
                ];
                assert!(
                    allowed.contains(&seen),
                    "page {page} from root {root:?} after write {step}: {seen:?}, not of {allowed:?}"
                );
            }
        }
        if showing.iter().any(|(_, _, level)| *level > 1) {
            places = find(&now, roots);
        }
    }
}

/// All pages of what is no more than a table, and some of more.
fn samples(first: u64, pages: u64) -> impl Iterator<Item = u64> {
    let step = if pages <= 512 { 1 } else { 499 };
    let near = (0..pages.min(2048)).step_by(if pages <= 512 { 1 } else { 7 });
    let far = (0..pages.min(1 << 21)).step_by(step * 3);
    near.chain(far)
        .chain([pages - 1])
        .map(move |into| first + into)
}

fn find(tables: &Tables, roots: &[Frame]) -> Places {
    let mut places = Places::new();
    for root in roots {
        hardware::visit(tables, *root, &mut |place| {
            let list = places.entry(place.table).or_default();
            list.push((*root, place.first, place.level));
            true
        });
    }
    places
}
