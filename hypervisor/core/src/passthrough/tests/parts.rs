//! The parts by themselves.

use super::super::VirtualConfig;
use super::super::host::{FIRST, HostVectors, LAST, NoVector, Routes, Target};
use super::super::place::{PlaceError, check_apart, place};
use super::super::{Call, GuestMessage, reserved};
use crate::addr::{Frame, FrameCount, Gpa, Hpa};
use crate::bus::{Signal, Signals};
use crate::device::pci::Bus;
use crate::ledger::{FrameRun, VmId};
use crate::pci::testing::fake::{Fake, Space};
use crate::pci::testing::{at, inventory_of};
use crate::platform::DEVICE_MMIO_BASE;

fn message(vcpu: u64) -> GuestMessage {
    GuestMessage::new(0xfee0_0000 | vcpu << 12, 0x4041).unwrap()
}

const fn call(vm: u16, message: GuestMessage) -> Call {
    Call {
        vm: VmId(vm),
        message,
    }
}

struct Cpus(Vec<Vec<Signal>>);

impl Signals for Cpus {
    fn vcpus(&self) -> u32 {
        self.0.len() as u32
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        self.0[to as usize].push(signal);
    }
}

#[test]
fn a_call_comes_out_of_the_table_as_it_went_in() {
    let table = HostVectors::new(2);
    for vm in [0, 7, u16::MAX] {
        // Broadcast, logical, with the hint, level, lowest priority.
        for (address, data) in [
            (0xfeef_f000, 0xff),
            (0xfee0_5004, 0x10),
            (0xfee0_600c, 0xc141),
        ] {
            let call = call(vm, GuestMessage::new(address, data).unwrap());
            let vector = table.claim(1, call).unwrap();
            let Target {
                cpu,
                vector: number,
            } = vector.target();
            assert_eq!(table.arrived(cpu, number), Some(call));
            assert_eq!(table.arrived(0, number), None);
            table.release(vector);
            assert_eq!(table.arrived(cpu, number), None);
        }
    }
}

#[test]
fn a_message_for_several_vcpus_reaches_them() {
    let mut cpus = Cpus(vec![Vec::new(); 4]);
    let all = GuestMessage::new(0xfeef_f000, 0x55).unwrap();
    assert_eq!(all.first(4), Some(0));
    all.send(&mut cpus);
    assert!(cpus.0.iter().all(|signals| signals.len() == 1));
    assert_eq!(message(9).first(4), None);
}

#[test]
fn stray_vectors_are_nobodys() {
    let table = HostVectors::new(1);
    let all = (0..=u8::MAX).flat_map(|vector| [(0, vector), (1, vector), (usize::MAX, vector)]);
    assert!(
        all.into_iter()
            .all(|(cpu, vector)| table.arrived(cpu, vector).is_none())
    );
}

#[test]
fn every_vector_is_had_once_and_none_of_the_hypervisors() {
    let table = HostVectors::new(1);
    let mut taken = Vec::new();
    while let Some(vector) = table.claim(0, call(1, message(0))) {
        taken.push(vector);
    }
    let numbers: Vec<u8> = taken.iter().map(|vector| vector.target().vector).collect();
    assert_eq!(numbers, (FIRST..=LAST).collect::<Vec<_>>());
    table.release(taken.swap_remove(100));
    assert_eq!(
        table.claim(0, call(2, message(0))).unwrap().target().vector,
        FIRST + 100
    );
}

#[test]
fn without_room_an_interrupt_stays_where_it_is_or_is_refused() {
    let table = HostVectors::new(2);
    let mut routes = Routes::new(VmId(1), 2);
    assert!(routes.set(&table, 0, message(0), 0).unwrap().is_some());
    let mut taken = Vec::new();
    while let Some(vector) = table.claim(1, call(2, message(0))) {
        taken.push(vector);
    }
    // It arrives at the old CPU as what it is now.
    assert_eq!(routes.set(&table, 0, message(1), 1), Ok(None));
    assert_eq!(table.arrived(0, FIRST), Some(call(1, message(1))));
    assert_eq!(
        routes.set(&table, 1, message(1), 1),
        Err(NoVector { cpu: 1 })
    );
    assert_eq!(routes.set(&table, 2, message(1), 1), Ok(None));
}

