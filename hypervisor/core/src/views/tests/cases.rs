//! What views promise, one case at a time.

use crate::addr::{Frame, FrameCount, Gpa};
use crate::ept::{EptCaps, EptError, EptFeatures, EptPerms};
use crate::ledger::{FrameRun, Holder, Rights};
use crate::secmem::tmemk::{HardwareKeyId, KeyField, KeyTag};
use crate::table::fake::{FakeMemory, FakeTlb};
use crate::table::{Invalidate, PageSize, TableError};
use crate::views::ViewError;

use super::*;

fn small(entries: &mut Vec<Entry>) -> Machine<'_> {
    Machine::new(entries, 2048, PageSize::Size2M, caps())
}

#[test]
fn remaps_use_pages_that_the_processor_has() {
    use PageSize::{Size2M, Size4K};
    let all = EptFeatures::all();
    let small = all.difference(EptFeatures::PAGE_2M.union(EptFeatures::PAGE_1G));
    for (features, size, tables) in [(all, Size2M, 3), (small, Size4K, 4)] {
        let mut entries = Vec::new();
        let caps = EptCaps::negotiate(features.bits()).unwrap();
        let mut machine = Machine::new(&mut entries, 1024, Size2M, caps);
        let view = machine.add(EptPerms::empty());
        machine.remap(view, 512, 0, 512, RW);
        let leaf = machine
            .views
            .translate(&machine.memory, view, gpa(1000))
            .unwrap();
        let first = if size == Size2M { 512 } else { 1000 };
        assert_eq!((leaf.size, leaf.input), (size, gpa(first)));
        assert_eq!(leaf.frame.0 - machine.frames.first.0, first - 512);
        assert_eq!(machine.views.own_tables(view), Some(FrameCount(tables)));
        machine.end(&[view]);
    }
}

#[test]
fn frames_under_a_key_are_remapped_under_it_and_come_back_without() {
    let keys = KeyField::new(46, 6).unwrap();
    let tag = keys.tag(HardwareKeyId::new(5).unwrap()).unwrap();
    let mut entries = Vec::new();
    let caps = caps().with_keys(keys);
    let mut machine = Machine::new(&mut entries, 1024, PageSize::Size2M, caps);
    let frames = machine.frames;
    machine.ledger.rekey(VM, &[frames], tag).unwrap();
    machine.ledger.scrub(frames, &mut NoScrub).unwrap();
    let view = machine.add(RW);
    machine.map(0, 0, 512, ALL);
    machine.remap(view, 7, 520, 3, RW);
    for (page, frame) in [(6, 6), (8, 521)] {
        let frame = Frame(frames.first.0 + frame);
        let seen = hardware::walk(&machine.memory.tables, machine.root(view), page);
        assert_eq!(seen, Some((tag.on(frame).0, RW)));
        let leaf = machine.views.translate(&machine.memory, view, gpa(page));
        assert_eq!(leaf.unwrap().frame, frame);
    }
    let withdrawn = machine
        .views
        .reset(&mut machine.memory, view, gpa(8), FrameCount(1));
    let proof = machine.flush();
    let rights = withdrawn
        .unwrap()
        .flushed(&proof, &mut machine.memory)
        .unwrap();
    let back: Vec<_> = rights
        .iter()
        .map(|right| (right.run(), right.tag()))
        .collect();
    let cut = FrameRun::new(Frame(frames.first.0 + 521), FrameCount(1));
    assert_eq!(back, [(cut, tag)]);
    rights
        .into_iter()
        .for_each(|right| machine.ledger.surrender(right));
    machine.remove(view);
    machine.unmap(0, 512);
    machine.ledger.rekey(VM, &[frames], KeyTag::NONE).unwrap();
    machine.end(&[]);
}

#[test]
fn overrides_outlive_the_page_below_and_show_nothing_without_it() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    machine.map(0, 0, 1024, ALL);
    let view = machine.add(RW | X);
    machine.limit(view, 5, 1, ALL);
    machine.limit(view, 6, 1, EptPerms::empty());
    machine.remap(view, 7, 1030, 1, R);
    for frame in [5, 40] {
        assert_eq!(machine.unmap(5, 3), 3);
        let seen = [5, 6, 7].map(|page| machine.sees(view, page));
        assert_eq!(seen, [None, None, Some((1030, R))]);
        assert_eq!(machine.sees(view, 8), Some((8, RW | X)));
        machine.map(5, frame, 3, ALL);
        let seen = [5, 6, 7].map(|page| machine.sees(view, page));
        assert_eq!(seen, [Some((frame, ALL)), None, Some((1030, R))]);
    }
    assert_eq!(machine.reset(view, 0, 8), 1, "one right comes back");
    assert_eq!(machine.sees(view, 7), Some((42, RW | X)));
    machine.end(&[view]);
}

