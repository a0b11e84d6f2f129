//! What a well-behaved guest's driver does, and what comes of it.

use super::rig::{CPUS, RAM_END, Rig, VM};
use crate::addr::Gpa;
use crate::device::pci::Outcome;
use crate::passthrough::{GuestMessage, Signalling};
use crate::pci::testing::fake::{Fake, Space};
use crate::pci::testing::machines::q35;
use crate::platform::{DEVICE_MMIO_BASE, DEVICE_MMIO_SIZE};

const NVME: &str = "00:04.0";
const NIC: &str = "00:02.0";
const EDU: &str = "00:03.0";

/// Decoding and bus mastering on.
const ON: u32 = 6;
/// The NVMe disk's MSI-X capability, and where its table is in base address 0.
const MSIX: u16 = 0x40;
const TABLE: u64 = 0x2000;

fn nvme() -> Rig {
    let mut rig = Rig::new(q35(), &[NVME]);
    assert_eq!(rig.set_config(1, 4, 2, ON), Outcome::Nothing);
    rig
}

/// Sets vector `number` of the NVMe disk to interrupt `vcpu` with `vector`.
fn set_vector(rig: &mut Rig, number: u64, vcpu: u64, vector: u64) {
    let entry = rig.bar(1, 0) + TABLE + 16 * number;
    rig.write(entry + 12, 4, 1);
    rig.write(entry, 4, 0xfee0_0000 | vcpu << 12);
    rig.write(entry + 4, 4, 0);
    rig.write(entry + 8, 4, vector);
    rig.write(entry + 12, 4, 0);
}

fn message(vcpu: u64, vector: u32) -> GuestMessage {
    GuestMessage::new(0xfee0_0000 | vcpu << 12, vector).unwrap()
}

