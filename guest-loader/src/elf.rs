//! ELF kernels entered by PVH: [`PvhKernel::parse`] proves the segments and finds the entry point in the
//! `XEN_ELFNOTE_PHYS32_ENTRY` note, [`load`] places them and writes the start information.
//!
//! The ABI is Xen's "x86/HVM direct boot ABI"; `start_info` has its structures. [`flatten_elf`] turns the same
//! segments into a flat image.

use alloc::vec::Vec;
use core::fmt;

use bulkhead_core::addr::Gpa;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::parse::ParseError;

use crate::acpi::RsdpAddress;
use crate::boot_area;
use crate::entry::EntryState;
use crate::field::Fields;
use crate::memory::{GpaRange, GuestMemory, MemoryLayout};
use crate::placement;
use crate::start_info;
use crate::{LoadError, Payload};

const XEN_NOTE_NAME: &[u8] = b"Xen\0";
const XEN_ELFNOTE_PHYS32_ENTRY: u64 = 18;
/// More loadable segments than any kernel has.
const MAX_SEGMENTS: usize = 64;
/// More note segments than any kernel has, and more bytes in one: each note is looked at.
const MAX_NOTE_SEGMENTS: usize = 16;
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// Whether `image` claims to be an ELF file.
pub(crate) fn is_elf(image: &[u8]) -> bool {
    image.bytes::<4>(0) == Some(elf::abi::ELFMAGIC)
}

/// One PT_LOAD segment; memory beyond `data` is zero.
#[derive(Clone, Copy, Debug)]
struct LoadSegment<'a> {
    range: GpaRange,
    data: &'a [u8],
}

/// An ELF kernel whose segments and entry point were checked against each other.
#[derive(Clone, Debug)]
pub struct PvhKernel<'a> {
    segments: Vec<LoadSegment<'a>>,
    entry: Gpa,
}

impl<'a> PvhKernel<'a> {
    /// Reads and checks the program headers and notes of `image`.
    ///
    /// # Errors
    /// [`ElfError`] names the first thing that cannot be right.
    pub fn parse(image: &'a [u8]) -> Result<Self, ElfError> {
        let file = parse_file(image)?;
        let segments = load_segments(&file)?;
        let entry = pvh_entry(&file)?.ok_or(ElfError::NoPvhNote)?;
        if !segments
            .iter()
            .any(|segment| segment.range.start <= entry && entry < segment.range.end)
        {
            return Err(ElfError::EntryOutside { entry });
        }
        Ok(Self { segments, entry })
    }

    /// From the first byte loaded to the last.
    fn span(&self) -> GpaRange {
        let start = self
            .segments
            .iter()
            .map(|segment| segment.range.start)
            .min();
        let end = self.segments.iter().map(|segment| segment.range.end).max();
        GpaRange {
            start: start.unwrap_or_default(),
            end: end.unwrap_or_default(),
        }
    }

    fn check_fits(&self, layout: &MemoryLayout) -> Result<(), ElfError> {
        let area = placement::image_area(layout);
        match self
            .segments
            .iter()
            .find(|segment| !area.contains(&segment.range))
        {
            Some(segment) => Err(ElfError::NoRoom {
                segment: segment.range,
                area,
            }),
            None => Ok(()),
        }
    }
}

/// Loads an ELF kernel: segments, initrd, command line and start information.
pub(crate) fn load<'i>(
    image: &'i [u8],
    payload: &mut Payload<'i, '_>,
    rsdp: RsdpAddress,
    mem: &mut dyn GuestMemory,
) -> Result<EntryState, LoadError> {
    let kernel = PvhKernel::parse(image)?;
    kernel.check_fits(payload.memory)?;
    let cmdline = payload.write_cmdline(start_info::CMDLINE_MAX, mem)?;
    let initrd = payload.place_initrd(kernel.span(), u64::MAX)?;
    for segment in &kernel.segments {
        payload.place(segment.range.start, segment.data);
    }
    start_info::write(&payload.memory.e820(), initrd, cmdline, rsdp, mem)?;

    let mut state = EntryState::protected32(kernel.entry);
    state.registers.rbx = boot_area::START_INFO.start.0;
    Ok(state)
}

