//! This CPU's window: how a few frames at a time come to be seen while they are copied or zeroed.
#![allow(unsafe_code, reason = "writes through the window")]

use super::pool::PoolView;
use super::tlb::HostTlb;
use crate::pcpu;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount};
use bulkhead_core::hostpt::{HostError, Window};
use bulkhead_core::ledger::{MapRight, Scrub};
use bulkhead_crypto::{Page, SaveArea};

/// A CPU's window and the way to the page table that it writes.
pub struct CpuWindow {
    window: Window,
    tables: PoolView,
    /// Where sealing a frame keeps the guest's vector registers meanwhile.
    area: SaveArea,
}

impl CpuWindow {
    /// `window`, whose page table lies in the pool that `tables` shows.
    #[must_use]
    pub const fn new(window: Window, tables: PoolView) -> Self {
        Self {
            window,
            tables,
            area: SaveArea::new(),
        }
    }
}

/// Shows the frames of `right` while `copy` runs; it gets where they show and how many bytes they are. The right
/// comes back for `Ledger::surrender`.
pub fn show<T>(
    right: MapRight,
    copy: impl FnOnce(*mut u8, usize) -> T,
) -> (Result<T, HostError>, MapRight) {
    let mut own = pcpu::this().window.lock();
    own.show(right, |at, bytes, _| copy(at, bytes))
}

/// Shows the one frame of `right`, which is nobody's to change meanwhile, while `work` runs on it.
///
/// # Panics
/// Where the right is to more or less than one frame, or not to write to it: nobody else's is given back by sealing.
pub fn show_page<T>(
    right: MapRight,
    work: impl FnOnce(&mut Page, &mut SaveArea) -> T,
) -> (Result<T, HostError>, MapRight) {
    assert!(right.run().count == FrameCount(1));
    let mut own = pcpu::this().window.lock();
    own.show(right, |at, _, area| {
        // SAFETY: one frame shows at `at`, aligned and initialised as all memory is; it is sealed, or about to be, so that the right
        // is the only one to it, and nothing else refers to the window while its lock is held.
        let page = unsafe { &mut *at.cast::<Page>() };
        work(page, area)
    })
}

/// As [`show_page`], for a right that need not be to write.
///
/// # Panics
/// Where the right is to more or less than one frame.
pub fn look_at_page<T>(
    right: MapRight,
    work: impl FnOnce(&Page, &mut SaveArea) -> T,
) -> (Result<T, HostError>, MapRight) {
    assert!(right.run().count == FrameCount(1));
    let mut own = pcpu::this().window.lock();
    own.show(right, |at, _, area| {
        // SAFETY: as in `show_page`; nobody has a right to write to a sealed frame.
        let page = unsafe { &*at.cast::<Page>() };
        work(page, area)
    })
}

/// Does `work` with this CPU's room for vector registers.
pub fn with_save_area<T>(work: impl FnOnce(&mut SaveArea) -> T) -> T {
    work(&mut pcpu::this().window.lock().area)
}

impl CpuWindow {
    fn show<T>(
        &mut self,
        right: MapRight,
        work: impl FnOnce(*mut u8, usize, &mut SaveArea) -> T,
    ) -> (Result<T, HostError>, MapRight) {
        let bytes = (right.run().count.0 * FRAME_SIZE) as usize;
        let Self {
            window,
            tables,
            area,
        } = self;
        match window.open(tables, right) {
            Ok(at) => {
                let result = work(at.0 as *mut u8, bytes, area);
                match window.close(tables, &mut HostTlb) {
                    Some(right) => (Ok(result), right),
                    None => unreachable!("the window was open"),
                }
            }
            Err(rejected) => (Err(rejected.error), rejected.right),
        }
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
