//! The engine against a flat model, and each operation's intermediate states.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ept::{EptAttr, EptFormat, EptPerms};
use crate::mtrr::MemoryType;

use super::fake::{FakeMemory, FakeTlb, Tables};
use super::{PageSize, Table, TableError, TableMemory};

type Flat = BTreeMap<u64, (u64, EptAttr)>;

const RWX: EptAttr = EptAttr::new(EptPerms::all(), MemoryType::WriteBack);
const RX: EptAttr = EptAttr::new(
    EptPerms::READ.union(EptPerms::EXECUTE),
    MemoryType::WriteBack,
);

fn gpa(page: u64) -> Gpa {
    Gpa(page * FRAME_SIZE)
}

fn table(budget: usize) -> (FakeMemory, Table<EptFormat>) {
    let mut memory = FakeMemory::new(budget);
    let table = Table::new(&mut memory, PageSize::Size1G).unwrap();
    (memory, table)
}

/// Unmaps all of a range, flushes, and says how many frames came out.
fn unmap_all(table: &mut Table<EptFormat>, memory: &mut FakeMemory, page: u64, count: u64) -> u64 {
    let mut frames = 0;
    while let Some(stale) = table
        .unmap_run(memory, gpa(page), FrameCount(count))
        .unwrap()
    {
        let proof = table.flush(&mut FakeTlb::default());
        frames += stale.flushed(&proof, memory).unwrap().count.0;
    }
    frames
}

#[test]
fn aligned_ranges_use_the_largest_pages() {
    let (mut memory, mut table) = table(8);
    let count = FrameCount(2 * 512 * 512 + 512 + 1);
    table
        .map(&mut memory, Gpa(0), Frame(0x40000), count, RWX)
        .unwrap();
    let sizes: Vec<_> = table
        .leaves(&memory, Gpa(0), count)
        .unwrap()
        .map(|leaf| leaf.size)
        .collect();
    use PageSize::{Size1G, Size2M, Size4K};
    assert_eq!(sizes, [Size1G, Size1G, Size2M, Size4K]);
}

#[test]
fn misaligned_frames_force_small_pages() {
    let (mut memory, mut table) = table(8);
    table
        .map(&mut memory, Gpa(0), Frame(1), FrameCount(512), RWX)
        .unwrap();
    let leaf = table.translate(&memory, Gpa(5 * FRAME_SIZE + 7)).unwrap();
    assert_eq!((leaf.frame, leaf.size), (Frame(6), PageSize::Size4K));
}

#[test]
fn capability_limits_the_page_size() {
    let mut memory = FakeMemory::new(600);
    let mut table = Table::<EptFormat>::new(&mut memory, PageSize::Size2M).unwrap();
    table
        .map(&mut memory, Gpa(0), Frame(0), FrameCount(512 * 512), RWX)
        .unwrap();
    assert_eq!(
        table.translate(&memory, Gpa(0)).unwrap().size,
        PageSize::Size2M
    );
}

#[test]
fn split_keeps_permissions() {
    let (mut memory, mut table) = table(8);
    table
        .map(&mut memory, Gpa(0), Frame(0), FrameCount(512 * 512), RX)
        .unwrap();
    assert_eq!(unmap_all(&mut table, &mut memory, 700, 1), 1);
    for page in [0, 511, 512, 699, 701, 1023, 1024, 512 * 512 - 1] {
        let leaf = table.translate(&memory, gpa(page)).unwrap();
        let offset = page - leaf.input.0 / FRAME_SIZE;
        assert_eq!(
            (leaf.frame.0 + offset, leaf.attr),
            (page, RX),
            "page {page}"
        );
    }
    assert_eq!(table.translate(&memory, gpa(700)), None);
}

