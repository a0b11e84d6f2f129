//! A VM's memory as the hypervisor sees it: copied in and out through the window, page by page, as the ledger allows.
#![allow(unsafe_code, reason = "copies through the window")]

use super::{MemoryError, window};
use crate::vm::memory::{self, NoCopy, SharedMemory};
use bulkhead_core::addr::{FRAME_SIZE, Gpa};
use bulkhead_core::ledger::{FrameRun, Rights, VmId};
use core::ptr;

/// The memory of one VM, to copy from and to.
#[derive(Clone, Copy)]
pub struct GuestSpace<'a> {
    /// Its frames and its view.
    pub memory: &'a SharedMemory,
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
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), NotMemory> {
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
    pub fn write_bytes(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), NotMemory> {
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

    /// Zeroes frames of `vm`, as many as this CPU's window shows at most.
    ///
    /// # Errors
    /// The ledger says that a frame is not the VM's, or the window cannot show it.
    pub fn clear(vm: VmId, run: FrameRun) -> Result<(), MemoryError> {
        let right = super::lock()
            .ledger
            .grant_window(vm, run, Rights::READ | Rights::WRITE)?;
        let (shown, right) = window::show(right, |window, bytes| {
            // SAFETY: the window shows these frames, writable, and no guest runs that could use them.
            unsafe { window.write_bytes(0, bytes) };
        });
        super::lock().ledger.surrender(right);
        shown.map_err(MemoryError::Tables)
    }

    /// Shows guest memory piece by piece: where a piece shows, how many bytes came before, how many it has.
    fn each_piece(
        &self,
        gpa: Gpa,
        length: usize,
        rights: Rights,
        mut copy: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), NotMemory> {
        let mut done = 0;
        while done < length {
            let at = gpa.checked_add(done as u64).ok_or(NotMemory(gpa))?;
            let refused = NotMemory(at);
            let offset = at.page_offset() as usize;
            let mut own = self.memory.lock();
            let right = own.right_to_ram(at, length - done, rights);
            let vm = own.vm();
            drop(own);
            let right = right.map_err(|no_copy| {
                if let NoCopy::Stop(reason) = no_copy {
                    memory::stop(vm, reason);
                }
                refused
            })?;
            // Other CPUs may use the VM's memory while this one copies.
            let shows = (right.run().count.0 * FRAME_SIZE) as usize - offset;
            let bytes = shows.min(length - done);
            let (shown, right) = window::show(right, |window, _| {
                copy(window.wrapping_add(offset), done, bytes)
            });
            super::lock().ledger.surrender(right);
            shown.map_err(|_| refused)?;
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
