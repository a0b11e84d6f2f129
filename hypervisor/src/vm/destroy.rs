//! The end of a life: a VM's key is wiped, its view is emptied and forgotten by all CPUs, then its frames are given back and zeroed.
//!
//! In this order, or a CPU could still reach a frame that another VM was given; the ledger sees to that, too: a frame that
//! a right is out for cannot be freed. [`Destroy`] does it a piece at a time, as [`populate`](super::populate) does the
//! opposite. The VM's vCPUs are back and its devices disconnected when it begins.

use super::memory::VmMemory;
use super::populate::SCRUB_LOCKED;
use crate::memory::tlb::ViewTlb;
use crate::memory::{self, Memory};
use crate::secmem::hooks;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount, Gpa, SIZE_1G};
use bulkhead_core::ledger::{FrameRun, Owner, SCRUB_FRAMES};

/// Runs that are unmapped before all CPUs are asked to forget them. A view has few, unless memory is in many parts.
const RUNS: usize = 64;

/// How far a VM is.
pub struct Destroy {
    step: Step,
    /// The frames stay the VM's.
    keeps: bool,
    freed: Freed,
}

enum Step {
    /// The key is wiped, where there is one: before anything is given back.
    Key,
    /// The view is emptied, from this address on: a multiple of 1 GiB, so that no page has to be split.
    Unmap(Gpa),
    /// The frames are given back, or at least what they hold is given up: from this page on.
    Free(u64),
}

/// What a VM gave back.
#[derive(Clone, Copy, Default, Debug)]
pub struct Freed {
    /// Frames.
    pub frames: FrameCount,
    /// Frames that were zeroed afterwards.
    pub scrubbed: FrameCount,
}

impl Destroy {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            step: Step::Key,
            keeps: false,
            freed: Freed::default(),
        }
    }

    /// Begins where the VM keeps its frames, which [`populate`](super::populate) then finds there, dirty.
    #[must_use]
    pub fn keeping() -> Self {
        Self {
            keeps: true,
            ..Self::begin()
        }
    }

    /// Does the next piece. What `own` gave back once it has nothing left.
    pub fn step(&mut self, own: &mut VmMemory) -> Option<Freed> {
        match &mut self.step {
            Step::Key => {
                hooks::vm_destroyed(own);
                own.forget_split();
                self.step = Step::Unmap(Gpa(0));
            }
            Step::Unmap(gpa) => match unmap(own, *gpa) {
                Some(next) => *gpa = next,
                None => {
                    hooks::vm_unmapped(own);
                    self.step = Step::Free(0);
                }
            },
            Step::Free(page) if self.keeps => match discard(own, *page) {
                Some(next) => *page = next,
                None => return Some(self.freed),
            },
            Step::Free(page) => match free(own, *page, &mut self.freed) {
                Some(next) => *page = next,
                None => {
                    own.backing.clear();
                    return Some(self.freed);
                }
            },
        }
        None
    }
}

/// Empties the view from `gpa` to the next multiple of 1 GiB, or as much of that as a flush is worth; where to go on.
fn unmap(own: &mut VmMemory, gpa: Gpa) -> Option<Gpa> {
    let left = own.ram_end().0.checked_sub(gpa.0)?;
    let bytes = left.min(SIZE_1G);
    if bytes == 0 {
        return None;
    }
    let count = FrameCount::covering(bytes);
    let mut stale = Vec::with_capacity(RUNS);
    let mut memory = memory::lock();
    while stale.len() < RUNS {
        match own.views.unmap_run(&mut memory.pool, gpa, count) {
            Ok(Some(run)) => stale.push(run),
            Ok(None) => break,
            Err(error) => panic!("a view cannot be emptied: {error}"),
        }
    }
    // Other CPUs may use the ledger while this one waits for them.
    drop(memory);
    let is_empty = stale.len() < RUNS;
    let proof = own.views.flush(&mut ViewTlb);
    let mut memory = memory::lock();
    let Memory { ledger, pool, .. } = &mut *memory;
    for run in stale {
        match run.flushed(&proof, pool) {
            Ok((_, right)) => ledger.surrender(right),
            Err(_) => unreachable!("the view was flushed after all of it was unmapped"),
        }
    }
    Some(if is_empty { Gpa(gpa.0 + bytes) } else { gpa })
}

/// Gives the next frames back, from page `page` on, and zeroes them; the page to go on with.
fn free(own: &VmMemory, page: u64, freed: &mut Freed) -> Option<u64> {
    let mut next = page;
    while next < page + SCRUB_FRAMES {
        let run = own.backing.piece(next, SCRUB_LOCKED)?;
        let scrubbed = give_back(own, run);
        freed.frames.0 += run.count.0;
        freed.scrubbed.0 += scrubbed.0;
        next += run.count.0;
    }
    Some(next)
}

/// Gives up what the next frames hold, from page `page` on; the page to go on with.
fn discard(own: &VmMemory, page: u64) -> Option<u64> {
    let run = own.backing.piece(page, FrameCount(SCRUB_FRAMES))?;
    if let Err(error) = memory::lock().ledger.discard(own.vm, run) {
        panic!("what a destroyed VM's frames hold cannot be given up: {error}");
    }
    Some(page + run.count.0)
}

/// Nobody gets the frames of `run` before they are zero: the ledger is held.
fn give_back(own: &VmMemory, run: FrameRun) -> FrameCount {
    let mut memory = memory::lock();
    let freed = memory.ledger.free(Owner::Vm(own.vm), run);
    match freed.and_then(|()| memory.scrub(run)) {
        Ok(scrubbed) => scrubbed,
        Err(error) => panic!("frames of a destroyed VM cannot be given back: {error}"),
    }
}

const _: () = assert!(SIZE_1G.is_multiple_of(FRAME_SIZE));
