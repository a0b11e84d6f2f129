//! Turns a kernel image, an initrd and a command line into a bootable guest: pure, host-testable.
//!
//! [`load`] is the entry: it takes a [`LoadRequest`], writes everything the guest needs through [`GuestMemory`] and
//! returns the [`EntryState`] a vCPU starts in. [`prepare`] does the same, but leaves the
//! images to be copied piece by piece. Three image formats are known, one module each: `bzimage` (Linux 64-bit boot protocol), `elf` (PVH), `flat`. `acpi` describes the platform to the guest, `boot_area` says what lies where in
//! the first MiB, `placement` keeps everything else apart.
//!
//! Images are untrusted: every parser is total, and a refused image leaves the VM unstarted with a [`LoadError`] that
//! says what, where and what to do.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;

mod acpi;
mod boot_area;
mod bzimage;
mod elf;
mod entry;
mod error;
mod field;
mod flat;
mod loading;
mod memory;
mod placement;
mod reset_vector;
mod start_info;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use bulkhead_core::addr::Gpa;
use core::num::NonZeroUsize;

pub use crate::acpi::AcpiError;
pub use crate::bzimage::{BzImage, BzImageError};
pub use crate::elf::{ElfError, PvhKernel, flatten_elf};
pub use crate::entry::{DescriptorTable, EntryMode, EntryState, Registers, Segment};
pub use crate::error::{CmdlineError, LoadError};
pub use crate::flat::FlatError;
pub use crate::loading::Loading;
pub use crate::memory::{
    E820Entry, E820Kind, GpaRange, GuestMemory, LayoutError, MemoryLayout, OutOfRange,
};
pub use crate::placement::InitrdError;

use crate::loading::Image;

/// The format of a kernel image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelFormat {
    /// bzImage or ELF, whichever the image says it is.
    #[default]
    Auto,
    /// Linux bzImage, entered by the 64-bit boot protocol.
    BzImage,
    /// ELF with a PVH entry note.
    Elf,
    /// Raw bytes for address 1 MiB, entered in 64-bit mode at the first; never assumed, always asked for.
    Flat,
}

/// What the guest's ACPI tables have to say beyond the constants of `bulkhead_core::platform`.
#[derive(Clone, Copy, Debug)]
pub struct PlatformDescription<'a> {
    /// The local APIC id of each vCPU, the boot vCPU first.
    pub vcpu_apic_ids: &'a [u32],
    /// Where the memory of real PCI functions is, beyond what every VM has; in ascending order.
    pub device_windows: &'a [GpaRange],
}

/// A guest to load, from images that live as long as `'i`.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'i, 'a> {
    /// The kernel image as the manifest's file has it.
    pub kernel: &'i [u8],
    /// How to read it.
    pub format: KernelFormat,
    /// The initial RAM disk, if any.
    pub initrd: Option<&'i [u8]>,
    /// The command line, without terminator.
    pub cmdline: &'a str,
    /// Where the VM's RAM lies.
    pub memory: &'a MemoryLayout,
    /// What ACPI tells the guest.
    pub platform: &'a PlatformDescription<'a>,
}

/// Loads a guest into `mem`, which is all zero, and returns the state its boot vCPU starts in.
///
/// # Errors
/// [`LoadError`] says what about the image, initrd, command line or memory cannot work. `mem` may then hold part of the
/// guest and is not fit to run.
pub fn load(
    request: &LoadRequest<'_, '_>,
    mem: &mut dyn GuestMemory,
) -> Result<EntryState, LoadError> {
    let mut loading = prepare(request, mem)?;
    loop {
        if let Some(entry) = loading.step(NonZeroUsize::MAX, mem)? {
            return Ok(entry);
        }
    }
}

/// Loads a guest into `mem`, which is all zero, except for its images: the answer copies those.
///
/// # Errors
/// As [`load`].
pub fn prepare<'i>(
    request: &LoadRequest<'i, '_>,
    mem: &mut dyn GuestMemory,
) -> Result<Loading<'i>, LoadError> {
    if mem.size() != request.memory.size() {
        return Err(LoadError::MemoryMismatch {
            layout: request.memory.size(),
            memory: mem.size(),
        });
    }
    let format = detect(request.kernel, request.format)?;
    let mut payload = Payload {
        initrd: request.initrd,
        images: Vec::new(),
        cmdline: request.cmdline,
        memory: request.memory,
    };
    let rsdp = acpi::write(request.platform, mem)?;
    entry::write_tables(mem)?;
    reset_vector::write(mem)?;
    let entry = match format {
        Format::BzImage => bzimage::load(request.kernel, &mut payload, rsdp, mem)?,
        Format::Elf => elf::load(request.kernel, &mut payload, rsdp, mem)?,
        Format::Flat => flat::load(request.kernel, &mut payload, rsdp, mem)?,
    };
    Ok(Loading::new(entry, payload.images))
}

/// A format that was decided on.
enum Format {
    BzImage,
    Elf,
    Flat,
}

/// The format to load `kernel` by: the one asked for, or the one its magic number names.
fn detect(kernel: &[u8], asked: KernelFormat) -> Result<Format, LoadError> {
    match asked {
        KernelFormat::BzImage => Ok(Format::BzImage),
        KernelFormat::Elf => Ok(Format::Elf),
        KernelFormat::Flat => Ok(Format::Flat),
        KernelFormat::Auto if bzimage::is_bzimage(kernel) => Ok(Format::BzImage),
        KernelFormat::Auto if elf::is_elf(kernel) => Ok(Format::Elf),
        KernelFormat::Auto => Err(LoadError::UnknownFormat {
            len: kernel.len() as u64,
        }),
    }
}

/// What every format loads besides the kernel, and the images that were given their places.
struct Payload<'i, 'a> {
    initrd: Option<&'i [u8]>,
    images: Vec<Image<'i>>,
    cmdline: &'a str,
    memory: &'a MemoryLayout,
}

impl<'i> Payload<'i, '_> {
    /// Has `bytes` copied to `start`.
    fn place(&mut self, start: Gpa, bytes: &'i [u8]) {
        self.images.push(Image { start, bytes });
    }

    /// Writes the command line with its terminating zero; `max` is the kernel's own limit in bytes.
    fn write_cmdline(&self, max: u64, mem: &mut dyn GuestMemory) -> Result<Gpa, LoadError> {
        let place = boot_area::CMDLINE;
        let len = self.cmdline.len() as u64;
        let max = max.min(start_info::CMDLINE_MAX);
        if len > max {
            return Err(CmdlineError::TooLong { len, max }.into());
        }
        if let Some(at) = self.cmdline.bytes().position(|byte| byte == 0) {
            return Err(CmdlineError::ZeroByte { at: at as u64 }.into());
        }
        let mut bytes = self.cmdline.as_bytes().to_vec();
        bytes.push(0);
        mem.write(place.start, &bytes)?;
        Ok(place.start)
    }

    /// Places the initrd, if there is one, clear of `kernel` and not beyond `last_byte`.
    fn place_initrd(
        &mut self,
        kernel: GpaRange,
        last_byte: u64,
    ) -> Result<Option<GpaRange>, LoadError> {
        let Some(initrd) = self.initrd else {
            return Ok(None);
        };
        let place = placement::place_initrd(initrd.len() as u64, kernel, self.memory, last_byte)?;
        self.place(place.start, initrd);
        Ok(Some(place))
    }
}
