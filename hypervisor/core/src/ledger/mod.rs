//! The ledger: for every frame of the machine its one owner, rights, key and state.
//!
//! [`Ledger`] is the only place where a frame changes hands, and the only source of [`MapRight`],
//! without which neither EPT ([`crate::ept`]) nor the hypervisor's own tables ([`crate::hostpt`])
//! map anything: "VM A maps VM B's frame" has no code path. A frame goes round like this:
//!
//! ```text
//!   firmware's map --> Dirty --scrub--> Free --alloc--> Clear <--seal/unseal--> Sealed
//!                        ^ |                            |  ^ share/unshare
//!                        | +--alloc, scrub--------------+  +----> Shared
//!                        +-----------free (no mapping left)----+
//!                        +-----------discard (the same, but the owner stays)
//! ```
//!
//! A frame's map count counts every mapping that some TLB may still hold: it falls only when the
//! [`MapRight`] comes back, and an unmapped right is locked in a [`crate::table::Stale`] until the flush. So
//! `free`, which wants the count to be zero, cannot run ahead of a flush.
//!
//! Parts: [`entry`] the 16 bytes per frame, [`rights`] the proofs, [`sealing`] the ways to and from sealed, `alloc` taking frames,
//! `devices` what is no memory, `keys` the hardware's keys, [`memory_map`] the firmware's view, [`books`] the counters. The memory for
//! the entries is the caller's; nothing here uses a heap.

mod alloc;
pub mod books;
mod devices;
pub mod entry;
mod error;
mod keys;
pub mod memory_map;
pub mod rights;
pub mod sealing;
#[cfg(test)]
mod tests;

use crate::addr::{Frame, FrameCount};

pub use alloc::Request;
pub use books::{Audit, Books, OwnerClass};
pub use entry::{Entry, FrameInfo, KeyId, Owner, Rights, State, VmId};
pub use error::LedgerError;
pub use memory_map::{MemoryKind, MemoryRange};
pub use rights::{Holder, Holding, MapRight};
pub use sealing::Unsealing;

/// A run of consecutive frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameRun {
    /// The first frame.
    pub first: Frame,
    /// How many there are.
    pub count: FrameCount,
}

impl FrameRun {
    /// The run of `count` frames from `first`.
    #[must_use]
    pub const fn new(first: Frame, count: FrameCount) -> Self {
        Self { first, count }
    }

    /// The first frame after the run (the last possible one, where that would overflow).
    #[must_use]
    pub const fn end(self) -> Frame {
        Frame(self.first.0.saturating_add(self.count.0))
    }

    /// Whether some frame is one of both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first.0 < other.end().0 && other.first.0 < self.end().0
    }

    /// Whether `frame` is one of the run.
    #[must_use]
    pub const fn contains(self, frame: Frame) -> bool {
        self.first.0 <= frame.0 && frame.0 < self.end().0
    }
}

/// Zeroes frames; implemented by the shell.
pub trait Scrub {
    /// Overwrites every byte of the right's frames with zero and returns the right, no longer mapped.
    /// It covers at most [`SCRUB_FRAMES`] frames.
    fn scrub(&mut self, right: MapRight) -> MapRight;
}

/// The most frames one call of [`Scrub::scrub`] gets: as many as one page table maps.
pub const SCRUB_FRAMES: u64 = 512;

/// The owner, rights, key and state of every frame; see the module's page.
#[derive(Debug)]
pub struct Ledger<'a> {
    entries: &'a mut [Entry],
    books: Books,
    /// Who has what is no memory.
    claims: devices::Claims,
    /// Under which key each VM's frames are.
    keys: keys::Keys,
    /// No frame from 1 MiB up to this one is available.
    hint: u64,
}

