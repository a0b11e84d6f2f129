use crate::addr::Gpa;
use crate::pci::Address;
use crate::vtd::SourceId;
use crate::vtd::capability::FaultRecords;
use crate::vtd::fault::*;
use crate::vtd::flood::{FloodLimits, Floods, Verdict};
use crate::vtd::reason::FaultReason;

use super::fake::{CAPABILITY, EXTENDED, FakeUnit};

const NIC: SourceId = SourceId(0x0318);
const EIGHT_RECORDS: u64 = 7 << 40;

fn record(machine: &FakeUnit, index: u32, low: u64, high: u64) {
    machine.set(0x220 + index * 16, low);
    machine.set(0x228 + index * 16, high);
}

#[test]
fn records_decode_to_who_what_where_and_why() {
    let write = FaultRecord::decode(0x1234_5678, 1 << 63 | 5 << 32 | 0x0318).unwrap();
    let expected = FaultRecord {
        source: NIC,
        access: Access::Write,
        reason: FaultReason::NotWritable,
        place: Place::Page(Gpa(0x1234_5000)),
    };
    assert_eq!(write, expected);
    assert_eq!(
        write.to_string(),
        "device 03:03.0: write at 0x12345000: the page is not mapped for writing"
    );
    let read = FaultRecord::decode(0, 3 << 62 | 2 << 32).unwrap();
    assert_eq!(
        (read.access, read.reason),
        (Access::Read, FaultReason::ContextAbsent)
    );
    let interrupt = FaultRecord::decode(0x8001 << 48, 1 << 63 | 0x26 << 32).unwrap();
    assert_eq!(interrupt.place, Place::Interrupt(0x8001));
    assert_eq!(FaultRecord::decode(u64::MAX, u64::MAX >> 1), None);
}

#[test]
fn every_reason_code_is_itself_and_unknown_ones_say_so() {
    for raw in 0..=u8::MAX {
        let reason = FaultReason::from_raw(raw);
        assert_eq!(reason.raw(), raw);
        // Every code of the legacy format and of interrupts has a name.
        if matches!(raw, 1..=0xe | 0x20..=0x28) {
            assert!(!matches!(reason, FaultReason::Unknown(_)), "{raw:#x}");
        }
        assert_eq!(reason.is_interrupt(), raw >> 4 == 2);
    }
    assert_eq!(
        FaultReason::from_raw(0xee).to_string(),
        "unknown reason 0xee"
    );
}

#[test]
fn all_records_are_drained_in_order_and_cleared() {
    let machine = FakeUnit::new(CAPABILITY | EIGHT_RECORDS, EXTENDED);
    let mut unit = machine.up(0);
    for index in [6u32, 7, 0] {
        record(&machine, index, u64::from(index) << 12, 1 << 63 | 6 << 32);
    }
    // Pending, overflown, the first record is number 6.
    machine.set(0x34, 6 << 8 | 3);
    let mut seen = Vec::new();
    let drained = unit.faults(|fault| seen.push(fault.place));
    let pages = [6, 7, 0].map(|index| Place::Page(Gpa(index << 12)));
    assert_eq!(seen, pages);
    assert_eq!(
        drained,
        Drained {
            faults: 3,
            overflow: true
        }
    );
    assert_eq!(machine.get(0x34) & 3, 0);
    assert_eq!(unit.faults(|_| panic!("drained")), Drained::default());
}

#[test]
fn a_flood_does_not_keep_the_drain_busy() {
    /// Its records are always full.
    struct Flooded(u32);
    impl crate::vtd::registers::UnitRegisters for Flooded {
        fn read32(&mut self, _: crate::vtd::registers::Reg32) -> u32 {
            3
        }
        fn read64(&mut self, _: crate::vtd::registers::Reg64) -> u64 {
            self.0 += 1;
            1 << 63 | 5 << 32
        }
        fn write32(&mut self, _: crate::vtd::registers::Reg32, _: u32) {}
        fn write64(&mut self, _: crate::vtd::registers::Reg64, _: u64) {}
    }
    let records = FaultRecords {
        first: 0x220,
        count: 8,
    };
    let mut unit = Flooded(0);
    let drained = crate::vtd::fault::drain(&mut unit, records, |_| {});
    assert_eq!((drained.faults, unit.0), (8, 16));
}