#[test]
fn what_was_under_way_to_the_old_cpu_still_arrives() {
    let table = HostVectors::new(2);
    let mut routes = Routes::new(VmId(1), 1);
    let old = routes.set(&table, 0, message(0), 0).unwrap().unwrap();
    let new = routes.set(&table, 0, message(1), 1).unwrap().unwrap();
    assert_eq!((old.cpu, new.cpu), (0, 1));
    assert_eq!(
        table.arrived(old.cpu, old.vector),
        Some(call(1, message(1)))
    );
    assert_eq!(
        table.arrived(new.cpu, new.vector),
        Some(call(1, message(1)))
    );
    // The same CPU: nothing is to be told to the unit.
    assert_eq!(routes.set(&table, 0, message(3), 1), Ok(None));
    routes.clear_all(&table);
    for target in [old, new] {
        assert_eq!(table.arrived(target.cpu, target.vector), None);
    }
}

#[test]
fn only_interrupts_for_vcpus_may_be_sent() {
    for (address, data) in [
        (0, 0x41),
        (0xfed0_0000, 0x41),
        (0x1_fee0_0000, 0x41),
        (0xfee0_0000, 0x0f),
        (0xfee0_0000, 0x441),
        (0xfee0_0000, 0x241),
        (0xfee0_0000, 0x541),
        (0xfee0_0000, 0x641),
        (0xfee0_0000, 0x741),
    ] {
        assert_eq!(
            GuestMessage::new(address, data),
            None,
            "{address:#x} {data:#x}"
        );
    }
}

fn placed(space: Space) -> Result<(), PlaceError> {
    let inventory = inventory_of(&mut Fake::default().with("00:02.0", space));
    let function = inventory.find(at("00:02.0")).unwrap();
    let mut views = [(function.address, VirtualConfig::new(function).unwrap())];
    place(&mut views, Gpa(0x1000_0000), Gpa(1 << 36)).map(drop)
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    let card = || Space::new(0x1234_0001, 0x02_0000);
    let function = at("00:02.0");
    assert_eq!(placed(card().bar(0, 0xfe00_0000, 0x1000)), Ok(()));
    // Ports without a place are common.
    assert_eq!(
        placed(card().bar(0, 0xfe00_0000, 0x1000).bar(1, 1, 0x20)),
        Ok(())
    );
    assert_eq!(
        placed(card().bar(2, 0, 0x1000)),
        Err(PlaceError::Unplaced { function, bar: 2 })
    );
    let size = 1 << 30;
    assert_eq!(
        placed(card().bar(1, 0x8000_0000, size as u32)),
        Err(PlaceError::NoRoom {
            function,
            bar: 1,
            size
        })
    );
    assert_eq!(placed(card().bar64(0, 1 << 32, 1 << 31)), Ok(()));
}

#[test]
fn a_device_that_says_it_is_where_something_else_is_is_refused() {
    let apart = |base, other: u32| {
        let card = Space::new(0x1234_0001, 0x02_0000).bar(0, base, 0x1000);
        let neighbour = Space::new(0x1234_0002, 0x02_0000).bar(0, other, 0x4000);
        let mut fake = Fake::default()
            .with("00:02.0", card)
            .with("00:03.0", neighbour);
        let inventory = inventory_of(&mut fake);
        check_apart(&inventory, inventory.find(at("00:02.0")).unwrap())
    };
    let overlaps = |other| {
        Err(PlaceError::Overlaps {
            function: at("00:02.0"),
            bar: 0,
            other,
        })
    };
    assert_eq!(apart(0xfe00_0000, 0xfe00_4000), Ok(()));
    assert_eq!(
        apart(0xfe00_3000, 0xfe00_0000),
        overlaps(Some(at("00:03.0")))
    );
    assert_eq!(apart(0xfed4_0000, 0xfe00_0000), overlaps(None));
}

#[test]
fn a_reserved_region_is_accepted_only_where_the_vm_has_no_ram() {
    let function = at("00:14.0");
    let ram = || [Gpa(0)..Gpa(0x1000_0000), Gpa(1 << 32)..Gpa(0x1_1000_0000)].into_iter();
    let frames = |first, last| reserved::frames(function, Hpa(first), Hpa(last), ram());
    assert_eq!(
        frames(0x7000_0000, 0x7000_1fff),
        Ok(FrameRun::new(Frame(0x7_0000), FrameCount(2)))
    );
    for (first, last) in [
        (0x0fff_f000, 0x1000_0fff),
        (0x1000, 0x1fff),
        (0xffff_f000, 0x1_0000_0fff),
        (0x2000, 0x1fff),
        (0, u64::MAX),
    ] {
        assert!(frames(first, last).is_err(), "{first:#x}");
    }
}

#[test]
fn a_bus_without_real_functions_answers_nowhere_more() {
    let bus = Bus::new(Vec::new()).unwrap();
    assert!(!bus.reaches(DEVICE_MMIO_BASE));
    assert!(!bus.reaches(Gpa(1 << 33)));
}
