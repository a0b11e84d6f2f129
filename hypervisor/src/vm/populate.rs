//! The beginning of a life: a VM gets the frames for its RAM and its disks' overlays, all zero, and a view of the RAM.
//!
//! [`Populate`] does it a piece at a time: the boot CPU runs other VMs' vCPUs meanwhile, and other CPUs need the ledger.

use super::VmError;
use super::machine;
use super::memory::VmMemory;
use crate::memory::{self, Memory};
use crate::secmem::hooks;
use bulkhead_core::addr::FrameCount;
use bulkhead_core::ept::EptPerms;
use bulkhead_core::ledger::{Owner, Rights, SCRUB_FRAMES};
use bulkhead_core::table::PageSize;

/// Frames that are taken, or mapped, at a time: what one page of the largest size shows.
const AT_ONCE: FrameCount = PageSize::Size1G.frames();
/// Frames that are zeroed while other CPUs wait for the ledger.
pub(super) const SCRUB_LOCKED: FrameCount = FrameCount(64);

const _: () = assert!(SCRUB_LOCKED.0 <= SCRUB_FRAMES);

/// How far a VM is.
pub enum Populate {
    /// Frames are taken, as many as can be in a row.
    Take,
    /// They are zeroed, unless they are zero: from this page on.
    Scrub(u64),
    /// The view is built: from this page on.
    Map(u64),
}

impl Populate {
    /// Begins with a VM that has no memory.
    #[must_use]
    pub const fn begin() -> Self {
        Self::Take
    }

    /// Does the next piece; true when `own` has all its memory.
    ///
    /// # Errors
    /// No frames are left, for the VM or for its view's tables. What it got is for [`Destroy`](super::destroy::Destroy).
    pub fn step(&mut self, own: &mut VmMemory) -> Result<bool, VmError> {
        match self {
            Self::Take => match own.backing.next(AT_ONCE) {
                Some(count) => take(own, count)?,
                None => {
                    hooks::vm_taken(own);
                    *self = Self::Scrub(0);
                }
            },
            Self::Scrub(page) => match scrub(own, *page)? {
                Some(next) => *page = next,
                None => {
                    if hooks::vm_populated(own).map_err(VmError::Key)? {
                        // Each page is mapped when it is used.
                        return Ok(true);
                    }
                    *self = Self::Map(0);
                }
            },
            Self::Map(page) => match map(own, *page)? {
                Some(next) => *page = next,
                None => return Ok(true),
            },
        }
        Ok(false)
    }

    /// All at once, before any VM runs.
    ///
    /// # Errors
    /// As of [`Populate::step`].
    pub fn all(own: &mut VmMemory) -> Result<(), VmError> {
        let mut populate = Self::begin();
        while !populate.step(own)? {}
        Ok(())
    }
}

fn take(own: &mut VmMemory, count: FrameCount) -> Result<(), VmError> {
    let VmMemory { vm, backing, .. } = own;
    memory::lock()
        .ledger
        .alloc_frames(Owner::Vm(*vm), count, |run| backing.add(run))
        .map_err(VmError::Ledger)
}

/// Zeroes what is dirty of the next pages, from `page` on; the page to go on with.
fn scrub(own: &VmMemory, page: u64) -> Result<Option<u64>, VmError> {
    let mut next = page;
    while next < page + SCRUB_FRAMES {
        let Some(run) = own.backing.piece(next, SCRUB_LOCKED) else {
            return Ok(None);
        };
        memory::lock().scrub(run).map_err(VmError::Ledger)?;
        next += run.count.0;
    }
    Ok(Some(next))
}

/// Shows the next pages, from `page` on, readable, writable and executable; the page to go on with.
fn map(own: &mut VmMemory, page: u64) -> Result<Option<u64>, VmError> {
    let Some(piece) = own.piece(page, AT_ONCE) else {
        return Ok(None);
    };
    let mut memory = memory::lock();
    let Memory { ledger, pool, .. } = &mut *memory;
    let rights = Rights::READ | Rights::WRITE | Rights::EXECUTE;
    let right = ledger
        .grant(own.vm, piece.run, rights)
        .map_err(VmError::Ledger)?;
    let mtrrs = &machine().mtrrs;
    if let Err(rejected) = own
        .views
        .map_memory(pool, piece.gpa, right, EptPerms::ALL, mtrrs)
    {
        ledger.surrender(rejected.right);
        return Err(VmError::Ept(rejected.error));
    }
    Ok(Some(page + piece.run.count.0))
}
