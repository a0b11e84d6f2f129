//! What a VM's disk is stored in: the image, which the firmware read into memory, and pages of the VM's memory for changed
//! blocks.
//!
//! Which block is where, [`bulkhead_core::cow`] knows. The image is mapped for reading; the pages show in this CPU's window
//! while a block is copied, as the VM's RAM does.
#![allow(unsafe_code, reason = "copies through the window")]

use super::memory::SharedMemory;
use crate::memory::{self, window};
use bulkhead_core::addr::FRAME_SIZE;
use bulkhead_core::cow::{BLOCK_BYTES, Storage};
use bulkhead_core::ledger::Rights;
use core::ptr;

const _: () = assert!(BLOCK_BYTES as u64 == FRAME_SIZE);

/// A disk's image and its place in the VM's memory.
pub struct Stored {
    image: &'static [u8],
    memory: &'static SharedMemory,
    /// Which of the VM's disks it is.
    disk: usize,
}

impl Stored {
    /// `image`, and the overlay of disk number `disk` in `memory`.
    #[must_use]
    pub const fn new(image: &'static [u8], memory: &'static SharedMemory, disk: usize) -> Self {
        Self {
            image,
            memory,
            disk,
        }
    }

    /// Shows the part of overlay block `block` that begins at `offset` and has `bytes` bytes; false where there is none.
    fn show(
        &self,
        block: u32,
        offset: usize,
        bytes: usize,
        rights: Rights,
        copy: impl FnOnce(*mut u8),
    ) -> bool {
        let within = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= BLOCK_BYTES);
        if !within {
            return false;
        }
        let right = self
            .memory
            .lock()
            .right_to_overlay(self.disk, block, rights);
        let Some(right) = right else { return false };
        let (shown, right) = window::show(right, |window, _| copy(window.wrapping_add(offset)));
        memory::lock().ledger.surrender(right);
        shown.is_ok()
    }
}

impl Storage for Stored {
    fn read_image(&mut self, offset: u64, bytes: &mut [u8]) -> bool {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.image.get(offset..)?.get(..bytes.len()));
        part.is_some_and(|part| {
            bytes.copy_from_slice(part);
            true
        })
    }

    fn read_overlay(&mut self, block: u32, offset: usize, bytes: &mut [u8]) -> bool {
        let (target, length) = (bytes.as_mut_ptr(), bytes.len());
        self.show(block, offset, length, Rights::READ, |window| {
            // SAFETY: `show` checked that `length` bytes show at `window`; they are not part of `bytes`.
            unsafe { ptr::copy_nonoverlapping(window, target, length) };
        })
    }

    fn write_overlay(&mut self, block: u32, offset: usize, bytes: &[u8]) -> bool {
        let (source, length) = (bytes.as_ptr(), bytes.len());
        let rights = Rights::READ | Rights::WRITE;
        self.show(block, offset, length, rights, |window| {
            // SAFETY: as in `read_overlay`, the other way round.
            unsafe { ptr::copy_nonoverlapping(source, window, length) };
        })
    }
}
