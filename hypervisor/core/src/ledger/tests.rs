//! The ledger's rules one by one; `model.rs` runs them against each other at random.

mod devices;
mod model;
mod sealing;

use crate::addr::{Frame, FrameCount};
use crate::table::PageSize;

use super::memory_map::frames_needed;
use super::*;

const RW: Rights = Rights::READ.union(Rights::WRITE);
const VM: VmId = VmId(3);
const OTHER: VmId = VmId(4);

/// Remembers what it was told to zero.
#[derive(Default)]
struct Scrubbed(Vec<FrameRun>);

impl Scrub for Scrubbed {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        assert_eq!((right.holder(), right.rights()), (Holder::Hypervisor, RW));
        self.0.push(right.run());
        right
    }
}

fn run(first: u64, count: u64) -> FrameRun {
    FrameRun::new(Frame(first), FrameCount(count))
}

fn range(first: u64, count: u64, kind: MemoryKind) -> MemoryRange {
    MemoryRange {
        run: run(first, count),
        kind,
    }
}

fn entries(frames: usize) -> Vec<Entry> {
    vec![Entry::ABSENT; frames]
}

/// A ledger whose frames are all usable but frame 0.
fn usable(entries: &mut [Entry]) -> Ledger<'_> {
    let count = entries.len() as u64;
    Ledger::new(entries, [range(0, count, MemoryKind::Usable)].into_iter())
}

/// Frames of `vm`, scrubbed.
fn give(ledger: &mut Ledger<'_>, vm: VmId, count: u64) -> FrameRun {
    let request = Request::anywhere(FrameCount(count));
    let run = ledger.alloc_run(Owner::Vm(vm), request).unwrap();
    ledger.scrub(run, &mut Scrubbed::default()).unwrap();
    run
}

/// The runs of [`VM`]'s that are to be scrubbed.
fn dirty(ledger: &Ledger<'_>) -> Vec<FrameRun> {
    let runs = ledger.runs(FrameRun::new(Frame(0), ledger.frames()));
    runs.filter(|(_, owner, state)| (*owner, *state) == (Owner::Vm(VM), State::Dirty))
        .map(|(run, ..)| run)
        .collect()
}

#[test]
fn uefi_map_becomes_owners_and_overlaps_go_to_the_more_careful_reading() {
    let mut entries = entries(1024);
    let map = [
        MemoryRange::from_uefi(7, 0, 256),
        MemoryRange::from_uefi(4, 256 << 12, 256),
        MemoryRange::from_uefi(6, 300 << 12, 10),
        MemoryRange::from_uefi(11, 305 << 12, 2),
        MemoryRange::from_uefi(7, 305 << 12, 2),
        MemoryRange::from_uefi(0x8000_0001, 600 << 12, 1),
        MemoryRange::from_uefi(11, 1020 << 12, u64::MAX),
    ];
    assert_eq!(frames_needed(map.into_iter()), FrameCount(512));
    let ledger = Ledger::new(&mut entries, map.into_iter());
    let owner = |frame| {
        ledger
            .info(Frame(frame))
            .map(|info| (info.owner, info.state))
    };
    assert_eq!(owner(0), Some((Owner::Firmware, State::Clear)));
    assert_eq!(owner(1), Some((Owner::Nobody, State::Dirty)));
    assert_eq!(owner(300), Some((Owner::Firmware, State::Clear)));
    assert_eq!(owner(305), Some((Owner::Mmio, State::Device)));
    assert_eq!(owner(512), Some((Owner::Nobody, State::Absent)));
    assert_eq!(owner(600), Some((Owner::Firmware, State::Clear)));
    assert_eq!(owner(1023), Some((Owner::Mmio, State::Device)));
    assert_eq!(owner(1024), None);
    assert_eq!(ledger.books().available(), FrameCount(512 - 1 - 10));
    assert_eq!(ledger.books().memory(), FrameCount(512 - 2 + 1));
    assert_eq!(*ledger.books(), ledger.audit());
}

#[test]
fn runs_report_uniform_stretches() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    ledger.claim_hypervisor(run(300, 10)).unwrap();
    let found: Vec<_> = ledger.runs(run(290, 1000)).collect();
    assert_eq!(
        found,
        [
            (run(290, 10), Owner::Nobody, State::Dirty),
            (run(300, 10), Owner::Hypervisor, State::Clear),
            (run(310, 202), Owner::Nobody, State::Dirty),
        ]
    );
    assert_eq!(ledger.runs(run(512, 1)).count(), 0);
}

