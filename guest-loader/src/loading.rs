//! Copying images into a guest's memory piece by piece.
//!
//! [`Loading`] comes from [`prepare`](crate::prepare), which has written everything else; images lie above the first MiB and
//! apart from each other, so the order does not matter. Whoever copies decides how much is done at a time.

use alloc::vec::Vec;
use core::num::NonZeroUsize;

use bulkhead_core::addr::Gpa;

use crate::LoadError;
use crate::entry::EntryState;
use crate::memory::{GuestMemory, OutOfRange};

/// A guest that is loaded but for the rest of its images.
#[derive(Clone, Debug)]
pub struct Loading<'a> {
    entry: EntryState,
    images: Vec<Image<'a>>,
}

/// Bytes that are still to be copied, and where to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image<'a> {
    pub(crate) start: Gpa,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Loading<'a> {
    pub(crate) const fn new(entry: EntryState, images: Vec<Image<'a>>) -> Self {
        Self { entry, images }
    }

    /// Copies the next bytes, at most `most`. The state the boot vCPU starts in once nothing is left.
    ///
    /// # Errors
    /// [`LoadError::Memory`] where `mem` has not the RAM that the request spoke of.
    pub fn step(
        &mut self,
        most: NonZeroUsize,
        mem: &mut dyn GuestMemory,
    ) -> Result<Option<EntryState>, LoadError> {
        if let Some(image) = self.images.last_mut() {
            let (piece, rest) = image.bytes.split_at(most.get().min(image.bytes.len()));
            mem.write(image.start, piece)?;
            let len = piece.len() as u64;
            image.bytes = rest;
            image.start = image.start.checked_add(len).ok_or(OutOfRange {
                gpa: image.start,
                len,
            })?;
            if rest.is_empty() {
                self.images.pop();
            }
        }
        Ok(self.images.is_empty().then_some(self.entry))
    }
}
