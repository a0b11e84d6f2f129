//! EPT entries, capabilities, and that nothing gets in or out but by rights.

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::{
    Entry, FrameRun, Ledger, LedgerError, MemoryKind, MemoryRange, Owner, Request, Rights, Scrub,
    VmId,
};
use crate::mtrr::{MemoryType, Mtrrs};
use crate::table::fake::{FakeMemory, FakeTlb};
use crate::table::{Format, PageSize, TableMemory};

use super::*;

/// Everything this code knows.
const FULL: u64 = EptFeatures::all().bits();
const RW: EptPerms = EptPerms::READ.union(EptPerms::WRITE);
const DATA: EptAttr = EptAttr::new(RW, MemoryType::WriteBack);

struct NoScrub;

impl Scrub for NoScrub {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        right
    }
}

fn ledger(entries: &mut [Entry]) -> Ledger<'_> {
    let all = FrameRun::new(Frame(0), FrameCount(entries.len() as u64));
    Ledger::new(
        entries,
        [MemoryRange {
            run: all,
            kind: MemoryKind::Usable,
        }]
        .into_iter(),
    )
}

fn give(ledger: &mut Ledger<'_>, vm: VmId, count: u64) -> FrameRun {
    let request = Request {
        align: PageSize::Size2M,
        ..Request::anywhere(FrameCount(count))
    };
    let run = ledger.alloc_run(Owner::Vm(vm), request).unwrap();
    ledger.scrub(run, &mut NoScrub).unwrap();
    run
}

fn ept(vm: VmId, memory: &mut FakeMemory) -> Ept {
    Ept::new(vm, EptCaps::negotiate(FULL).unwrap(), memory).unwrap()
}

#[test]
fn entries_match_the_manual() {
    let leaf = EptFormat::leaf(Frame(0x123), PageSize::Size4K, DATA);
    assert_eq!(leaf, 0x8000_0000_0012_3033);
    let code = EptAttr {
        perms: EptPerms::READ | EptPerms::EXECUTE | EptPerms::USER_EXECUTE,
        memory_type: MemoryType::Uncacheable,
        ignore_pat: true,
        suppress_ve: false,
    };
    assert_eq!(
        EptFormat::leaf(Frame(0x200), PageSize::Size2M, code),
        0x20_04c5
    );
    assert_eq!(EptFormat::table(Frame(0x456)), 0x45_6407);
    assert_eq!(
        EptFormat::decode(EptFormat::ABSENT, 1),
        crate::table::Entry::Absent
    );
}

#[test]
fn leaves_decode_to_what_they_were_made_of() {
    for perms in (1..16u64).map(|bits| bits & 7 | (bits >> 3) << 10) {
        for raw_type in [0, 1, 4, 5, 6] {
            for flags in 0..4 {
                let attr = EptAttr {
                    perms: EptPerms::from_bits_truncate(perms),
                    memory_type: MemoryType::from_raw(raw_type).unwrap(),
                    ignore_pat: flags & 1 != 0,
                    suppress_ve: flags & 2 != 0,
                };
                for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
                    let frame = Frame(0xab_cdc0_0000 & !(size.frames().0 - 1));
                    let entry = EptFormat::leaf(frame, size, attr);
                    let decoded = EptFormat::decode(entry, size as u8);
                    assert_eq!(decoded, crate::table::Entry::Leaf(frame, attr));
                }
            }
        }
    }
}

#[test]
fn eptp_names_root_type_depth_and_flags() {
    assert_eq!(Eptp::new(Frame(0x1000), true).raw(), 0x100_005e);
    assert_eq!(Eptp::new(Frame(0x1000), false).raw(), 0x100_001e);
}

#[test]
fn each_missing_requirement_is_named() {
    let required = [
        (6, "WALK_4"),
        (14, "TABLES_WRITE_BACK"),
        (20, "INVEPT"),
        (26, "INVEPT_ALL"),
        (32, "INVVPID"),
        (42, "INVVPID_ALL"),
    ];
    for (bit, name) in required {
        let error = EptCaps::negotiate(FULL & !(1 << bit)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("lacks {name} ")),
            "{error}"
        );
    }
    assert!(
        EptCaps::negotiate(0)
            .unwrap_err()
            .to_string()
            .contains("WALK_4 | TABLES_WRITE_BACK")
    );
}