#[test]
fn claim_is_all_or_nothing() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    ledger.claim_payload(run(300, 10)).unwrap();
    let wanted = run(295, 10);
    assert_eq!(
        ledger.claim_hypervisor(wanted),
        Err(LedgerError::NotAvailable(wanted))
    );
    assert_eq!(
        ledger.books().owned_by(OwnerClass::Hypervisor),
        FrameCount(0)
    );
    for beyond in [
        run(512, 1),
        run(500, 13),
        run(1, u64::MAX),
        run(u64::MAX, 1),
        run(4, 0),
    ] {
        assert_eq!(
            ledger.claim_hypervisor(beyond),
            Err(LedgerError::BeyondEnd(beyond))
        );
    }
}

#[test]
fn dirty_frames_cannot_be_mapped_before_the_scrub() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let taken = ledger
        .alloc_run(Owner::Vm(VM), Request::anywhere(FrameCount(4)))
        .unwrap();
    let refused = ledger.grant(VM, taken, RW).unwrap_err();
    assert!(matches!(
        refused,
        LedgerError::WrongState {
            found: State::Dirty,
            ..
        }
    ));
    assert_eq!(dirty(&ledger), [run(256, 4)]);
    let mut scrubbed = Scrubbed::default();
    ledger.scrub(run(250, 8), &mut scrubbed).unwrap();
    assert_eq!(scrubbed.0, [run(250, 8)]);
    assert_eq!(ledger.info(Frame(255)).unwrap().state, State::Free);
    let right = ledger.grant(VM, run(256, 2), RW).unwrap();
    ledger.surrender(right);
    assert_eq!(dirty(&ledger), [run(258, 2)]);
    assert_eq!(*ledger.books(), ledger.audit());
}

#[test]
fn scrubbing_skips_frames_that_are_in_use() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    ledger.claim_hypervisor(run(300, 4)).unwrap();
    let mut scrubbed = Scrubbed::default();
    let count = ledger.scrub(run(298, 10), &mut scrubbed).unwrap();
    assert_eq!(scrubbed.0, [run(298, 2), run(304, 4)]);
    assert_eq!(count, FrameCount(6));
    let again = ledger.scrub(run(298, 10), &mut scrubbed).unwrap();
    assert_eq!(again, FrameCount(0));
}

#[test]
fn scrubber_gets_no_more_than_a_page_table_maps() {
    let mut entries = entries(2048);
    let mut ledger = usable(&mut entries);
    let mut scrubbed = Scrubbed::default();
    ledger.scrub(run(300, 1100), &mut scrubbed).unwrap();
    assert_eq!(scrubbed.0, [run(300, 512), run(812, 512), run(1324, 76)]);
    assert_eq!(ledger.books().in_state(State::Free), FrameCount(1100));
    assert_eq!(ledger.info(Frame(300)).unwrap().maps, 0);
}

#[test]
fn strangers_get_no_right() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 4);
    ledger.claim_hypervisor(run(400, 1)).unwrap();
    assert_eq!(
        ledger.grant(OTHER, frames, RW),
        Err(LedgerError::NotOwner(frames.first))
    );
    assert_eq!(
        ledger.grant_window(OTHER, frames, RW),
        Err(LedgerError::NotOwner(frames.first))
    );
    assert_eq!(
        ledger.grant_own(frames, RW),
        Err(LedgerError::NotOwner(frames.first))
    );
    assert_eq!(
        ledger.grant_device(frames),
        Err(LedgerError::NotDevice(frames.first))
    );
    assert_eq!(
        ledger.grant(VM, run(400, 1), RW),
        Err(LedgerError::NotOwner(Frame(400)))
    );
    assert_eq!(
        ledger.grant(VM, run(0, 1), RW),
        Err(LedgerError::NotOwner(Frame(0)))
    );
    assert_eq!(
        ledger.grant_device(run(300, 1)),
        Err(LedgerError::NotDevice(Frame(300)))
    );
    let reaching_out = FrameRun::new(frames.first, FrameCount(5));
    assert_eq!(
        ledger.grant(VM, reaching_out, RW),
        Err(LedgerError::NotOwner(frames.end()))
    );
}

