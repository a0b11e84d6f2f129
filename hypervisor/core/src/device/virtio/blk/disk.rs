//! What a block device stores its sectors in.

use core::fmt;

/// Bytes of a sector, the unit of all requests (Virtio 1.2, "Block Device").
pub const SECTOR_BYTES: usize = 512;

/// Sectors that can be read, and perhaps written. The caller stays within [`sectors`](Self::sectors), and moves whole
/// sectors.
pub trait Disk: Send {
    /// How many there are.
    fn sectors(&self) -> u64;

    /// Fills `bytes` from `sector` on.
    ///
    /// # Errors
    /// Where that is not possible; `bytes` then holds anything that the VM may see.
    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), DiskError>;

    /// Stores `bytes` from `sector` on.
    ///
    /// # Errors
    /// Where that is not possible; a part may have been stored.
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written last.
    ///
    /// # Errors
    /// Where that is not possible.
    fn flush(&mut self) -> Result<(), DiskError>;

    /// Whether no write succeeds.
    fn read_only(&self) -> bool;

    /// The VM starts anew: what it wrote and what was not to last is forgotten.
    fn forget_writes(&mut self) {}
}

/// Why a disk could not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// The sectors are not all on the disk.
    OutOfRange,
    /// The disk cannot be written.
    ReadOnly,
    /// The memory for changed blocks is used up.
    Full,
    /// What the disk is stored in failed.
    Storage,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "the sectors are beyond the end of the disk",
            Self::ReadOnly => "the disk is read-only; its manifest entry can say `mode = \"copy-on-write\"`",
            Self::Full => "the memory for changed blocks is used up; give the disk a larger `overlay` in the manifest",
            Self::Storage => "the disk's image or overlay cannot be reached; this VM's disk is lost until it restarts",
        })
    }
}

impl core::error::Error for DiskError {}
