//! Rings with indices that cannot be, in places where none can be.

use bulkhead_core::platform::IOAPIC_BASE;
use test_guests::virtio::common;

use super::Way;

pub(super) const WAYS: [Way; 9] = [
    ("more available than there are entries", |v| {
        let index = v.queue().size() + 1;
        v.queue().set_available_index(index);
        v.kick();
    }),
    ("available index half way round", |v| {
        v.queue().set_available_index(0x8000);
        v.kick();
    }),
    ("available index going back", |v| {
        v.offer(0);
        v.queue().set_available_index(0);
        v.kick();
        v.queue().set_available_index(u16::MAX);
        v.kick();
    }),
    ("every entry the same chain", |v| {
        for _ in 0..v.queue().size() {
            v.queue().offer(0);
        }
        v.kick();
    }),
    ("used ring nowhere", |v| {
        let (size, [descriptors, available, _]) = (v.queue().size(), v.parts());
        v.set_up(size, [descriptors, available, v.ram_end]);
        v.set_up(size, [descriptors, available, IOAPIC_BASE.0]);
    }),
    ("available ring nowhere", |v| {
        let (size, [descriptors, _, used]) = (v.queue().size(), v.parts());
        v.set_up(size, [descriptors, v.ram_end, used]);
        v.set_up(size, [descriptors, 1 << 47, used]);
    }),
    (
        "descriptors nowhere, and across the end of addresses",
        |v| {
            let (size, [_, available, used]) = (v.queue().size(), v.parts());
            v.set_up(size, [v.ram_end - 16, available, used]);
            v.set_up(size, [u64::MAX - 0xff, available, used]);
        },
    ),
    ("all three parts in one place, and misaligned", |v| {
        let (size, [place, _, _]) = (v.queue().size(), v.parts());
        v.set_up(size, [place; 3]);
        v.set_up(size, [place + 1; 3]);
    }),
    ("parts moved while the queue is on", |v| {
        for register in [
            common::QUEUE_DESC,
            common::QUEUE_DRIVER,
            common::QUEUE_DEVICE,
        ] {
            v.common(common::QUEUE_SELECT).write_u16(0);
            v.common(register).write_u64(v.ram_end);
        }
        v.common(common::QUEUE_SIZE).write_u16(2);
        v.offer(0);
    }),
];