#[test]
fn page_sizes_follow_the_capabilities() {
    let largest = |missing: u64| EptCaps::negotiate(FULL & !missing).unwrap().largest_page();
    assert_eq!(largest(0), PageSize::Size1G);
    assert_eq!(largest(1 << 17), PageSize::Size2M);
    assert_eq!(largest(3 << 16), PageSize::Size4K);
}

#[test]
fn permissions_that_would_misconfigure_an_entry_are_refused() {
    let with = EptCaps::negotiate(FULL).unwrap();
    let without = EptCaps::negotiate(FULL & !1).unwrap();
    assert!(with.allows(EptPerms::EXECUTE) && !without.allows(EptPerms::EXECUTE));
    for never in [
        EptPerms::empty(),
        EptPerms::WRITE,
        EptPerms::WRITE | EptPerms::EXECUTE,
    ] {
        assert!(!with.allows(never), "{never:?}");
    }
    assert!(without.allows(RW) && without.allows(EptPerms::READ));
}

#[test]
fn user_execute_alone_is_a_page_only_with_mode_based_execute_control() {
    let plain = EptCaps::negotiate(FULL).unwrap();
    let with = plain.with_mode_based_execute();
    assert!(with.has_mode_based_execute() && with.allows(EptPerms::USER_EXECUTE));
    assert!(!plain.has_mode_based_execute() && !plain.allows(EptPerms::USER_EXECUTE));
    let no_execute_only = EptCaps::negotiate(FULL & !1).unwrap();
    let without = no_execute_only.with_mode_based_execute();
    assert!(!without.allows(EptPerms::USER_EXECUTE));
}

#[test]
fn another_vms_right_is_refused_and_comes_back() {
    let mut entries = vec![Entry::ABSENT; 2048];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 4);
    let mut stranger = ept(VmId(2), &mut memory);
    assert_eq!(
        ledger.grant(VmId(2), frames, Rights::all()),
        Err(LedgerError::NotOwner(frames.first))
    );
    let right = ledger.grant(VmId(1), frames, Rights::all()).unwrap();
    let Rejected { error, right } = stranger.map(&mut memory, Gpa(0), right, DATA).unwrap_err();
    assert_eq!(error, EptError::WrongHolder(Holder::Vm(VmId(1))));
    let window = ledger.grant_window(VmId(1), frames, Rights::READ).unwrap();
    let refused = stranger.map(&mut memory, Gpa(0), window, DATA).unwrap_err();
    assert_eq!(refused.error, EptError::WrongHolder(Holder::Hypervisor));
    assert_eq!(stranger.translate(&memory, Gpa(0)), None);
    ledger.surrender(refused.right);
    ledger.surrender(right);
    assert_eq!(ledger.info(frames.first).unwrap().maps, 0);
}

#[test]
fn permissions_stay_within_the_right() {
    let mut entries = vec![Entry::ABSENT; 2048];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 4);
    let mut ept = ept(VmId(1), &mut memory);
    let right = ledger.grant(VmId(1), frames, Rights::READ).unwrap();
    let Rejected { error, right } = ept.map(&mut memory, Gpa(0), right, DATA).unwrap_err();
    let wanted = Rights::READ | Rights::WRITE;
    assert_eq!(
        error,
        EptError::ExceedsRight {
            wanted,
            allowed: Rights::READ
        }
    );
    let read = EptAttr::new(EptPerms::READ, MemoryType::WriteBack);
    ept.map(&mut memory, Gpa(0), right, read).unwrap();
    let evidence = ledger.grant(VmId(1), frames, Rights::READ).unwrap();
    assert!(ept.protect(&mut memory, Gpa(0), RW, &evidence).is_err());
    ledger.surrender(evidence);
    let evidence = ledger.grant(VmId(1), frames, wanted).unwrap();
    let stale = ept.protect(&mut memory, Gpa(0), RW, &evidence).unwrap();
    let proof = ept.flush(&mut FakeTlb::default());
    stale.flushed(&proof, &mut memory).unwrap();
    assert_eq!(ept.translate(&memory, Gpa(0)).unwrap().attr, DATA);
    ledger.surrender(evidence);
}

