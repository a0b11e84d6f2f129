//! Requests by name, then hundreds of thousands that nobody arranged, against a disk that is a vector.

use std::sync::{Arc, Mutex};

use super::super::Features;
use super::super::buffers::{Buffer, broken_ring, gather, offer, scatter, split};
use super::super::testing::{Machine, Ring};
use super::*;
use crate::testing::Random;

const DATA: u64 = 0x4000;
const RAM: usize = 0x14000;
/// Where the buffers of requests that nobody arranged are.
const WINDOW: std::ops::Range<usize> = DATA as usize..DATA as usize + 0x4000;

/// A vector that the test can look at while the device has it.
#[derive(Clone)]
struct Vector {
    bytes: Arc<Mutex<Vec<u8>>>,
    read_only: bool,
    /// From this sector on, everything fails.
    broken_from: u64,
}

impl Vector {
    fn new(sectors: usize) -> Self {
        let bytes = (0..sectors * SECTOR_BYTES).map(|i| (i / 3) as u8).collect();
        Self {
            bytes: Arc::new(Mutex::new(bytes)),
            read_only: false,
            broken_from: u64::MAX,
        }
    }

    fn contents(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn touch(
        &self,
        sector: u64,
        bytes: usize,
        act: impl FnOnce(&mut [u8]),
    ) -> Result<(), DiskError> {
        assert!(bytes.is_multiple_of(SECTOR_BYTES), "half a sector");
        if sector + (bytes / SECTOR_BYTES) as u64 > self.broken_from {
            return Err(DiskError::Storage);
        }
        let mut disk = self.bytes.lock().unwrap();
        // The device has checked: anything beyond the end is its fault.
        act(&mut disk[sector as usize * SECTOR_BYTES..][..bytes]);
        Ok(())
    }
}

impl Disk for Vector {
    fn sectors(&self) -> u64 {
        (self.bytes.lock().unwrap().len() / SECTOR_BYTES) as u64
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.touch(sector, bytes.len(), |disk| bytes.copy_from_slice(disk))
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        assert!(!self.read_only);
        self.touch(sector, bytes.len(), |disk| disk.copy_from_slice(bytes))
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn read_only(&self) -> bool {
        self.read_only
    }
}

struct Bench {
    guest: Machine,
    ring: Ring,
    queues: [Queue; 1],
    block: Block,
}

impl Bench {
    fn new(disk: &Vector) -> Self {
        let ring = Ring::new(0, QUEUE_SIZE);
        Self {
            guest: Machine::new(RAM),
            queues: [ring.queue(Features::VERSION_1)],
            ring,
            block: Block::new(Box::new(disk.clone()), "bulkhead-disk-0-and-more"),
        }
    }

