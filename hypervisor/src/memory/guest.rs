//! A VM's memory as the hypervisor sees it: copied in and out through the window, page by page, as the ledger allows.
#![allow(unsafe_code, reason = "copies through the window")]

use super::{Memory, MemoryError};
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use bulkhead_core::ept::Ept;
use bulkhead_core::ledger::{FrameRun, Rights, SCRUB_FRAMES, VmId};
use core::ptr;

/// The memory of one VM, for as long as something is copied.
pub struct GuestSpace<'a> {
    /// The hypervisor's memory.
    pub memory: &'a mut Memory,
    /// Whose memory it is.
    pub vm: VmId,
    /// The view in force.
    pub ept: &'a Ept,
    /// Bytes of RAM the VM has.
    pub size: u64,
}

/// A guest physical address at which the VM has no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotMemory(pub Gpa);

impl GuestSpace<'_> {
    /// Copies guest memory from `gpa` on into `bytes`.
    ///
    /// # Errors
    /// The first address that is not the VM's memory; what lies before it was copied.
    pub fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), NotMemory> {
        let target = bytes.as_mut_ptr();
        self.each_piece(gpa, bytes.len(), Rights::READ, |window, done, length| {
            // SAFETY: `each_piece` shows `length` bytes at `window`, and `done + length` is within `bytes`; the
            // two do not overlap. The guest may change its memory meanwhile: bytes are copied, never referred to.
            unsafe { ptr::copy_nonoverlapping(window, target.wrapping_add(done), length) };
        })
    }

    /// Copies `bytes` to guest memory from `gpa` on.
    ///
    /// # Errors
    /// The first address that is not the VM's memory; what lies before it was copied.
    pub fn write_bytes(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), NotMemory> {
        let source = bytes.as_ptr();
        self.each_piece(
            gpa,
            bytes.len(),
            Rights::READ | Rights::WRITE,
            |window, done, length| {
                // SAFETY: as in `read`, the other way round.
                unsafe { ptr::copy_nonoverlapping(source.wrapping_add(done), window, length) };
            },
        )
    }

    /// Zeroes the VM's frames.
    ///
    /// # Errors
    /// The ledger says that a frame is not the VM's, or the window cannot show it.
    pub fn clear(&mut self, frames: &[FrameRun]) -> Result<(), MemoryError> {
        for run in frames {
            let mut next = run.first;
            while next < run.end() {
                let count = FrameCount((run.end().0 - next.0).min(SCRUB_FRAMES));
                let piece = FrameRun::new(next, count);
                let right = self.memory.ledger.grant_window(
                    self.vm,
                    piece,
                    Rights::READ | Rights::WRITE,
                )?;
                let shown = self.memory.with_window(right, |window, bytes| {
                    // SAFETY: the window shows these frames, writable, and no guest runs that could use them.
                    unsafe { window.write_bytes(0, bytes) };
                });
                let ((), right) = shown?;
                self.memory.ledger.surrender(right);
                next = piece.end();
            }
        }
        Ok(())
    }

    /// Shows guest memory piece by piece: where a piece shows, how many bytes came before, how many it has.
    fn each_piece(
        &mut self,
        gpa: Gpa,
        length: usize,
        rights: Rights,
        mut copy: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), NotMemory> {
        let mut done = 0;
        while done < length {
            let at = gpa.checked_add(done as u64).ok_or(NotMemory(gpa))?;
            let refused = NotMemory(at);
            let leaf = self.ept.translate(&self.memory.pool, at).ok_or(refused)?;
            let into_page = at.0 - leaf.input.0;
            let offset = at.page_offset() as usize;
            let page_left = leaf.size.frames().0 * FRAME_SIZE - into_page;
            let bytes = (length - done)
                .min(page_left as usize)
                .min((SCRUB_FRAMES * FRAME_SIZE) as usize - offset);
            let run = FrameRun::new(
                Frame(leaf.frame.0 + into_page / FRAME_SIZE),
                FrameCount::covering((offset + bytes) as u64),
            );
            let right = self
                .memory
                .ledger
                .grant_window(self.vm, run, rights)
                .map_err(|_| refused)?;
            let shown = self.memory.with_window(right, |window, _| {
                copy(window.wrapping_add(offset), done, bytes)
            });
            let ((), right) = shown.map_err(|_| refused)?;
            self.memory.ledger.surrender(right);
            done += bytes;
        }
        Ok(())
    }
}

impl guest_loader::GuestMemory for GuestSpace<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), guest_loader::OutOfRange> {
        self.write_bytes(gpa, bytes)
            .map_err(|NotMemory(_)| guest_loader::OutOfRange {
                gpa,
                len: bytes.len() as u64,
            })
    }
}