#[test]
fn protect_refuses_evidence_for_other_frames() {
    let mut entries = vec![Entry::ABSENT; 4096];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 4);
    let others = give(&mut ledger, VmId(1), 4);
    let mut ept = ept(VmId(1), &mut memory);
    let right = ledger.grant(VmId(1), frames, Rights::all()).unwrap();
    ept.map(&mut memory, Gpa(0x5000), right, DATA).unwrap();
    let evidence = ledger.grant(VmId(1), others, Rights::all()).unwrap();
    let refused = ept
        .protect(&mut memory, Gpa(0x5000), EptPerms::READ, &evidence)
        .unwrap_err();
    assert_eq!(refused, EptError::OtherFrames(Gpa(0x5000)));
    ledger.surrender(evidence);
}

#[test]
fn unmapped_frames_become_free_only_after_flush_and_surrender() {
    let mut entries = vec![Entry::ABSENT; 4096];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 1024);
    let mut ept = ept(VmId(1), &mut memory);
    let right = ledger.grant(VmId(1), frames, Rights::all()).unwrap();
    ept.map(&mut memory, Gpa(0), right, DATA).unwrap();
    assert_eq!(ept.mapped(), FrameCount(1024));
    let refused = Err(LedgerError::StillMapped(frames.first));
    let stale = ept
        .unmap_run(&mut memory, Gpa(0), FrameCount(2048))
        .unwrap()
        .unwrap();
    assert_eq!(ledger.free(Owner::Vm(VmId(1)), frames), refused);
    let proof = ept.flush(&mut FakeTlb::default());
    let (at, right) = stale.flushed(&proof, &mut memory).unwrap();
    assert_eq!(
        (at, right.run(), right.rights()),
        (Gpa(0), frames, RW.rights())
    );
    assert_eq!(ledger.free(Owner::Vm(VmId(1)), frames), refused);
    ledger.surrender(right);
    ledger.free(Owner::Vm(VmId(1)), frames).unwrap();
    assert!(ept.destroy(&mut memory, &mut FakeTlb::default()).is_ok());
}

#[test]
fn memory_is_mapped_with_the_types_of_its_frames() {
    let mut entries = vec![Entry::ABSENT; 4096];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 1024);
    assert_eq!(frames.first, Frame(512));
    // Write-back by default, one uncacheable page at frame 700.
    let mtrrs = Mtrrs::read(36, |msr| match msr {
        0xfe => 1,
        0x2ff => 0x806,
        0x200 => 700 << 12,
        0x201 => 0xf_ffff_f800,
        _ => panic!("MSR {msr:#x} does not exist"),
    });
    let mut ept = ept(VmId(1), &mut memory);
    let right = ledger.grant(VmId(1), frames, Rights::all()).unwrap();
    ept.map_memory(&mut memory, Gpa(0), right, EptPerms::all(), &mtrrs.unwrap())
        .unwrap();
    let type_at = |page: u64| {
        let leaf = ept.translate(&memory, Gpa(page * FRAME_SIZE)).unwrap();
        assert_eq!(leaf.frame.0 - leaf.input.0 / FRAME_SIZE, 512);
        (leaf.attr.memory_type, leaf.size)
    };
    assert_eq!(type_at(187), (MemoryType::WriteBack, PageSize::Size4K));
    assert_eq!(type_at(188), (MemoryType::Uncacheable, PageSize::Size4K));
    assert_eq!(type_at(189), (MemoryType::WriteBack, PageSize::Size4K));
    assert_eq!(type_at(600), (MemoryType::WriteBack, PageSize::Size2M));
}

#[test]
fn a_failed_typed_mapping_gives_back_the_right_to_the_rest() {
    let mut entries = vec![Entry::ABSENT; 4096];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 4);
    let mut ept = ept(VmId(1), &mut memory);
    let blocker = ledger.grant(
        VmId(1),
        FrameRun::new(frames.first, FrameCount(1)),
        Rights::all(),
    );
    ept.map(&mut memory, Gpa(0x2000), blocker.unwrap(), DATA)
        .unwrap();
    let right = ledger.grant(VmId(1), frames, Rights::all()).unwrap();
    let refused = ept
        .map_memory(&mut memory, Gpa(0), right, RW, &Mtrrs::DISABLED)
        .unwrap_err();
    assert_eq!(
        refused.error,
        EptError::Table(TableError::AlreadyMapped(Gpa(0x2000)))
    );
    assert_eq!(refused.right.run(), frames);
    ledger.surrender(refused.right);
}

