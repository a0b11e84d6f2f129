//! The hypervisor's address space: W^X, guards, windows, and the sections of its own image.

mod pe;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Hva};
use crate::ledger::{Entry, FrameRun, Ledger, MemoryKind, MemoryRange, Owner, Rights, VmId};
use crate::table::fake::{FakeMemory, FakeTlb};
use crate::table::{Format, PageSize, TableError};

use super::*;

const RW: Rights = Rights::READ.union(Rights::WRITE);

fn run(first: u64, count: u64) -> FrameRun {
    FrameRun::new(Frame(first), FrameCount(count))
}

/// 16 MiB of memory, of which the hypervisor owns 4 MiB from 2 MiB on.
fn ledger(entries: &mut Vec<Entry>) -> Ledger<'_> {
    entries.resize(4096, Entry::ABSENT);
    let map = [MemoryRange {
        run: run(0, 4096),
        kind: MemoryKind::Usable,
    }];
    let mut ledger = Ledger::new(entries, map.into_iter());
    ledger.claim_hypervisor(run(512, 1024)).unwrap();
    ledger
}

fn tables(memory: &mut FakeMemory) -> HostTables {
    HostTables::new(memory, PageSize::Size1G).unwrap()
}

fn hva(frame: u64) -> Hva {
    Hva(frame * FRAME_SIZE)
}

#[test]
fn entries_match_the_manual() {
    let leaf = |attr| HostFormat::leaf(Frame(0x200), PageSize::Size4K, attr);
    assert_eq!(leaf(HostAttr::CODE), 0x20_0061);
    assert_eq!(leaf(HostAttr::RODATA), 0x8000_0000_0020_0061);
    assert_eq!(leaf(HostAttr::DATA), 0x8000_0000_0020_0063);
    assert_eq!(leaf(HostAttr::DEVICE), 0x8000_0000_0020_007b);
    assert_eq!(leaf(HostAttr::FRAMEBUFFER), 0x8000_0000_0020_006b);
    let large = HostFormat::leaf(Frame(0x200), PageSize::Size2M, HostAttr::CODE);
    assert_eq!(large, 0x20_00e1);
    assert_eq!(HostFormat::table(Frame(0x200)), 0x20_0023);
}

#[test]
fn leaves_decode_to_what_they_were_made_of() {
    for access in [Access::ReadExecute, Access::ReadOnly, Access::ReadWrite] {
        for cache in [Cache::WriteBack, Cache::WriteCombining, Cache::Uncacheable] {
            let attr = HostAttr { access, cache };
            for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
                let entry = HostFormat::leaf(Frame(1 << 18), size, attr);
                let decoded = HostFormat::decode(entry, size as u8);
                assert_eq!(decoded, crate::table::Entry::Leaf(Frame(1 << 18), attr));
            }
        }
    }
}

#[test]
fn cache_modes_index_the_pat_they_are_named_after() {
    let entry = |cache: Cache| (HOST_PAT >> (8 * cache as u64)) & 7;
    assert_eq!(entry(Cache::WriteBack), 6);
    assert_eq!(entry(Cache::WriteCombining), 1);
    assert_eq!(entry(Cache::Uncacheable), 0);
}

#[test]
fn no_attribute_writes_and_executes() {
    for access in [Access::ReadExecute, Access::ReadOnly, Access::ReadWrite] {
        let attr = HostAttr {
            access,
            cache: Cache::WriteBack,
        };
        let entry = HostFormat::leaf(Frame(1), PageSize::Size4K, attr);
        let (writable, executable) = (entry & 2 != 0, entry >> 63 == 0);
        assert!(!(writable && executable), "{access:?}");
    }
}

#[test]
fn own_memory_is_mapped_where_it_lies_in_large_pages() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let right = ledger.grant_own(run(512, 1024), RW).unwrap();
    host.identity(&mut memory, right, HostAttr::DATA).unwrap();
    let leaf = host.translate(&memory, Hva(0x20_1234)).unwrap();
    assert_eq!(
        (leaf.frame, leaf.size, leaf.attr),
        (Frame(512), PageSize::Size2M, HostAttr::DATA)
    );
    let leaf = host.translate(&memory, Hva(600 << 12)).unwrap();
    assert_eq!(leaf.input.0, leaf.frame.start().0);
    assert!(host.translate(&memory, Hva(511 << 12)).is_none());
}

#[test]
fn stack_has_an_absent_page_below() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let right = ledger.grant_own(run(512, 5), RW).unwrap();
    let guard = host.stack(&mut memory, right).unwrap();
    assert_eq!(guard.run(), run(512, 1));
    ledger.surrender(guard);
    assert_eq!(host.translate(&memory, hva(512)), None);
    assert_eq!(
        host.translate(&memory, hva(513)).unwrap().attr,
        HostAttr::DATA
    );
    assert!(host.translate(&memory, hva(516)).is_some());
    let right = ledger.grant_own(run(600, 1), RW).unwrap();
    let refused = host.stack(&mut memory, right).unwrap_err();
    assert_eq!(refused.error, HostError::StackTooSmall(hva(600)));
    ledger.surrender(refused.right);
    let right = ledger.grant_own(run(515, 3), RW).unwrap();
    let refused = host.stack(&mut memory, right).unwrap_err();
    assert_eq!(refused.right.run(), run(515, 3));
    ledger.surrender(refused.right);
}

