use crate::addr::{Frame, FrameCount, Hpa};
use crate::table::TableMemory;
use crate::table::fake::FakeMemory;
use crate::vtd::SourceId;
use crate::vtd::capability::InterruptMode;
use crate::vtd::interrupt::*;
use crate::vtd::invalidate::UnitId;

use super::fake::{CAPABILITY, EXTENDED, FakeUnit};

const NIC: SourceId = SourceId(0x0318);
const DISK: SourceId = SourceId(0x0400);

fn table(memory: &mut FakeMemory) -> InterruptTable {
    let frame = memory.alloc().unwrap();
    let unit = UnitId::new(0).unwrap();
    InterruptTable::new(unit, frame, 8, InterruptMode::X2apic).unwrap()
}

fn to(vector: u8) -> Remapped {
    Remapped {
        destination: Destination::new(2, InterruptMode::X2apic).unwrap(),
        vector,
        trigger: Trigger::Edge,
    }
}

fn words(memory: &FakeMemory, table: &InterruptTable, index: u16) -> [u64; 2] {
    let at = usize::from(index) * 2;
    [0, 1].map(|word| memory.read(table.pointer().table, at + word))
}

#[test]
fn reserved_handles_are_aligned_and_never_overlap() {
    let mut memory = FakeMemory::new(4);
    let mut table = table(&mut memory);
    let mut owner = vec![None; 256];
    let orders = [0, 3, 0, 5, 1, 2, 4, 0, 6];
    for (number, order) in orders.into_iter().enumerate() {
        let handles = table.reserve(NIC, order).unwrap();
        assert_eq!(u32::from(handles.index()) % handles.count(), 0);
        for index in 0..handles.count() as usize {
            let place = &mut owner[usize::from(handles.index()) + index];
            assert_eq!(place.replace(number), None);
        }
    }
    assert_eq!(
        table.reserve(NIC, 7).unwrap_err(),
        HandleError::Full { wanted: 128 },
        "no aligned half is free any more"
    );
    assert!(table.reserve(NIC, 200).is_err());
}

#[test]
fn handles_are_reused_only_when_the_unit_has_forgotten_them() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut unit = machine.up(0);
    let mut memory = FakeMemory::new(4);
    let mut table = table(&mut memory);
    let all = table.reserve(NIC, 8).unwrap();
    let mut ticket = table.remap(&mut memory, &all, 9, to(0x40)).unwrap();
    unit.work_off(&mut ticket).unwrap();
    ticket.redeem().unwrap();
    assert_eq!(words(&memory, &table, 9), [0x2_0040_0001, 0x4_0318]);
    machine.take_log();
    let ticket = table.clear(&mut memory, all);
    assert_eq!(words(&memory, &table, 9), [0, 0]);
    assert!(table.reserve(DISK, 0).is_err());
    let mut ticket = ticket.redeem().unwrap_err();
    unit.work_off(&mut ticket).unwrap();
    assert_eq!(machine.take_descriptors(), [[8 << 27 | 0x14, 0]]);
    table.free(ticket.redeem().unwrap());
    assert_eq!(table.reserve(DISK, 8).unwrap().source(), DISK);
}

#[test]
fn a_device_cannot_write_behind_its_handles() {
    let mut memory = FakeMemory::new(4);
    let mut table = table(&mut memory);
    let handles = table.reserve(NIC, 1).unwrap();
    let refused = table.remap(&mut memory, &handles, 2, to(0x40)).unwrap_err();
    assert_eq!(
        refused,
        HandleError::NoSuchHandle {
            number: 2,
            count: 2
        }
    );
    assert_eq!(words(&memory, &table, 2), [0, 0]);
}

#[test]
fn retargeting_is_one_write_and_never_half_an_entry() {
    let mut memory = FakeMemory::new(4);
    let mut table = table(&mut memory);
    let handles = table.reserve(NIC, 0).unwrap();
    let first = table.remap(&mut memory, &handles, 0, to(0x40)).unwrap();
    memory.log.clear();
    let second = table.remap(&mut memory, &handles, 0, to(0x41)).unwrap();
    assert_eq!(memory.log.len(), 1);
    memory.log.clear();
    let posted = Posted::new(Hpa(0x1_0000_0000), 0x31, false).unwrap();
    let third = table.post(&mut memory, &handles, 0, posted).unwrap();
    let present: Vec<_> = memory
        .log
        .iter()
        .map(|(_, word, value)| (word % 2, value & 1))
        .collect();
    assert_eq!(present[0], (0, 0), "absent while its halves differ");
    assert_eq!(present.last(), Some(&(0, 1)));
    assert!(first.redeem().is_err() && second.redeem().is_err() && third.redeem().is_err());
}

#[test]
fn tables_of_odd_shape_are_refused() {
    let unit = UnitId::new(0).unwrap();
    let new = |frame, order| {
        InterruptTable::new(unit, Frame(frame), order, InterruptMode::Xapic).is_some()
    };
    assert!(new(0x100, 16) && !new(0x101, 16));
    assert!(!new(0x100, 0) && !new(0x100, 17) && new(0x101, 8));
    assert_eq!(InterruptTable::frames(16), FrameCount(256));
    assert_eq!(InterruptTable::frames(1), FrameCount(1));
}
