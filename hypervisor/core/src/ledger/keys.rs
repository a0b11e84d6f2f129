//! Hardware keys: under which of the memory controllers' keys a VM's frames are.
//!
//! A frame under a key holds nothing of sense under another, and two mappings of it under two keys are not coherent. So
//! all frames of a VM are under one, every [`super::MapRight`] says which, and [`Ledger::rekey`] is the only change: of all of the
//! VM's frames at once, while nobody maps one. What they hold is lost by it. While a VM has a key, its frames neither
//! become more nor fewer. Keys come and go by [`crate::secmem::tmemk`].

use crate::addr::FrameCount;
use crate::manifest::MAX_VMS;
use crate::secmem::tmemk::KeyTag;

use super::entry::{Entry, Owner, State, VmId};
use super::{FrameRun, Ledger, LedgerError};

/// A VM's frames, and what they are under.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    frames: u64,
    tag: KeyTag,
}

/// The key of each VM.
#[derive(Debug)]
pub(super) struct Keys {
    of: [Holdings; MAX_VMS],
    /// How many VMs have one: most machines know none.
    given: usize,
}

impl Keys {
    pub(super) const NONE: Self = Self {
        of: [Holdings {
            frames: 0,
            tag: KeyTag::NONE,
        }; MAX_VMS],
        given: 0,
    };

    /// `owner` got frames.
    pub(super) fn taken(&mut self, owner: Owner, count: FrameCount) {
        if let Some(holdings) = self.of_mut(owner) {
            holdings.frames += count.0;
        }
    }

    /// `owner` gave frames back.
    pub(super) fn freed(&mut self, owner: Owner, count: FrameCount) {
        if let Some(holdings) = self.of_mut(owner) {
            holdings.frames -= count.0;
        }
    }

    /// Fails where the owner's frames are under a key.
    pub(super) fn check_none(&self, owner: Owner) -> Result<(), LedgerError> {
        match owner {
            Owner::Vm(vm) if self.tag(owner).is_key() => Err(LedgerError::UnderKey(vm)),
            _ => Ok(()),
        }
    }

    fn tag(&self, owner: Owner) -> KeyTag {
        let Owner::Vm(vm) = owner else {
            return KeyTag::NONE;
        };
        let holdings = self.of.get(usize::from(vm.0));
        holdings.map_or(KeyTag::NONE, |holdings| holdings.tag)
    }

    fn of_mut(&mut self, owner: Owner) -> Option<&mut Holdings> {
        match owner {
            Owner::Vm(vm) => self.of.get_mut(usize::from(vm.0)),
            _ => None,
        }
    }
}

impl Ledger<'_> {
    /// Puts all frames of `vm`, which are `runs`, under the key `tag`, or from under the one they are under: no key
    /// follows another. What they held cannot be read any more: clear ones are dirty.
    ///
    /// # Errors
    /// [`LedgerError::NotAllFrames`]; a frame is not the VM's, mapped, or shared; then nothing changed.
    #[cold]
    pub fn rekey(&mut self, vm: VmId, runs: &[FrameRun], tag: KeyTag) -> Result<(), LedgerError> {
        let owner = Owner::Vm(vm);
        let all = LedgerError::NotAllFrames(vm);
        let mut frames = 0;
        for (index, run) in runs.iter().enumerate() {
            self.each(*run, |frame, entry| {
                if entry.owner() != owner {
                    Err(LedgerError::NotOwner(frame))
                } else if entry.is_mapped() || entry.state() == State::Shared {
                    Err(LedgerError::StillMapped(frame))
                } else {
                    Ok(())
                }
            })?;
            let others = runs.iter().skip(index + 1);
            if others.into_iter().any(|other| run.overlaps(*other)) {
                return Err(all);
            }
            frames += run.count.0;
        }
        let holdings = self.keys.of_mut(owner).ok_or(LedgerError::BadVm(vm))?;
        if holdings.frames != frames || holdings.tag.is_key() == tag.is_key() {
            return Err(all);
        }
        holdings.tag = tag;
        if tag.is_key() {
            self.keys.given += 1;
        } else {
            self.keys.given -= 1;
        }
        for run in runs {
            self.update(*run, Entry::forget);
        }
        Ok(())
    }

    /// The key that all of `run` is under.
    pub(super) fn tag(&self, run: FrameRun) -> Result<KeyTag, LedgerError> {
        if self.keys.given == 0 {
            return Ok(KeyTag::NONE);
        }
        let first = self.entry(run.first);
        let tag = first.map_or(KeyTag::NONE, |entry| self.keys.tag(entry.owner()));
        self.each(run, |frame, entry| {
            match self.keys.tag(entry.owner()) == tag {
                true => Ok(()),
                false => Err(LedgerError::OtherKey(frame)),
            }
        })?;
        Ok(tag)
    }
}
