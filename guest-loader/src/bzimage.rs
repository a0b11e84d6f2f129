//! Linux bzImage by the 64-bit boot protocol (Linux documentation, "The Linux/x86 Boot Protocol"):
//! [`BzImage::parse`] proves the setup header, [`load`] places the kernel and writes the boot parameters.

mod error;

use alloc::vec;
use alloc::vec::Vec;

use bulkhead_core::addr::Gpa;

use crate::acpi::RsdpAddress;
use crate::boot_area;
use crate::entry::EntryState;
use crate::field::Fields;
use crate::memory::{E820Entry, GpaRange, GuestMemory, MemoryLayout};
use crate::placement;
use crate::{LoadError, Payload};

pub use error::BzImageError;

/// Offset of the setup header's magic, "HdrS".
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: [u8; 4] = *b"HdrS";
const BOOT_FLAG: u16 = 0xaa55;
const SECTOR: usize = 512;
/// First protocol version that says whether there is a 64-bit entry point.
const MIN_VERSION: u16 = 0x020c;
/// The 64-bit entry point lies this far into the protected-mode kernel.
const ENTRY64_OFFSET: u64 = 0x200;
const XLF_KERNEL_64: u16 = 1 << 0;
/// `type_of_loader` of a loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;

/// Offsets in the file's first sectors, which are also offsets in the boot parameters.
mod header {
    pub(super) const START: usize = 0x1f1;
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP_LENGTH: usize = 0x201;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(super) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(super) const RELOCATABLE_KERNEL: usize = 0x234;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
    pub(super) const PREF_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// First byte after the last field this loader reads.
    pub(super) const MIN_END: usize = 0x264;
    /// First byte of the boot parameters that no header may cover (`edd_mbr_sig_buffer`).
    pub(super) const MAX_END: usize = 0x290;
}

/// Offsets in the boot parameters outside the setup header.
mod params {
    pub(super) const ACPI_RSDP_ADDR: usize = 0x070;
    pub(super) const EXT_RAMDISK_IMAGE: usize = 0x0c0;
    pub(super) const EXT_RAMDISK_SIZE: usize = 0x0c4;
    pub(super) const EXT_CMD_LINE_PTR: usize = 0x0c8;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const E820_TABLE: usize = 0x2d0;
    pub(super) const E820_ENTRY_SIZE: usize = 20;
    pub(super) const E820_MAX_ENTRIES: usize = 128;
    pub(super) const SIZE: usize = 4096;
}

const _: () = assert!(
    params::E820_TABLE + params::E820_ENTRY_SIZE * params::E820_MAX_ENTRIES <= params::SIZE
);

/// Whether `image` claims to be a bzImage.
pub(crate) fn is_bzimage(image: &[u8]) -> bool {
    image.bytes::<4>(MAGIC_OFFSET) == Some(MAGIC)
}

/// A bzImage whose setup header was checked.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    /// The setup header's bytes, from offset 0x1f1 of the file.
    header: &'a [u8],
    /// The protected-mode kernel.
    payload: &'a [u8],
    pref_address: u64,
    init_size: u64,
    alignment: u64,
    relocatable: bool,
    cmdline_max: u64,
    initrd_last_byte: u64,
}

impl<'a> BzImage<'a> {
    /// Reads and checks the setup header of `image`.
    ///
    /// # Errors
    /// [`BzImageError`] names the first field that cannot be right.
    pub fn parse(image: &'a [u8]) -> Result<Self, BzImageError> {
        use BzImageError as E;

        let truncated = |needed: usize| E::Truncated {
            len: image.len() as u64,
            needed: needed as u64,
        };
        if !is_bzimage(image) {
            return Err(E::NoMagic);
        }
        let short = || truncated(header::MIN_END);
        let boot_flag = image.u16(header::BOOT_FLAG).ok_or_else(short)?;
        if boot_flag != BOOT_FLAG {
            return Err(E::BadBootFlag { found: boot_flag });
        }
        let version = image.u16(header::VERSION).ok_or_else(short)?;
        if version < MIN_VERSION {
            return Err(E::TooOld { version });
        }
        let xloadflags = image.u16(header::XLOADFLAGS).ok_or_else(short)?;
        if xloadflags & XLF_KERNEL_64 == 0 {
            return Err(E::No64BitEntry);
        }

        let header_end =
            MAGIC_OFFSET + usize::from(image.u8(header::JUMP_LENGTH).ok_or_else(short)?);
        if !(header::MIN_END..=header::MAX_END).contains(&header_end) {
            return Err(E::BadHeaderEnd {
                end: header_end as u64,
            });
        }
        let header = image
            .get(header::START..header_end)
            .ok_or_else(|| truncated(header_end))?;

        let setup_sects = match image.u8(header::SETUP_SECTS).ok_or_else(short)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let payload_start = (setup_sects + 1) * SECTOR;
        let syssize = image.u32(header::SYSSIZE).ok_or_else(short)?;
        let payload_len = u64::from(syssize) * 16;
        let needed = payload_start as u64 + payload_len;
        // What follows (a signature, say) is not part of the kernel.
        let payload = usize::try_from(needed)
            .ok()
            .and_then(|end| image.get(payload_start..end))
            .ok_or(E::Truncated {
                len: image.len() as u64,
                needed,
            })?;
        if payload_len <= ENTRY64_OFFSET {
            return Err(E::NoPayload { len: payload_len });
        }
        let compressed_offset = u64::from(image.u32(header::PAYLOAD_OFFSET).ok_or_else(short)?);
        let compressed_len = u64::from(image.u32(header::PAYLOAD_LENGTH).ok_or_else(short)?);
        if compressed_offset + compressed_len > payload_len {
            return Err(E::CompressedOutside {
                offset: compressed_offset,
                len: compressed_len,
                payload_len,
            });
        }

        let init_size = u64::from(image.u32(header::INIT_SIZE).ok_or_else(short)?);
        if init_size < payload_len {
            return Err(E::InitSizeTooSmall {
                init_size,
                payload_len,
            });
        }
        let alignment = u64::from(image.u32(header::KERNEL_ALIGNMENT).ok_or_else(short)?);
        if !alignment.is_power_of_two() {
            return Err(E::BadAlignment { alignment });
        }
        let cmdline_max = u64::from(image.u32(header::CMDLINE_SIZE).ok_or_else(short)?);
        Ok(Self {
            header,
            payload,
            pref_address: image.u64(header::PREF_ADDRESS).ok_or_else(short)?,
            init_size,
            alignment,
            relocatable: image.u8(header::RELOCATABLE_KERNEL).ok_or_else(short)? != 0,
            cmdline_max,
            initrd_last_byte: u64::from(image.u32(header::INITRD_ADDR_MAX).ok_or_else(short)?),
        })
    }

