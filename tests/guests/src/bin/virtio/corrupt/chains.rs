//! Chains of descriptors that no driver would make.

use bulkhead_core::platform::{ECAM_BASE, IOAPIC_BASE, LAPIC_BASE};
use test_guests::pci::Place;
use test_guests::virtio::block::TYPE_IN;
use test_guests::virtio::queue::{Descriptor, NEXT, WRITE};

use super::Way;
use super::victim::DATA;

pub(super) const WAYS: [Way; 24] = [
    ("head behind the table", |v| {
        let size = v.queue().size();
        v.offer(size);
    }),
    ("head 65535", |v| v.offer(u16::MAX)),
    ("descriptor followed by itself", |v| {
        let [header, ..] = v.request();
        v.submit(&[Descriptor { next: 0, ..header }]);
    }),
    ("two descriptors in a circle", |v| {
        let [header, data, _] = v.request();
        v.submit(&[header, Descriptor { next: 1, ..data }]);
    }),
    ("next behind the table", |v| {
        let next = v.queue().size();
        let [header, ..] = v.request();
        v.submit(&[Descriptor { next, ..header }]);
    }),
    ("next 65535", |v| {
        let [header, ..] = v.request();
        v.submit(&[Descriptor {
            next: u16::MAX,
            ..header
        }]);
    }),
    ("buffers without bytes", |v| {
        let request = v.request().map(|one| Descriptor { length: 0, ..one });
        v.submit(&request);
    }),
    ("header of 4 GiB", |v| {
        let mut request = v.request();
        request[0].length = u32::MAX;
        v.submit(&request);
    }),
    ("data of 4 GiB", |v| {
        let data = v.block.data();
        v.read_to(data, u32::MAX - (DATA - 1));
    }),
    ("data behind memory", |v| v.read_to(v.ram_end, DATA)),
    ("data across the end of memory", |v| {
        v.read_to(v.ram_end - u64::from(DATA / 2), DATA);
    }),
    ("data across the end of the address space", |v| {
        v.read_to(u64::MAX - 0xff, DATA);
    }),
    ("data in the I/O APIC", |v| v.read_to(IOAPIC_BASE.0, DATA)),
    ("data in the local APIC", |v| v.read_to(LAPIC_BASE.0, DATA)),
    ("data in configuration space", |v| {
        v.read_to(ECAM_BASE.0, DATA);
    }),
    ("data in the device's own registers", |v| {
        if let Place::Memory(registers) = v.device().common {
            v.read_to(registers, DATA);
        }
    }),
    ("header and status nowhere", |v| {
        let mut request = v.request();
        request[0].address = 1 << 45;
        request[2].address = 1 << 46;
        v.submit(&request);
    }),
    ("status nowhere", |v| {
        let mut request = v.request();
        request[2].address = v.ram_end;
        v.submit(&request);
    }),
    ("data over the queue's own rings", |v| {
        for part in v.parts() {
            v.reopen(0);
            v.read_to(part, DATA);
        }
    }),
    ("what is written before what is read", |v| {
        let [header, data, status] = v.request();
        v.submit(&[
            Descriptor {
                flags: WRITE | NEXT,
                next: 1,
                ..status
            },
            Descriptor { next: 2, ..header },
            Descriptor {
                flags: WRITE,
                ..data
            },
        ]);
    }),
    ("nothing to write to", |v| {
        let request = v.request().map(|one| Descriptor {
            flags: one.flags & !WRITE,
            ..one
        });
        v.submit(&request);
    }),
    ("nothing to read from", |v| {
        let request = v.request().map(|one| Descriptor {
            flags: one.flags | WRITE,
            ..one
        });
        v.submit(&request);
    }),
    ("as many descriptors as there are, a byte each", |v| {
        let (size, header) = (v.queue().size(), v.block.header());
        for index in 0..size {
            let last = index + 1 == size;
            v.queue().describe(
                index,
                Descriptor {
                    address: header + u64::from(index),
                    length: 1,
                    flags: if last { WRITE } else { NEXT },
                    next: index + 1,
                },
            );
        }
        v.offer(0);
    }),
    (
        "undefined flags, sectors that do not exist, odd bytes",
        |v| {
            v.block.prepare(TYPE_IN, u64::MAX, 1);
            let mut request = v.request().map(|one| Descriptor {
                flags: one.flags | 0xfff8,
                ..one
            });
            request[1].length = DATA + 1;
            v.submit(&request);
        },
    ),
];
