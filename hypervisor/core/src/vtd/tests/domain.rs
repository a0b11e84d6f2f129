use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::*;
use crate::table::fake::FakeMemory;
use crate::table::{Format, PageSize, TableError};
use crate::vtd::SourceId;
use crate::vtd::capability::{Depths, TreeShape};
use crate::vtd::context::ContextTables;
use crate::vtd::domain::*;
use crate::vtd::second_level::{DmaAttr, DmaPerms, SecondLevel};

use super::fake::{CAPABILITY, EXTENDED, FakeRing, FakeUnit};

const VM: VmId = VmId(1);
const RW: DmaPerms = DmaPerms::all();
const GIB_FRAMES: u64 = 512 * 512;

struct NoScrub;

impl Scrub for NoScrub {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        right
    }
}

fn ledger(entries: &mut [Entry]) -> Ledger<'_> {
    let run = FrameRun::new(Frame(0), FrameCount(entries.len() as u64));
    let kind = MemoryKind::Usable;
    Ledger::new(entries, [MemoryRange { run, kind }].into_iter())
}

fn give(ledger: &mut Ledger<'_>, vm: VmId, count: u64, align: PageSize) -> FrameRun {
    let request = Request {
        align,
        ..Request::anywhere(FrameCount(count))
    };
    let run = ledger.alloc_run(Owner::Vm(vm), request).unwrap();
    ledger.scrub(run, &mut NoScrub).unwrap();
    run
}

fn right(ledger: &mut Ledger<'_>, run: FrameRun) -> MapRight {
    ledger.grant(VM, run, Rights::all()).unwrap()
}

fn shape() -> TreeShape {
    FakeUnit::new(CAPABILITY, EXTENDED).chosen().tree
}

type Up =
    crate::vtd::unit::Unit<FakeUnit, crate::vtd::unit::Enabled, crate::vtd::unit::Way<FakeRing>>;

/// A domain with one device behind one unit.
fn attached(memory: &mut FakeMemory, machine: &FakeUnit) -> (Up, IoDomain, ContextTables) {
    let mut unit = machine.up(0);
    let mut domain = IoDomain::new(VM, machine.chosen().tree, memory).unwrap();
    let mut tables = ContextTables::new(memory, unit.id()).unwrap();
    let mut ticket = tables
        .install(memory, SourceId(0x18), domain.attach(unit.id()))
        .unwrap();
    unit.work_off(&mut ticket).unwrap();
    ticket.redeem().unwrap();
    machine.take_log();
    (unit, domain, tables)
}

fn flush(unit: &mut Up, domain: &mut IoDomain) -> IoFlushed {
    let mut ticket = domain.ticket();
    unit.work_off(&mut ticket).unwrap();
    domain.settle(ticket).unwrap()
}

#[test]
fn entries_match_the_manual() {
    let attr = |perms, snoop| DmaAttr { perms, snoop };
    let leaf = SecondLevel::<4>::leaf;
    assert_eq!(
        leaf(Frame(0x123), PageSize::Size4K, attr(RW, false)),
        0x12_3003
    );
    assert_eq!(
        leaf(Frame(0x200), PageSize::Size2M, attr(DmaPerms::READ, true)),
        0x20_0881
    );
    assert_eq!(SecondLevel::<4>::table(Frame(0x456)), 0x45_6003);
    for perms in [DmaPerms::READ, DmaPerms::WRITE, RW] {
        for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
            for snoop in [false, true] {
                let entry = leaf(Frame(1 << 18), size, attr(perms, snoop));
                let decoded = SecondLevel::<4>::decode(entry, size as u8);
                assert_eq!(
                    decoded,
                    crate::table::Entry::Leaf(Frame(1 << 18), attr(perms, snoop))
                );
            }
        }
    }
}

#[test]
fn a_gibibyte_costs_few_tables_and_one_invalidation_each_way() {
    for (largest, tables) in [(PageSize::Size1G, 0), (PageSize::Size2M, 1)] {
        let machine = FakeUnit::new(CAPABILITY | 1 << 7, EXTENDED);
        let mut memory = FakeMemory::new(600);
        let (mut unit, _, _) = attached(&mut memory, &machine);
        let mut domain = IoDomain::new(
            VM,
            TreeShape {
                largest_page: largest,
                ..machine.chosen().tree
            },
            &mut memory,
        )
        .unwrap();
        let _entry = domain.attach(unit.id());
        let mut entries = vec![Entry::ABSENT; 3 * GIB_FRAMES as usize];
        let mut ledger = ledger(&mut entries);
        let frames = give(&mut ledger, VM, GIB_FRAMES, PageSize::Size1G);
        let before = memory.tables.len();
        domain
            .map(&mut memory, Gpa(1 << 30), right(&mut ledger, frames), RW)
            .unwrap();
        // One table is the path below the root.
        assert_eq!(memory.tables.len() - before, 1 + tables);
        let proof = flush(&mut unit, &mut domain);
        assert_eq!(machine.take_descriptors().len(), 1);
        assert!(!domain.needs_flush());
        let gone = domain
            .unmap_run(&mut memory, Gpa(0), FrameCount(4 * GIB_FRAMES))
            .unwrap()
            .unwrap();
        let gone = gone.flushed(&proof, &mut memory).unwrap_err();
        let proof = flush(&mut unit, &mut domain);
        assert_eq!(machine.take_descriptors().len(), 1);
        let (at, right) = gone.flushed(&proof, &mut memory).unwrap();
        assert_eq!((at, right.run()), (Gpa(1 << 30), frames));
        ledger.surrender(right);
        assert_eq!(memory.tables.len(), before);
    }
}

