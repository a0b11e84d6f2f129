//! The disk that a block map describes.

use alloc::boxed::Box;

use super::{BLOCK_BYTES, BlockMap, CowError, Place};
use crate::device::virtio::blk::{Disk, DiskError, SECTOR_BYTES};

const SECTORS_A_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;

/// The bytes of an image and an overlay. A [`CowDisk`] asks for nothing outside of them.
pub trait Storage: Send {
    /// Fills `bytes` from `offset` of the image on; false where that failed.
    #[must_use]
    fn read_image(&mut self, offset: u64, bytes: &mut [u8]) -> bool;

    /// Fills `bytes` from byte `offset` of overlay block `block` on; they end within it. False where that failed.
    #[must_use]
    fn read_overlay(&mut self, block: u32, offset: usize, bytes: &mut [u8]) -> bool;

    /// Copies `bytes` to byte `offset` of overlay block `block` on; they end within it. False where that failed.
    #[must_use]
    fn write_overlay(&mut self, block: u32, offset: usize, bytes: &[u8]) -> bool;
}

/// A disk whose image stays as it is.
pub struct CowDisk<S> {
    map: BlockMap,
    pub(super) storage: S,
    read_only: bool,
    /// A block on its way from the image to the overlay; nothing of the guest's stays in it.
    pub(super) block: Box<[u8; BLOCK_BYTES]>,
}

impl<S: Storage> CowDisk<S> {
    /// A disk whose changed blocks go to the overlay until the VM starts anew.
    #[must_use]
    pub fn new(map: BlockMap, storage: S) -> Self {
        Self {
            map,
            storage,
            read_only: false,
            block: Box::new([0; BLOCK_BYTES]),
        }
    }

    /// A disk that is only read.
    ///
    /// # Errors
    /// [`CowError::NoMemory`] where the heap has no room for it.
    pub fn read_only(image_bytes: u64, storage: S) -> Result<Self, CowError> {
        let map = BlockMap::new(image_bytes, 0)?;
        Ok(Self {
            read_only: true,
            ..Self::new(map, storage)
        })
    }

    /// Where its blocks are.
    #[must_use]
    pub const fn map(&self) -> &BlockMap {
        &self.map
    }

    /// Reads a piece of one block.
    fn read_piece(&mut self, piece: Piece, bytes: &mut [u8]) -> Result<(), DiskError> {
        let read = match self.map.place(piece.block)? {
            Place::Overlay(block) => self.storage.read_overlay(block, piece.offset, bytes),
            Place::Image(part) => {
                let stored = part.bytes.saturating_sub(piece.offset).min(bytes.len());
                let (image, tail) = bytes
                    .split_at_mut_checked(stored)
                    .ok_or(DiskError::OutOfRange)?;
                tail.fill(0);
                let offset = part.offset.saturating_add(piece.offset as u64);
                image.is_empty() || self.storage.read_image(offset, image)
            }
        };
        stored(read)
    }

    /// Writes a piece of one block.
    fn write_piece(&mut self, piece: Piece, bytes: &[u8]) -> Result<(), DiskError> {
        let part = match self.map.place(piece.block)? {
            Place::Overlay(block) => {
                return stored(self.storage.write_overlay(block, piece.offset, bytes));
            }
            Place::Image(part) => part,
        };
        let claim = self.map.claim(piece.block)?;
        let overlay = claim.overlay_block();
        if bytes.len() == BLOCK_BYTES {
            stored(self.storage.write_overlay(overlay, 0, bytes))?;
        } else {
            let (image, tail) = self
                .block
                .split_at_mut_checked(part.bytes)
                .ok_or(DiskError::OutOfRange)?;
            tail.fill(0);
            stored(self.storage.read_image(part.offset, image))?;
            self.block
                .get_mut(piece.offset..)
                .and_then(|rest| rest.get_mut(..bytes.len()))
                .ok_or(DiskError::OutOfRange)?
                .copy_from_slice(bytes);
            let written = self
                .storage
                .write_overlay(overlay, 0, self.block.as_slice());
            // What the guest wrote is its own: its memory may be sealed, this is not.
            self.block.fill(0);
            stored(written)?;
        }
        claim.commit();
        Ok(())
    }

    /// Whether `bytes` from `sector` on are whole sectors of the disk.
    fn check(&self, sector: u64, bytes: usize) -> Result<(), DiskError> {
        let sectors = (bytes / SECTOR_BYTES) as u64;
        let end = sector.checked_add(sectors);
        if bytes.is_multiple_of(SECTOR_BYTES) && end.is_some_and(|end| end <= self.sectors()) {
            Ok(())
        } else {
            Err(DiskError::OutOfRange)
        }
    }
}

impl<S: Storage> Disk for CowDisk<S> {
    /// The image's length in sectors; what it lacks of the last one reads as zero.
    fn sectors(&self) -> u64 {
        self.map.image_bytes().div_ceil(SECTOR_BYTES as u64)
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.check(sector, bytes.len())?;
        let mut rest = bytes;
        for piece in pieces(sector, rest.len()) {
            let (now, later) = rest
                .split_at_mut_checked(piece.bytes)
                .ok_or(DiskError::OutOfRange)?;
            self.read_piece(piece, now)?;
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly);
        }
        self.check(sector, bytes.len())?;
        let mut rest = bytes;
        for piece in pieces(sector, rest.len()) {
            let (now, later) = rest
                .split_at_checked(piece.bytes)
                .ok_or(DiskError::OutOfRange)?;
            self.write_piece(piece, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Memory holds what was written as well as it ever will.
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn forget_writes(&mut self) {
        self.map.reset();
    }
}

impl From<CowError> for DiskError {
    fn from(error: CowError) -> Self {
        match error {
            CowError::NoBlock(_) => Self::OutOfRange,
            CowError::Full => Self::Full,
            CowError::NoMemory(_) => Self::Storage,
        }
    }
}

const fn stored(done: bool) -> Result<(), DiskError> {
    if done {
        Ok(())
    } else {
        Err(DiskError::Storage)
    }
}

/// Bytes of one block.
#[derive(Clone, Copy)]
struct Piece {
    block: u64,
    /// Where in the block they begin.
    offset: usize,
    bytes: usize,
}

/// `bytes` from `sector` on, block by block.
fn pieces(sector: u64, bytes: usize) -> impl Iterator<Item = Piece> {
    let first_offset = (sector % SECTORS_A_BLOCK) as usize * SECTOR_BYTES;
    let mut next = Piece {
        block: sector / SECTORS_A_BLOCK,
        offset: first_offset,
        bytes: bytes.min(BLOCK_BYTES - first_offset),
    };
    let mut left = bytes;
    core::iter::from_fn(move || {
        let piece = next;
        left -= piece.bytes;
        next = Piece {
            block: piece.block.saturating_add(1),
            offset: 0,
            bytes: left.min(BLOCK_BYTES),
        };
        (piece.bytes != 0).then_some(piece)
    })
}
