//! A million hostile chains: whatever rings and descriptors hold, and however they change while they are read, no copy
//! leaves the buffers that a descriptor named, and nothing panics.

use super::*;
use crate::device::virtio::testing::Access;
use crate::testing::Random;

const CHAINS: u32 = 1_000_000;
const RAM: u64 = 0x1_0000;
const RING: u64 = 0x1000;

/// Numbers around which decisions turn, and any others.
fn wild(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => u64::MAX - random.below(64),
        2 => RAM.wrapping_sub(random.below(64)),
        3 => RAM + random.below(64),
        4 => 1 << random.below(64),
        _ => random.below(RAM),
    }
}

fn length(random: &mut Random) -> u32 {
    match random.below(8) {
        0 => random.next() as u32,
        1 => MAX_CHAIN_BYTES - random.below(2) as u32,
        2 => 0,
        3 => 16 * random.below(8) as u32,
        _ => random.below(300) as u32,
    }
}

/// A descriptor, mostly of a kind that leads somewhere.
fn descriptor(random: &mut Random) -> (u64, u32, u16, u16) {
    let flags = match random.below(16) {
        0 => random.next() as u16,
        1 => 4,
        2..=5 => 3,
        6..=9 => 1,
        10..=12 => 2,
        _ => 0,
    };
    let next = if random.one_in(16) {
        random.next() as u16
    } else {
        random.below(16) as u16
    };
    (wild(random), length(random), flags, next)
}

/// A descriptor as the device saw it.
#[derive(Debug)]
struct Seen {
    at: u64,
    bytes: u64,
    write: bool,
}

/// The descriptors among what was read to collect a chain.
fn seen(accesses: &[Access]) -> Vec<Seen> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    accesses
        .iter()
        .filter(|access| !access.write && access.bytes.len() == 16)
        .map(|access| Seen {
            at: number(&access.bytes[..8]),
            bytes: number(&access.bytes[8..12]),
            write: access.bytes[12] & 2 != 0,
        })
        .collect()
}

/// Whether an access is within a buffer that allows it.
fn allowed(access: &Access, seen: &[Seen]) -> bool {
    let inside = |one: &&Seen| {
        one.write == access.write
            && access.at >= one.at
            && access.at + access.bytes.len() as u64 <= one.at.saturating_add(one.bytes)
    };
    seen.iter().any(|one| inside(&one))
}

/// Whether an access is to the rings of a queue, or reads a descriptor.
fn is_ring_access(access: &Access, ring: &Ring) -> bool {
    let within = |start: u64, bytes: u64| {
        access.at >= start && access.at + access.bytes.len() as u64 <= start + bytes
    };
    let size = u64::from(ring.size);
    if access.write {
        within(ring.device, 8 * size + 6)
    } else {
        access.bytes.len() == 16 || within(ring.driver, 2 * size + 6)
    }
}

/// Uses a chain in every way a device does, and checks each access.
fn use_chain(machine: &mut Machine, random: &mut Random, chain: &Chain, seen: &[Seen]) {
    let mut bytes = [0; 512];
    for _ in 0..3 {
        let count = random.below(512) as usize;
        let offset = match random.below(3) {
            0 => random.next() as u32,
            _ => random.below(600) as u32,
        };
        let end = u64::from(offset) + count as u64;
        machine.accesses = Some(Vec::new());
        let (result, there) = if random.one_in(2) {
            let result = chain.read(machine, offset, &mut bytes[..count]);
            (result, chain.readable_len())
        } else {
            let result = chain.write(machine, offset, &bytes[..count]);
            (result, chain.writable_len())
        };
        let accesses = machine.accesses.take().unwrap();
        if end > u64::from(there) {
            assert_eq!(result, Err(QueueError::TooShort));
            assert!(accesses.is_empty());
        }
        if result.is_ok() {
            let moved: usize = accesses.iter().map(|access| access.bytes.len()).sum();
            assert_eq!(moved, count);
        }
        for access in &accesses {
            assert!(allowed(access, seen), "{:#x} {seen:x?}", access.at);
        }
    }
}

#[test]
fn a_million_hostile_chains_reach_nothing_but_their_buffers() {
    let mut random = Random(0x005e_ed0f_c4a1_4502);
    let mut machine = Machine::new(RAM as usize);
    let ring = Ring::new(RING, 16);
    let features = Features::VERSION_1 | Features::INDIRECT;
    let mut queue = ring.queue(features);
    let (mut sound, mut broken) = (0_u32, 0_u32);
    for round in 0..CHAINS {
        if queue.failed || random.one_in(64) {
            let extra = random.of(&[Features::empty(), Features::EVENT_INDEX]);
            queue = ring.queue(features | extra);
            machine.put_u16(ring.driver + 2, 0);
        }
        queue.grant();
        for _ in 0..random.below(6) {
            let index = random.below(16) as u16;
            ring.describe(&mut machine, index, descriptor(&mut random));
        }
        // A table somewhere, for the chains that go there.
        let table = random.below(RAM - 0x1000);
        if random.one_in(3) {
            for index in 0..4 {
                Ring::describe_in(&mut machine, table, index, descriptor(&mut random));
            }
            let bytes = random.of(&[64, 48, 16, 4096]);
            ring.describe(&mut machine, random.below(16) as u16, (table, bytes, 4, 0));
        }
        let head = if random.one_in(50) {
            random.next() as u16
        } else {
            random.below(16) as u16
        };
        machine.put_u16(ring.driver + 4 + 2 * u64::from(queue.next & 15), head);
        let ahead = if random.one_in(50) {
            random.next() as u16
        } else {
            1
        };
        machine.put_u16(ring.driver + 2, queue.next.wrapping_add(ahead));
        if round % 4 == 0 {
            let mut other = Random(random.next() | 1);
            machine.meddle = Some(Box::new(move |ram: &mut [u8]| {
                let at = RING + other.below(16 * 16 + 0x40);
                ram[at as usize] = other.next() as u8;
            }));
        }
        machine.accesses = Some(Vec::new());
        let popped = queue.pop(&mut machine);
        let accesses = machine.accesses.take().unwrap();
        machine.meddle = None;
        assert!(accesses.len() <= 2 * MAX_SEGMENTS + 8);
        for access in &accesses {
            assert!(is_ring_access(access, &ring), "{access:x?}");
        }
        match popped {
            Ok(Some(chain)) => {
                sound += 1;
                use_chain(&mut machine, &mut random, &chain, &seen(&accesses));
                machine.accesses = Some(Vec::new());
                let written = random.next() as u32;
                queue.complete(&mut machine, chain.head(), written).unwrap();
                let _ = queue.should_interrupt(&mut machine).unwrap();
                for access in &machine.accesses.take().unwrap() {
                    assert!(is_ring_access(access, &ring), "{access:x?}");
                }
            }
            Ok(None) => {}
            Err(_) => broken += 1,
        }
    }
    assert!(sound > CHAINS / 10, "{sound} sound");
    assert!(broken > CHAINS / 10, "{broken} broken");
}
