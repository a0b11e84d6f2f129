//! Copy-on-write against a plain vector.

use super::*;
use crate::device::virtio::blk::{Disk, DiskError, SECTOR_BYTES};
use crate::testing::Random;

/// Image and overlay as vectors; an access outside of them panics.
struct Vectors {
    image: Vec<u8>,
    overlay: Vec<[u8; BLOCK_BYTES]>,
    /// Accesses that still succeed.
    good: u32,
}

/// Overlay blocks in use, and how many there are.
fn overlay_use(map: &BlockMap) -> (u32, u32) {
    (map.used, map.overlay_blocks)
}

impl Vectors {
    fn new(image: Vec<u8>, overlay_blocks: usize) -> Self {
        Self {
            image,
            // What an earlier tenant of the memory would have left.
            overlay: vec![[0xdd; BLOCK_BYTES]; overlay_blocks],
            good: u32::MAX,
        }
    }

    fn succeeds(&mut self) -> bool {
        let succeeds = self.good != 0;
        self.good = self.good.saturating_sub(1);
        succeeds
    }
}

impl Storage for Vectors {
    fn read_image(&mut self, offset: u64, bytes: &mut [u8]) -> bool {
        bytes.copy_from_slice(&self.image[offset as usize..][..bytes.len()]);
        self.succeeds()
    }

    fn read_overlay(&mut self, block: u32, offset: usize, bytes: &mut [u8]) -> bool {
        bytes.copy_from_slice(&self.overlay[block as usize][offset..][..bytes.len()]);
        self.succeeds()
    }

    fn write_overlay(&mut self, block: u32, offset: usize, bytes: &[u8]) -> bool {
        self.overlay[block as usize][offset..][..bytes.len()].copy_from_slice(bytes);
        self.succeeds()
    }
}

fn image(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i / 7) as u8 | 1).collect()
}

fn disk(image_bytes: usize, overlay_blocks: u32) -> CowDisk<Vectors> {
    let map = BlockMap::new(image_bytes as u64, overlay_blocks).unwrap();
    let storage = Vectors::new(image(image_bytes), overlay_blocks as usize);
    CowDisk::new(map, storage)
}

