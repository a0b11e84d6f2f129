//! From a stopped VM to one that can run: its real devices are reset, it gets its memory and its guest is loaded, a piece at
//! a time.
//!
//! The boot CPU does it while other VMs' vCPUs have their turns there, so no piece is larger than [`SCRUB_FRAMES`];
//! what [`guest_loader::prepare`] looks at in an image is bounded there.

use super::destroy::Destroy;
use super::populate::Populate;
use super::{Vm, VmError};
use crate::memory::guest::GuestSpace;
use alloc::boxed::Box;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount};
use bulkhead_core::ledger::SCRUB_FRAMES;
use core::num::NonZeroUsize;
use guest_loader::{EntryState, Loading};

/// Bytes of an image that are copied at a time.
const COPY_BYTES: NonZeroUsize = NonZeroUsize::new((SCRUB_FRAMES * FRAME_SIZE) as usize).unwrap();

/// How far a VM is.
pub enum Load {
    /// Its real devices are reset, if it has any.
    Reset {
        /// It ran before.
        used: bool,
    },
    /// It gets its memory.
    Populate(Populate),
    /// What lies in encrypted memory that it kept is given up: a life has a key of its own.
    GiveUp(Destroy),
    /// The memory that it kept is zeroed: from this page on.
    Clear(u64),
    /// Its memory is all zero.
    Prepare,
    /// All is written but the rest of its images.
    Copy(Box<Loading<'static>>),
}

impl Load {
    /// Begins with a VM that ran before if it was `used`.
    #[must_use]
    pub const fn begin(used: bool) -> Self {
        Self::Reset { used }
    }

    /// Does the next piece. What the boot vCPU starts with once all is done.
    ///
    /// # Errors
    /// The guest cannot be loaded.
    pub fn step(&mut self, vm: &mut Vm) -> Result<Option<EntryState>, VmError> {
        match self {
            Self::Reset { used } => {
                if vm.reset_devices()? {
                    let mut own = vm.shared.memory.lock();
                    // Memory that was kept is another guest's now; nothing of it is anything to the split.
                    own.forget_split();
                    *self = match (own.is_there(), *used) {
                        (false, _) => Self::Populate(Populate::begin()),
                        (true, _) if own.sealed().is_some() => Self::GiveUp(Destroy::keeping()),
                        (true, true) => Self::Clear(0),
                        (true, false) => Self::Prepare,
                    };
                }
            }
            Self::Populate(populate) => {
                if populate.step(&mut vm.shared.memory.lock())? {
                    *self = Self::Prepare;
                }
            }
            Self::GiveUp(destroy) => {
                if destroy.step(&mut vm.shared.memory.lock()).is_some() {
                    *self = Self::Populate(Populate::begin());
                }
            }
            Self::Clear(page) => match clear(vm, *page) {
                Some(next) => *page = next,
                None => *self = Self::Prepare,
            },
            Self::Prepare => *self = Self::Copy(Box::new(vm.prepare()?)),
            Self::Copy(loading) => {
                let entry = loading
                    .step(COPY_BYTES, &mut vm.shared.space())
                    .map_err(VmError::Load)?;
                if entry.is_some() {
                    vm.attach_devices()?;
                }
                return Ok(entry);
            }
        }
        Ok(None)
    }
}

/// Zeroes a piece of the VM's memory, from `page` on; the page to go on with.
fn clear(vm: &Vm, page: u64) -> Option<u64> {
    let own = vm.shared.memory.lock();
    let piece = own.backing.piece(page, FrameCount(SCRUB_FRAMES))?;
    if let Err(error) = GuestSpace::clear(vm.shared.id, piece) {
        panic!("VM \"{}\" cannot be cleared: {error}", vm.plan.name);
    }
    Some(page + piece.count.0)
}
