//! Trees of both depths against a flat model, through the ledger and the whole way of a flush.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::*;
use crate::table::fake::FakeMemory;
use crate::vtd::capability::{Depths, TreeShape};
use crate::vtd::domain::{IoDomain, Unmapped};
use crate::vtd::second_level::DmaPerms;

use super::fake::{CAPABILITY, EXTENDED, FakeUnit};

const FRAMES: u64 = 4096;
const VM: VmId = VmId(0);

#[derive(Clone, Debug)]
enum Op {
    Map {
        page: u64,
        frame: u64,
        count: u64,
        write: bool,
    },
    Unmap {
        page: u64,
        count: u64,
    },
    Flush,
}

fn page() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..2048, (0u64..4).prop_map(|block| block * 512)]
}

fn op() -> impl Strategy<Value = Op> {
    let count = || prop_oneof![1u64..700, Just(512u64), Just(1024)];
    prop_oneof![
        3 => (page(), page(), count(), any::<bool>())
            .prop_map(|(page, frame, count, write)| Op::Map { page, frame, count, write }),
        3 => (page(), count()).prop_map(|(page, count)| Op::Unmap { page, count }),
        1 => Just(Op::Flush),
    ]
}

struct NoScrub;

impl Scrub for NoScrub {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        right
    }
}

fn perms(write: bool) -> DmaPerms {
    if write {
        DmaPerms::all()
    } else {
        DmaPerms::READ
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_operations_agree_with_a_flat_model(
        ops in prop::collection::vec(op(), 1..24),
        three_levels in any::<bool>(),
        caching in any::<bool>(),
    ) {
        let machine = FakeUnit::new(CAPABILITY | u64::from(caching) << 7, EXTENDED);
        let mut unit = machine.up(0);
        let depths = if three_levels { Depths::THREE } else { Depths::FOUR };
        let shape = TreeShape { depths, ..machine.chosen().tree };
        let mut memory = FakeMemory::new(4096);
        let mut domain = IoDomain::new(VM, shape, &mut memory).unwrap();
        let _entry = domain.attach(unit.id());
        let mut entries = vec![Entry::ABSENT; 256 + 512 + FRAMES as usize];
        let whole = FrameRun::new(Frame(0), FrameCount(entries.len() as u64));
        let usable = MemoryRange { run: whole, kind: MemoryKind::Usable };
        let mut ledger = Ledger::new(&mut entries, [usable].into_iter());
        let request = Request { align: crate::table::PageSize::Size2M, ..Request::anywhere(FrameCount(FRAMES)) };
        let owned = ledger.alloc_run(Owner::Vm(VM), request).unwrap();
        ledger.scrub(owned, &mut NoScrub).unwrap();

        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        let mut stale: Vec<Unmapped> = Vec::new();
        for op in ops {
            match op {
                Op::Map { page, frame, count, write } => {
                    let run = FrameRun::new(Frame(owned.first.0 + frame), FrameCount(count));
                    let right = ledger.grant(VM, run, Rights::READ | Rights::WRITE).unwrap();
                    let free = model.range(page..page + count).next().is_none();
                    match domain.map(&mut memory, Gpa(page * FRAME_SIZE), right, perms(write)) {
                        Ok(()) => {
                            prop_assert!(free);
                            model.extend((0..count).map(|i| (page + i, (run.first.0 + i, write))));
                        }
                        Err(refused) => {
                            prop_assert!(!free);
                            ledger.surrender(refused.right);
                        }
                    }
                }
                Op::Unmap { page, count } => {
                    while let Some(old) = domain.unmap_run(&mut memory, Gpa(page * FRAME_SIZE), FrameCount(count)).unwrap() {
                        stale.push(old);
                    }
                    model.retain(|at, _| !(page..page + count).contains(at));
                }
                Op::Flush => {
                    let mut ticket = domain.ticket();
                    unit.work_off(&mut ticket).unwrap();
                    let proof = domain.settle(ticket).unwrap();
                    prop_assert!(!domain.needs_flush());
                    for old in stale.drain(..) {
                        ledger.surrender(old.flushed(&proof, &mut memory).unwrap().1);
                    }
                }
            }
            for page in (0..3200).step_by(7).chain((0..7).flat_map(|b| [b * 512, b * 512 + 511])) {
                let found = domain.translate(&memory, Gpa(page * FRAME_SIZE)).map(|leaf| {
                    let frame = leaf.frame.0 + (page - leaf.input.0 / FRAME_SIZE);
                    (frame, leaf.attr.perms.contains(DmaPerms::WRITE))
                });
                prop_assert_eq!(found, model.get(&page).copied());
            }
            prop_assert_eq!(domain.mapped().0, model.len() as u64);
        }
    }
}
