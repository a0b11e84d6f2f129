//! Frames of the hypervisor's own: one run taken at boot, mapped where its addresses are equal.
//!
//! Page tables, VMCS regions and bitmaps come from here. Frames are zeroed when they are handed out.
#![allow(
    unsafe_code,
    reason = "reads and writes table entries in frames it owns"
)]

use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount};
use bulkhead_core::ledger::FrameRun;
use bulkhead_core::table::{ENTRIES, TableMemory};

/// A run of identity-mapped frames and which of them are taken.
pub struct Pool {
    run: FrameRun,
    /// Frames never handed out yet start here.
    next: u64,
    /// Head of the list of frames given back; each holds the next one's number in its first word, 0 at the end.
    returned: u64,
    used: u64,
}

impl Pool {
    /// A pool of `run`.
    ///
    /// # Safety
    /// The run must be the caller's alone, mapped writable where virtual and physical addresses are equal for
    /// as long as the pool lives, and must not hold frame 0.
    #[must_use]
    pub const unsafe fn new(run: FrameRun) -> Self {
        Self {
            run,
            next: run.first.0,
            returned: 0,
            used: 0,
        }
    }

    /// Frames handed out.
    #[must_use]
    pub const fn used(&self) -> FrameCount {
        FrameCount(self.used)
    }

    /// `count` zeroed frames in a row, which are never given back.
    pub fn take_run(&mut self, count: FrameCount) -> Option<FrameRun> {
        let first = self.next;
        let end = first.checked_add(count.0)?;
        if end > self.run.end().0 {
            return None;
        }
        self.next = end;
        self.used += count.0;
        let run = FrameRun::new(Frame(first), count);
        zero(run);
        Some(run)
    }

    /// A way to the words of its frames.
    #[must_use]
    pub const fn view(&self) -> PoolView {
        PoolView(self.run)
    }
}

/// The words of the pool's frames, for a CPU that changes a page table which is its alone.
#[derive(Clone, Copy, Debug)]
pub struct PoolView(FrameRun);

impl TableMemory for PoolView {
    #[inline]
    fn read(&self, table: Frame, index: usize) -> u64 {
        // SAFETY: as for the pool.
        unsafe { slot(self.0, table, index).read_volatile() }
    }

    #[inline]
    fn write(&mut self, table: Frame, index: usize, entry: u64) {
        // SAFETY: as for the pool, and no other CPU changes this table.
        unsafe { slot(self.0, table, index).write_volatile(entry) }
    }

    fn alloc(&mut self) -> Option<Frame> {
        None
    }

    fn free(&mut self, table: Frame) {
        panic!("{table:?} is given back to a pool through a view of it");
    }
}

/// The word `index` of `table`, which must be a frame of `pool`.
#[inline]
fn slot(pool: FrameRun, table: Frame, index: usize) -> *mut u64 {
    assert!(
        pool.contains(table) && index < ENTRIES,
        "a table outside the hypervisor's pool"
    );
    ((table.0 * FRAME_SIZE) as *mut u64).wrapping_add(index)
}

/// Zeroes frames that are mapped where their addresses are equal.
fn zero(run: FrameRun) {
    let bytes = (run.count.0 * FRAME_SIZE) as usize;
    // SAFETY: only called for frames of the pool that nobody holds, which are mapped and writable.
    unsafe { ((run.first.0 * FRAME_SIZE) as *mut u8).write_bytes(0, bytes) }
}

impl TableMemory for Pool {
    #[inline]
    fn read(&self, table: Frame, index: usize) -> u64 {
        // SAFETY: `slot` checks that the word lies in the pool, which is mapped; volatile because the CPU
        // sets accessed and dirty flags.
        unsafe { slot(self.run, table, index).read_volatile() }
    }

    #[inline]
    fn write(&mut self, table: Frame, index: usize, entry: u64) {
        // SAFETY: as above; an aligned 8-byte store is one store.
        unsafe { slot(self.run, table, index).write_volatile(entry) }
    }

    fn alloc(&mut self) -> Option<Frame> {
        if self.returned == 0 {
            return self.take_run(FrameCount(1)).map(|run| run.first);
        }
        let frame = Frame(self.returned);
        self.returned = self.read(frame, 0);
        self.used += 1;
        zero(FrameRun::new(frame, FrameCount(1)));
        Some(frame)
    }

    fn free(&mut self, table: Frame) {
        self.write(table, 0, self.returned);
        self.returned = table.0;
        self.used -= 1;
    }
}
