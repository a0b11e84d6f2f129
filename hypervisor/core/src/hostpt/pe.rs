//! The sections of the hypervisor's own PE image, as loaded: which frames are code, constants, data.
//!
//! The firmware loads `bulkhead.efi` in one piece; its headers, in the first page, say what is what. A section
//! that is writable and executable is refused. See Microsoft's "PE Format", sections
//! "COFF File Header", "Optional Header" and "Section Table".

use core::fmt;

use bitflags::bitflags;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Hpa};
use crate::ledger::FrameRun;

use super::Access;

/// Part of the image with one access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its name, padded with zeros.
    pub name: [u8; 8],
    /// The frames it fills, the last one perhaps partly.
    pub run: FrameRun,
    /// What the hypervisor may do with it.
    pub access: Access,
}

bitflags! {
    /// Section characteristics, as far as they say what access a section needs.
    #[derive(Clone, Copy)]
    struct Characteristics: u32 {
        const EXECUTE = 0x2000_0000;
        const READ = 0x4000_0000;
        const WRITE = 0x8000_0000;
    }
}

/// Why an image can't be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeError {
    /// The header ends before this field.
    Truncated(&'static str),
    /// A signature or magic number is wrong.
    NotPe(&'static str),
    /// The image is not loaded at a 4 KiB boundary, or its sections are not aligned to one.
    Misaligned(u64),
    /// A section is writable and executable.
    WritableCode([u8; 8]),
    /// A section reaches beyond the image or overlaps the one before.
    BadSection([u8; 8]),
}

impl fmt::Display for PeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |raw: &[u8; 8]| {
            let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
            alloc::string::String::from_utf8_lossy(raw.get(..end).unwrap_or_default()).into_owned()
        };
        match self {
            Self::Truncated(field) => write!(f, "PE image ends before its {field}"),
            Self::NotPe(field) => write!(f, "PE image has a wrong {field}"),
            Self::Misaligned(value) => {
                write!(f, "PE image or section alignment {value:#x} is below 4 KiB")
            }
            Self::WritableCode(raw) => {
                write!(f, "PE section {} is writable and executable", name(raw))
            }
            Self::BadSection(raw) => {
                write!(
                    f,
                    "PE section {} overlaps another or leaves the image",
                    name(raw)
                )
            }
        }
    }
}

impl core::error::Error for PeError {}

/// The headers of a PE image, parsed once.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    base: Hpa,
    size: u64,
    table: &'a [u8],
}

const PE_OFFSET_AT: usize = 0x3c;
const COFF_LEN: usize = 24;
const OPTIONAL_MAGIC_64: u16 = 0x20b;
const SECTION_ALIGNMENT_AT: usize = 32;
const SIZE_OF_IMAGE_AT: usize = 56;
const SECTION_LEN: usize = 40;

impl<'a> Image<'a> {
    /// Parses the headers of the image loaded at `base`; `header` is its first page or more.
    ///
    /// # Errors
    /// Any [`PeError`] but those about single sections.
    pub fn parse(header: &'a [u8], base: Hpa) -> Result<Self, PeError> {
        if !base.is_aligned(FRAME_SIZE) {
            return Err(PeError::Misaligned(base.0));
        }
        if header.get(..2) != Some(b"MZ") {
            return Err(PeError::NotPe("DOS signature"));
        }
        let pe_at = field::<4>(header, PE_OFFSET_AT, "offset of the PE header")?;
        let pe = header.get(u32::from_le_bytes(pe_at) as usize..);
        let pe = pe.ok_or(PeError::Truncated("PE header"))?;
        if field::<4>(pe, 0, "PE signature")? != *b"PE\0\0" {
            return Err(PeError::NotPe("PE signature"));
        }
        let sections = u16::from_le_bytes(field(pe, 6, "number of sections")?);
        let optional_len = u16::from_le_bytes(field(pe, 20, "optional header size")?);
        let optional = pe
            .get(COFF_LEN..)
            .ok_or(PeError::Truncated("optional header"))?;
        let magic = u16::from_le_bytes(field(optional, 0, "optional header magic")?);
        if magic != OPTIONAL_MAGIC_64 {
            return Err(PeError::NotPe("optional header magic (PE32+ expected)"));
        }
        let alignment =
            u32::from_le_bytes(field(optional, SECTION_ALIGNMENT_AT, "section alignment")?);
        if alignment == 0 || !u64::from(alignment).is_multiple_of(FRAME_SIZE) {
            return Err(PeError::Misaligned(alignment.into()));
        }
        let size = u32::from_le_bytes(field(optional, SIZE_OF_IMAGE_AT, "size of the image")?);
        let table = optional
            .get(optional_len.into()..)
            .and_then(|rest| rest.get(..usize::from(sections) * SECTION_LEN))
            .ok_or(PeError::Truncated("section table"))?;
        let size = u64::from(size);
        if base.checked_add(size).is_none() {
            return Err(PeError::Truncated("end of the address space"));
        }
        Ok(Self { base, size, table })
    }

    /// All frames of the image.
    #[must_use]
    pub const fn run(&self) -> FrameRun {
        FrameRun::new(
            Frame::containing(self.base),
            FrameCount::covering(self.size),
        )
    }

    /// The image in address order: its headers (read-only), then its sections. Gaps between them belong
    /// to nothing and stay unmapped.
    pub fn sections(&self) -> impl Iterator<Item = Result<Section, PeError>> + use<'a> {
        let image = *self;
        let mut end = 0;
        let headers = image.table.as_chunks::<SECTION_LEN>().0.iter();
        let sections =
            headers.filter_map(move |header| image.section(header, &mut end).transpose());
        [Ok(self.headers())].into_iter().chain(sections)
    }

    fn headers(&self) -> Section {
        let run = FrameRun::new(Frame::containing(self.base), FrameCount(1));
        Section {
            name: *b"headers\0",
            run,
            access: Access::ReadOnly,
        }
    }

    /// The section that `header` describes, beginning at or after `end` (or the headers), or `None` where empty.
    fn section(&self, header: &[u8], end: &mut u64) -> Result<Option<Section>, PeError> {
        let name = field::<8>(header, 0, "section name")?;
        let size = u64::from(u32::from_le_bytes(field(header, 8, "section size")?));
        let start = u64::from(u32::from_le_bytes(field(header, 12, "section address")?));
        let flags = u32::from_le_bytes(field(header, 36, "section characteristics")?);
        if size == 0 {
            return Ok(None);
        }
        let after_headers = FRAME_SIZE.max(*end);
        let frames = FrameCount::covering(size);
        // 32-bit quantities in 64 bits: none of these sums overflows.
        let last = start + frames.0 * FRAME_SIZE;
        if !start.is_multiple_of(FRAME_SIZE)
            || start < after_headers
            || last > self.run().count.0 * FRAME_SIZE
        {
            return Err(PeError::BadSection(name));
        }
        *end = last;
        let flags = Characteristics::from_bits_truncate(flags);
        let access = match (
            flags.contains(Characteristics::WRITE),
            flags.contains(Characteristics::EXECUTE),
        ) {
            (true, true) => return Err(PeError::WritableCode(name)),
            (true, false) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (false, false) => Access::ReadOnly,
        };
        let first = Frame::containing(Hpa(self.base.0 + start));
        Ok(Some(Section {
            name,
            run: FrameRun::new(first, frames),
            access,
        }))
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize, name: &'static str) -> Result<[u8; N], PeError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(PeError::Truncated(name))
}
