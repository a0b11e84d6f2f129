//! Why a guest cannot be loaded: [`LoadError`], with one variant for each part that can be wrong.

use core::fmt;

use crate::acpi::AcpiError;
use crate::bzimage::BzImageError;
use crate::elf::ElfError;
use crate::flat::FlatError;
use crate::memory::OutOfRange;
use crate::placement::InitrdError;

/// A guest that cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The kernel is neither a bzImage nor an ELF file, and no format was asked for.
    UnknownFormat {
        /// The image's length in bytes.
        len: u64,
    },
    /// The kernel's bzImage is unusable.
    BzImage(BzImageError),
    /// The kernel's ELF image is unusable.
    Elf(ElfError),
    /// The kernel's flat image is unusable.
    Flat(FlatError),
    /// The initrd is unusable.
    Initrd(InitrdError),
    /// The command line is unusable.
    Cmdline(CmdlineError),
    /// The ACPI tables cannot be built.
    Acpi(AcpiError),
    /// The guest memory refused a write within the layout.
    Memory(OutOfRange),
    /// The guest memory is not the size the layout says.
    MemoryMismatch {
        /// Bytes of RAM in the layout.
        layout: u64,
        /// Bytes of RAM there are.
        memory: u64,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat { len } => write!(
                f,
                "kernel: {len} bytes that are neither a bzImage nor an ELF file: name a kernel image, or say that the \
                 format is flat"
            ),
            Self::BzImage(error) => write!(f, "kernel: {error}"),
            Self::Elf(error) => write!(f, "kernel: {error}"),
            Self::Flat(error) => write!(f, "kernel: {error}"),
            Self::Initrd(error) => error.fmt(f),
            Self::Cmdline(error) => error.fmt(f),
            Self::Acpi(error) => error.fmt(f),
            Self::Memory(error) => write!(f, "guest memory: {error}"),
            Self::MemoryMismatch { layout, memory } => {
                write!(
                    f,
                    "guest memory: {memory:#x} bytes were taken for a layout of {layout:#x}"
                )
            }
        }
    }
}

impl core::error::Error for LoadError {}

macro_rules! from_part {
    ($($part:ident => $variant:ident),* $(,)?) => {
        $(impl From<$part> for LoadError {
            fn from(error: $part) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from_part! {
    BzImageError => BzImage,
    ElfError => Elf,
    FlatError => Flat,
    InitrdError => Initrd,
    CmdlineError => Cmdline,
    AcpiError => Acpi,
    OutOfRange => Memory,
}

/// A command line that cannot be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmdlineError {
    /// Longer than the kernel, or the room for it, allows.
    TooLong {
        /// Its length in bytes.
        len: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// It contains a zero byte, where the guest would stop reading.
    ZeroByte {
        /// The byte's offset.
        at: u64,
    },
}

impl fmt::Display for CmdlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => {
                write!(
                    f,
                    "command line: {len} bytes, but this kernel takes {max}: shorten it"
                )
            }
            Self::ZeroByte { at } => write!(
                f,
                "command line: there is a zero byte at offset {at}: remove it"
            ),
        }
    }
}

impl core::error::Error for CmdlineError {}