impl Ledger<'_> {
    /// How many frames the ledger has entries for: frames 0 up to this one.
    #[must_use]
    pub const fn frames(&self) -> FrameCount {
        FrameCount(self.entries.len() as u64)
    }

    /// What the ledger knows of `frame`, or `None` beyond its end.
    #[must_use]
    pub fn info(&self, frame: Frame) -> Option<FrameInfo> {
        self.entry(frame).map(Entry::info)
    }

    /// The counters by state and by owner.
    #[must_use]
    pub const fn books(&self) -> &Books {
        &self.books
    }

    /// The runs of frames within `run` that share owner and state, in order.
    pub fn runs(&self, run: FrameRun) -> impl Iterator<Item = (FrameRun, Owner, State)> {
        let mut next = run.first;
        core::iter::from_fn(move || {
            let first = next;
            let kind = self.entry(first).filter(|_| run.contains(first))?.kind();
            while run.contains(next) && self.entry(next).is_some_and(|entry| entry.kind() == kind) {
                next = Frame(next.0 + 1);
            }
            let found = FrameRun::new(first, FrameCount(next.0 - first.0));
            let (owner, state) = kind.get();
            Some((found, owner, state))
        })
    }

    /// Zeroes the dirty frames of `run`, records that and says how many there were: freed ones become
    /// [`State::Free`], owned ones [`State::Clear`]. Frames in other states are left alone.
    ///
    /// # Errors
    /// [`LedgerError::BeyondEnd`] where the run leaves the ledger; then nothing was scrubbed.
    /// [`LedgerError::TooManyMaps`] where a frame is mapped too often to map it once more.
    ///
    /// # Panics
    /// Where `scrubber` returns another right than it was given.
    pub fn scrub(
        &mut self,
        run: FrameRun,
        scrubber: &mut impl Scrub,
    ) -> Result<FrameCount, LedgerError> {
        self.check(run, |_| Ok(()))?;
        let mut scrubbed = 0;
        let mut next = run.first;
        while next < run.end() {
            let first = next;
            let limit = run.end().0.min(first.0.saturating_add(SCRUB_FRAMES));
            while next.0 < limit && self.entry(next).is_some_and(Entry::is_dirty) {
                next = Frame(next.0 + 1);
            }
            let count = FrameCount(next.0 - first.0);
            if count.0 == 0 {
                next = Frame(next.0 + 1);
                continue;
            }
            let dirty = FrameRun::new(first, count);
            let right = scrubber.scrub(self.grant_scrub(dirty)?);
            assert!(
                right.run() == dirty,
                "a scrubber returned the right to other frames"
            );
            self.surrender(right);
            self.update(dirty, Entry::scrubbed);
            scrubbed += count.0;
        }
        Ok(FrameCount(scrubbed))
    }

    /// Makes frames that nobody owns the hypervisor's, with whatever they hold: its own image and the
    /// memory that the boot code took from the firmware.
    ///
    /// # Errors
    /// [`LedgerError::NotAvailable`] where a frame has an owner; then nothing changed.
    pub fn claim_hypervisor(&mut self, run: FrameRun) -> Result<(), LedgerError> {
        self.claim(run, Owner::Hypervisor)
    }

    /// Makes frames that nobody owns payload: kernels and initrds that the boot code loaded.
    ///
    /// # Errors
    /// [`LedgerError::NotAvailable`] where a frame has an owner; then nothing changed.
    pub fn claim_payload(&mut self, run: FrameRun) -> Result<(), LedgerError> {
        self.claim(run, Owner::Payload)
    }

    fn claim(&mut self, run: FrameRun, owner: Owner) -> Result<(), LedgerError> {
        self.check(run, |entry| match entry.is_available() {
            true => Ok(()),
            false => Err(LedgerError::NotAvailable(run)),
        })?;
        self.update(run, |entry| entry.claim(owner));
        Ok(())
    }

    /// Gives `run` back: its frames belong to nobody and are dirty.
    ///
    /// # Errors
    /// [`LedgerError::NotOwner`], [`LedgerError::StillMapped`] or [`LedgerError::UnderKey`]; then nothing changed.
    pub fn free(&mut self, owner: Owner, run: FrameRun) -> Result<(), LedgerError> {
        if matches!(owner, Owner::Nobody | Owner::Firmware | Owner::Mmio) {
            return Err(LedgerError::NotOwner(run.first));
        }
        self.check_owned(run, owner)?;
        self.check_unmapped(run)?;
        self.keys.check_none(owner)?;
        self.update(run, Entry::free);
        self.keys.freed(owner, run.count);
        if run.end() > alloc::FIRST_ORDINARY {
            self.hint = self.hint.min(run.first.max(alloc::FIRST_ORDINARY).0);
        }
        Ok(())
    }

    /// Lets VM `to` map frames of VM `from` with at most `rights`.
    ///
    /// # Errors
    /// The frames are not `from`'s or not [`State::Clear`]; then nothing changed.
    pub fn share(
        &mut self,
        from: VmId,
        to: VmId,
        run: FrameRun,
        rights: Rights,
    ) -> Result<(), LedgerError> {
        self.check_owned(run, Owner::Vm(from))?;
        self.check_state(run, State::Clear)?;
        self.update(run, |entry| entry.share(to, rights));
        Ok(())
    }

    /// Ends a share.
    ///
    /// # Errors
    /// The frames are not `from`'s, not shared, or the borrower still maps them; then nothing changed.
    pub fn unshare(&mut self, from: VmId, run: FrameRun) -> Result<(), LedgerError> {
        self.check_owned(run, Owner::Vm(from))?;
        self.check_state(run, State::Shared)?;
        self.each(run, |frame, entry| match entry.borrower_maps() {
            0 => Ok(()),
            _ => Err(LedgerError::StillMapped(frame)),
        })?;
        self.update(run, Entry::unshare);
        Ok(())
    }

    /// Puts a frame's version where it would take years to come.
    #[cfg(test)]
    pub(crate) fn set_version(&mut self, frame: Frame, version: u32) {
        self.update(FrameRun::new(frame, FrameCount(1)), |entry| {
            entry.set_version(version);
        });
    }

    fn entry(&self, frame: Frame) -> Option<&Entry> {
        self.entries.get(usize::try_from(frame.0).ok()?)
    }

    fn slice(&self, run: FrameRun) -> Option<&[Entry]> {
        let first = usize::try_from(run.first.0).ok()?;
        let count = usize::try_from(run.count.0).ok()?;
        self.entries.get(first..first.checked_add(count)?)
    }

    /// Fails unless `run` lies within the ledger, is not empty, and `test` passes every entry.
    fn check(
        &self,
        run: FrameRun,
        test: impl Fn(&Entry) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.slice(run)
            .filter(|entries| !entries.is_empty())
            .ok_or(LedgerError::BeyondEnd(run))?
            .iter()
            .try_for_each(test)
    }

    /// Like `check`, for tests whose error names the frame.
    fn each(
        &self,
        run: FrameRun,
        test: impl Fn(Frame, &Entry) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let entries = self.slice(run).filter(|entries| !entries.is_empty());
        let mut frame = run.first;
        for entry in entries.ok_or(LedgerError::BeyondEnd(run))? {
            test(frame, entry)?;
            frame = Frame(frame.0 + 1);
        }
        Ok(())
    }

    fn check_owned(&self, run: FrameRun, owner: Owner) -> Result<(), LedgerError> {
        self.each(run, |frame, entry| match entry.owner() == owner {
            true => Ok(()),
            false => Err(LedgerError::NotOwner(frame)),
        })
    }

    fn check_unmapped(&self, run: FrameRun) -> Result<(), LedgerError> {
        self.each(run, |frame, entry| match entry.is_mapped() {
            false => Ok(()),
            true => Err(LedgerError::StillMapped(frame)),
        })
    }

    fn check_state(&self, run: FrameRun, state: State) -> Result<(), LedgerError> {
        self.each(run, |frame, entry| match entry.state() {
            found if found == state => Ok(()),
            found => Err(LedgerError::WrongState {
                frame,
                found,
                wanted: state,
            }),
        })
    }

    /// Applies `change` to a checked run and books what it did.
    fn update(&mut self, run: FrameRun, change: impl Fn(&mut Entry)) {
        let first = run.first.0 as usize;
        let Some(entries) = self.entries.get_mut(first..first + run.count.0 as usize) else {
            unreachable!("`update` of a run that no check has passed");
        };
        // Runs are uniform nearly always: book them piece by piece, not frame by frame.
        let mut pending: Option<(books::Move, u64)> = None;
        for entry in entries {
            let before = entry.kind();
            change(entry);
            let moved = books::Move {
                before,
                after: entry.kind(),
            };
            match &mut pending {
                Some((last, count)) if *last == moved => *count += 1,
                _ => {
                    if let Some((last, count)) = pending.replace((moved, 1)) {
                        self.books.record(last, count);
                    }
                }
            }
        }
        if let Some((last, count)) = pending {
            self.books.record(last, count);
        }
    }
}