#[test]
fn split_keeps_accessed_and_dirty() {
    let (mut memory, mut table) = table(8);
    table
        .map(&mut memory, Gpa(0), Frame(512), FrameCount(512), RWX)
        .unwrap();
    let leaf_table = memory.log.last().copied().unwrap();
    let dirty = 3 << 8;
    memory.write(leaf_table.0, leaf_table.1, leaf_table.2 | dirty);
    memory.log.clear();
    assert_eq!(unmap_all(&mut table, &mut memory, 0, 1), 1);
    let split: Vec<_> = memory
        .log
        .iter()
        .take(512)
        .map(|(.., entry)| entry & dirty)
        .collect();
    assert_eq!(split, vec![dirty; 512]);
}

#[test]
fn unmapped_frames_are_locked_until_a_later_flush_of_the_same_tree() {
    let (mut memory, mut first) = table(8);
    let other = Table::<EptFormat>::new(&mut memory, PageSize::Size4K).unwrap();
    first
        .map(&mut memory, Gpa(0), Frame(9), FrameCount(1), RWX)
        .unwrap();
    let too_early = first.flush(&mut FakeTlb::default());
    let stale = first
        .unmap_run(&mut memory, Gpa(0), FrameCount(1))
        .unwrap()
        .unwrap();
    let stale = stale.flushed(&too_early, &mut memory).unwrap_err();
    let wrong_tree = other.flush(&mut FakeTlb::default());
    let stale = stale.flushed(&wrong_tree, &mut memory).unwrap_err();
    let proof = first.flush(&mut FakeTlb::default());
    assert_eq!(stale.flushed(&proof, &mut memory).unwrap().frame, Frame(9));
}

#[test]
fn emptied_tables_are_freed_only_by_the_flush() {
    let (mut memory, mut table) = table(8);
    table
        .map(&mut memory, gpa(511), Frame(511), FrameCount(2), RWX)
        .unwrap();
    assert_eq!(memory.tables.len(), 5);
    let stale = table
        .unmap_run(&mut memory, Gpa(0), FrameCount(2048))
        .unwrap()
        .unwrap();
    assert_eq!(memory.tables.len(), 5);
    let proof = table.flush(&mut FakeTlb::default());
    stale.flushed(&proof, &mut memory).unwrap();
    assert_eq!(memory.tables.len(), 1);
}

#[test]
fn running_out_of_tables_changes_no_translation() {
    for budget in 1..5 {
        let (mut memory, mut table) = table(budget);
        let result = table.map(&mut memory, gpa(511), Frame(511), FrameCount(2), RWX);
        assert_eq!(result, Err(TableError::OutOfTables));
        assert!(table.is_empty(&memory));
    }
}