#[test]
fn guest_memory_has_no_way_into_the_tables() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let vm = VmId(0);
    let request = crate::ledger::Request::anywhere(FrameCount(1));
    let frame = ledger.alloc_run(Owner::Vm(vm), request).unwrap();
    ledger.scrub(frame, &mut NoScrub).unwrap();
    assert!(ledger.grant_own(frame, RW).is_err());
    let guests = ledger.grant(vm, frame, RW).unwrap();
    let refused = host
        .identity(&mut memory, guests, HostAttr::DATA)
        .unwrap_err();
    assert_eq!(refused.error, HostError::WrongHolder(Holder::Vm(vm)));
    ledger.surrender(refused.right);
}

#[test]
fn read_rights_do_not_make_code_or_data() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let mut right = ledger.grant_own(run(0, 1), Rights::READ).unwrap();
    for attr in [HostAttr::DATA, HostAttr::CODE, HostAttr::DEVICE] {
        let refused = host.map(&mut memory, hva(9), right, attr).unwrap_err();
        assert!(matches!(refused.error, HostError::ExceedsRight { .. }));
        right = refused.right;
    }
    host.map(&mut memory, hva(9), right, HostAttr::RODATA)
        .unwrap();
}

#[test]
fn unmapped_memory_comes_back_after_the_flush() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let right = ledger.grant_own(run(512, 1024), RW).unwrap();
    host.identity(&mut memory, right, HostAttr::DATA).unwrap();
    let stale = host
        .unmap_run(&mut memory, hva(700), FrameCount(2))
        .unwrap()
        .unwrap();
    assert!(ledger.free(Owner::Hypervisor, run(700, 2)).is_err());
    let proof = host.flush(&mut FakeTlb::default());
    let (at, right) = stale.flushed(&proof, &mut memory).unwrap();
    assert_eq!((at, right.run()), (hva(700), run(700, 2)));
    ledger.surrender(right);
    ledger.free(Owner::Hypervisor, run(700, 2)).unwrap();
}

struct NoScrub;

impl crate::ledger::Scrub for NoScrub {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        right
    }
}

#[derive(Default)]
struct Invalidated(Vec<Hva>);

impl InvalidatePage for Invalidated {
    fn invalidate_page(&mut self, at: Hva) {
        self.0.push(at);
    }
}

#[test]
fn window_shows_guest_frames_only_while_open() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let vm = VmId(0);
    let request = crate::ledger::Request::anywhere(FrameCount(3));
    let frames = ledger.alloc_run(Owner::Vm(vm), request).unwrap();
    ledger.scrub(frames, &mut NoScrub).unwrap();
    let base = Hva(0x40_0000_0000 + 5 * FRAME_SIZE);
    let mut window = host.window(&mut memory, base, FrameCount(4)).unwrap();
    let right = ledger.grant_window(vm, frames, RW).unwrap();
    assert_eq!(window.open(&mut memory, right).unwrap(), base);
    for slot in 0..3 {
        let at = Hva(base.0 + slot * FRAME_SIZE);
        let leaf = host.translate(&memory, at).unwrap();
        assert_eq!(
            (leaf.frame.0, leaf.attr),
            (frames.first.0 + slot, HostAttr::DATA)
        );
    }
    let second = ledger.grant_window(vm, frames, RW).unwrap();
    let refused = window.open(&mut memory, second).unwrap_err();
    assert_eq!(refused.error, HostError::WindowBusy(base));
    ledger.surrender(refused.right);
    assert!(ledger.free(Owner::Vm(vm), frames).is_err());
    let mut tlb = Invalidated::default();
    let right = window.close(&mut memory, &mut tlb).unwrap();
    let slots: Vec<_> = (0..3).map(|slot| Hva(base.0 + slot * FRAME_SIZE)).collect();
    assert_eq!(tlb.0, slots);
    assert_eq!(host.translate(&memory, base), None);
    ledger.surrender(right);
    ledger.free(Owner::Vm(vm), frames).unwrap();
    assert!(window.close(&mut memory, &mut tlb).is_none());
}

#[test]
fn window_is_read_only_where_the_right_is() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let mut window = host
        .window(&mut memory, Hva(0x40_0000_0000), FrameCount(1))
        .unwrap();
    let right = ledger.grant_own(run(0, 1), Rights::READ).unwrap();
    let at = window.open(&mut memory, right).unwrap();
    assert_eq!(host.translate(&memory, at).unwrap().attr, HostAttr::RODATA);
    ledger.surrender(
        window
            .close(&mut memory, &mut Invalidated::default())
            .unwrap(),
    );
    let right = ledger.grant_own(run(512, 2), RW).unwrap();
    let refused = window.open(&mut memory, right).unwrap_err();
    let (slots, wanted) = (FrameCount(1), FrameCount(2));
    assert_eq!(refused.error, HostError::WindowTooSmall { slots, wanted });
    ledger.surrender(refused.right);
}

#[test]
fn windows_in_bad_places_are_refused() {
    let mut entries = Vec::new();
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(16);
    let mut host = tables(&mut memory);
    let mut window = |at, slots| {
        host.window(&mut memory, Hva(at), FrameCount(slots))
            .unwrap_err()
    };
    assert_eq!(window(0x1000, 0), HostError::BadWindow(Hva(0x1000)));
    assert_eq!(window(0x1000, 512), HostError::BadWindow(Hva(0x1000)));
    assert!(matches!(
        window(0x1001, 1),
        HostError::Table(TableError::Misaligned(_))
    ));
    assert!(matches!(
        window(1 << 48, 1),
        HostError::Table(TableError::OutOfRange(_))
    ));
    let right = ledger.grant_own(run(512, 1), RW).unwrap();
    host.identity(&mut memory, right, HostAttr::DATA).unwrap();
    let refused = host
        .window(&mut memory, hva(512), FrameCount(1))
        .unwrap_err();
    assert_eq!(refused, HostError::WindowBusy(hva(512)));
}