#[test]
fn base_changes_take_no_table_of_a_view() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    machine.map(0, 0, 1024, ALL);
    let view = machine.add(RW | X);
    machine.limit(view, 5, 1, ALL);
    assert_eq!(machine.unmap(5, 1), 1);
    machine.map(5, 5, 1, ALL);
    let own = machine.views.own_tables(view);
    machine.memory.budget = 0;
    assert_eq!(machine.unmap(5, 1), 1);
    machine.map(5, 5, 1, ALL);
    assert_eq!(machine.sees(view, 5), Some((5, ALL)));
    assert_eq!(machine.views.own_tables(view), own);
    machine.end(&[view]);
}

/// Remembers which roots it was told to forget.
#[derive(Default)]
struct Roots(Vec<Frame>);

impl Invalidate for Roots {
    fn invalidate(&mut self, root: Frame) {
        self.0.push(root);
    }
}

#[test]
fn what_a_view_gave_up_is_locked_until_a_later_flush_of_all_views() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    machine.map(0, 0, 1024, ALL);
    let view = machine.add(ALL);
    let other = machine.add(R);
    machine.remap(view, 7, 1030, 1, R);
    let tables = machine.memory.tables.len();
    let roots = [ViewId::BASE, view, other].map(|view| machine.root(view));

    let too_early = machine.flush();
    let withdrawn = machine.views.remove(&mut machine.memory, view).unwrap();
    let withdrawn = withdrawn
        .flushed(&too_early, &mut machine.memory)
        .unwrap_err();
    let mut strangers = FakeMemory::new(8);
    let mut stranger = Views::new(Ept::new(VmId(2), caps(), &mut strangers).unwrap());
    stranger.add(&mut strangers, ALL).unwrap();
    let wrong = stranger.flush(&mut FakeTlb::default());
    let withdrawn = withdrawn.flushed(&wrong, &mut machine.memory).unwrap_err();
    assert_eq!(machine.memory.tables.len(), tables);
    assert_eq!(
        hardware::walk(&machine.memory.tables, roots[1], 7)
            .unwrap()
            .1,
        R
    );

    let mut forgotten = Roots::default();
    let proof = machine.views.flush(&mut forgotten);
    assert_eq!(
        forgotten.0,
        [roots[0], roots[2], roots[1]],
        "the removed one too"
    );
    let rights = withdrawn.flushed(&proof, &mut machine.memory).unwrap();
    assert_eq!(rights.len(), 1);
    rights
        .into_iter()
        .for_each(|right| machine.ledger.surrender(right));
    machine.check_tables(&[other], 0);

    let mut forgotten = Roots::default();
    machine.views.flush(&mut forgotten);
    assert_eq!(
        forgotten.0,
        [roots[0], roots[2]],
        "it may be another's root by now"
    );
    machine.end(&[other]);
}

#[test]
fn unmapped_frames_are_locked_until_a_later_flush_of_all_views() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    machine.map(0, 0, 1, ALL);
    let view = machine.add(ALL);
    let too_early = machine.flush();
    let unmapped = machine
        .views
        .unmap_run(&mut machine.memory, Gpa(0), FrameCount(1));
    let stale = unmapped.unwrap().unwrap();
    let stale = stale.flushed(&too_early, &mut machine.memory).unwrap_err();
    assert_eq!(machine.sees(view, 0), None);
    let mut forgotten = Roots::default();
    let proof = machine.views.flush(&mut forgotten);
    assert_eq!(
        forgotten.0,
        [ViewId::BASE, view].map(|view| machine.root(view))
    );
    let (_, right) = stale.flushed(&proof, &mut machine.memory).unwrap();
    machine.ledger.surrender(right);
    machine.end(&[view]);
}

#[test]
fn running_out_of_tables_leaves_a_view_as_it_is() {
    for budget in 0..3 {
        let mut entries = Vec::new();
        let mut machine = small(&mut entries);
        machine.map(0, 0, 1024, ALL);
        let view = machine.add(RW);
        let before = machine.memory.tables.clone();
        machine.memory.budget = budget;
        let out = ViewError::Ept(EptError::Table(TableError::OutOfTables));
        let limited = machine
            .views
            .limit(&mut machine.memory, view, gpa(3), FrameCount(1), R);
        assert_eq!(limited.unwrap_err(), out);
        let right = machine.right(9, 1);
        let remapped = machine
            .views
            .remap(&mut machine.memory, view, gpa(3), right, attr(R));
        let rejected = remapped.unwrap_err();
        assert_eq!(rejected.error, out);
        machine.ledger.surrender(rejected.right);
        assert!(machine.memory.tables == before && machine.memory.budget == budget);
        assert_eq!(machine.views.remapped(), FrameCount(0));
        machine.end(&[view]);
    }
}

