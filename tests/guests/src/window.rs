//! A window onto any guest physical page, also onto those where there is nothing.
#![allow(unsafe_code, reason = "writes a page-table entry")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Linear address of the window: the second PML4 entry's first page.
pub const BASE: u64 = 1 << 39;
const PAGE_MASK: u64 = 0xfff;
const PRESENT_WRITABLE: u64 = 0b11;

unsafe extern "C" {
    /// The window's page table (`boot`): 512 entries, all but the first unused.
    safe static window_table: [AtomicU64; 512];
}

/// Maps the page of guest physical address `gpa` and returns the linear address of that byte.
#[must_use]
pub fn map(gpa: u64) -> u64 {
    set((gpa & !PAGE_MASK) | PRESENT_WRITABLE);
    BASE + (gpa & PAGE_MASK)
}

/// Maps nothing: the window then page-faults.
pub fn unmap() {
    set(0);
}

fn set(entry: u64) {
    if let Some(first) = window_table.first() {
        first.store(entry, Relaxed);
    }
    // SAFETY: drops one translation from the TLB.
    unsafe { asm!("invlpg [{}]", in(reg) BASE, options(nostack, preserves_flags)) };
}
