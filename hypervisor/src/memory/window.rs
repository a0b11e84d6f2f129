//! This CPU's window: how a few frames at a time come to be seen while they are copied or zeroed.
#![allow(unsafe_code, reason = "writes through the window")]

use super::pool::PoolView;
use super::tlb::HostTlb;
use crate::pcpu;
use bulkhead_core::addr::FRAME_SIZE;
use bulkhead_core::hostpt::{HostError, Window};
use bulkhead_core::ledger::{MapRight, Scrub};

/// A CPU's window and the way to the page table that it writes.
pub struct CpuWindow {
    window: Window,
    tables: PoolView,
}

impl CpuWindow {
    /// `window`, whose page table lies in the pool that `tables` shows.
    #[must_use]
    pub const fn new(window: Window, tables: PoolView) -> Self {
        Self { window, tables }
    }
}

/// Shows the frames of `right` while `copy` runs; it gets where they show and how many bytes they are. The right
/// comes back for `Ledger::surrender`.
pub fn show<T>(
    right: MapRight,
    copy: impl FnOnce(*mut u8, usize) -> T,
) -> (Result<T, HostError>, MapRight) {
    let bytes = (right.run().count.0 * FRAME_SIZE) as usize;
    let mut own = pcpu::this().window.lock();
    let CpuWindow { window, tables } = &mut *own;
    match window.open(tables, right) {
        Ok(at) => {
            let result = copy(at.0 as *mut u8, bytes);
            match window.close(tables, &mut HostTlb) {
                Some(right) => (Ok(result), right),
                None => unreachable!("the window was open"),
            }
        }
        Err(rejected) => (Err(rejected.error), rejected.right),
    }
}

/// Zeroes frames through this CPU's window.
pub struct Scrubber;

impl Scrub for Scrubber {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        let (shown, right) = show(right, |window, bytes| {
            // SAFETY: the window shows these frames, writable, and nothing else refers to them.
            unsafe { window.write_bytes(0, bytes) };
        });
        match shown {
            Ok(()) => right,
            Err(error) => panic!("frames cannot be scrubbed: {error}"),
        }
    }
}
