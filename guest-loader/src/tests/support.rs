//! What the tests load into and load with: [`TestMemory`], [`Guest`], image builders.

use bulkhead_core::addr::Gpa;
use core::num::NonZeroUsize;

use crate::field::Fields;
use crate::memory::{E820Kind, GpaRange};
use crate::{
    EntryState, GuestMemory, KernelFormat, LoadError, LoadRequest, MemoryLayout, OutOfRange,
    PlatformDescription,
};

pub(super) const MIB: u64 = 1 << 20;
/// No image is a multiple of it.
const PIECE: NonZeroUsize = NonZeroUsize::new(1021).unwrap();

/// RAM that remembers what was written where.
pub(super) struct TestMemory {
    bytes: Vec<u8>,
    pub(super) writes: Vec<GpaRange>,
}

impl TestMemory {
    pub(super) fn new(size: u64) -> Self {
        Self {
            bytes: vec![0; size as usize],
            writes: Vec::new(),
        }
    }

    pub(super) fn at(&self, gpa: u64) -> &[u8] {
        &self.bytes[gpa as usize..]
    }

    pub(super) fn u64(&self, gpa: u64) -> u64 {
        self.at(gpa).u64(0).unwrap()
    }

    pub(super) fn u32(&self, gpa: u64) -> u32 {
        self.at(gpa).u32(0).unwrap()
    }

    pub(super) fn u8(&self, gpa: u64) -> u8 {
        self.at(gpa)[0]
    }

    /// No byte was written twice, and every byte lies where the memory map says RAM or ACPI tables, or in the reserved
    /// legacy hole.
    pub(super) fn assert_disjoint(&self, layout: &MemoryLayout) {
        let mut writes: Vec<_> = self
            .writes
            .iter()
            .filter(|range| !range.is_empty())
            .collect();
        writes.sort_by_key(|range| range.start);
        for pair in writes.windows(2) {
            assert!(
                pair[0].end <= pair[1].start,
                "{} and {} overlap",
                pair[0],
                pair[1]
            );
        }
        let map = layout.e820();
        let hole = GpaRange {
            start: Gpa(0xa_0000),
            end: Gpa(0x10_0000),
        };
        for write in writes {
            let backed = map
                .iter()
                .any(|entry| entry.kind != E820Kind::Reserved && entry.range.contains(write));
            assert!(backed || hole.contains(write), "{write} is not RAM");
        }
    }
}

impl GuestMemory for TestMemory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        let len = bytes.len() as u64;
        let range = GpaRange::new(gpa, len).ok_or(OutOfRange { gpa, len })?;
        let place = self
            .bytes
            .get_mut(range.start.0 as usize..range.end.0 as usize);
        place.ok_or(OutOfRange { gpa, len })?.copy_from_slice(bytes);
        self.writes.push(range);
        Ok(())
    }
}

/// A load request with everything but the kernel filled in.
pub(super) struct Guest<'a> {
    pub(super) memory: u64,
    pub(super) format: KernelFormat,
    pub(super) initrd: Option<&'a [u8]>,
    pub(super) cmdline: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            memory: 64 * MIB,
            format: KernelFormat::Auto,
            initrd: None,
            cmdline: "console=ttyS0",
        }
    }
}

impl Guest<'_> {
    /// Loads `kernel` and checks what holds for every load.
    pub(super) fn load(&self, kernel: &[u8]) -> Result<(EntryState, TestMemory), LoadError> {
        let layout = MemoryLayout::new(self.memory).unwrap();
        let mut mem = TestMemory::new(self.memory);
        let request = LoadRequest {
            kernel,
            format: self.format,
            initrd: self.initrd,
            cmdline: self.cmdline,
            memory: &layout,
            platform: &PlatformDescription {
                vcpu_apic_ids: &[0],
                device_windows: &[],
            },
        };
        let state = crate::load(&request, &mut mem)?;
        mem.assert_disjoint(&layout);
        let mut again = TestMemory::new(self.memory);
        let mut loading = crate::prepare(&request, &mut again)?;
        let pieces_state = loop {
            if let Some(state) = loading.step(PIECE, &mut again)? {
                break state;
            }
        };
        assert_eq!(pieces_state, state, "loaded piece by piece");
        again.assert_disjoint(&layout);
        assert!(again.bytes == mem.bytes, "loaded piece by piece");
        Ok((state, mem))
    }

    /// The text with which `kernel` is refused.
    pub(super) fn refusal(&self, kernel: &[u8]) -> String {
        match self.load(kernel) {
            Ok((state, _)) => panic!("loaded: {state:?}"),
            Err(error) => error.to_string(),
        }
    }
}