    /// Puts the request's header in memory, runs the chain and gives the used length.
    fn run(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> Result<u32, QueueError> {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let readable = buffers.partition_point(|buffer| !buffer.writable);
        scatter(&mut self.guest, &buffers[..readable], &header);
        offer(&mut self.ring, &mut self.guest, 0, buffers);
        self.queues[0].grant();
        let effect = self.block.notify(0, &mut self.queues, &mut self.guest)?;
        assert_eq!(effect, Effect::Nothing);
        let (head, written) = self.ring.used(&self.guest).unwrap();
        assert_eq!(head, 0);
        assert_eq!(self.ring.used(&self.guest), None);
        let left = self.block.piece.iter().filter(|byte| **byte != 0).count();
        assert_eq!(left, 0, "bytes of a request's data stay in the device");
        Ok(written)
    }

    /// Status of a request with one data buffer at [`DATA`], or none.
    fn simple(&mut self, kind: u32, sector: u64, bytes: u32, writable: bool) -> u8 {
        let status = DATA - 1;
        self.guest.put(status, &[0xee]);
        let all = [
            buffer(DATA - 0x100, 16, false),
            buffer(DATA, bytes, writable),
            buffer(status, 1, true),
        ];
        let chain: Vec<_> = all.into_iter().filter(|buffer| buffer.bytes != 0).collect();
        self.run(kind, sector, &chain).unwrap();
        self.guest.bytes(status, 1)[0]
    }
}

fn buffer(at: u64, bytes: u32, writable: bool) -> Buffer {
    Buffer {
        at,
        bytes,
        writable,
    }
}

#[test]
fn what_was_written_is_read_back() {
    let disk = Vector::new(64);
    let mut bench = Bench::new(&disk);
    let data: Vec<u8> = (0..8192).map(|i| (i % 251) as u8).collect();
    bench.guest.put(DATA, &data);
    assert_eq!(bench.simple(1, 7, 8192, false), 0);
    bench.guest.put(DATA, &[0; 8192]);
    assert_eq!(bench.simple(0, 7, 8192, true), 0);
    assert_eq!(bench.guest.bytes(DATA, 8192), data);
    assert_eq!(bench.simple(4, 0, 0, false), 0);
    let counters = bench.block.counters();
    assert_eq!(
        (counters.reads, counters.writes, counters.flushes),
        (1, 1, 1)
    );
    assert_eq!((counters.bytes_read, counters.bytes_written), (8192, 8192));
}

#[test]
fn requests_beyond_the_end_move_nothing() {
    let disk = Vector::new(64);
    let before = disk.contents();
    let mut bench = Bench::new(&disk);
    for (sector, bytes) in [
        (64, 512),
        (63, 1024),
        (0, 65 * 512),
        (u64::MAX, 512),
        (u64::MAX - 1, 1024),
        (u64::MAX / 512, 512),
        (0, 511),
        (0, 513),
    ] {
        for (kind, writable) in [(0, true), (1, false)] {
            bench.guest.put(DATA, &[0xaa; 40_000]);
            assert_eq!(bench.simple(kind, sector, bytes, writable), 1);
            assert_eq!(bench.guest.bytes(DATA, 40_000), [0xaa; 40_000]);
        }
    }
    assert_eq!(disk.contents(), before);
    assert_eq!(bench.block.counters().failed, 16);
}

#[test]
fn request_larger_than_announced_moves_nothing() {
    let mut bench = Bench::new(&Vector::new(8192));
    assert_eq!(bench.simple(0, 0, MAX_REQUEST_BYTES + 512, true), 1);
    assert_eq!(bench.simple(1, 0, MAX_REQUEST_BYTES + 512, false), 1);
    // The largest one is tried, and meets the end of the guest's memory.
    let chain = [
        buffer(DATA - 0x100, 16, false),
        buffer(DATA, MAX_REQUEST_BYTES, true),
        buffer(DATA - 1, 1, true),
    ];
    assert!(matches!(
        bench.run(0, 0, &chain),
        Err(QueueError::OutsideMemory(_))
    ));
}

#[test]
fn read_only_disk_says_so_and_refuses_writes() {
    let mut disk = Vector::new(8);
    disk.read_only = true;
    let mut bench = Bench::new(&disk);
    assert_ne!(bench.block.features() & 1 << 5, 0);
    assert_eq!(bench.simple(1, 0, 512, false), 1);
    assert_eq!(bench.simple(0, 0, 512, true), 0);
    assert_eq!(
        Block::new(Box::new(Vector::new(1)), "").features() & 1 << 5,
        0
    );
}

#[test]
fn other_requests_are_unsupported() {
    let mut bench = Bench::new(&Vector::new(8));
    for kind in [2, 3, 5, 6, 7, 9, 11, 13, 0x8000_0000, u32::MAX] {
        assert_eq!(bench.simple(kind, 0, 512, true), 2, "{kind}");
        assert_eq!(bench.simple(kind, 0, 512, false), 2, "{kind}");
    }
}

#[test]
fn name_is_twenty_bytes() {
    let mut bench = Bench::new(&Vector::new(8));
    assert_eq!(bench.simple(8, 0, 20, true), 0);
    assert_eq!(bench.guest.bytes(DATA, 20), b"bulkhead-disk-0-and-");
    for wrong in [0, 19, 21] {
        assert_eq!(bench.simple(8, 0, wrong, true), 1, "{wrong}");
    }
}

#[test]
fn storage_that_fails_is_an_error_of_the_request_alone() {
    let mut disk = Vector::new(64);
    disk.broken_from = 16;
    let mut bench = Bench::new(&disk);
    assert_eq!(bench.simple(0, 8, 16 * 512, true), 1);
    assert_eq!(bench.simple(1, 8, 16 * 512, false), 1);
    assert_eq!(bench.simple(0, 8, 8 * 512, true), 0);
}

#[test]
fn chain_without_room_for_a_status_needs_a_reset() {
    let mut bench = Bench::new(&Vector::new(8));
    let header_only = [buffer(DATA, 16, false)];
    assert_eq!(bench.run(0, 0, &header_only), Err(QueueError::TooShort));
}

#[test]
fn short_header_is_an_error_of_the_request() {
    let mut bench = Bench::new(&Vector::new(8));
    for bytes in 1..16 {
        let chain = [buffer(DATA, bytes, false), buffer(DATA + 99, 1, true)];
        assert_eq!(bench.run(0, 0, &chain), Ok(1));
        assert_eq!(bench.guest.bytes(DATA + 99, 1), [1]);
    }
    assert_eq!(bench.run(0, 0, &[buffer(DATA, 1, true)]), Ok(1));
}

#[test]
fn configuration_holds_capacity_and_limits() {
    let block = Block::new(Box::new(Vector::new(0x1234)), "");
    let mut bytes = [0xff; 32];
    block.read_config(0, &mut bytes);
    assert_eq!(bytes[..8], 0x1234_u64.to_le_bytes());
    assert_eq!(bytes[8..12], 16_384_u32.to_le_bytes());
    assert_eq!(bytes[12..16], 62_u32.to_le_bytes());
    assert_eq!(bytes[20..24], 512_u32.to_le_bytes());
    assert_eq!(bytes[24..], [0xff; 8], "beyond the end nothing is touched");
    let mut byte = [0];
    block.read_config(1, &mut byte);
    assert_eq!(byte, [0x12]);
    block.read_config(u32::MAX, &mut byte);
    assert_eq!(byte, [0x12]);
}

/// What a request comes to: status, and how much of its buffers was filled.
fn expected(kind: u32, sector: u64, readable: u32, writable: u32, disk: &Vector) -> u8 {
    let (header, to_disk, from_disk) = (readable >= 16, readable.wrapping_sub(16), writable - 1);
    let fits = |bytes: u32| {
        bytes.is_multiple_of(512)
            && u128::from(sector) + u128::from(bytes / 512) <= disk.sectors().into()
    };
    let ok = match kind {
        0 => to_disk == 0 && fits(from_disk),
        1 => from_disk == 0 && fits(to_disk) && !disk.read_only,
        4 => true,
        8 => to_disk == 0 && from_disk == 20,
        _ if header => return 2,
        _ => false,
    };
    u8::from(!(header && ok))
}

#[test]
fn two_hundred_thousand_requests_match_a_vector() {
    const SECTORS: usize = 48;
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut seen = [0_u32; 3];
    for read_only in [false, true] {
        let mut disk = Vector::new(SECTORS);
        disk.read_only = read_only;
        let mut model = disk.contents();
        let mut bench = Bench::new(&disk);
        for step in 0..100_000_u32 {
            let kind = match random.below(16) {
                0..6 => 0,
                6..12 => 1,
                12 => 4,
                13 => 8,
                _ => random.next() as u32,
            };
            let sector = match random.below(12) {
                0 => random.next(),
                1 => u64::MAX - random.below(8),
                _ => random.below(SECTORS as u64 + 4),
            };
            let mut bytes = 512 * random.below(20) as u32;
            if random.one_in(8) {
                bytes = random.below(3000) as u32;
            }
            if kind == 8 && !random.one_in(4) {
                bytes = 20;
            }
            let (mut readable, mut writable) = (16, 1);
            if kind == 1 || random.one_in(30) {
                readable += bytes;
            } else {
                writable += bytes;
            }
            if random.one_in(30) {
                readable = random.below(40) as u32;
            }
            if random.one_in(30) {
                writable += random.below(40) as u32;
            }
            let mut at = DATA + random.below(64);
            let pieces = 1 + random.below(30) as usize;
            let mut chain = split(&mut random, readable, pieces, false, &mut at);
            let count = chain.len();
            chain.extend(split(&mut random, writable, pieces, true, &mut at));
            let fill = step as u8;
            bench.guest.ram[WINDOW].fill(fill);

            let ran = bench.run(kind, sector, &chain);
            let (inputs, outputs) = chain.split_at(count);
            let input = gather(&bench.guest, inputs);
            let output = gather(&bench.guest, outputs);
            let (kind, sector) = match input.get(..16) {
                Some(header) => (
                    u32::from_le_bytes(*header.first_chunk().unwrap()),
                    u64::from_le_bytes(*header.last_chunk().unwrap()),
                ),
                None => (kind, sector),
            };
            let status = expected(kind, sector, readable, writable, &disk);
            seen[usize::from(status)] += 1;
            let (result, data) = output.split_last().unwrap();
            assert_eq!(*result, status, "request {step} of kind {kind}");
            let filled = status == 0 && matches!(kind, 0 | 8) || writable == 1;
            assert_eq!(ran, Ok(if filled { writable } else { 0 }));
            let place = (sector as usize).wrapping_mul(512);
            match (status, kind) {
                (0, 0) => assert_eq!(data, &model[place..][..data.len()]),
                (0, 1) => model[place..][..input.len() - 16].copy_from_slice(&input[16..]),
                (0, 8) => assert_eq!(data, b"bulkhead-disk-0-and-"),
                _ => assert!(data == vec![fill; data.len()]),
            }
            // Nothing between or behind the buffers was touched.
            let mut untouched = bench.guest.ram[WINDOW].to_vec();
            for buffer in &chain {
                untouched[(buffer.at - DATA) as usize..][..buffer.bytes as usize].fill(fill);
            }
            assert!(untouched == [fill; WINDOW.end - WINDOW.start]);
            if step % 64 == 0 {
                assert_eq!(disk.contents(), model);
            }
        }
        assert_eq!(disk.contents(), model);
    }
    assert!(seen.iter().all(|count| *count > 10_000), "{seen:?}");
}

#[test]
fn two_hundred_thousand_broken_rings_harm_nobody() {
    let mut random = Random(0x0bad_5eed_0bad_5eed);
    let disk = Vector::new(48);
    let mut bench = Bench::new(&disk);
    let mut errors = 0;
    for _ in 0..200_000_u32 {
        let at = DATA + 16 * random.below(0x600);
        let sector = random.below(60);
        let header = u128::from(random.below(10)) | u128::from(sector) << 64;
        bench.guest.put(at, &header.to_le_bytes());
        let ring = broken_ring(&mut random, &mut bench.guest, 0);
        bench.queues = [ring.queue(Features::VERSION_1 | Features::INDIRECT)];
        let result = bench.block.notify(0, &mut bench.queues, &mut bench.guest);
        errors += u32::from(result.is_err());
    }
    let counters = bench.block.counters();
    assert!(
        errors > 10_000 && counters.failed > 10_000 && counters.reads + counters.writes > 50,
        "{errors} {counters:?}"
    );
    // The device works once its queue is sound again.
    let mut bench = Bench::new(&disk);
    assert_eq!(bench.simple(0, 0, 4096, true), 0);
}
