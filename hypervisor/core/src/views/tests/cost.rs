//! How many tables views take.

use crate::addr::{FrameCount, Gpa};
use crate::ept::{EptCaps, EptFeatures, EptPerms};
use crate::table::PageSize;

use super::*;

/// 256 MiB.
const VM_PAGES: u64 = 64 << 10;

fn bytes(tables: FrameCount) -> u64 {
    tables.0 * FRAME_SIZE
}

/// A VM of 256 MiB, its base in pages of `size`.
fn large(entries: &mut Vec<Entry>, size: PageSize) -> Machine<'_> {
    let missing = match size {
        PageSize::Size4K => EptFeatures::PAGE_2M.union(EptFeatures::PAGE_1G),
        _ => EptFeatures::PAGE_1G,
    };
    let caps = EptCaps::negotiate(EptFeatures::all().difference(missing).bits());
    let caps = caps.unwrap().with_mode_based_execute();
    let mut machine = Machine::new(entries, VM_PAGES, PageSize::Size2M, caps);
    machine.map(0, 0, VM_PAGES, ALL);
    let leaf = machine
        .views
        .translate(&machine.memory, ViewId::BASE, Gpa(0));
    assert_eq!(leaf.unwrap().size, size);
    machine
}

#[test]
fn the_two_views_of_the_split_take_less_than_256_kib() {
    for size in [PageSize::Size2M, PageSize::Size4K] {
        let mut entries = Vec::new();
        let mut machine = large(&mut entries, size);
        let before = machine.memory.tables.len();
        let kernel = machine.add(ALL.difference(XU));
        let user = machine.add(ALL.difference(X));
        // Far apart: each in a block of 2 MiB of its own.
        for trampoline in 0..4 {
            machine.limit(user, 700 + trampoline * 512, 1, ALL);
        }
        for replaced in 0..16 {
            machine.remap(user, 5003 + replaced * 3 * 512, 9 + replaced, 1, R);
        }
        assert_eq!(machine.sees(kernel, 700), Some((700, ALL.difference(XU))));
        assert_eq!(machine.sees(user, 699), Some((699, ALL.difference(X))));
        assert_eq!(machine.sees(user, 700), Some((700, ALL)));
        assert_eq!(machine.sees(user, 5003 + 15 * 3 * 512), Some((24, R)));
        let own = [kernel, user].map(|view| bytes(machine.views.own_tables(view).unwrap()));
        assert_eq!(own[0], FRAME_SIZE, "a view without exceptions is its root");
        assert_eq!(
            own[1],
            23 * FRAME_SIZE,
            "root, two on the way, one for each page"
        );
        assert!(own[0] + own[1] <= 256 << 10, "{own:?}");
        let added = (machine.memory.tables.len() - before) as u64;
        assert_eq!(own[0] + own[1], added * FRAME_SIZE);
        machine.check_tables(&[kernel, user], 0);
        machine.end(&[kernel, user]);
    }
}

#[test]
fn a_view_with_one_override_takes_less_than_64_kib() {
    for size in [PageSize::Size2M, PageSize::Size4K] {
        let mut entries = Vec::new();
        let mut machine = large(&mut entries, size);
        let limited = machine.add(ALL);
        machine.limit(limited, 1234, 1, R);
        let remapped = machine.add(EptPerms::empty());
        machine.remap(remapped, 1234, 1, 1, RW);
        for view in [limited, remapped] {
            assert!(bytes(machine.views.own_tables(view).unwrap()) <= 64 << 10);
        }
        machine.end(&[limited, remapped]);
    }
}

#[test]
fn a_rule_for_whole_tables_takes_no_table_for_them() {
    let mut entries = Vec::new();
    let mut machine = large(&mut entries, PageSize::Size4K);
    let view = machine.add(ALL);
    // From the second table on, the whole of it in two halves.
    machine.limit(view, 512, 256, R);
    assert_eq!(machine.views.own_tables(view), Some(FrameCount(4)));
    machine.limit(view, 768, 256, R);
    assert_eq!(machine.views.own_tables(view), Some(FrameCount(3)));
    assert_eq!(machine.sees(view, 1023), Some((1023, R)));
    machine.reset(view, 0, VM_PAGES);
    assert_eq!(machine.views.own_tables(view), Some(FrameCount(1)));
    machine.end(&[view]);
}
