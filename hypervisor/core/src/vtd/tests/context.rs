use crate::addr::Frame;
use crate::ledger::VmId;
use crate::table::TableMemory;
use crate::table::fake::FakeMemory;
use crate::vtd::SourceId;
use crate::vtd::context::*;
use crate::vtd::domain::IoDomain;
use crate::vtd::invalidate::UnitId;

use super::fake::{CAPABILITY, EXTENDED, FakeUnit};

fn unit_id() -> UnitId {
    UnitId::new(0).unwrap()
}

#[test]
fn raw_entries_match_the_manual() {
    assert_eq!(RawRoot::new(Frame(0x123)).0, [0x12_3001, 0]);
    assert_eq!(RawRoot([0x12_3000, 0]).context_table(), None);
    let three = Decoded::Translated {
        root: Frame(0x55),
        depth: Depth::Three,
        domain: 0xabcd,
    };
    assert_eq!(RawContext([0x5_5001, 0xab_cd01]).decode(), three);
    assert_eq!(RawContext([0x5_5000, 0xab_cd01]).decode(), Decoded::Absent);
    let pass_through = RawContext([0x5_5009, 0xab_cd02]);
    assert_eq!(pass_through.decode(), Decoded::Unknown(pass_through));
    let five_levels = RawContext([0x5_5001, 0xab_cd03]);
    assert_eq!(five_levels.decode(), Decoded::Unknown(five_levels));
}

#[test]
fn a_device_is_in_one_domain_until_the_unit_has_forgotten_it() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut unit = machine.up(0);
    let mut memory = FakeMemory::new(64);
    let mut tables = ContextTables::new(&mut memory, unit.id()).unwrap();
    let mut domain = IoDomain::new(VmId(4), machine.chosen().tree, &mut memory).unwrap();
    let nic = SourceId::new(3, 0, 1).unwrap();
    assert_eq!(tables.look_up(&memory, nic), Decoded::Absent);

    let entry = domain.attach(unit.id());
    assert_eq!(entry.encode().0[1], 5 << 8 | 2);
    let mut ticket = tables.install(&mut memory, nic, entry).unwrap();
    unit.work_off(&mut ticket).unwrap();
    assert_eq!(machine.take_descriptors(), [[0x11, 0], [0x5_00e2, 0]]);
    assert_eq!(ticket.redeem().unwrap(), Attached(nic));
    assert!(matches!(
        tables.look_up(&memory, nic),
        Decoded::Translated {
            depth: Depth::Four,
            domain: 5,
            ..
        }
    ));

    let twice = tables
        .install(&mut memory, nic, domain.attach(unit.id()))
        .unwrap_err();
    assert!(twice.occupied);
    domain.release(twice.abandon()).unwrap();
    assert_eq!(domain.devices(), 1);

    let ticket = tables.remove(&mut memory, nic, domain.id()).unwrap();
    assert_eq!(tables.look_up(&memory, nic), Decoded::Absent);
    let mut ticket = ticket.redeem().unwrap_err();
    unit.work_off(&mut ticket).unwrap();
    assert_eq!(
        machine.take_descriptors(),
        [[0x301_0005_0031, 0], [0x5_00e2, 0]]
    );
    domain.release(ticket.redeem().unwrap()).unwrap();
    assert_eq!(domain.devices(), 0);
    assert!(tables.remove(&mut memory, nic, domain.id()).is_none());
}

#[test]
fn other_devices_of_the_bus_reach_nothing() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(64);
    let mut tables = ContextTables::new(&mut memory, unit_id()).unwrap();
    let mut domain = IoDomain::new(VmId(0), machine.chosen().tree, &mut memory).unwrap();
    let nic = SourceId(0x0318);
    let ticket = tables
        .install(&mut memory, nic, domain.attach(unit_id()))
        .unwrap();
    assert!(!ticket.waiting().is_empty());
    for source in (0..=u16::MAX).map(SourceId).filter(|source| *source != nic) {
        assert_eq!(tables.look_up(&memory, source), Decoded::Absent);
    }
}

#[test]
fn the_present_bit_is_written_last_and_cleared_first() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(64);
    let mut tables = ContextTables::new(&mut memory, unit_id()).unwrap();
    let mut domain = IoDomain::new(VmId(0), machine.chosen().tree, &mut memory).unwrap();
    let id = domain.id();
    memory.log.clear();
    let installed = tables
        .install(&mut memory, SourceId(1), domain.attach(unit_id()))
        .unwrap();
    let present: Vec<_> = memory.log.drain(..).map(|(_, _, word)| word & 1).collect();
    assert_eq!(present, [0, 1, 0, 1]);
    drop(installed);
    let removed = tables.remove(&mut memory, SourceId(1), id).unwrap();
    assert_eq!((memory.log[0].1, memory.log[0].2), (2, 0));
    assert!(removed.redeem().is_err());
    assert_eq!(memory.read(tables.root(), 0) & 1, 1);
}

#[test]
fn without_a_frame_for_the_bus_the_entry_comes_back() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut memory = FakeMemory::new(2);
    let mut tables = ContextTables::new(&mut memory, unit_id()).unwrap();
    let mut domain = IoDomain::new(VmId(0), machine.chosen().tree, &mut memory).unwrap();
    let refused = tables
        .install(&mut memory, SourceId(1), domain.attach(unit_id()))
        .unwrap_err();
    assert!(!refused.occupied);
    assert_eq!(tables.look_up(&memory, SourceId(1)), Decoded::Absent);
}
