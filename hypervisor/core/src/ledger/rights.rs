//! Rights to map: the only way for a frame into a page table.
//!
//! A [`MapRight`] is made by the ledger alone and cannot be copied. It is conserved: it is in
//! somebody's hand, deposited in a page table ([`Holding`]), or locked in a
//! [`crate::table::Stale`] between unmap and flush. Each counts in the frame's map count until
//! [`Ledger::surrender`].

use crate::addr::{Frame, FrameCount};
use crate::secmem::tmemk::KeyTag;

use super::entry::{Entry, Owner, Rights, State, VmId};
use super::{FrameRun, Ledger, LedgerError};

/// Who may enter a right into its page tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    /// The hypervisor's own page tables.
    Hypervisor,
    /// A VM's views and I/O domain.
    Vm(VmId),
}

/// The right to map a run of frames once, for one holder. A run has at least one frame.
#[must_use = "map it, or give it back with `Ledger::surrender`; dropped, its frames can never be freed"]
#[derive(PartialEq, Eq, Debug)]
pub struct MapRight {
    holder: Holder,
    run: FrameRun,
    rights: Rights,
    tag: KeyTag,
}

impl MapRight {
    /// Who may map.
    #[must_use]
    pub const fn holder(&self) -> Holder {
        self.holder
    }

    /// What may be mapped.
    #[must_use]
    pub const fn run(&self) -> FrameRun {
        self.run
    }

    /// The most a mapping may allow.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// The hardware key that the frames have to be mapped under: goes onto their numbers in an entry.
    #[must_use]
    pub const fn tag(&self) -> KeyTag {
        self.tag
    }

    /// The right to the first `count` frames and the right to the rest.
    ///
    /// # Errors
    /// `self` where either part would be empty.
    pub fn split(self, count: FrameCount) -> Result<(Self, Self), Self> {
        if count.0 == 0 || count.0 >= self.run.count.0 {
            return Err(self);
        }
        let run = self.run;
        let rest = FrameRun::new(
            Frame(run.first.0 + count.0),
            FrameCount(run.count.0 - count.0),
        );
        let first = Self {
            run: FrameRun::new(run.first, count),
            ..self
        };
        Ok((first, Self { run: rest, ..self }))
    }
}

impl MapRight {
    /// Undoes [`MapRight::split`]: `rest` is what followed `self` in the same right.
    pub(crate) fn join(self, rest: Self) -> Self {
        debug_assert!(self.holder == rest.holder && self.run.end() == rest.run.first);
        let count = FrameCount(self.run.count.0 + rest.run.count.0);
        Self {
            run: FrameRun::new(self.run.first, count),
            ..self
        }
    }
}

/// The rights deposited in one page table: what comes out was put in, frame for frame.
#[derive(Debug)]
pub struct Holding {
    holder: Holder,
    frames: u64,
}

impl Holding {
    /// The empty holding of a new page table of `holder`.
    #[must_use]
    pub const fn new(holder: Holder) -> Self {
        Self { holder, frames: 0 }
    }

    /// Whose page table it is.
    #[must_use]
    pub const fn holder(&self) -> Holder {
        self.holder
    }

    /// Frames mapped.
    #[must_use]
    pub const fn frames(&self) -> FrameCount {
        FrameCount(self.frames)
    }

    /// Keeps `right`, which was just entered into the table.
    pub(crate) fn deposit(&mut self, right: MapRight) {
        debug_assert_eq!(right.holder, self.holder);
        self.frames += right.run.count.0;
    }

    /// The right to what was just taken out of the table, with the rights and the key it was mapped with.
    ///
    /// # Panics
    /// Where more comes out than was put in: the table and the ledger have parted.
    pub(crate) fn withdraw(&mut self, run: FrameRun, rights: Rights, tag: KeyTag) -> MapRight {
        let Some(left) = self.frames.checked_sub(run.count.0) else {
            panic!("{:?} unmapped more frames than it had mapped", self.holder);
        };
        self.frames = left;
        MapRight {
            holder: self.holder,
            run,
            rights,
            tag,
        }
    }
}