#[test]
fn overlap_is_refused_before_anything_is_mapped() {
    let (mut memory, mut table) = table(16);
    table
        .map(&mut memory, gpa(600), Frame(1), FrameCount(1), RWX)
        .unwrap();
    let result = table.map(&mut memory, gpa(0), Frame(0), FrameCount(1024), RWX);
    assert_eq!(result, Err(TableError::AlreadyMapped(gpa(600))));
    assert_eq!(
        table
            .leaves(&memory, Gpa(0), FrameCount(4096))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn bad_ranges_are_named() {
    let (mut memory, mut table) = table(16);
    let mut map =
        |at, frame, count| table.map(&mut memory, at, Frame(frame), FrameCount(count), RWX);
    assert_eq!(map(Gpa(1), 0, 1), Err(TableError::Misaligned(Gpa(1))));
    assert_eq!(map(Gpa(0), 0, 0), Err(TableError::Misaligned(Gpa(0))));
    assert_eq!(
        map(Gpa(1 << 48), 0, 1),
        Err(TableError::OutOfRange(Gpa(1 << 48)))
    );
    let last = Gpa((1 << 48) - FRAME_SIZE);
    assert_eq!(map(last, 0, 2), Err(TableError::OutOfRange(last)));
    assert_eq!(map(last, u64::MAX, 1), Err(TableError::OutOfRange(last)));
    assert_eq!(map(last, 1 << 40, 1), Err(TableError::OutOfRange(last)));
    assert_eq!(
        map(Gpa(0), 0, u64::MAX),
        Err(TableError::OutOfRange(Gpa(0)))
    );
    assert_eq!(map(last, 0, 1), Ok(()));
    assert_eq!(table.translate(&memory, Gpa(u64::MAX)), None);
}

#[test]
fn protect_refuses_holes() {
    let (mut memory, mut table) = table(16);
    table
        .map(&mut memory, gpa(0), Frame(0), FrameCount(4), RWX)
        .unwrap();
    let result = table.protect(&mut memory, Gpa(0), FrameCount(5), |_| RX);
    assert_eq!(result.unwrap_err(), TableError::NotMapped(gpa(4)));
    assert_eq!(table.translate(&memory, Gpa(0)).unwrap().attr, RWX);
}

#[test]
fn destroy_wants_an_empty_tree_and_frees_every_table() {
    let (mut memory, mut table) = table(16);
    table
        .map(&mut memory, gpa(77), Frame(0), FrameCount(4), RWX)
        .unwrap();
    let mut tlb = FakeTlb::default();
    let mut table = table.destroy(&mut memory, &mut tlb).unwrap_err();
    assert_eq!(unmap_all(&mut table, &mut memory, 0, 4096), 4);
    table.destroy(&mut memory, &mut tlb).unwrap();
    assert_eq!((memory.tables.len(), tlb.flushes), (0, 1));
}

#[derive(Clone, Debug)]
enum Op {
    Map {
        page: u64,
        frame: u64,
        count: u64,
        read_only: bool,
    },
    Unmap {
        page: u64,
        count: u64,
    },
    Protect {
        page: u64,
        count: u64,
        read_only: bool,
    },
}

/// Pages and counts near the borders of 2 MiB blocks, within four of them and one 1 GiB block.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..2048,
        (0u64..4).prop_map(|block| block * 512),
        Just(512 * 512)
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..1100, Just(512u64), Just(1024), Just(512 * 512)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (page(), page(), count(), any::<bool>()).prop_map(|(page, frame, count, read_only)| {
            Op::Map {
                page,
                frame,
                count,
                read_only,
            }
        }),
        (page(), count()).prop_map(|(page, count)| Op::Unmap { page, count }),
        (page(), count(), any::<bool>()).prop_map(|(page, count, read_only)| Op::Protect {
            page,
            count,
            read_only
        }),
    ]
}

fn attr(read_only: bool) -> EptAttr {
    if read_only { RX } else { RWX }
}

/// Applies `op` to the tree and, where it succeeds, to the model.
fn apply(op: &Op, table: &mut Table<EptFormat>, memory: &mut FakeMemory, model: &mut Flat) {
    match *op {
        Op::Map {
            page,
            frame,
            count,
            read_only,
        } => {
            let attr = attr(read_only);
            let free = model.range(page..page + count).next().is_none();
            let done = table.map(memory, gpa(page), Frame(frame), FrameCount(count), attr);
            assert_eq!(done.is_ok(), free, "{done:?}");
            if free {
                model.extend((0..count).map(|i| (page + i, (frame + i, attr))));
            }
        }
        Op::Unmap { page, count } => {
            let Some(stale) = table
                .unmap_run(memory, gpa(page), FrameCount(count))
                .unwrap()
            else {
                assert!(model.range(page..page + count).next().is_none());
                return;
            };
            let proof = table.flush(&mut FakeTlb::default());
            let run = stale.flushed(&proof, memory).unwrap();
            let first = run.input.0 / FRAME_SIZE;
            assert_eq!(
                model.range(page..).next().map(|(page, _)| *page),
                Some(first)
            );
            for i in 0..run.count.0 {
                assert_eq!(
                    model.remove(&(first + i)),
                    Some((run.frame.0 + i, run.attr))
                );
            }
        }
        Op::Protect {
            page,
            count,
            read_only,
        } => {
            let whole = model.range(page..page + count).count() as u64 == count;
            let done = table.protect(memory, gpa(page), FrameCount(count), |_| attr(read_only));
            assert_eq!(done.is_ok(), whole, "{done:?}");
            if let Ok(stale) = done {
                let proof = table.flush(&mut FakeTlb::default());
                stale.flushed(&proof, memory).unwrap();
                for (_, (_, old)) in model.range_mut(page..page + count) {
                    *old = attr(read_only);
                }
            }
        }
    }
}

