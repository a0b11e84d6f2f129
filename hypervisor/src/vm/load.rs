//! From a stopped VM to one that can run: its real devices are reset, its memory is cleared and its guest loaded, a piece at
//! a time.
//!
//! The boot CPU does it while other VMs' vCPUs have their turns there, so no piece is larger than [`SCRUB_FRAMES`];
//! what [`guest_loader::prepare`] looks at in an image is bounded there.

use super::{Vm, VmError};
use crate::memory::guest::GuestSpace;
use alloc::boxed::Box;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount};
use bulkhead_core::ledger::{FrameRun, SCRUB_FRAMES};
use core::num::NonZeroUsize;
use guest_loader::{EntryState, Loading};

/// Bytes of an image that are copied at a time.
const COPY_BYTES: NonZeroUsize = NonZeroUsize::new((SCRUB_FRAMES * FRAME_SIZE) as usize).unwrap();

/// How far a VM is.
pub enum Load {
    /// Its real devices are reset, if it has any.
    Reset {
        /// Its memory holds what a run left.
        used: bool,
    },
    /// Zeroing frames: the index of the run, and the frame in it.
    Clear(usize, Frame),
    /// Its memory is all zero.
    Prepare,
    /// All is written but the rest of its images.
    Copy(Box<Loading<'static>>),
}

impl Load {
    /// Begins with a VM whose memory holds what a run left if it was `used`.
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
                    *self = match vm.frames.first() {
                        Some(run) if *used => Self::Clear(0, run.first),
                        _ => Self::Prepare,
                    };
                }
            }
            Self::Clear(index, from) => *self = clear(vm, *index, *from),
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

/// Zeroes a piece of the VM's memory, from the frame `from` of the run `index` on.
fn clear(vm: &Vm, index: usize, from: Frame) -> Load {
    let Some(run) = vm.frames.get(index) else {
        return Load::Prepare;
    };
    let count = FrameCount((run.end().0 - from.0).min(SCRUB_FRAMES));
    let piece = FrameRun::new(from, count);
    if let Err(error) = GuestSpace::clear(vm.shared.id, piece) {
        panic!("VM \"{}\" cannot be cleared: {error}", vm.plan.name);
    }
    if piece.end() < run.end() {
        return Load::Clear(index, piece.end());
    }
    match vm.frames.get(index + 1) {
        Some(next) => Load::Clear(index + 1, next.first),
        None => Load::Prepare,
    }
}
