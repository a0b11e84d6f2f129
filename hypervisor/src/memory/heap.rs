//! The heap: one block taken from the firmware at entry, the same before and after boot services end.
//!
//! It serves start-up and control operations; nothing on the path of a VM exit allocates. While a
//! [`Scratch`] lives, allocations come from a second, larger block that goes back to the firmware afterwards.
#![allow(unsafe_code, reason = "an allocator is given raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use linked_list_allocator::LockedHeap;
use uefi::boot::{self, AllocateType, MemoryType};

/// Bytes of heap.
pub const HEAP_BYTES: usize = 1 << 20;
/// Bytes of scratch: what the worst manifest of the greatest size makes its parser hold, and some more.
const SCRATCH_BYTES: usize = 32 << 20;
const PAGE: usize = 4096;

struct Heaps {
    lasting: LockedHeap,
    scratch: LockedHeap,
    /// Where the scratch block begins, 0 where there is none.
    scratch_start: AtomicU64,
    /// Whether new allocations come from the scratch block.
    scratch_on: AtomicBool,
}

#[global_allocator]
static HEAPS: Heaps = Heaps {
    lasting: LockedHeap::empty(),
    scratch: LockedHeap::empty(),
    scratch_start: AtomicU64::new(0),
    scratch_on: AtomicBool::new(false),
};

// SAFETY: both heaps are allocators of their own, and an allocation goes back to the one whose block it lies in.
unsafe impl GlobalAlloc for Heaps {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = if self.scratch_on.load(Ordering::Relaxed) {
            &self.scratch
        } else {
            &self.lasting
        };
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { heap.alloc(layout) }
    }

    unsafe fn dealloc(&self, allocation: *mut u8, layout: Layout) {
        let start = self.scratch_start.load(Ordering::Relaxed);
        let in_scratch =
            start != 0 && (allocation as u64).wrapping_sub(start) < SCRATCH_BYTES as u64;
        let heap = if in_scratch {
            &self.scratch
        } else {
            &self.lasting
        };
        // SAFETY: the allocation came from this heap, with this layout.
        unsafe { heap.dealloc(allocation, layout) }
    }
}

/// Takes the heap's memory from the firmware; the first thing the image does.
///
/// # Errors
/// The firmware's status when it has no memory.
pub fn start() -> uefi::Result<(u64, u64)> {
    let start = block(HEAP_BYTES)?;
    // SAFETY: the firmware gave this block to us alone, and it is never given back.
    unsafe { HEAPS.lasting.lock().init(start.as_ptr(), HEAP_BYTES) };
    Ok((start.as_ptr() as u64, HEAP_BYTES as u64))
}

/// Bytes of the lasting heap in use, and free.
#[must_use]
pub fn usage() -> (u64, u64) {
    let heap = HEAPS.lasting.lock();
    (heap.used() as u64, heap.free() as u64)
}

fn block(bytes: usize) -> uefi::Result<NonNull<u8>> {
    boot::allocate_pages(
        AllocateType::AnyPages,
        MemoryType::LOADER_DATA,
        bytes / PAGE,
    )
}

/// Allocations come from scratch memory while this lives. What is still allocated there afterwards stays valid until
/// boot services end, so that a parse's result can be copied out.
#[must_use]
pub struct Scratch(());

impl Scratch {
    /// Begins; without memory for the block, allocations go on coming from the heap.
    pub fn begin() -> Self {
        if HEAPS.scratch_start.load(Ordering::Relaxed) == 0
            && let Ok(start) = block(SCRATCH_BYTES)
        {
            // SAFETY: as for the heap; the block is only given back when boot services end.
            unsafe { HEAPS.scratch.lock().init(start.as_ptr(), SCRATCH_BYTES) };
            HEAPS
                .scratch_start
                .store(start.as_ptr() as u64, Ordering::Relaxed);
        }
        let is_there = HEAPS.scratch_start.load(Ordering::Relaxed) != 0;
        HEAPS.scratch_on.store(is_there, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        HEAPS.scratch_on.store(false, Ordering::Relaxed);
    }
}