fn contents(disk: &mut impl Disk) -> Vec<u8> {
    let mut bytes = vec![0xcc; disk.sectors() as usize * SECTOR_BYTES];
    disk.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn first_write_takes_the_next_free_block() {
    let mut map = BlockMap::new(10 * 4096, 2).unwrap();
    let part = ImagePart {
        offset: 7 * 4096,
        bytes: 4096,
    };
    assert_eq!(map.place(7), Ok(Place::Image(part)));
    let claim = map.claim(7).unwrap();
    assert_eq!(claim.overlay_block(), 0);
    claim.commit();
    map.claim(3).unwrap().commit();
    assert_eq!(map.place(7), Ok(Place::Overlay(0)));
    assert_eq!(map.place(3), Ok(Place::Overlay(1)));
    assert_eq!(overlay_use(&map), (2, 2));
    assert_eq!(map.claim(4).unwrap_err(), CowError::Full);
    map.reset();
    assert_eq!(map.place(7), Ok(Place::Image(part)));
    assert_eq!(overlay_use(&map), (0, 2));
}

#[test]
fn claim_that_is_dropped_changes_nothing() {
    let mut map = BlockMap::new(4096, 1).unwrap();
    drop(map.claim(0).unwrap());
    assert!(matches!(map.place(0), Ok(Place::Image(_))));
    map.claim(0).unwrap().commit();
    assert_eq!(overlay_use(&map), (1, 1));
}

#[test]
fn blocks_beyond_the_end_have_no_place() {
    let mut map = BlockMap::new(4097, 9).unwrap();
    assert_eq!(map.blocks(), 2);
    let part = ImagePart {
        offset: 4096,
        bytes: 1,
    };
    assert_eq!(map.place(1), Ok(Place::Image(part)));
    for block in [2, u64::MAX, 1 << 32] {
        assert_eq!(map.place(block), Err(CowError::NoBlock(block)));
        assert_eq!(map.claim(block).unwrap_err(), CowError::NoBlock(block));
    }
    assert_eq!(
        BlockMap::new(u64::MAX, 1).unwrap_err(),
        CowError::NoMemory(u64::MAX)
    );
}

#[test]
fn tail_of_an_odd_image_reads_zero() {
    for bytes in [1, 511, 512, 513, 4095, 4096, 4097, 9000] {
        let mut disk = disk(bytes, 4);
        assert_eq!(disk.sectors(), (bytes as u64).div_ceil(512));
        let mut expected = image(bytes);
        expected.resize(disk.sectors() as usize * SECTOR_BYTES, 0);
        assert_eq!(contents(&mut disk), expected);
        let last = disk.sectors() - 1;
        disk.write(last, &[0xab; SECTOR_BYTES]).unwrap();
        let at = last as usize * SECTOR_BYTES;
        expected[at..].fill(0xab);
        assert_eq!(contents(&mut disk), expected);
    }
    assert_eq!(disk(0, 4).sectors(), 0);
}

#[test]
fn full_overlay_fails_the_write_and_changes_nothing() {
    let mut disk = disk(8 * 4096, 2);
    disk.write(0, &[1; 4096]).unwrap();
    disk.write(8, &[2; 512]).unwrap();
    let before = contents(&mut disk);
    assert_eq!(disk.write(16, &[3; 512]), Err(DiskError::Full));
    assert_eq!(disk.write(63, &[3; 512]), Err(DiskError::Full));
    assert_eq!(contents(&mut disk), before);
    // Blocks that are in the overlay can still be written.
    disk.write(9, &[4; 512]).unwrap();
    disk.forget_writes();
    assert_eq!(contents(&mut disk), image(8 * 4096));
    disk.write(16, &[3; 512]).unwrap();
    assert_eq!(overlay_use(disk.map()), (1, 2));
}

#[test]
fn failed_copy_leaves_the_block_in_the_image() {
    for good in 0..2 {
        let mut disk = disk(4096, 1);
        disk.storage.good = good;
        assert_eq!(disk.write(1, &[9; 512]), Err(DiskError::Storage));
        disk.storage.good = u32::MAX;
        assert_eq!(contents(&mut disk), image(4096));
        assert_eq!(overlay_use(disk.map()), (0, 1));
    }
}

#[test]
fn nothing_of_the_guests_stays_in_the_disk_whether_it_could_be_written_or_not() {
    for good in [1, u32::MAX] {
        let mut disk = disk(4096, 1);
        disk.storage.good = good;
        assert_eq!(disk.write(1, &[9; 512]).is_ok(), good > 1);
        assert!(disk.block.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn read_only_disk_refuses_writes() {
    let storage = Vectors::new(image(4096), 0);
    let mut disk = CowDisk::read_only(4096, storage).unwrap();
    assert!(Disk::read_only(&disk));
    assert_eq!(disk.write(0, &[0; 512]), Err(DiskError::ReadOnly));
    assert_eq!(contents(&mut disk), image(4096));
    assert_eq!(disk.flush(), Ok(()));
}

#[test]
fn ranges_off_the_disk_are_refused() {
    let mut disk = disk(5000, 4);
    for (sector, bytes) in [(10, 512), (9, 1024), (u64::MAX, 512), (0, 100), (0, 513)] {
        let mut buffer = vec![0x77; bytes];
        assert_eq!(disk.read(sector, &mut buffer), Err(DiskError::OutOfRange));
        assert_eq!(disk.write(sector, &buffer), Err(DiskError::OutOfRange));
        assert_eq!(buffer, vec![0x77; bytes]);
    }
    assert_eq!(overlay_use(disk.map()), (0, 4));
}

#[test]
fn million_operations_match_a_vector() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut reads, mut writes, mut full) = (0_u32, 0_u32, 0_u32);
    for bytes in [40 * 4096, 40 * 4096 - 100, 39 * 4096 + 513, 4096 * 39 + 1] {
        const OVERLAY: u32 = 24;
        let mut disk = disk(bytes, OVERLAY);
        let sectors = disk.sectors();
        let mut fresh = image(bytes);
        fresh.resize(sectors as usize * SECTOR_BYTES, 0);
        let mut model = fresh.clone();
        let mut buffer = vec![0; 12 * SECTOR_BYTES];
        for step in 0..250_000_u32 {
            let sector = random.below(sectors);
            let count = (1 + random.below(12)).min(sectors - sector);
            let length = count as usize * SECTOR_BYTES;
            let at = sector as usize * SECTOR_BYTES;
            let buffer = &mut buffer[..length];
            if random.one_in(3_000) {
                disk.forget_writes();
                model.copy_from_slice(&fresh);
            } else if random.one_in(2) {
                disk.read(sector, buffer).unwrap();
                assert!(buffer == &model[at..][..length], "read {step}");
                reads += 1;
            } else {
                buffer.fill(step as u8);
                buffer[..4].copy_from_slice(&step.to_le_bytes());
                match disk.write(sector, buffer) {
                    Ok(()) => {
                        model[at..][..length].copy_from_slice(buffer);
                        writes += 1;
                    }
                    Err(error) => {
                        assert_eq!(error, DiskError::Full);
                        assert_eq!(overlay_use(disk.map()), (OVERLAY, OVERLAY));
                        full += 1;
                        // Whole blocks before the one that did not fit were written.
                        let (done, kept) = written_before_full(&disk, sector, count);
                        let (done, kept) = (done * SECTOR_BYTES, kept * SECTOR_BYTES);
                        model[at..][..done].copy_from_slice(&buffer[..done]);
                        let mut rest = vec![0; kept];
                        disk.read(sector + (done / SECTOR_BYTES) as u64, &mut rest)
                            .unwrap();
                        assert!(rest == model[at + done..][..kept]);
                    }
                }
            }
        }
        assert!(contents(&mut disk) == model);
        assert!(disk.storage.image == image(bytes), "the image stays");
    }
    assert!(reads > 400_000 && writes > 100_000 && full > 10_000);
}

/// Of a write that found the overlay full: sectors that it reached, and those behind them.
fn written_before_full(disk: &CowDisk<Vectors>, sector: u64, count: u64) -> (usize, usize) {
    let done = (0..count)
        .take_while(|i| {
            let block = (sector + i) / 8;
            matches!(disk.map().place(block), Ok(Place::Overlay(_)))
        })
        .count();
    (done, count as usize - done)
}
