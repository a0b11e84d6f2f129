//! The operator's look at a VM's memory, as it lies in the machine's: for the console's command `memory`.
//!
//! The ledger decides what may be seen: sealed frames, and those of a VM that is not encrypted.
#![allow(unsafe_code, reason = "copies through the window")]

use super::memory::VmMemory;
use crate::memory::{self, window};
use bulkhead_core::addr::{FRAME_SIZE, FrameCount, Gpa, Hpa};
use bulkhead_core::console::MemoryRange;
use bulkhead_core::console::reply::Unreadable;
use bulkhead_core::ledger::{LedgerError, State};
use core::ptr;

/// What was seen.
pub struct Inspected {
    /// Where the machine has the first byte.
    pub hpa: Hpa,
    /// The frame's state.
    pub state: State,
    /// The bytes, as many as were asked for from the first on.
    pub bytes: [u8; MemoryRange::MAX_BYTES as usize],
}

impl VmMemory {
    /// Copies what lies at `range`. Nothing is sealed or unsealed meanwhile: whoever calls has the VM's memory for itself.
    ///
    /// # Errors
    /// There is nothing, or it is not for the operator.
    pub fn inspect(&mut self, range: MemoryRange) -> Result<Inspected, Unreadable> {
        let gpa = range.gpa();
        let nothing = Unreadable::NotMemory(gpa);
        let page = self.page_at(gpa).ok_or(nothing)?;
        let run = self.piece(page, FrameCount(1)).ok_or(nothing)?.run;
        let offset = gpa.page_offset();
        let hpa = Hpa(run.first.start().0 + offset);
        let mut memory = memory::lock();
        let state = memory.ledger.info(run.first).ok_or(nothing)?.state;
        let right = match memory.ledger.grant_inspect(self.vm, run) {
            Ok(right) => right,
            Err(LedgerError::Private(_)) => return Err(Unreadable::Private(gpa, hpa)),
            Err(_) => return Err(nothing),
        };
        drop(memory);
        let mut bytes = [0; MemoryRange::MAX_BYTES as usize];
        let (shown, right) = window::show(right, |window, _| {
            let from = window.wrapping_add(offset as usize);
            // SAFETY: the window shows the frame, and a range ends within its page; it has no more bytes than the array. A guest may
            // change them meanwhile: they are copied, never referred to.
            unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), range.bytes() as usize) };
        });
        memory::lock().ledger.surrender(right);
        shown.map_err(|_| nothing)?;
        Ok(Inspected { hpa, state, bytes })
    }

    /// The page of RAM at `gpa`.
    fn page_at(&self, gpa: Gpa) -> Option<u64> {
        let mut first = 0;
        for range in self.layout.ram_ranges() {
            if (range.start..range.end).contains(&gpa) {
                return Some(first + (gpa.0 - range.start.0) / FRAME_SIZE);
            }
            first += range.len() / FRAME_SIZE;
        }
        None
    }
}
