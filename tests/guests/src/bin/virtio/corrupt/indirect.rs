//! Tables of descriptors outside the queue's own.

use test_guests::virtio::FEATURE_INDIRECT;
use test_guests::virtio::queue::{Descriptor, INDIRECT, NEXT, write};

use super::Way;
use super::victim::Victim;

/// Memory for tables, which this guest uses for nothing else.
const TABLE: u64 = 8 << 20;
const ENTRY: u32 = 16;
/// As many entries as an index can name.
const LONG: u32 = 1 << 16;

pub(super) const WAYS: [Way; 7] = [
    ("table that was not agreed on", |v| {
        table(v, TABLE, 3 * ENTRY);
    }),
    ("table of one and a half entries", |v| {
        v.reopen(FEATURE_INDIRECT);
        table(v, TABLE, ENTRY + ENTRY / 2);
    }),
    ("empty table", |v| {
        v.reopen(FEATURE_INDIRECT);
        table(v, TABLE, 0);
    }),
    ("table, and more after it", |v| {
        v.reopen(FEATURE_INDIRECT);
        fill(v);
        let [_, data, status] = v.request();
        let first = Descriptor {
            flags: INDIRECT | NEXT,
            next: 1,
            ..to_table(TABLE, 3 * ENTRY)
        };
        v.submit(&[first, data, status]);
    }),
    ("table in a table", |v| {
        v.reopen(FEATURE_INDIRECT);
        write(TABLE, to_table(TABLE, ENTRY));
        v.submit(&[to_table(TABLE, ENTRY)]);
    }),
    ("table nowhere", |v| {
        v.reopen(FEATURE_INDIRECT);
        table(v, v.ram_end, 3 * ENTRY);
        v.reopen(FEATURE_INDIRECT);
        table(v, u64::MAX - 31, 3 * ENTRY);
    }),
    ("table of 65536 entries in a row", |v| {
        v.reopen(FEATURE_INDIRECT);
        let address = v.block.header();
        for index in 0..LONG {
            write(
                TABLE + u64::from(index * ENTRY),
                Descriptor {
                    address,
                    length: 1,
                    flags: NEXT,
                    next: (index + 1) as u16,
                },
            );
        }
        v.submit(&[to_table(TABLE, LONG * ENTRY)]);
    }),
];

/// Offers an ordinary request through a table said to have `length` bytes at `address`.
fn table(v: &mut Victim, address: u64, length: u32) {
    fill(v);
    v.submit(&[to_table(address, length)]);
}

fn fill(v: &Victim) {
    write(TABLE, v.request());
}

const fn to_table(address: u64, length: u32) -> Descriptor {
    Descriptor {
        address,
        length,
        flags: INDIRECT,
        next: 0,
    }
}
