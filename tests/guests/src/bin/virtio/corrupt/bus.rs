//! Set-up out of order, interrupts to nowhere, base addresses on top of something else.

use bulkhead_core::platform::{COM1_BASE, ECAM_BASE, IOAPIC_BASE};
use test_guests::pci::{BAR0, COMMAND, Place};
use test_guests::virtio::{common, status};

use super::Way;
use super::victim::Victim;

/// An address in the VM's memory.
const IN_MEMORY: u32 = 1 << 20;
const NO_QUEUE: u16 = u16::MAX;

pub(super) const WAYS: [Way; 10] = [
    ("queues of 0, 3 and 65535 entries", |v| {
        for size in [0, 3, u16::MAX] {
            let parts = v.parts();
            v.set_up(size, parts);
        }
    }),
    ("queue on before it has addresses", |v| {
        let size = v.queue().size();
        v.set_up(size, [0; 3]);
    }),
    ("queues that do not exist", |v| {
        v.common(common::QUEUE_SELECT).write_u16(NO_QUEUE);
        v.common(common::QUEUE_SIZE).write_u16(8);
        v.common(common::QUEUE_DESC).write_u64(u64::MAX);
        v.common(common::QUEUE_ENABLE).write_u16(1);
        let place = v.queue().place();
        place.write_u16(NO_QUEUE);
        place.write_u8(0xff);
        place.write_u32(u32::MAX);
        for offset in [1, 2, 3, 4, 60] {
            place.at(offset).write_u16(NO_QUEUE);
        }
    }),
    ("reset between offer and notification", |v| {
        v.queue().offer(0);
        v.device().set_status(0);
        v.kick();
    }),
    ("status backwards, ready before features", |v| {
        v.device().set_status(status::ACKNOWLEDGE);
        v.kick();
        v.device().set_status(0);
        v.device().set_status(status::DRIVER_OK);
        v.offer(0);
        v.device().set_status(u8::MAX);
        v.offer(0);
    }),
    ("features that were not offered", |v| {
        v.device().set_status(0);
        v.device().set_status(status::ACKNOWLEDGE | status::DRIVER);
        v.device().set_features(u64::MAX);
        v.device()
            .set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        // Then, too late, all of them again.
        v.device().set_features(u64::MAX);
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        v.device().set_status(ready | status::DRIVER_OK);
        v.offer(0);
    }),
    ("interrupt messages of every kind to everywhere", messages),
    ("base addresses on memory, devices and each other", |v| {
        for place in [
            0,
            IN_MEMORY,
            ECAM_BASE.0 as u32,
            IOAPIC_BASE.0 as u32,
            0xffff_fff0,
        ] {
            move_to(v, place, u32::from(COM1_BASE));
        }
    }),
    ("nothing decodes", |v| {
        v.device().function.write(COMMAND, 0);
        v.offer(0);
        v.device().set_status(0);
        let function = v.device().function;
        for offset in (0..0x1000).step_by(4) {
            if !(BAR0..BAR0 + 24).contains(&offset) {
                function.write(offset, u32::MAX);
                function.write(offset, 0);
            }
        }
    }),
    ("every register of the device full of ones", |v| {
        for offset in (0..0x40).step_by(4) {
            v.common(offset).write_u32(u32::MAX);
        }
        v.common(common::QUEUE_SELECT).write_u16(0);
        for offset in (0..0x3f).step_by(3) {
            v.common(offset).write_u8(u8::MAX);
        }
        for offset in (0..0x100).step_by(4) {
            v.device().config.at(offset).write_u32(u32::MAX);
        }
        v.offer(0);
    }),
];

/// MSI-X entries with every delivery mode but INIT, which would rightly stop this vCPU, and with addresses where no local
/// APIC is.
fn messages(v: &mut Victim) {
    let msix = v.device().msix;
    msix.enable();
    for address in [0, 0xdead_beef, 0xfee0_0000, 0xfeef_f00c, u64::MAX] {
        for data in [0, 0x0f, 0x2ff, 0x3ff, 0x400, 0x6ff, 0x7ff, 0xffff_f0ff] {
            msix.write_entry(0, address, data, 0);
            v.common(common::QUEUE_SELECT).write_u16(0);
            v.common(common::QUEUE_MSIX_VECTOR).write_u16(0);
            v.offer(0);
        }
    }
    // Entries and vectors that do not exist.
    for vector in [3, 0x7fff, 0xfffe] {
        v.common(common::CONFIG_MSIX_VECTOR).write_u16(vector);
        v.common(common::QUEUE_MSIX_VECTOR).write_u16(vector);
        v.offer(0);
    }
    for entry in [16, 255] {
        msix.write_entry(entry, u64::MAX, u32::MAX, u32::MAX);
    }
}

/// Moves the device's memory to `memory` and its ports to `ports`, and offers a request there.
fn move_to(v: &mut Victim, memory: u32, ports: u32) {
    let function = v.device().function;
    for bar in 0..6 {
        let target = match function.bar(bar) {
            Place::Memory(_) => memory,
            Place::Port(_) => ports,
        };
        function.write(BAR0 + u16::from(bar) * 4, target);
    }
    v.offer(0);
}