#[test]
fn a_scattered_unmap_of_a_thousand_pages_is_one_submission() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(600);
    let (mut unit, mut domain, _) = attached(&mut memory, &machine);
    let mut entries = vec![Entry::ABSENT; 8192];
    let mut ledger = ledger(&mut entries);
    let frames = give(&mut ledger, VM, 2048, PageSize::Size2M);
    domain
        .map(&mut memory, Gpa(0), right(&mut ledger, frames), RW)
        .unwrap();
    assert!(
        !domain.needs_flush(),
        "without caching mode a new mapping needs none"
    );
    let submissions = unit.counts().submissions;
    let mut stale = Vec::new();
    for page in (0..2048).step_by(2) {
        let at = Gpa(page * FRAME_SIZE);
        stale.push(
            domain
                .unmap_run(&mut memory, at, FrameCount(1))
                .unwrap()
                .unwrap(),
        );
    }
    let proof = flush(&mut unit, &mut domain);
    assert_eq!(unit.counts().submissions - submissions, 1);
    assert_eq!(machine.take_descriptors(), [[0x2_00e2, 0]]);
    assert_eq!(stale.len(), 1024);
    for old in stale {
        ledger.surrender(old.flushed(&proof, &mut memory).unwrap().1);
    }
}

#[test]
fn a_few_ranges_are_forgotten_page_by_page() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(600);
    let (mut unit, mut domain, _) = attached(&mut memory, &machine);
    let mut entries = vec![Entry::ABSENT; 8192];
    let mut ledger = ledger(&mut entries);
    let frames = give(&mut ledger, VM, 1024, PageSize::Size2M);
    domain
        .map(&mut memory, Gpa(0), right(&mut ledger, frames), RW)
        .unwrap();
    let mut unmap = |page: u64, count| {
        domain
            .unmap_run(&mut memory, Gpa(page * FRAME_SIZE), FrameCount(count))
            .unwrap()
            .unwrap()
    };
    let _stale = [unmap(4, 4), unmap(8, 4), unmap(600, 1)];
    flush(&mut unit, &mut domain);
    // Pages 4 to 11 are one range; the smallest aligned block around it has 16 pages.
    assert_eq!(
        machine.take_descriptors(),
        [[0x2_00f2, 4], [0x2_00f2, 600 << 12]]
    );
}

#[test]
fn a_ticket_that_did_not_come_back_is_made_up_for() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(600);
    let (mut unit, mut domain, _) = attached(&mut memory, &machine);
    let mut entries = vec![Entry::ABSENT; 8192];
    let mut ledger = ledger(&mut entries);
    let frames = give(&mut ledger, VM, 8, PageSize::Size4K);
    domain
        .map(&mut memory, Gpa(0), right(&mut ledger, frames), RW)
        .unwrap();
    let first = domain
        .unmap_run(&mut memory, Gpa(0), FrameCount(1))
        .unwrap()
        .unwrap();
    let lost = domain.ticket();
    let lost = domain.settle(lost).unwrap_err();
    drop(lost);
    let second = domain
        .unmap_run(&mut memory, Gpa(0x5000), FrameCount(1))
        .unwrap()
        .unwrap();
    let proof = flush(&mut unit, &mut domain);
    assert_eq!(
        machine.take_descriptors(),
        [[0x2_00e2, 0]],
        "all of the domain, the lost page included"
    );
    for old in [first, second] {
        ledger.surrender(old.flushed(&proof, &mut memory).unwrap().1);
    }
    assert!(!domain.needs_flush());
}

#[test]
fn a_failed_invalidation_gives_no_frame_back() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(600);
    let (mut unit, mut domain, _) = attached(&mut memory, &machine);
    let mut entries = vec![Entry::ABSENT; 8192];
    let mut ledger = ledger(&mut entries);
    let frames = give(&mut ledger, VM, 8, PageSize::Size4K);
    domain
        .map(&mut memory, Gpa(0), right(&mut ledger, frames), RW)
        .unwrap();
    let _stale = domain
        .unmap_run(&mut memory, Gpa(0), FrameCount(8))
        .unwrap()
        .unwrap();
    machine.0.borrow_mut().queue_error = 1 << 4;
    let mut ticket = domain.ticket();
    unit.work_off(&mut ticket).unwrap_err();
    assert!(domain.settle(ticket).is_err());
    let free = ledger.free(Owner::Vm(VM), frames);
    assert_eq!(free, Err(LedgerError::StillMapped(frames.first)));
}