#[test]
fn firmware_and_payload_can_only_be_read() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    ledger.claim_payload(run(300, 2)).unwrap();
    for frame in [0, 300] {
        let refused = ledger.grant_own(run(frame, 1), RW).unwrap_err();
        assert!(
            matches!(refused, LedgerError::NoRight { .. }),
            "{refused:?}"
        );
        let right = ledger.grant_own(run(frame, 1), Rights::READ).unwrap();
        ledger.surrender(right);
    }
}

#[test]
fn device_right_covers_what_is_no_memory() {
    let mut entries = entries(512);
    let map = [
        range(0, 256, MemoryKind::Usable),
        range(300, 2, MemoryKind::Mmio),
    ];
    let mut ledger = Ledger::new(&mut entries, map.into_iter());
    for device in [run(300, 2), run(302, 400), run(0xf_ee00, 1)] {
        let right = ledger.grant_device(device).unwrap();
        assert_eq!(right.rights(), RW);
        ledger.surrender(right);
    }
    assert_eq!(
        ledger.grant_device(run(255, 2)),
        Err(LedgerError::NotDevice(Frame(255)))
    );
    let wrapping = run(u64::MAX, 2);
    assert_eq!(
        ledger.grant_device(wrapping),
        Err(LedgerError::BeyondEnd(wrapping))
    );
    assert_eq!(ledger.info(Frame(300)).unwrap().maps, 0);
}

#[test]
fn mapped_frames_cannot_be_freed_or_sealed() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 4);
    let right = ledger.grant(VM, run(258, 1), RW).unwrap();
    let refused = Err(LedgerError::StillMapped(Frame(258)));
    assert_eq!(ledger.free(Owner::Vm(VM), frames), refused);
    assert_eq!(ledger.seal(VM, frames, KeyId(1)).map(drop), refused);
    assert_eq!(ledger.info(Frame(257)).unwrap().state, State::Clear);
    ledger.surrender(right);
    ledger.free(Owner::Vm(VM), frames).unwrap();
    assert_eq!(
        ledger.free(Owner::Vm(VM), frames),
        Err(LedgerError::NotOwner(frames.first))
    );
    assert_eq!(ledger.info(Frame(257)).unwrap().state, State::Dirty);
}

#[test]
fn what_belongs_to_nobody_or_the_firmware_cannot_be_freed() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    assert_eq!(
        ledger.free(Owner::Firmware, run(0, 1)),
        Err(LedgerError::NotOwner(Frame(0)))
    );
    assert_eq!(
        ledger.free(Owner::Nobody, run(9, 1)),
        Err(LedgerError::NotOwner(Frame(9)))
    );
}

#[test]
fn borrower_maps_within_its_rights_and_only_while_the_share_lasts() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 2);
    ledger.share(VM, OTHER, frames, Rights::READ).unwrap();
    let refused = ledger.grant(OTHER, frames, RW).unwrap_err();
    assert!(matches!(
        refused,
        LedgerError::NoRight {
            granted: Rights::READ,
            ..
        }
    ));
    assert_eq!(
        ledger.grant(VmId(9), frames, RW),
        Err(LedgerError::NotOwner(frames.first))
    );
    let borrowed = ledger.grant(OTHER, frames, Rights::READ).unwrap();
    let owned = ledger.grant(VM, frames, RW).unwrap();
    assert_eq!(
        ledger.unshare(VM, frames),
        Err(LedgerError::StillMapped(frames.first))
    );
    ledger.surrender(borrowed);
    ledger.unshare(VM, frames).unwrap();
    assert_eq!(
        ledger.grant(OTHER, frames, Rights::READ),
        Err(LedgerError::NotOwner(frames.first))
    );
    ledger.surrender(owned);
    ledger.free(Owner::Vm(VM), frames).unwrap();
    assert_eq!(*ledger.books(), ledger.audit());
}

#[test]
fn full_map_count_is_an_error_and_counts_nothing() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 3);
    let last = run(258, 1);
    let rights: Vec<_> = (0..u16::MAX)
        .map(|_| ledger.grant(VM, last, RW).unwrap())
        .collect();
    assert_eq!(
        ledger.grant(VM, frames, RW),
        Err(LedgerError::TooManyMaps(Frame(258)))
    );
    assert_eq!(ledger.info(frames.first).unwrap().maps, 0);
    rights.into_iter().for_each(|right| ledger.surrender(right));
    ledger.free(Owner::Vm(VM), frames).unwrap();
}

