//! The heap: a block taken from the firmware at entry, and one more that is as large as the plan's VMs need it; both stay
//! when boot services end.
//!
//! It serves start-up and control operations; nothing on the path of a VM exit allocates. While a
//! [`Scratch`] lives, allocations come from a third, larger block that goes back to the firmware afterwards.
#![allow(unsafe_code, reason = "an allocator is given raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use linked_list_allocator::LockedHeap;
use uefi::boot::{self, AllocateType, MemoryType};

/// Bytes of the block taken at entry.
const FIRST_BYTES: usize = 1 << 20;
/// Bytes of scratch: what the worst manifest of the greatest size makes its parser hold, and some more.
const SCRATCH_BYTES: usize = 32 << 20;
const PAGE: usize = 4096;

struct Heaps {
    /// Taken at entry.
    first: Block,
    /// Taken when the plan is known.
    planned: Block,
    scratch: Block,
    /// Whether new allocations come from the scratch block.
    scratch_on: AtomicBool,
}

/// A heap and where its memory lies.
struct Block {
    heap: LockedHeap,
    start: AtomicU64,
    bytes: AtomicU64,
}

impl Block {
    /// No memory yet: it refuses.
    const fn empty() -> Self {
        Self {
            heap: LockedHeap::empty(),
            start: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes its memory from the firmware, once.
    fn take(&self, bytes: usize) -> uefi::Result {
        let pages = bytes.div_ceil(PAGE);
        let start = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, pages)?;
        let bytes = pages * PAGE;
        // SAFETY: the firmware gave this memory to us alone, and takes none of it back before boot services end; the
        // scratch block's is not used any more then.
        unsafe { self.heap.lock().init(start.as_ptr(), bytes) };
        self.bytes.store(bytes as u64, Ordering::Relaxed);
        self.start.store(start.as_ptr() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn range(&self) -> (u64, u64) {
        let start = self.start.load(Ordering::Relaxed);
        (start, self.bytes.load(Ordering::Relaxed))
    }

    fn is_there(&self) -> bool {
        self.range().1 != 0
    }

    fn holds(&self, allocation: *const u8) -> bool {
        let (start, bytes) = self.range();
        (allocation as u64).wrapping_sub(start) < bytes
    }
}

#[global_allocator]
static HEAPS: Heaps = Heaps {
    first: Block::empty(),
    planned: Block::empty(),
    scratch: Block::empty(),
    scratch_on: AtomicBool::new(false),
};

// SAFETY: the heaps are allocators of their own, and an allocation goes back to the one whose block it lies in.
unsafe impl GlobalAlloc for Heaps {
    // Never inlined, nor the other: there are hundreds of places that allocate, and more that free.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.scratch_on.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise about `layout` is passed on.
            return unsafe { self.scratch.heap.alloc(layout) };
        }
        // SAFETY: as above.
        let planned = unsafe { self.planned.heap.alloc(layout) };
        if !planned.is_null() {
            return planned;
        }
        // SAFETY: as above.
        unsafe { self.first.heap.alloc(layout) }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, allocation: *mut u8, layout: Layout) {
        let blocks = [&self.planned, &self.scratch];
        let block = blocks.into_iter().find(|block| block.holds(allocation));
        // SAFETY: the allocation came from this heap, with this layout.
        unsafe {
            block
                .unwrap_or(&self.first)
                .heap
                .dealloc(allocation, layout)
        }
    }
}

/// Takes the first block from the firmware; the first thing the image does.
///
/// # Errors
/// The firmware's status when it has no memory.
pub fn start() -> uefi::Result {
    HEAPS.first.take(FIRST_BYTES)
}

/// Takes a block of `bytes` more, once, for the plan's VMs.
///
/// # Errors
/// The firmware's status when it has no memory.
pub fn extend(bytes: usize) -> uefi::Result {
    HEAPS.planned.take(bytes)
}

/// The memory of the blocks that stay: where each begins, and its bytes.
pub fn blocks() -> impl Iterator<Item = (u64, u64)> {
    [&HEAPS.first, &HEAPS.planned]
        .into_iter()
        .filter(|block| block.is_there())
        .map(Block::range)
}

/// Bytes of the blocks that stay: in use, and free.
#[must_use]
pub fn usage() -> (u64, u64) {
    [&HEAPS.first, &HEAPS.planned]
        .into_iter()
        .map(|block| {
            let heap = block.heap.lock();
            (heap.used() as u64, heap.free() as u64)
        })
        .fold((0, 0), |sum, block| (sum.0 + block.0, sum.1 + block.1))
}

/// Allocations come from scratch memory while this lives. What is still allocated there afterwards stays valid until
/// boot services end, so that a parse's result can be copied out.
#[must_use]
pub struct Scratch(());

impl Scratch {
    /// Begins; without memory for the block, allocations go on coming from the heap.
    pub fn begin() -> Self {
        let is_there = HEAPS.scratch.is_there() || HEAPS.scratch.take(SCRATCH_BYTES).is_ok();
        HEAPS.scratch_on.store(is_there, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        HEAPS.scratch_on.store(false, Ordering::Relaxed);
    }
}