fn look_up(
    memory: &impl TableMemory,
    table: &Table<EptFormat>,
    page: u64,
) -> Option<(u64, EptAttr)> {
    let leaf = table.translate(memory, gpa(page))?;
    Some((leaf.frame.0 + (page - leaf.input.0 / FRAME_SIZE), leaf.attr))
}

/// Pages worth looking at: every border and some between.
fn probes() -> impl Iterator<Item = u64> {
    (0..3200)
        .step_by(13)
        .chain((0..7).flat_map(|b| [b * 512, b * 512 + 1, b * 512 + 511]))
        .chain([
            512 * 512 - 1,
            512 * 512,
            512 * 512 + 1,
            2 * 512 * 512 - 1,
            2 * 512 * 512,
        ])
}

/// The tables with a log of writes replayed up to some point.
struct Replay<'a>(&'a mut Tables);

impl TableMemory for Replay<'_> {
    fn read(&self, table: Frame, index: usize) -> u64 {
        self.0[&table.0][index]
    }
    fn write(&mut self, table: Frame, index: usize, entry: u64) {
        self.0.entry(table.0).or_insert([0; super::ENTRIES])[index] = entry;
    }
    fn alloc(&mut self) -> Option<Frame> {
        None
    }
    fn free(&mut self, _table: Frame) {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_operations_agree_with_a_flat_model(ops in prop::collection::vec(op(), 1..24)) {
        let (mut memory, mut table) = table(4096);
        let mut model = Flat::new();
        for op in &ops {
            apply(op, &mut table, &mut memory, &mut model);
            for page in probes() {
                prop_assert_eq!(look_up(&memory, &table, page), model.get(&page).copied());
            }
        }
        let all = FrameCount(1 << 36);
        let pages: u64 = table.leaves(&memory, Gpa(0), all).unwrap().map(|leaf| leaf.size.frames().0).sum();
        prop_assert_eq!(pages, model.len() as u64);
        prop_assert_eq!(unmap_all(&mut table, &mut memory, 0, 1 << 36), pages);
        prop_assert!(table.destroy(&mut memory, &mut FakeTlb::default()).is_ok());
        prop_assert!(memory.tables.is_empty());
    }

    #[test]
    fn between_any_two_writes_each_page_translates_as_before_or_after(
        ops in prop::collection::vec(op(), 1..8),
        last in op(),
    ) {
        let (mut memory, mut table) = table(4096);
        let mut model = Flat::new();
        for op in &ops {
            apply(op, &mut table, &mut memory, &mut model);
        }
        memory.log.clear();
        let mut tables = memory.tables.clone();
        let before: Vec<_> = probes().map(|page| look_up(&memory, &table, page)).collect();
        apply(&last, &mut table, &mut memory, &mut model);
        let after: Vec<_> = probes().map(|page| look_up(&memory, &table, page)).collect();
        let mut replay = Replay(&mut tables);
        let steps = memory.log.len();
        for (step, (frame, index, entry)) in memory.log.iter().enumerate() {
            replay.write(*frame, *index, *entry);
            // Long runs of leaves look alike: check all of the short logs and samples of the long ones.
            if steps > 64 && step % (steps / 64) != 0 && step + 8 < steps {
                continue;
            }
            for (i, page) in probes().enumerate() {
                let now = look_up(&replay, &table, page);
                prop_assert!(now == before[i] || now == after[i], "page {} after write {}", page, step);
            }
        }
    }
}
