//! Taking frames: in big aligned runs for a VM's memory, in one piece for the hypervisor's own needs.
//!
//! First fit over the entries. A cursor remembers below which frame nothing above 1 MiB is available, so
//! that taking single frames stays cheap; a block that is not available is left at its first taken frame.

use crate::addr::{Frame, FrameCount};
use crate::table::PageSize;

use super::entry::{Entry, Owner, VmId};
use super::{FrameRun, Ledger, LedgerError};

/// Memory below 1 MiB goes only to those who ask for it: processors start there.
pub(super) const FIRST_ORDINARY: Frame = Frame(256);

/// A wish for one contiguous run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// How many frames.
    pub count: FrameCount,
    /// What the first frame's address is a multiple of.
    pub align: PageSize,
    /// The run lies at or above this frame.
    pub from: Frame,
    /// The run ends at or below this frame.
    pub below: Frame,
}

impl Request {
    /// `count` frames anywhere above 1 MiB.
    #[must_use]
    pub const fn anywhere(count: FrameCount) -> Self {
        Self {
            count,
            align: PageSize::Size4K,
            from: FIRST_ORDINARY,
            below: Frame(u64::MAX),
        }
    }

    /// `count` frames below 1 MiB, where a starting processor can execute.
    #[must_use]
    pub const fn low(count: FrameCount) -> Self {
        Self {
            count,
            align: PageSize::Size4K,
            from: Frame(1),
            below: FIRST_ORDINARY,
        }
    }
}

impl Ledger<'_> {
    /// Takes one contiguous run for `owner`. Frames that were not [`super::State::Free`] are
    /// [`super::State::Dirty`] and can't be mapped before [`Ledger::scrub`].
    ///
    /// # Errors
    /// [`LedgerError::OutOfFrames`] where no such run is available, [`LedgerError::UnderKey`] where the owner's frames are under a key;
    /// nothing was taken.
    pub fn alloc_run(&mut self, owner: Owner, request: Request) -> Result<FrameRun, LedgerError> {
        self.check_owner(owner)?;
        let ordinary = request.from >= FIRST_ORDINARY;
        let from = if ordinary {
            request.from.0.max(self.hint)
        } else {
            request.from.0
        };
        let below = request.below.0.min(self.frames().0);
        let first = self.find(from, below, request.count.0, request.align.frames().0);
        let first = first
            .filter(|_| request.count.0 > 0)
            .ok_or_else(|| self.out(request.count))?;
        let run = FrameRun::new(Frame(first), request.count);
        self.take(run, owner);
        if from == self.hint && (request.count.0, request.align) == (1, PageSize::Size4K) {
            self.hint = run.end().0;
        }
        Ok(run)
    }

    /// Takes `count` frames for `owner` in as large and as aligned pieces as there are (1 GiB, then
    /// 2 MiB, then what is left), handing each piece to `sink`. Like `alloc_run`, it may give dirty frames.
    ///
    /// # Errors
    /// [`LedgerError::OutOfFrames`] or [`LedgerError::UnderKey`], before anything was taken.
    pub fn alloc_frames(
        &mut self,
        owner: Owner,
        count: FrameCount,
        mut sink: impl FnMut(FrameRun),
    ) -> Result<(), LedgerError> {
        self.check_owner(owner)?;
        if self.available_to_vms() < count {
            return Err(self.out(count));
        }
        let mut left = count.0;
        for size in [PageSize::Size1G, PageSize::Size2M] {
            let block = size.frames().0;
            let mut from = self.hint;
            while left >= block {
                let Some(first) = self.find(from, self.frames().0, block, block) else {
                    break;
                };
                let mut blocks = 1;
                while left >= (blocks + 1) * block
                    && self.blocked_at(first + blocks * block, block).is_none()
                {
                    blocks += 1;
                }
                let run = FrameRun::new(Frame(first), FrameCount(blocks * block));
                self.take(run, owner);
                sink(run);
                left -= run.count.0;
                from = run.end().0;
            }
        }
        let mut from = self.hint;
        while left > 0 {
            let Some(first) = self.find(from, self.frames().0, 1, 1) else {
                unreachable!("fewer frames are available than the books say");
            };
            let end = self.blocked_at(first, left).unwrap_or(first + left);
            let run = FrameRun::new(Frame(first), FrameCount(end - first));
            self.take(run, owner);
            sink(run);
            left -= run.count.0;
            from = end;
            self.hint = end;
        }
        Ok(())
    }

    /// The first run of `count` available frames in `from..below` that begins at a multiple of `align`.
    fn find(&self, from: u64, below: u64, count: u64, align: u64) -> Option<u64> {
        let mut first = from.checked_next_multiple_of(align)?;
        while first.checked_add(count)? <= below {
            match self.blocked_at(first, count) {
                None => return Some(first),
                Some(taken) => first = (taken + 1).checked_next_multiple_of(align)?,
            }
        }
        None
    }

    /// The first frame of `first..first + count` that is not available, or `None` if all are.
    fn blocked_at(&self, first: u64, count: u64) -> Option<u64> {
        let Some(entries) = self.slice(FrameRun::new(Frame(first), FrameCount(count))) else {
            let known = self.entries.get(first as usize..).unwrap_or_default();
            let free = known
                .iter()
                .take_while(|entry| entry.is_available())
                .count();
            return Some(first + free as u64);
        };
        let taken = entries
            .iter()
            .position(|entry| !Entry::is_available(entry))?;
        Some(first + taken as u64)
    }

    fn take(&mut self, run: FrameRun, owner: Owner) {
        self.update(run, |entry| entry.take(owner));
        self.keys.taken(owner, run.count);
        if run.contains(Frame(self.hint)) {
            self.hint = run.end().0;
        }
    }

    /// How many frames [`Ledger::alloc_frames`] could give now: all that are available but those below 1 MiB.
    #[must_use]
    pub fn available_to_vms(&self) -> FrameCount {
        let low = self
            .entries
            .iter()
            .take(FIRST_ORDINARY.0 as usize)
            .filter(|entry| entry.is_available());
        FrameCount(self.books.available().0 - low.count() as u64)
    }

    fn out(&self, wanted: FrameCount) -> LedgerError {
        LedgerError::OutOfFrames {
            wanted,
            available: self.books.available(),
        }
    }

    fn check_owner(&self, owner: Owner) -> Result<(), LedgerError> {
        match owner {
            Owner::Vm(vm) if vm > VmId::MAX => Err(LedgerError::BadVm(vm)),
            Owner::Hypervisor | Owner::Payload | Owner::Vm(_) => self.keys.check_none(owner),
            Owner::Nobody | Owner::Firmware | Owner::Mmio => Err(LedgerError::BadOwner(owner)),
        }
    }
}