/// The memory image of an ELF file's loadable segments, from the lowest address to the highest, for the flat format.
///
/// # Errors
/// [`ElfError`] where the file is not an ELF image, or its segments span more than `max_len` bytes.
pub fn flatten_elf(image: &[u8], max_len: u64) -> Result<(Gpa, Vec<u8>), ElfError> {
    let segments = load_segments(&parse_file(image)?)?;
    let kernel = PvhKernel {
        segments,
        entry: Gpa(0),
    };
    let span = kernel.span();
    let len = usize::try_from(span.len())
        .ok()
        .filter(|_| span.len() <= max_len);
    let mut flat = alloc::vec![0; len.ok_or(ElfError::SpanTooLong { len: span.len(), max_len })?];
    for segment in &kernel.segments {
        let offset = segment.range.start.0.saturating_sub(span.start.0) as usize;
        if let Some(place) = flat
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..segment.data.len()))
        {
            place.copy_from_slice(segment.data);
        }
    }
    Ok((span.start, flat))
}

fn parse_file(image: &[u8]) -> Result<ElfBytes<'_, LittleEndian>, ElfError> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(image).map_err(ElfError::Malformed)?;
    match (file.ehdr.e_machine, file.ehdr.e_type) {
        (EM_X86_64 | EM_386, ET_EXEC | ET_DYN) => Ok(file),
        (machine, file_type) => Err(ElfError::NotAnX86Executable { machine, file_type }),
    }
}

/// The loadable segments, each within the file and none over another.
fn load_segments<'a>(file: &ElfBytes<'a, LittleEndian>) -> Result<Vec<LoadSegment<'a>>, ElfError> {
    let mut segments: Vec<LoadSegment<'a>> = Vec::new();
    let headers = file.segments().into_iter().flat_map(|table| table.iter());
    for (index, header) in headers
        .enumerate()
        .filter(|(_, header)| header.p_type == PT_LOAD && header.p_memsz > 0)
    {
        let data = file
            .segment_data(&header)
            .map_err(|_| ElfError::SegmentTruncated {
                index,
                offset: header.p_offset,
                len: header.p_filesz,
            })?;
        if header.p_filesz > header.p_memsz {
            return Err(ElfError::SegmentShrinks {
                index,
                file: header.p_filesz,
                memory: header.p_memsz,
            });
        }
        let range =
            GpaRange::new(Gpa(header.p_paddr), header.p_memsz).ok_or(ElfError::SegmentWraps {
                index,
                address: header.p_paddr,
                len: header.p_memsz,
            })?;
        if let Some(other) = segments.iter().find(|other| other.range.overlaps(&range)) {
            return Err(ElfError::SegmentsOverlap {
                a: other.range,
                b: range,
            });
        }
        if segments.len() == MAX_SEGMENTS {
            return Err(ElfError::TooManySegments);
        }
        segments.push(LoadSegment { range, data });
    }
    if segments.is_empty() {
        Err(ElfError::NothingToLoad)
    } else {
        Ok(segments)
    }
}

/// The 32-bit physical entry point of the first Xen PHYS32_ENTRY note.
fn pvh_entry(file: &ElfBytes<'_, LittleEndian>) -> Result<Option<Gpa>, ElfError> {
    let headers = file.segments().into_iter().flat_map(|table| table.iter());
    let notes = headers.filter(|header| header.p_type == PT_NOTE);
    for (number, header) in notes.enumerate() {
        if number >= MAX_NOTE_SEGMENTS || header.p_filesz > MAX_NOTE_BYTES {
            return Err(ElfError::TooManyNotes);
        }
        for note in file
            .segment_data_as_notes(&header)
            .map_err(ElfError::Malformed)?
        {
            let Note::Unknown(note) = note else { continue };
            if note.name != XEN_NOTE_NAME || note.n_type != XEN_ELFNOTE_PHYS32_ENTRY {
                continue;
            }
            // Linux of either width writes its own pointer size.
            let entry = match note.desc.len() {
                4 => note.desc.u32(0).map(u64::from),
                8 => note.desc.u64(0),
                _ => None,
            };
            return match entry {
                Some(entry) => Ok(Some(Gpa(entry))),
                None => Err(ElfError::BadPvhNote {
                    len: note.desc.len(),
                }),
            };
        }
    }
    Ok(None)
}

