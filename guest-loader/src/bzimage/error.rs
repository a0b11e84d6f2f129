//! Why a bzImage is refused: the field, its offset, and what to do.

use core::fmt;

use super::params::E820_MAX_ENTRIES as MAX_RANGES;

/// A bzImage that cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BzImageError {
    /// No "HdrS" at offset 0x202.
    NoMagic,
    /// The boot sector does not end in 0xAA55.
    BadBootFlag {
        /// What it ends in.
        found: u16,
    },
    /// The file ends before something its header announces.
    Truncated {
        /// The file's length in bytes.
        len: u64,
        /// The length the header implies.
        needed: u64,
    },
    /// The boot protocol is older than 2.12.
    TooOld {
        /// The version, major in the high byte.
        version: u16,
    },
    /// XLF_KERNEL_64 is clear.
    No64BitEntry,
    /// The jump at 0x200 puts the header's end where no header can end.
    BadHeaderEnd {
        /// The end's offset in the file.
        end: u64,
    },
    /// The protected-mode kernel is too short to hold the 64-bit entry point.
    NoPayload {
        /// Its length in bytes.
        len: u64,
    },
    /// `payload_offset` and `payload_length` leave the protected-mode kernel.
    CompressedOutside {
        /// `payload_offset`.
        offset: u64,
        /// `payload_length`.
        len: u64,
        /// Length of the protected-mode kernel.
        payload_len: u64,
    },
    /// `init_size` is below the length of what is loaded.
    InitSizeTooSmall {
        /// `init_size`.
        init_size: u64,
        /// Length of the protected-mode kernel.
        payload_len: u64,
    },
    /// `kernel_alignment` is not a power of two.
    BadAlignment {
        /// `kernel_alignment`.
        alignment: u64,
    },
    /// The VM's memory has no place for the kernel.
    NoRoom {
        /// Bytes the kernel needs to unpack itself.
        init_size: u64,
        /// Where it wants to be.
        pref_address: u64,
        /// Whether it can be anywhere else.
        relocatable: bool,
        /// The VM's RAM in bytes.
        memory: u64,
    },
    /// The memory map has more ranges than the boot parameters hold.
    TooManyRanges,
}

impl fmt::Display for BzImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bzImage: ")?;
        match *self {
            Self::NoMagic => {
                f.write_str("no \"HdrS\" at offset 0x202: this is not a Linux bzImage")
            }
            Self::BadBootFlag { found } => {
                write!(
                    f,
                    "boot flag at offset 0x1fe is {found:#06x}, not 0xaa55: the file is damaged"
                )
            }
            Self::Truncated { len, needed } => {
                write!(
                    f,
                    "the file has {len} bytes but its header needs {needed}: copy it again"
                )
            }
            Self::TooOld { version } => write!(
                f,
                "boot protocol {}.{:02} has no 64-bit entry: use a kernel with protocol 2.12 (Linux 3.8) or newer",
                version >> 8,
                version & 0xff
            ),
            Self::No64BitEntry => f.write_str(
                "xloadflags at offset 0x236 say there is no 64-bit entry: use a 64-bit kernel",
            ),
            Self::BadHeaderEnd { end } => {
                write!(
                    f,
                    "the setup header ends at offset {end:#x}, not within 0x264..=0x290: the file is damaged"
                )
            }
            Self::NoPayload { len } => {
                write!(
                    f,
                    "syssize at offset 0x1f4 gives a kernel of {len} bytes, too short for its entry point"
                )
            }
            Self::CompressedOutside {
                offset,
                len,
                payload_len,
            } => write!(
                f,
                "payload_offset {offset:#x} and payload_length {len:#x} leave the kernel's {payload_len:#x} bytes: \
                 the file is damaged"
            ),
            Self::InitSizeTooSmall {
                init_size,
                payload_len,
            } => write!(
                f,
                "init_size {init_size:#x} at offset 0x260 is below the kernel's own {payload_len:#x} bytes: the file \
                 is damaged"
            ),
            Self::BadAlignment { alignment } => {
                write!(
                    f,
                    "kernel_alignment {alignment:#x} at offset 0x230 is no power of two: the file is damaged"
                )
            }
            Self::NoRoom {
                init_size,
                pref_address,
                relocatable,
                memory,
            } => {
                let freedom = if relocatable { "" } else { ", nowhere else" };
                write!(
                    f,
                    "needs {init_size:#x} bytes from 1 MiB up, best at {pref_address:#x}{freedom}, but the VM has \
                     {memory:#x} bytes: give it more memory"
                )
            }
            Self::TooManyRanges => write!(f, "the memory map has more than {} ranges", MAX_RANGES),
        }
    }
}

impl core::error::Error for BzImageError {}