    /// Longest command line the kernel accepts, without its terminating zero.
    #[must_use]
    pub const fn cmdline_max(&self) -> u64 {
        self.cmdline_max
    }

    /// Where the kernel goes: at its preferred address, or at the lowest aligned one if it can be relocated.
    fn place(&self, layout: &MemoryLayout) -> Result<GpaRange, BzImageError> {
        let area = placement::image_area(layout);
        let preferred = GpaRange::new(Gpa(self.pref_address), self.init_size)
            .filter(|range| area.contains(range));
        let elsewhere = || {
            self.relocatable
                .then(|| placement::lowest_fit(area, self.init_size, self.alignment))
                .flatten()
        };
        preferred.or_else(elsewhere).ok_or(BzImageError::NoRoom {
            init_size: self.init_size,
            pref_address: self.pref_address,
            relocatable: self.relocatable,
            memory: layout.size(),
        })
    }
}

/// Loads a bzImage: kernel, initrd, command line and boot parameters.
pub(crate) fn load<'i>(
    image: &'i [u8],
    payload: &mut Payload<'i, '_>,
    rsdp: RsdpAddress,
    mem: &mut dyn GuestMemory,
) -> Result<EntryState, LoadError> {
    let kernel = BzImage::parse(image)?;
    let placed = kernel.place(payload.memory)?;
    let cmdline = payload.write_cmdline(kernel.cmdline_max, mem)?;
    let initrd = payload.place_initrd(placed, kernel.initrd_last_byte)?;
    payload.place(placed.start, kernel.payload);
    let zero_page = zero_page(
        &kernel,
        placed.start,
        initrd,
        cmdline,
        rsdp,
        &payload.memory.e820(),
    )
    .ok_or(LoadError::BzImage(BzImageError::TooManyRanges))?;
    mem.write(boot_area::ZERO_PAGE.start, &zero_page)?;

    let entry = placed
        .start
        .checked_add(ENTRY64_OFFSET)
        .filter(|&entry| entry < placed.end)
        .ok_or(BzImageError::NoPayload { len: placed.len() })?;
    let mut state = EntryState::long64(entry);
    state.registers.rsi = boot_area::ZERO_PAGE.start.0;
    Ok(state)
}

/// The boot parameters: the kernel's setup header, completed, and the memory map. `None` if the map is too long.
fn zero_page(
    kernel: &BzImage<'_>,
    load_address: Gpa,
    initrd: Option<GpaRange>,
    cmdline: Gpa,
    rsdp: RsdpAddress,
    map: &[E820Entry],
) -> Option<Vec<u8>> {
    let low = |value: u64| (value as u32).to_le_bytes();
    let high = |value: u64| ((value >> 32) as u32).to_le_bytes();

    let mut page = vec![0; params::SIZE];
    put(&mut page, header::START, kernel.header)?;
    put(&mut page, header::TYPE_OF_LOADER, &[LOADER_UNDEFINED])?;
    put(&mut page, header::CODE32_START, &low(load_address.0))?;
    put(&mut page, header::CMD_LINE_PTR, &low(cmdline.0))?;
    put(&mut page, params::EXT_CMD_LINE_PTR, &high(cmdline.0))?;
    let (initrd_start, initrd_len) = initrd.map_or((0, 0), |range| (range.start.0, range.len()));
    put(&mut page, header::RAMDISK_IMAGE, &low(initrd_start))?;
    put(&mut page, params::EXT_RAMDISK_IMAGE, &high(initrd_start))?;
    put(&mut page, header::RAMDISK_SIZE, &low(initrd_len))?;
    put(&mut page, params::EXT_RAMDISK_SIZE, &high(initrd_len))?;
    put(
        &mut page,
        params::ACPI_RSDP_ADDR,
        &rsdp.0.as_u64().to_le_bytes(),
    )?;

    let count = u8::try_from(map.len())
        .ok()
        .filter(|&n| usize::from(n) <= params::E820_MAX_ENTRIES)?;
    put(&mut page, params::E820_ENTRIES, &[count])?;
    for (entry, index) in map.iter().zip(0..) {
        let at = params::E820_TABLE + params::E820_ENTRY_SIZE * index;
        put(&mut page, at, &entry.range.start.0.to_le_bytes())?;
        put(&mut page, at + 8, &entry.range.len().to_le_bytes())?;
        put(&mut page, at + 16, &(entry.kind as u32).to_le_bytes())?;
    }
    Some(page)
}

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) -> Option<()> {
    page.get_mut(offset..offset.checked_add(bytes.len())?)?
        .copy_from_slice(bytes);
    Some(())
}
