//! Payloads made of good ones: flat images, and every way to spoil a kernel that the boot loader has to notice.

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSegment, elf};

use crate::outcome::{Failure, Outcome};

/// Where a flat image is placed.
const FLAT_BASE: u64 = 0x10_0000;
/// No test guest spans more.
const FLAT_MAX: u64 = 16 << 20;
/// `init_size` of Linux' boot protocol, "The Linux/x86 Boot Protocol".
const BZIMAGE_INIT_SIZE: usize = 0x260;
/// `kernel_version`, relative to byte 0x200.
const BZIMAGE_VERSION: usize = 0x20e;

/// The memory image of the executable `elf`, as a flat image from 1 MiB on.
pub fn flat_image(elf: &[u8]) -> Outcome<Vec<u8>> {
    let file = ElfFile64::<Endianness>::parse(elf).map_err(damaged)?;
    let mut image = Vec::new();
    for segment in file.segments() {
        let data = segment.data().map_err(damaged)?;
        let start = segment.address().checked_sub(FLAT_BASE);
        let start = start.filter(|start| *start < FLAT_MAX).ok_or_else(|| {
            Failure::Unmet(format!(
                "a segment at {:#x} has no place in a flat image",
                segment.address()
            ))
        })? as usize;
        let end = start + data.len();
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(data);
    }
    Ok(image)
}

/// `elf` with its note segment turned into a loadable one at the place of the first: two segments share memory.
pub fn overlapping_elf(elf: &[u8]) -> Outcome<Vec<u8>> {
    let header = elf::FileHeader64::<Endianness>::parse(elf).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let programs = header.program_headers(endian, elf).map_err(damaged)?;
    let size = size_of::<elf::ProgramHeader64<Endianness>>();
    let at = |index: usize| header.e_phoff.get(endian) as usize + index * size;
    let of_type = |wanted| {
        programs
            .iter()
            .position(|program| program.p_type(endian) == wanted)
            .map(at)
            .ok_or_else(|| Failure::Unmet("the test guest lacks a segment".to_owned()))
    };
    let (load, note) = (of_type(elf::PT_LOAD)?, of_type(elf::PT_NOTE)?);
    let mut spoilt = elf.to_vec();
    spoilt.copy_within(load..load + size, note);
    Ok(spoilt)
}

/// A file that begins as an ELF file does and goes on at random.
pub fn garbage_elf() -> Vec<u8> {
    let mut bytes = random_bytes(0x9e37_79b9_7f4a_7c15, 64 << 10);
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes
}

/// `length` bytes that look random and are the same in every run with this `seed`, which is not 0. Test guests make the same ones.
pub fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        // Xorshift64* (Marsaglia, "Xorshift RNGs").
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    });
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

/// `bzimage` claiming that it needs 4 GiB to unpack itself.
pub fn absurd_bzimage(bzimage: &[u8]) -> Outcome<Vec<u8>> {
    let mut spoilt = bzimage.to_vec();
    spoilt
        .get_mut(BZIMAGE_INIT_SIZE..BZIMAGE_INIT_SIZE + 4)
        .ok_or_else(|| Failure::Unmet("the kernel has no header".to_owned()))?
        .copy_from_slice(&[0xff; 4]);
    Ok(spoilt)
}

/// What `uname -r` says on the kernel `bzimage`: the first word of its header's version string.
pub fn kernel_release(bzimage: &[u8]) -> Option<String> {
    let pointer = bzimage.get(BZIMAGE_VERSION..BZIMAGE_VERSION + 2)?;
    let start = 0x200 + usize::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    let text: Vec<u8> = bzimage
        .get(start..)?
        .iter()
        .copied()
        .take(128)
        .take_while(|byte| byte.is_ascii_graphic())
        .collect();
    String::from_utf8(text).ok().filter(|text| !text.is_empty())
}

fn damaged(error: object::Error) -> Failure {
    Failure::Unmet(format!("the test guest is no usable ELF file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_first_word_of_the_version() {
        let mut image = vec![0; 0x400];
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-9-x (who) ");
        assert_eq!(kernel_release(&image).as_deref(), Some("6.1.0-9-x"));
        assert_eq!(kernel_release(&image[..0x20f]), None);
        assert_eq!(kernel_release(&[0; 0x400]), None);
    }

    #[test]
    fn garbage_still_begins_as_an_elf_file() {
        let bytes = garbage_elf();
        assert_eq!(bytes.len(), 64 << 10);
        assert!(bytes.starts_with(b"\x7fELF") && bytes == garbage_elf());
    }
}