#[test]
fn memory_is_found_where_it_was_placed_and_mapped() {
    let mut rig = Rig::new(q35(), &[NIC, EDU, NVME]);
    assert_eq!(rig.config(1, 0, 4), 0x10d3_8086);
    assert_eq!(rig.config(3, 0, 4), 0x0010_1b36);
    assert_eq!(rig.config(4, 0, 4), u32::MAX);
    let window = DEVICE_MMIO_BASE.0..DEVICE_MMIO_BASE.0 + DEVICE_MMIO_SIZE;
    let mut homes = Vec::new();
    for (device, bar, size) in [
        (1, 0, 0x2_0000),
        (1, 1, 0x2_0000),
        (1, 3, 0x4000),
        (2, 0, 0x10_0000),
        (3, 0, 0x4000),
    ] {
        let base = rig.bar(device, bar);
        assert!(
            base.is_multiple_of(size) && window.contains(&base),
            "{base:#x}"
        );
        homes.push((base, base + size));
    }
    homes.sort_unstable();
    assert!(homes.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    // All but the two pages with tables is mapped.
    let mapped: u64 = rig.places.direct.iter().map(|part| part.run.count.0).sum();
    assert_eq!(
        mapped,
        (0x2_0000 * 2 + 0x4000 + 0x10_0000 + 0x4000) / 0x1000 - 2
    );
    assert_eq!(rig.places.high, None);
}

#[test]
fn what_does_not_fit_below_is_above_all_ram() {
    let large = Space::new(0x1234_0001, 0x03_0000)
        .bar64(0, 0x40_0000_0000, 0x4000_0000)
        .bar(2, 0xd000_0000, 0x1000_0000);
    let mut rig = Rig::new(Fake::default().with("00:02.0", large), &["00:02.0"]);
    let base = rig.bar(1, 0);
    assert!(base >= RAM_END.0 && base.is_multiple_of(0x4000_0000));
    let high = rig.places.high.clone().unwrap();
    assert!(high.start >= RAM_END && high.start.0 <= base && base + 0x4000_0000 <= high.end.0);
    assert!(rig.bus.reaches(Gpa(base)) && !rig.bus.reaches(Gpa(RAM_END.0 - 1)));
    assert!(rig.bar(1, 2) < 1 << 32);
}

#[test]
fn bus_mastering_is_the_guests_and_lines_are_off() {
    let mut rig = nvme();
    let command =
        |rig: &Rig| rig.host.lock().unwrap().config.functions[&rig.functions[0].address].command();
    assert!(rig.chips[0].lock().unwrap().master);
    let _ = rig.set_config(1, 4, 2, 0);
    assert!(!rig.chips[0].lock().unwrap().master);
    // The function decodes all the same: the guest's tables lead to it.
    assert_eq!(command(&rig), 0x402);
    assert_eq!(rig.config(1, 0x3c, 2), 0);
}

#[test]
fn a_vector_arrives_at_the_vcpu_that_the_guest_chose() {
    let mut rig = nvme();
    set_vector(&mut rig, 5, 2, 0x41);
    let _ = rig.set_config(1, MSIX + 2, 2, 1 << 15);
    let signalling = rig.chips[0].lock().unwrap().signalling;
    assert_eq!(signalling, Some(Signalling::MsiX { masked: false }));
    let (address, data, open) = rig.chips[0].lock().unwrap().vector(5);
    assert!(open && data == 0);
    let index = crate::vtd::interrupt::message::Message { address, data }.index();
    let call = rig.deliver(index.unwrap()).unwrap();
    assert_eq!((call.vm, call.message), (VM, message(2, 0x41)));
    // The guest reads what it wrote, not what the device holds.
    let entry = rig.bar(1, 0) + TABLE + 16 * 5;
    assert_eq!(rig.read(entry, 8), 0xfee0_2000);
    assert_eq!(rig.read(entry + 8, 8), 0x41);
    assert!(!rig.chips[0].lock().unwrap().vector(4).2);
}

#[test]
fn a_vector_that_moves_to_another_cpu_leaves_nothing_behind() {
    let mut rig = nvme();
    set_vector(&mut rig, 0, 0, 0x41);
    let index = rig.chips[0].lock().unwrap().index;
    for turn in 1..1000_u64 {
        set_vector(&mut rig, 0, turn % 4, 0x30 + turn % 0xc0);
        let call = rig.deliver(index).unwrap();
        assert_eq!(call.message, message(turn % 4, (0x30 + turn % 0xc0) as u32));
    }
    rig.check_entries();
    // Two places are taken at the most: where it arrives, and where it did.
    let host = rig.host.lock().unwrap();
    let all = (0..CPUS).flat_map(|cpu| (0..=u8::MAX).map(move |vector| (cpu, vector)));
    let taken = all.filter(|(cpu, vector)| host.vectors.arrived(*cpu, *vector).is_some());
    assert!(taken.count() <= 2);
}

#[test]
fn a_masked_vector_is_masked_in_the_device() {
    let mut rig = nvme();
    set_vector(&mut rig, 7, 1, 0x50);
    let entry = rig.bar(1, 0) + TABLE + 16 * 7;
    assert!(rig.chips[0].lock().unwrap().vector(7).2);
    rig.write(entry + 12, 4, 1);
    assert!(!rig.chips[0].lock().unwrap().vector(7).2);
    // An NMI, a reserved vector, and no interrupt at all.
    for data in [0x400, 0x0f, 0x250] {
        rig.write(entry + 8, 4, data);
        rig.write(entry + 12, 4, 0);
        assert!(!rig.chips[0].lock().unwrap().vector(7).2, "{data:#x}");
    }
    rig.write(entry + 8, 4, 0x51);
    assert!(rig.chips[0].lock().unwrap().vector(7).2);
}

#[test]
fn one_message_arrives_and_is_off_when_the_guest_says_so() {
    let mut rig = Rig::new(q35(), &[EDU]);
    let _ = rig.set_config(1, 4, 2, ON);
    let _ = rig.set_config(1, 0x44, 4, 0xfee0_3000);
    let _ = rig.set_config(1, 0x4c, 2, 0x77);
    assert_eq!(rig.deliver(rig.chips[0].lock().unwrap().index), None);
    let _ = rig.set_config(1, 0x42, 2, 1);
    let index = rig.chips[0].lock().unwrap().index;
    assert_eq!(rig.deliver(index).unwrap().message, message(3, 0x77));
    let Some(Signalling::Msi { message: sent, .. }) = rig.chips[0].lock().unwrap().signalling
    else {
        panic!("no message");
    };
    assert_eq!(sent.index(), Some(index));
    // While it is on, another vCPU takes it over.
    let _ = rig.set_config(1, 0x44, 4, 0xfee0_0000);
    assert_eq!(rig.deliver(index).unwrap().message, message(0, 0x77));
    let _ = rig.set_config(1, 0x42, 2, 0);
    assert_eq!(
        rig.chips[0].lock().unwrap().signalling,
        Some(Signalling::Off)
    );
}

#[test]
fn a_base_address_that_moved_reaches_nothing_until_it_is_back() {
    let mut rig = nvme();
    let home = rig.bar(1, 0);
    rig.write(home + TABLE, 4, 0xfee0_0000);
    let _ = rig.set_config(1, 0x10, 4, 0xd000_0000);
    assert_eq!(rig.read(0xd000_0000 + TABLE, 4), 0xffff_ffff);
    assert_eq!(rig.read(home + TABLE, 4), 0xffff_ffff);
    let _ = rig.set_config(1, 0x10, 4, home as u32);
    assert_eq!(rig.read(home + TABLE, 4), 0xfee0_0000);
    let _ = rig.set_config(1, 4, 2, 0);
    assert_eq!(rig.read(home + TABLE, 4), 0xffff_ffff);
}

#[test]
fn what_is_beside_the_table_reaches_the_device() {
    let beside = Space::new(0x1234_0002, 0x02_0000)
        .bar(0, 0xfe00_0000, 0x1000)
        .msix(0x40, 4, 0x100, 0x200)
        .bar(1, 0xfe00_1100, 0x100);
    let mut rig = Rig::new(Fake::default().with("00:02.0", beside), &["00:02.0"]);
    let _ = rig.set_config(1, 4, 2, ON);
    assert_eq!(rig.places.direct, []);
    let (page, small) = (rig.bar(1, 0), rig.bar(1, 1));
    rig.write(page + 0x80, 4, 0x1234);
    assert_eq!(rig.read(page + 0x80, 4), 0x1234);
    rig.write(page + 0x110, 4, 0xfee0_0000);
    assert_eq!(rig.read(page + 0x110, 4), 0xfee0_0000);
    rig.write(small + 0xfc, 4, 0x99);
    assert_eq!(rig.read(small + 0xfc, 4), 0x99);
    // The rest of the page is somebody else's.
    assert_eq!(rig.read(small + 0x100, 4), 0xffff_ffff);
    rig.write(small + 0xfc, 8, 0x99);
}

#[test]
fn a_reset_is_gone_through_with_turns_for_others_in_between() {
    let mut rig = nvme();
    rig.chips[0].lock().unwrap().patience = 3;
    set_vector(&mut rig, 1, 1, 0x60);
    let control = 0x88;
    for _ in 0..3 {
        assert_eq!(rig.set_config(1, control, 2, 1 << 15), Outcome::Again);
        assert!(!rig.chips[0].lock().unwrap().master);
        assert_eq!(rig.config(1, 0, 4), u32::MAX);
    }
    assert_eq!(rig.set_config(1, control, 2, 1 << 15), Outcome::Nothing);
    assert_eq!(rig.chips[0].lock().unwrap().resets, 1);
    assert_eq!(rig.config(1, 0, 4), 0x0010_1b36);
    assert!(!rig.chips[0].lock().unwrap().vector(1).2);
    // The driver sets it up again.
    let _ = rig.set_config(1, 4, 2, ON);
    set_vector(&mut rig, 1, 1, 0x60);
    assert!(rig.chips[0].lock().unwrap().vector(1).2 && rig.chips[0].lock().unwrap().master);
}

#[test]
fn when_the_run_ends_the_device_is_silent_and_the_next_begins_anew() {
    let mut rig = nvme();
    set_vector(&mut rig, 1, 1, 0x60);
    let index = rig.chips[0].lock().unwrap().index + 1;
    rig.bus.disconnect();
    assert!(!rig.chips[0].lock().unwrap().master);
    assert_eq!(rig.deliver(index), None);
    rig.bus.restart();
    let home = rig.bar(1, 0);
    let _ = rig.set_config(1, 4, 2, ON);
    assert_eq!(rig.read(home + TABLE + 16, 8), 0);
    assert!(!rig.chips[0].lock().unwrap().vector(1).2);
}