/// Three VMs map, unmap, flush, free and allocate at random; whatever is in a tree or awaits a flush is its owner's.
#[test]
fn no_frame_is_mapped_by_a_stranger_or_reused_before_the_flush() {
    let mut entries = vec![Entry::ABSENT; 256 + 64];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(4096);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 20) % limit
    };
    let mut epts: Vec<_> = (0..3).map(|vm| ept(VmId(vm), &mut memory)).collect();
    let mut stale: Vec<Vec<Unmapped>> = (0..3).map(|_| Vec::new()).collect();
    let mut reused = 0;
    for step in 0..60_000 {
        let vm = random(3) as usize;
        let id = VmId(vm as u16);
        let mut run = FrameRun::new(Frame(256 + random(64)), FrameCount(1 + random(3)));
        if random(3) > 0 {
            run.count = FrameCount(1);
        }
        let gpa = Gpa(random(40) * FRAME_SIZE);
        match random(8) {
            0 => {
                let request = Request::anywhere(run.count);
                if let Ok(taken) = ledger.alloc_run(Owner::Vm(id), request) {
                    reused += u64::from(step > 1000);
                    ledger.scrub(taken, &mut NoScrub).unwrap();
                }
            }
            1 | 2 => {
                if let Ok(right) = ledger.grant(id, run, Rights::all())
                    && let Err(refused) = epts[vm].map(&mut memory, gpa, right, DATA)
                {
                    ledger.surrender(refused.right);
                }
            }
            3 | 4 => stale[vm].extend(epts[vm].unmap_run(&mut memory, gpa, run.count).unwrap()),
            5 => {
                let proof = epts[vm].flush(&mut FakeTlb::default());
                for old in stale[vm].drain(..) {
                    ledger.surrender(old.flushed(&proof, &mut memory).unwrap().1);
                }
            }
            _ => _ = ledger.free(Owner::Vm(id), run),
        }
        if step % 64 == 0 {
            for (vm, ept) in epts.iter().enumerate() {
                for page in 0..48 {
                    if let Some(leaf) = ept.translate(&memory, Gpa(page * FRAME_SIZE)) {
                        let info = ledger.info(leaf.frame).unwrap();
                        assert_eq!(info.owner, Owner::Vm(VmId(vm as u16)));
                        assert!(info.maps > 0);
                    }
                }
                let mapped = ept.mapped().0;
                let pages =
                    (0..48).filter(|page| ept.translate(&memory, Gpa(page << 12)).is_some());
                assert_eq!(pages.count() as u64, mapped);
            }
        }
    }
    assert!(reused > 1000, "frames hardly ever changed hands");
}

#[test]
fn unlinked_tables_look_absent_to_a_cpu_that_still_walks_them() {
    let mut entries = vec![Entry::ABSENT; 2048];
    let mut ledger = ledger(&mut entries);
    let mut memory = FakeMemory::new(64);
    let frames = give(&mut ledger, VmId(1), 1);
    let mut ept = ept(VmId(1), &mut memory);
    let right = ledger.grant(VmId(1), frames, Rights::all()).unwrap();
    ept.map(&mut memory, Gpa(0), right, DATA).unwrap();
    let tables: Vec<_> = memory.tables.keys().copied().map(Frame).collect();
    let stale = ept
        .unmap_run(&mut memory, Gpa(0), FrameCount(1))
        .unwrap()
        .unwrap();
    for table in tables {
        for index in 0..crate::table::ENTRIES {
            let entry = memory.read(table, index);
            assert_eq!(entry & EptPerms::all().bits(), 0);
            assert_ne!(
                entry & EptFormat::ABSENT,
                0,
                "an absent entry must not become a #VE"
            );
        }
    }
    let proof = ept.flush(&mut FakeTlb::default());
    ledger.surrender(stale.flushed(&proof, &mut memory).unwrap().1);
}