#[test]
fn rights_split_into_parts_that_cover_the_whole() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 5);
    let right = ledger.grant(VM, frames, RW).unwrap();
    let right = right
        .split(FrameCount(0))
        .unwrap_err()
        .split(FrameCount(5))
        .unwrap_err();
    let (first, rest) = right.split(FrameCount(2)).unwrap();
    assert_eq!((first.run(), rest.run()), (run(256, 2), run(258, 3)));
    ledger.surrender(first);
    assert_eq!(ledger.info(Frame(257)).unwrap().maps, 0);
    assert_eq!(ledger.info(Frame(258)).unwrap().maps, 1);
    ledger.surrender(rest);
}

#[test]
fn low_memory_goes_only_to_those_who_ask() {
    let mut entries = entries(300);
    let mut ledger = usable(&mut entries);
    let low = ledger
        .alloc_run(Owner::Hypervisor, Request::low(FrameCount(2)))
        .unwrap();
    assert_eq!(low, run(1, 2));
    let error = ledger
        .alloc_frames(Owner::Vm(VM), FrameCount(45), |_| {})
        .unwrap_err();
    assert!(matches!(
        error,
        LedgerError::OutOfFrames {
            wanted: FrameCount(45),
            ..
        }
    ));
    assert_eq!(ledger.available_to_vms(), FrameCount(44));
    let mut got = 0;
    ledger
        .alloc_frames(Owner::Vm(VM), FrameCount(44), |run| got += run.count.0)
        .unwrap();
    assert_eq!(got, 44);
    assert_eq!(ledger.available_to_vms(), FrameCount(0));
}

#[test]
fn contiguous_runs_are_aligned_and_skip_what_is_taken() {
    let mut entries = entries(4096);
    let mut ledger = usable(&mut entries);
    ledger.claim_hypervisor(run(700, 1)).unwrap();
    let request = Request {
        align: PageSize::Size2M,
        ..Request::anywhere(FrameCount(600))
    };
    assert_eq!(
        ledger.alloc_run(Owner::Hypervisor, request),
        Ok(run(1024, 600))
    );
    let below = Request {
        below: Frame(1024),
        ..request
    };
    assert!(ledger.alloc_run(Owner::Hypervisor, below).is_err());
    let empty = Request::anywhere(FrameCount(0));
    assert!(ledger.alloc_run(Owner::Hypervisor, empty).is_err());
    assert!(matches!(
        ledger.alloc_run(Owner::Firmware, request),
        Err(LedgerError::BadOwner(Owner::Firmware))
    ));
    let too_high = VmId(VmId::MAX.0 + 1);
    assert_eq!(
        ledger.alloc_run(Owner::Vm(too_high), request),
        Err(LedgerError::BadVm(too_high))
    );
}

#[test]
fn big_requests_get_big_aligned_runs_first() {
    const GIB: u64 = 1 << 18;
    let mut entries = entries(3 << 18);
    let mut ledger = usable(&mut entries);
    ledger.claim_hypervisor(run(GIB + 5, 1)).unwrap();
    let mut runs = Vec::new();
    let wanted = FrameCount(GIB + 3 * 512 + 7);
    ledger
        .alloc_frames(Owner::Vm(VM), wanted, |run| runs.push(run))
        .unwrap();
    assert_eq!(runs, [run(2 * GIB, GIB), run(512, 3 * 512), run(256, 7)]);
    assert_eq!(ledger.books().owned_by(OwnerClass::Vm), wanted);
    assert_eq!(*ledger.books(), ledger.audit());
}

#[test]
fn fragmented_memory_is_used_to_the_last_frame() {
    let mut entries = entries(2048);
    let mut ledger = usable(&mut entries);
    for frame in (256..2048).step_by(3) {
        ledger.claim_hypervisor(run(frame, 1)).unwrap();
    }
    let left = FrameCount(ledger.books().available().0 - 255);
    let mut got = Vec::new();
    ledger
        .alloc_frames(Owner::Vm(VM), left, |run| got.push(run))
        .unwrap();
    assert!(got.iter().all(|run| run.count.0 <= 2));
    assert_eq!(got.iter().map(|run| run.count.0).sum::<u64>(), left.0);
    assert!(
        ledger
            .alloc_run(Owner::Hypervisor, Request::anywhere(FrameCount(1)))
            .is_err()
    );
    assert!(
        ledger
            .alloc_run(Owner::Hypervisor, Request::low(FrameCount(255)))
            .is_ok()
    );
}
