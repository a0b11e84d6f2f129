//! What a VM's disk is stored in: the image, which the firmware read into memory, and frames of the VM's for changed blocks.
//!
//! Which block is where, [`bulkhead_core::cow`] knows. The image is mapped for reading; the frames show in this CPU's window
//! while a block is copied, as the VM's memory does.
#![allow(unsafe_code, reason = "copies through the window")]

use crate::memory::{self, window};
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount};
use bulkhead_core::cow::{BLOCK_BYTES, Storage};
use bulkhead_core::ledger::{FrameRun, Rights, VmId};
use core::ptr;

const _: () = assert!(BLOCK_BYTES as u64 == FRAME_SIZE);

/// A disk's image and the frames for its changed blocks.
pub struct Stored {
    image: &'static [u8],
    vm: VmId,
    overlay: Vec<Piece>,
}

/// A run of an overlay's frames.
struct Piece {
    /// The overlay block that its first frame is.
    block: u64,
    run: FrameRun,
}

impl Stored {
    /// `image`, and the frames of `overlay`, which are the VM's and clear.
    #[must_use]
    pub fn new(image: &'static [u8], vm: VmId, overlay: &[FrameRun]) -> Self {
        let mut block = 0;
        let overlay = overlay
            .iter()
            .map(|run| {
                let piece = Piece { block, run: *run };
                block += run.count.0;
                piece
            })
            .collect();
        Self { image, vm, overlay }
    }

    /// The frame that overlay block `block` is.
    fn frame(&self, block: u32) -> Option<Frame> {
        let block = u64::from(block);
        let after = self.overlay.partition_point(|piece| piece.block <= block);
        let piece = self.overlay.get(after.checked_sub(1)?)?;
        let frame = Frame(piece.run.first.0 + (block - piece.block));
        piece.run.contains(frame).then_some(frame)
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
        let Some(frame) = self.frame(block).filter(|_| within) else {
            return false;
        };
        let run = FrameRun::new(frame, FrameCount(1));
        let Ok(right) = memory::lock().ledger.grant_window(self.vm, run, rights) else {
            return false;
        };
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
