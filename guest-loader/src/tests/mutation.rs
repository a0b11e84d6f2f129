//! A million damaged images for each parser: none panics, and whatever is accepted loads without one or is refused.

use core::fmt::{self, Write};

use bulkhead_core::addr::Gpa;

use super::support::{MIB, bzimage, pvh_kernel};
use crate::{
    BzImage, GuestMemory, KernelFormat, LoadRequest, MemoryLayout, OutOfRange, PlatformDescription,
    PvhKernel, flatten_elf,
};

const IMAGES: u32 = 1_000_000;
/// Of the accepted images, one in this many is loaded as well.
const LOAD_EVERY: u32 = 256;
/// Values at which arithmetic tends to go wrong.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Memory that checks every write and keeps none.
struct Sink(MemoryLayout);

impl GuestMemory for Sink {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        let len = bytes.len() as u64;
        let inside = gpa
            .checked_add(len)
            .is_some_and(|end| end <= self.0.low_ram().end);
        if inside {
            Ok(())
        } else {
            Err(OutOfRange { gpa, len })
        }
    }
}

/// Where error texts go: they must not panic either.
struct Void;

impl Write for Void {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

/// Xorshift64: deterministic, so that a failing image can be made again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Damages `image`: one to four bit flips, byte changes or edge values, most of them within `hot`, and sometimes a cut.
/// Returns the damaged length.
fn damage(image: &mut [u8], hot: core::ops::Range<usize>, random: &mut Random) -> usize {
    for _ in 0..=random.below(4) {
        let at = if random.below(8) == 0 {
            random.below(image.len())
        } else {
            hot.start + random.below(hot.len())
        };
        match random.below(3) {
            0 => image[at] ^= 1 << random.below(8),
            1 => image[at] = random.next() as u8,
            _ => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = (1 << random.below(4)).min(image.len() - at);
                image[at..at + width].copy_from_slice(&edge[..width]);
            }
        }
    }
    if random.below(8) == 0 {
        random.below(image.len() + 1)
    } else {
        image.len()
    }
}

/// Feeds [`IMAGES`] damaged copies of `original` to `parse`; returns how many it accepted.
fn drive(
    original: &[u8],
    hot: core::ops::Range<usize>,
    format: KernelFormat,
    mut parse: impl FnMut(&[u8]) -> bool,
) -> u32 {
    let layout = MemoryLayout::new(64 * MIB).unwrap();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut image = original.to_vec();
    let mut accepted = 0;
    for _ in 0..IMAGES {
        image.copy_from_slice(original);
        let len = damage(&mut image, hot.clone(), &mut random);
        if !parse(&image[..len]) {
            continue;
        }
        accepted += 1;
        if accepted % LOAD_EVERY == 0 {
            let request = LoadRequest {
                kernel: &image[..len],
                format,
                initrd: Some(&[1; 5000]),
                cmdline: "a",
                memory: &layout,
                platform: &PlatformDescription {
                    vcpu_apic_ids: &[0],
                    device_windows: &[],
                },
            };
            if let Err(error) = crate::load(&request, &mut Sink(layout)) {
                let memory_refused = matches!(error, crate::LoadError::Memory(_));
                assert!(!memory_refused, "the loader wrote outside RAM: {error}");
            }
        }
    }
    accepted
}

fn discard(error: &impl fmt::Display) {
    write!(Void, "{error}").unwrap();
}

#[test]
fn a_million_damaged_bzimages_cause_no_panic() {
    let original = bzimage(0x400);
    let accepted =
        drive(
            &original,
            0x1f1..0x270,
            KernelFormat::BzImage,
            |image| match BzImage::parse(image) {
                Ok(_) => true,
                Err(error) => {
                    discard(&error);
                    false
                }
            },
        );
    assert!(
        accepted > IMAGES / 100 && accepted < IMAGES,
        "{accepted} accepted"
    );
}

#[test]
fn a_million_damaged_elf_images_cause_no_panic() {
    let original = pvh_kernel();
    let headers = 0..64 + 3 * 56;
    let accepted = drive(&original, headers, KernelFormat::Elf, |image| {
        // What the flat format makes of it may be anything but a panic.
        let _ = flatten_elf(image, 4096);
        match PvhKernel::parse(image) {
            Ok(_) => true,
            Err(error) => {
                discard(&error);
                false
            }
        }
    });
    assert!(
        accepted > IMAGES / 100 && accepted < IMAGES,
        "{accepted} accepted"
    );
}