#[test]
fn a_remap_stays_within_its_right() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    let view = machine.add(ALL);
    let run = FrameRun::new(machine.frames.first, FrameCount(1));
    let window = machine.ledger.grant_window(VM, run, Rights::READ).unwrap();
    let read = machine.ledger.grant(VM, run, Rights::READ).unwrap();
    let cases = [
        (window, R, EptError::WrongHolder(Holder::Hypervisor)),
        (
            read,
            RW,
            EptError::ExceedsRight {
                wanted: Rights::READ | Rights::WRITE,
                allowed: Rights::READ,
            },
        ),
    ];
    for (right, perms, error) in cases {
        let remapped = machine
            .views
            .remap(&mut machine.memory, view, gpa(3), right, attr(perms));
        let rejected = remapped.unwrap_err();
        assert_eq!(rejected.error, ViewError::Ept(error));
        machine.ledger.surrender(rejected.right);
    }
    assert_eq!(machine.sees(view, 3), None);
    machine.end(&[view]);
}

#[test]
fn telling_user_from_supervisor_mode_takes_mode_based_execute_control() {
    let plain = EptCaps::negotiate(EptFeatures::all().bits()).unwrap();
    let mut memory = FakeMemory::new(8);
    let mut views = Views::new(Ept::new(VM, plain, &mut memory).unwrap());
    for perms in [ALL.difference(XU), ALL.difference(X)] {
        let refused = views.add(&mut memory, perms);
        assert_eq!(refused, Err(ViewError::NoModeBasedExecute(perms)));
    }
    let view = views.add(&mut memory, RW).unwrap();
    let limited = views.limit(&mut memory, view, Gpa(0), FrameCount(1), R | XU);
    assert_eq!(limited.unwrap_err(), ViewError::NoModeBasedExecute(R | XU));
    let both = views.limit(&mut memory, view, Gpa(0), FrameCount(1), R | X | XU);
    assert!(both.is_ok());
}

#[test]
fn permissions_that_no_entry_can_have_are_refused() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    let never = EptPerms::WRITE;
    let error = ViewError::Ept(EptError::Permissions(never));
    assert_eq!(machine.views.add(&mut machine.memory, never), Err(error));
    let view = machine.add(ALL);
    let limited = machine
        .views
        .limit(&mut machine.memory, view, Gpa(0), FrameCount(1), never);
    assert_eq!(limited.unwrap_err(), error);
    machine.end(&[view]);
}

#[test]
fn accesses_count_through_whichever_view() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    machine.map(0, 0, 1, ALL);
    machine.map(1, 1, 1, ALL);
    let shared = machine.add(ALL);
    let own = machine.add(ALL);
    machine.limit(own, 0, 1, R);
    machine.remap(own, 1, 9, 1, R);
    for view in [ViewId::BASE, shared, own] {
        let root = machine.root(view);
        hardware::touch(&mut machine.memory.tables, root, 0);
        let mut take = || machine.views.take_accessed(&mut machine.memory, gpa(0));
        assert_eq!([take(), take()], [true, false], "{view:?}");
    }
    let root = machine.root(own);
    hardware::touch(&mut machine.memory.tables, root, 1);
    let accessed = machine.views.take_accessed(&mut machine.memory, gpa(1));
    assert!(!accessed, "another frame's access");
    assert!(!machine.views.take_accessed(&mut machine.memory, gpa(2)));
    machine.end(&[shared, own]);
}

#[test]
fn a_gone_view_and_the_base_have_no_overrides() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    let view = machine.add(ALL);
    machine.remove(view);
    let mut change = |view| {
        let limited = machine
            .views
            .limit(&mut machine.memory, view, Gpa(0), FrameCount(1), R);
        limited.unwrap_err()
    };
    assert_eq!(change(view), ViewError::NoView(view));
    assert_eq!(change(ViewId::BASE), ViewError::IsBase);
    assert_eq!(machine.views.eptp(view), None);
    let removed = machine.views.remove(&mut machine.memory, ViewId::BASE);
    assert_eq!(removed.unwrap_err(), ViewError::IsBase);
    let next = machine.add(ALL);
    assert_ne!(next, view, "ids are used once");
    machine.end(&[next]);
}

#[test]
fn destroy_wants_nothing_mapped_in_any_view() {
    let mut entries = Vec::new();
    let mut machine = small(&mut entries);
    let view = machine.add(ALL);
    machine.remap(view, 3, 3, 1, R);
    let refused = machine
        .views
        .destroy(&mut machine.memory, &mut FakeTlb::default());
    machine.views = *refused.unwrap_err();
    assert_eq!(machine.reset(view, 3, 1), 1);
    machine.map(9, 9, 1, ALL);
    let refused = machine
        .views
        .destroy(&mut machine.memory, &mut FakeTlb::default());
    machine.views = *refused.unwrap_err();
    assert_eq!(machine.unmap(9, 1), 1);
    // With its views and their tables.
    machine.limit(view, 3, 1, R);
    machine.end(&[]);
}