/// Overwrites bytes of an image.
pub(super) fn patch(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage with boot protocol 2.15, 4 setup sectors and a kernel of `payload_len` bytes (a multiple of 16) that count up.
pub(super) fn bzimage(payload_len: usize) -> Vec<u8> {
    let setup_sectors: u8 = 4;
    let payload_start = (usize::from(setup_sectors) + 1) * 512;
    let mut image = vec![0; payload_start + payload_len];
    patch(&mut image, 0x1f1, &[setup_sectors]);
    patch(&mut image, 0x1f4, &(payload_len as u32 / 16).to_le_bytes());
    patch(&mut image, 0x1fe, &0xaa55_u16.to_le_bytes());
    // The header ends at 0x26c.
    patch(&mut image, 0x200, &[0xeb, 0x6a]);
    patch(&mut image, 0x202, b"HdrS");
    patch(&mut image, 0x206, &0x020f_u16.to_le_bytes());
    patch(&mut image, 0x211, &[1]);
    patch(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    patch(&mut image, 0x230, &(2 * MIB as u32).to_le_bytes());
    patch(&mut image, 0x234, &[1]);
    patch(&mut image, 0x236, &0b11_u16.to_le_bytes());
    patch(&mut image, 0x238, &2047_u32.to_le_bytes());
    patch(&mut image, 0x258, &(16 * MIB).to_le_bytes());
    patch(&mut image, 0x260, &(8 * MIB as u32).to_le_bytes());
    for (byte, n) in image[payload_start..].iter_mut().zip(0_usize..) {
        *byte = n as u8;
    }
    image
}

/// One program header of an ELF image to build.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) address: u64,
    pub(super) data: Vec<u8>,
    pub(super) memory_len: u64,
}

impl Segment {
    pub(super) fn load(address: u64, data: &[u8], memory_len: u64) -> Self {
        Self {
            kind: 1,
            address,
            data: data.to_vec(),
            memory_len,
        }
    }

    /// A PT_NOTE segment with a PVH entry note whose value is `entry`.
    pub(super) fn pvh_note(entry: &[u8]) -> Self {
        let mut data = Vec::new();
        for word in [4, entry.len() as u32, 18] {
            data.extend(word.to_le_bytes());
        }
        data.extend(b"Xen\0");
        data.extend(entry);
        Self {
            kind: 4,
            address: 0,
            memory_len: data.len() as u64,
            data,
        }
    }
}

/// An ELF64 executable for x86-64 without sections.
pub(super) fn elf64(segments: &[Segment]) -> Vec<u8> {
    let headers_len = 64 + 56 * segments.len();
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    for half in [2_u16, 62] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1_u32.to_le_bytes());
    for xword in [0_u64, 64, 0] {
        image.extend(xword.to_le_bytes());
    }
    image.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let mut offset = headers_len as u64;
    for segment in segments {
        image.extend(segment.kind.to_le_bytes());
        image.extend(7_u32.to_le_bytes());
        let file_len = segment.data.len() as u64;
        for xword in [
            offset,
            segment.address,
            segment.address,
            file_len,
            segment.memory_len,
            4,
        ] {
            image.extend(xword.to_le_bytes());
        }
        offset += file_len;
    }
    for segment in segments {
        image.extend(&segment.data);
    }
    image
}

/// A PVH kernel at 16 MiB: a segment with zeroed memory behind it, a second segment, and the note.
pub(super) fn pvh_kernel() -> Vec<u8> {
    elf64(&[
        Segment::load(16 * MIB, &[0x90; 0x300], 0x5000),
        Segment::load(17 * MIB, &[0xcc; 0x123], 0x123),
        Segment::pvh_note(&0x0100_0010_u32.to_le_bytes()),
    ])
}
