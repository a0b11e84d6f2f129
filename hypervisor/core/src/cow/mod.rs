//! Copy-on-write disks: a VM's disk is an image that nobody changes, and an overlay with the blocks the VM changed.
//!
//! [`BlockMap`] knows where each block of 4 KiB is. [`CowDisk`] is the [`Disk`](crate::device::virtio::blk::Disk) that
//! follows it; the shell gives it [`Storage`], which is no more than copying.

mod disk;
#[cfg(test)]
mod tests;

pub use disk::{CowDisk, Storage};

use alloc::vec::Vec;
use core::fmt;

/// Bytes of a block: what an overlay is made of.
pub const BLOCK_BYTES: usize = 4096;

/// In the map: the block was never written.
const UNCHANGED: u32 = u32::MAX;

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the image.
    Image(ImagePart),
    /// In the overlay, in the block of this number.
    Overlay(u32),
}

/// The part of an image that is a block's; the rest of the block is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImagePart {
    /// Where it begins.
    pub offset: u64,
    /// How much of a block the image has there: all of it but at the image's end.
    pub bytes: usize,
}

/// Why there is no map, or a block has no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CowError {
    /// No block has this number.
    NoBlock(u64),
    /// Every block of the overlay is in use.
    Full,
    /// The heap has no room for the map of an image of so many bytes.
    NoMemory(u64),
}

impl fmt::Display for CowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBlock(block) => {
                write!(
                    f,
                    "block {block} is beyond the end of the disk; the caller has to check"
                )
            }
            Self::Full => f.write_str(
                "the memory for changed blocks is used up; give the disk a larger `overlay` in the manifest",
            ),
            Self::NoMemory(bytes) => write!(
                f,
                "there is no memory for the block map of a disk image of {bytes} bytes; use a smaller image"
            ),
        }
    }
}

impl core::error::Error for CowError {}

/// Where each block of a disk is. Four bytes a block, taken when it is made.
#[derive(Debug)]
pub struct BlockMap {
    image_bytes: u64,
    /// For each block its overlay block, or [`UNCHANGED`].
    places: Vec<u32>,
    /// Overlay blocks from this one on are free.
    used: u32,
    overlay_blocks: u32,
}

impl BlockMap {
    /// The map of a disk whose image has `image_bytes`, with `overlay_blocks` for what is written; nothing is yet.
    ///
    /// # Errors
    /// [`CowError::NoMemory`] where the heap has no room for it.
    pub fn new(image_bytes: u64, overlay_blocks: u32) -> Result<Self, CowError> {
        let no_memory = CowError::NoMemory(image_bytes);
        let blocks = usize::try_from(image_bytes.div_ceil(BLOCK_BYTES as u64));
        let blocks = blocks.map_err(|_| no_memory)?;
        let mut places = Vec::new();
        places.try_reserve_exact(blocks).map_err(|_| no_memory)?;
        places.resize(blocks, UNCHANGED);
        Ok(Self {
            image_bytes,
            places,
            used: 0,
            overlay_blocks,
        })
    }

    /// Bytes of the image.
    #[must_use]
    pub const fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// How many blocks there are. The last one may be a part of one in the image.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.places.len() as u64
    }

    /// Where a block is.
    ///
    /// # Errors
    /// [`CowError::NoBlock`] beyond the end.
    pub fn place(&self, block: u64) -> Result<Place, CowError> {
        let index = usize::try_from(block).map_err(|_| CowError::NoBlock(block))?;
        match self.places.get(index) {
            Some(&UNCHANGED) => Ok(Place::Image(self.image_part(block))),
            Some(&overlay) => Ok(Place::Overlay(overlay)),
            None => Err(CowError::NoBlock(block)),
        }
    }

    /// The overlay block that a block's first write would take. Nothing changes before [`Claim::commit`], so what fails
    /// in between leaves the block as it was.
    ///
    /// # Errors
    /// [`CowError::NoBlock`] beyond the end, [`CowError::Full`] where none is free.
    pub fn claim(&mut self, block: u64) -> Result<Claim<'_>, CowError> {
        let index = usize::try_from(block).map_err(|_| CowError::NoBlock(block))?;
        let place = self.places.get_mut(index).ok_or(CowError::NoBlock(block))?;
        if self.used >= self.overlay_blocks || self.used == UNCHANGED {
            return Err(CowError::Full);
        }
        Ok(Claim {
            place,
            used: &mut self.used,
        })
    }

    /// Every block is the image's again, and the whole overlay free.
    pub fn reset(&mut self) {
        self.places.fill(UNCHANGED);
        self.used = 0;
    }

    /// The image's part of a block that exists.
    fn image_part(&self, block: u64) -> ImagePart {
        let offset = block.saturating_mul(BLOCK_BYTES as u64);
        let left = self.image_bytes.saturating_sub(offset);
        ImagePart {
            offset,
            bytes: left.min(BLOCK_BYTES as u64) as usize,
        }
    }
}

/// A free overlay block, held for a block that is written for the first time.
#[derive(Debug)]
#[must_use]
pub struct Claim<'a> {
    place: &'a mut u32,
    used: &'a mut u32,
}

impl Claim<'_> {
    /// The overlay block's number.
    #[must_use]
    pub const fn overlay_block(&self) -> u32 {
        *self.used
    }

    /// The block is in the overlay from now on. A block that already was keeps its place.
    pub const fn commit(self) {
        if *self.place == UNCHANGED {
            *self.place = *self.used;
            *self.used += 1;
        }
    }
}