#[test]
fn only_the_vms_frames_within_their_rights_get_in() {
    let mut memory = FakeMemory::new(64);
    let mut entries = vec![Entry::ABSENT; 8192];
    let mut ledger = ledger(&mut entries);
    let mut domain = IoDomain::new(VM, shape(), &mut memory).unwrap();
    let foreign = give(&mut ledger, VmId(2), 4, PageSize::Size4K);
    let own = give(&mut ledger, VM, 4, PageSize::Size4K);
    let theirs = ledger.grant(VmId(2), foreign, Rights::all()).unwrap();
    let refused = domain.map(&mut memory, Gpa(0), theirs, RW).unwrap_err();
    assert_eq!(refused.error, IoError::WrongHolder(Holder::Vm(VmId(2))));
    ledger.surrender(refused.right);
    let read = ledger.grant(VM, own, Rights::READ).unwrap();
    let refused = domain.map(&mut memory, Gpa(0), read, RW).unwrap_err();
    assert!(matches!(refused.error, IoError::ExceedsRight { .. }));
    let refused = domain
        .map(&mut memory, Gpa(0), refused.right, DmaPerms::empty())
        .unwrap_err();
    assert_eq!(refused.error, IoError::NoPermission);
    domain
        .map(&mut memory, Gpa(0), refused.right, DmaPerms::READ)
        .unwrap();
    let leaf = domain.translate(&memory, Gpa(0x1234)).unwrap();
    assert_eq!(
        (leaf.frame, leaf.attr.perms),
        (Frame(own.first.0 + 1), DmaPerms::READ)
    );
}

#[test]
fn addresses_that_no_device_can_send_to_memory_are_refused() {
    let mut memory = FakeMemory::new(64);
    let mut entries = vec![Entry::ABSENT; 8192];
    let mut ledger = ledger(&mut entries);
    let narrow = TreeShape {
        address_bits: 39,
        ..shape()
    };
    let mut domain = IoDomain::new(VM, narrow, &mut memory).unwrap();
    let own = give(&mut ledger, VM, 4, PageSize::Size4K);
    let mut refused = |at| {
        let right = right(&mut ledger, own);
        let refused = domain.map(&mut memory, Gpa(at), right, RW).unwrap_err();
        ledger.surrender(refused.right);
        refused.error
    };
    let beyond = (1 << 39) - 3 * FRAME_SIZE;
    assert_eq!(
        refused(beyond),
        IoError::Table(TableError::OutOfRange(Gpa(beyond)))
    );
    assert_eq!(
        refused(0xfedf_e000),
        IoError::InterruptRange(Gpa(0xfedf_e000))
    );
    assert_eq!(
        refused(0xfeef_f000),
        IoError::InterruptRange(Gpa(0xfeef_f000))
    );
    for at in [0xfedf_c000, 0xfef0_0000, (1 << 39) - 4 * FRAME_SIZE] {
        domain
            .map(&mut memory, Gpa(at), right(&mut ledger, own), RW)
            .unwrap();
    }
}

#[test]
fn a_domain_lives_as_long_as_devices_or_pages_are_in_it() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(600);
    let (mut unit, mut domain, mut tables) = attached(&mut memory, &machine);
    let proof = flush(&mut unit, &mut domain);
    let mut domain = domain.destroy(&mut memory, &proof).unwrap_err();
    let mut gone = tables
        .remove(&mut memory, SourceId(0x18), domain.id())
        .unwrap();
    unit.work_off(&mut gone).unwrap();
    domain.release(gone.redeem().unwrap()).unwrap();
    assert!(domain.destroy(&mut memory, &proof).is_ok());
    assert_eq!(memory.tables.len(), 2, "root and context table of the unit");
}

#[test]
fn the_depth_follows_the_units() {
    let mut memory = FakeMemory::new(64);
    let three = TreeShape {
        depths: Depths::THREE,
        ..shape()
    };
    let unit = crate::vtd::invalidate::UnitId::new(0).unwrap();
    let mut width = |shape| {
        IoDomain::new(VM, shape, &mut memory)
            .unwrap()
            .attach(unit)
            .encode()
            .0[1]
            & 7
    };
    assert_eq!((width(shape()), width(three)), (2, 1));
    let none = TreeShape {
        depths: Depths::FIVE,
        ..shape()
    };
    assert!(matches!(
        IoDomain::new(VM, none, &mut memory),
        Err(IoError::Capability(_))
    ));
}
