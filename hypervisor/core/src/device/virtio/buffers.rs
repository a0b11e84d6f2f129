//! Chains with buffers where a test wants them, for the tests of device models.

use super::testing::{Machine, NEXT, Ring, WRITE};
use crate::testing::Random;

/// A buffer of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Buffer {
    pub(super) at: u64,
    pub(super) bytes: u32,
    pub(super) writable: bool,
}

/// Makes a chain of `buffers`, whose first descriptor is `head`, available.
pub(super) fn offer(ring: &mut Ring, machine: &mut Machine, head: u16, buffers: &[Buffer]) {
    for (index, buffer) in (head..).zip(buffers) {
        let last = usize::from(index - head) + 1 == buffers.len();
        let next = if last { 0 } else { NEXT };
        let write = if buffer.writable { WRITE } else { 0 };
        let descriptor = (buffer.at, buffer.bytes, next | write, index + 1);
        ring.describe(machine, index, descriptor);
    }
    ring.offer(machine, head);
}

/// Splits `bytes` into up to `most` buffers, one after the other from `*at` on, with gaps.
pub(super) fn split(
    random: &mut Random,
    bytes: u32,
    most: usize,
    writable: bool,
    at: &mut u64,
) -> Vec<Buffer> {
    let mut buffers = Vec::new();
    let mut left = bytes;
    while left != 0 {
        let bytes = if buffers.len() + 1 >= most {
            left
        } else {
            1 + random.below(left.into()) as u32
        };
        buffers.push(Buffer {
            at: *at,
            bytes,
            writable,
        });
        *at += u64::from(bytes) + random.below(3);
        left -= bytes;
    }
    buffers
}

/// What several buffers hold, one after the other.
pub(super) fn gather(machine: &Machine, buffers: &[Buffer]) -> Vec<u8> {
    buffers
        .iter()
        .flat_map(|buffer| machine.bytes(buffer.at, buffer.bytes as usize).to_vec())
        .collect()
}

/// Spreads `bytes` over buffers, as far as both go.
pub(super) fn scatter(machine: &mut Machine, buffers: &[Buffer], bytes: &[u8]) {
    let mut rest = bytes;
    for buffer in buffers {
        let (now, later) = rest.split_at(rest.len().min(buffer.bytes as usize));
        machine.put(buffer.at, now);
        rest = later;
    }
}

/// A ring of up to 256 entries at `base` with descriptors and heads that nobody arranged, some of which nearly make sense.
pub(super) fn broken_ring(random: &mut Random, machine: &mut Machine, base: u64) -> Ring {
    let mut ring = Ring::new(base, random.of(&[1, 16, 128, 256, 256, 256]));
    let outside = machine.ram.len() as u64;
    for index in 0..128 {
        let at = match random.below(64) {
            0 => random.next(),
            1 => u64::MAX - random.below(0x2000),
            2 => outside - random.below(0x1000),
            // Into the rings themselves.
            3 => base + random.below(0x3000),
            _ => random.below(outside / 2) & !15,
        };
        let bytes = match random.below(64) {
            0 => random.next() as u32,
            1 => random.below(0x1000) as u32,
            _ => random.of(&[16, 16, 1, 512]),
        };
        // Mostly two buffers to read, then two to write.
        let mut flags = random.of(&[NEXT, NEXT, NEXT, 0]);
        if (index % 4 >= 2) != random.one_in(32) {
            flags |= WRITE;
        }
        if random.one_in(32) {
            flags |= random.next() as u16;
        }
        let wild = random.below(300) as u16;
        let next = if random.one_in(32) { wild } else { index + 1 };
        ring.describe(machine, index, (at, bytes, flags, next));
    }
    for _ in 0..random.below(4) {
        ring.offer(machine, random.below(129) as u16);
    }
    if random.one_in(16) {
        machine.put_u16(ring.driver + 2, random.next() as u16);
    }
    ring
}