const CARD: Address = Address::from_source_id(0, NIC.0);
const LIMITS: FloodLimits = FloodLimits {
    period: 100,
    cut_off: 5,
    told: 3,
    told_of_one: 1,
};

#[test]
fn one_fault_a_period_is_told_and_a_flood_cut_off_once() {
    let mut floods = Floods::new(LIMITS);
    assert_eq!(floods.fault(CARD, 0), Verdict::Tell { untold: 0 });
    assert_eq!(floods.fault(CARD, 1), Verdict::Count);
    assert_eq!(floods.fault(CARD, 2), Verdict::Count);
    assert_eq!(floods.fault(CARD, 100), Verdict::Tell { untold: 2 });
    for now in 101..104 {
        assert_eq!(floods.fault(CARD, now), Verdict::Count);
    }
    assert_eq!(floods.fault(CARD, 104), Verdict::CutOff { faults: 5 });
    assert_eq!(floods.fault(CARD, 500), Verdict::WasCutOff);
    floods.forgive(CARD);
    assert_eq!(floods.fault(CARD, 501), Verdict::Tell { untold: 0 });
}

#[test]
fn made_up_sources_share_one_budget_and_do_not_hide_who_was_cut_off() {
    let mut floods = Floods::new(LIMITS);
    for _ in 0..5 {
        floods.fault(CARD, 0);
    }
    let told = (0x1000..0x2000)
        .filter(|id| {
            matches!(
                floods.fault(Address::from_source_id(0, *id), 1),
                Verdict::Tell { .. }
            )
        })
        .count();
    assert_eq!(told as u64, LIMITS.told - 1);
    assert_eq!(floods.fault(CARD, 2), Verdict::WasCutOff);
}

#[test]
fn a_source_is_told_as_often_as_its_share_and_leaves_the_rest_to_others() {
    let mut floods = Floods::new(FloodLimits {
        told_of_one: 2,
        ..LIMITS
    });
    let verdicts = [0; 3].map(|now| floods.fault(CARD, now));
    let told = Verdict::Tell { untold: 0 };
    assert_eq!(verdicts, [told, told, Verdict::Count]);
    assert_eq!(floods.fault(Address::from_source_id(0, 0x1000), 0), told);
    assert_eq!(
        floods.fault(Address::from_source_id(0, 0x2000), 0),
        Verdict::Count
    );
}

#[test]
fn a_flood_on_a_unit_with_one_record_is_cut_off_within_a_second() {
    let second = 3_000_000_000;
    let mut floods = Floods::new(FloodLimits::of_a_second(second));
    let look = second / FloodLimits::LOOKS_PER_SECOND;
    let cut = (0..FloodLimits::LOOKS_PER_SECOND)
        .find(|number| matches!(floods.fault(CARD, number * look), Verdict::CutOff { .. }));
    assert!(cut.is_some());
}

#[test]
fn the_same_id_on_another_segment_is_another_source() {
    let mut floods = Floods::new(LIMITS);
    for _ in 0..5 {
        floods.fault(CARD, 0);
    }
    assert_eq!(floods.fault(CARD, 1), Verdict::WasCutOff);
    let other = Address::from_source_id(1, NIC.0);
    assert!(matches!(floods.fault(other, 1), Verdict::Tell { .. }));
}

#[test]
fn sources_that_were_cut_off_do_not_end_the_watch() {
    let mut floods = Floods::new(LIMITS);
    for id in 0..200 {
        for _ in 0..LIMITS.cut_off {
            floods.fault(Address::from_source_id(0, id), 0);
        }
    }
    let verdicts = [0; 5].map(|_| floods.fault(CARD, 1_000));
    assert_eq!(verdicts[4], Verdict::CutOff { faults: 5 });
}
