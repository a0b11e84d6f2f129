//! Flat images: raw bytes placed at 1 MiB and entered at the first of them in 64-bit mode, the first 4 GiB
//! identity-mapped, RDI pointing to the PVH start information and RSP to a 64 KiB stack.

use core::fmt;

use crate::acpi::RsdpAddress;
use crate::boot_area;
use crate::entry::EntryState;
use crate::memory::{GpaRange, GuestMemory};
use crate::placement;
use crate::start_info;
use crate::{LoadError, Payload};

/// Loads a flat image, initrd, command line and start information.
pub(crate) fn load<'i>(
    image: &'i [u8],
    payload: &mut Payload<'i, '_>,
    rsdp: RsdpAddress,
    mem: &mut dyn GuestMemory,
) -> Result<EntryState, LoadError> {
    if image.is_empty() {
        return Err(FlatError::Empty.into());
    }
    let area = placement::image_area(payload.memory);
    let placed = placement::lowest_fit(area, image.len() as u64, 1).ok_or(FlatError::NoRoom {
        len: image.len() as u64,
        area,
    })?;
    let cmdline = payload.write_cmdline(start_info::CMDLINE_MAX, mem)?;
    let initrd = payload.place_initrd(placed, u64::MAX)?;
    payload.place(placed.start, image);
    start_info::write(&payload.memory.e820(), initrd, cmdline, rsdp, mem)?;

    let mut state = EntryState::long64(placed.start);
    state.registers.rdi = boot_area::START_INFO.start.0;
    Ok(state)
}

/// A flat image that cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlatError {
    /// The file holds no byte.
    Empty,
    /// The image is longer than the RAM from 1 MiB up.
    NoRoom {
        /// Its length in bytes.
        len: u64,
        /// The RAM images may use.
        area: GpaRange,
    },
}

impl fmt::Display for FlatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("flat image: the file is empty"),
            Self::NoRoom { len, area } => {
                write!(
                    f,
                    "flat image: {len} bytes do not fit in {area}: give the VM more memory"
                )
            }
        }
    }
}

impl core::error::Error for FlatError {}