impl Ledger<'_> {
    /// The right of `vm` to map `run` with `rights`: its own frames, or all borrowed from one other VM's.
    ///
    /// # Errors
    /// The VM neither owns nor borrows a frame, its rights are smaller, or a frame is dirty or
    /// sealed; then nothing changed.
    pub fn grant(
        &mut self,
        vm: VmId,
        run: FrameRun,
        rights: Rights,
    ) -> Result<MapRight, LedgerError> {
        self.each(run, |frame, entry| {
            let granted = vm_rights(entry, vm).ok_or(LedgerError::NotOwner(frame))?;
            check_clear(frame, entry)?;
            check_rights(frame, rights, granted)
        })?;
        self.issue(Holder::Vm(vm), run, rights)
    }

    /// The hypervisor's right to map what is its own, or to read the firmware's tables and payloads.
    ///
    /// # Errors
    /// A frame belongs to somebody else, or `rights` exceed reading of what is not its own.
    pub fn grant_own(&mut self, run: FrameRun, rights: Rights) -> Result<MapRight, LedgerError> {
        self.each(run, |frame, entry| {
            let granted = match entry.owner() {
                Owner::Hypervisor | Owner::Firmware | Owner::Payload => entry.rights(),
                Owner::Nobody | Owner::Mmio | Owner::Vm(_) => {
                    return Err(LedgerError::NotOwner(frame));
                }
            };
            check_rights(frame, rights, granted)
        })?;
        self.issue(Holder::Hypervisor, run, rights)
    }

    /// The hypervisor's right to reach a VM's clear frames through a window while it copies.
    ///
    /// # Errors
    /// A frame is not the VM's (owned or borrowed), or is sealed; then nothing changed.
    pub fn grant_window(
        &mut self,
        vm: VmId,
        run: FrameRun,
        rights: Rights,
    ) -> Result<MapRight, LedgerError> {
        self.each(run, |frame, entry| {
            let granted = vm_rights(entry, vm).ok_or(LedgerError::NotOwner(frame))?;
            check_clear(frame, entry)?;
            check_rights(frame, rights, granted & (Rights::READ | Rights::WRITE))
        })?;
        self.issue(Holder::Hypervisor, run, rights)
    }

    /// The hypervisor's right to overwrite dirty frames.
    pub(super) fn grant_scrub(&mut self, run: FrameRun) -> Result<MapRight, LedgerError> {
        self.issue(Holder::Hypervisor, run, Rights::READ | Rights::WRITE)
    }

    /// Ends a right: no page table and no TLB holds the mapping any more.
    pub fn surrender(&mut self, right: MapRight) {
        self.claims.surrender(right.holder, right.run);
        if let (Some(known), _) = self.known(right.run) {
            self.count_maps(known, right.holder, |entry, borrowed| {
                entry.remove_map(borrowed);
                true
            });
        }
    }

    pub(super) fn issue(
        &mut self,
        holder: Holder,
        run: FrameRun,
        rights: Rights,
    ) -> Result<MapRight, LedgerError> {
        let mut tag = KeyTag::NONE;
        if let (Some(known), _) = self.known(run) {
            tag = self.tag(known)?;
            let counted = self.count_maps(known, holder, Entry::add_map);
            if counted < known.count.0 {
                if counted > 0 {
                    let done = FrameRun::new(known.first, FrameCount(counted));
                    self.count_maps(done, holder, |entry, borrowed| {
                        entry.remove_map(borrowed);
                        true
                    });
                }
                return Err(LedgerError::TooManyMaps(Frame(known.first.0 + counted)));
            }
        }
        Ok(MapRight {
            holder,
            run,
            rights,
            tag,
        })
    }

    /// Applies `step` (entry, whether the holder is its borrower) until it says no; how often it said yes.
    fn count_maps(
        &mut self,
        run: FrameRun,
        holder: Holder,
        step: impl Fn(&mut Entry, bool) -> bool,
    ) -> u64 {
        let first = run.first.0 as usize;
        let entries = self
            .entries
            .get_mut(first..first + run.count.0 as usize)
            .unwrap_or_default();
        let mut done = 0;
        for entry in entries {
            let borrowed = matches!(holder, Holder::Vm(vm) if entry.owner() != Owner::Vm(vm));
            if !step(entry, borrowed) {
                break;
            }
            done += 1;
        }
        done
    }

    /// The part of `run` that has entries, and how many frames have none.
    pub(super) fn known(&self, run: FrameRun) -> (Option<FrameRun>, FrameCount) {
        let end = run.end().0.min(self.frames().0);
        let count = end.saturating_sub(run.first.0);
        let known = (count > 0).then(|| FrameRun::new(run.first, FrameCount(count)));
        (known, FrameCount(run.count.0 - count))
    }
}

/// What `vm` may do with the frame, or `None` where it is not concerned.
fn vm_rights(entry: &Entry, vm: VmId) -> Option<Rights> {
    if entry.owner() == Owner::Vm(vm) {
        return Some(entry.rights());
    }
    entry
        .info()
        .borrower
        .filter(|(borrower, _)| *borrower == vm)
        .map(|(_, rights)| rights)
}

fn check_clear(frame: Frame, entry: &Entry) -> Result<(), LedgerError> {
    match entry.state() {
        State::Clear | State::Shared => Ok(()),
        found => Err(LedgerError::WrongState {
            frame,
            found,
            wanted: State::Clear,
        }),
    }
}

fn check_rights(frame: Frame, wanted: Rights, granted: Rights) -> Result<(), LedgerError> {
    match granted.contains(wanted) {
        true => Ok(()),
        false => Err(LedgerError::NoRight {
            frame,
            wanted,
            granted,
        }),
    }
}