/// An ELF image that cannot be loaded.
#[derive(Debug)]
pub enum ElfError {
    /// The file header, a table or a note is malformed or cut off.
    Malformed(ParseError),
    /// The file is for another processor, or is an object or core file.
    NotAnX86Executable {
        /// `e_machine`.
        machine: u16,
        /// `e_type`.
        file_type: u16,
    },
    /// There is no loadable segment.
    NothingToLoad,
    /// There are more loadable segments than any kernel has.
    TooManySegments,
    /// There are more note segments than any kernel has, or one of them is longer.
    TooManyNotes,
    /// A segment's bytes are not all in the file.
    SegmentTruncated {
        /// The program header's number.
        index: usize,
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        len: u64,
    },
    /// A segment holds more bytes in the file than in memory.
    SegmentShrinks {
        /// The program header's number.
        index: usize,
        /// `p_filesz`.
        file: u64,
        /// `p_memsz`.
        memory: u64,
    },
    /// A segment passes the end of the address space.
    SegmentWraps {
        /// The program header's number.
        index: usize,
        /// `p_paddr`.
        address: u64,
        /// `p_memsz`.
        len: u64,
    },
    /// Two segments share memory.
    SegmentsOverlap {
        /// One segment's place.
        a: GpaRange,
        /// The other's.
        b: GpaRange,
    },
    /// A segment does not lie in the RAM images may use.
    NoRoom {
        /// The segment's place.
        segment: GpaRange,
        /// The RAM images may use.
        area: GpaRange,
    },
    /// The segments lie too far apart for a flat image.
    SpanTooLong {
        /// Bytes from the first segment's start to the last one's end.
        len: u64,
        /// The most that is accepted.
        max_len: u64,
    },
    /// There is no `XEN_ELFNOTE_PHYS32_ENTRY` note.
    NoPvhNote,
    /// The note's value is neither 4 nor 8 bytes long.
    BadPvhNote {
        /// Its length in bytes.
        len: usize,
    },
    /// The entry point lies in no segment.
    EntryOutside {
        /// The entry point.
        entry: Gpa,
    },
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ELF: ")?;
        match self {
            Self::Malformed(error) => write!(f, "the file is truncated or damaged ({error}): copy it again"),
            Self::NotAnX86Executable { machine, file_type } => write!(
                f,
                "machine {machine}, type {file_type} is not an x86 executable (machine 62 or 3, type 2 or 3)"
            ),
            Self::NothingToLoad => f.write_str("there is no loadable segment: this is not a kernel"),
            Self::TooManyNotes => write!(f, "more than {MAX_NOTE_SEGMENTS} note segments, or one above {MAX_NOTE_BYTES} bytes: this is not a kernel"),
            Self::TooManySegments => write!(f, "more than {MAX_SEGMENTS} loadable segments: this is not a kernel"),
            Self::SegmentTruncated { index, offset, len } => write!(
                f,
                "segment {index} is {len:#x} bytes at offset {offset:#x}, past the end of the file: copy it again"
            ),
            Self::SegmentShrinks { index, file, memory } => {
                write!(f, "segment {index} has {file:#x} bytes in the file but {memory:#x} in memory: damaged file")
            }
            Self::SegmentWraps { index, address, len } => {
                write!(f, "segment {index} at {address:#x}, {len:#x} bytes, passes the end of memory: damaged file")
            }
            Self::SegmentsOverlap { a, b } => write!(f, "segments {a} and {b} overlap: damaged file"),
            Self::NoRoom { segment, area } => write!(
                f,
                "segment {segment} is outside {area}, where images may be: link it elsewhere or give the VM more memory"
            ),
            Self::SpanTooLong { len, max_len } => {
                write!(f, "the segments span {len:#x} bytes, more than {max_len:#x}: link them closer together")
            }
            Self::NoPvhNote => f.write_str(
                "there is no XEN_ELFNOTE_PHYS32_ENTRY note, so no PVH entry: build Linux with CONFIG_PVH, or use a bzImage",
            ),
            Self::BadPvhNote { len } => {
                write!(f, "the XEN_ELFNOTE_PHYS32_ENTRY note holds {len} bytes, not 4 or 8: damaged file")
            }
            Self::EntryOutside { entry } => write!(f, "the PVH entry point {entry} lies in no segment: damaged file"),
        }
    }
}

impl core::error::Error for ElfError {}
