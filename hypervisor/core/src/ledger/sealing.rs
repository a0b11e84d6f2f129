//! Sealing: the two ways of a frame between clear and sealed, and the one way for the operator to look at it.
//!
//! A sealed frame is in nobody's page tables, and only two rights lead to its bytes. [`Ledger::seal`] gives the first, for
//! encrypting what is there; the frame counts as sealed before the first byte changes. [`Ledger::grant_unseal`] gives the second,
//! for decrypting; with it comes an [`Unsealing`], and both together make the frame clear again. Neither goes to a
//! VM. Which frames, when and under which key is [`crate::secmem`]'s.

use super::entry::{Entry, KeyId, Owner, Rights, State, VmId};
use super::rights::{Holder, MapRight};
use super::{FrameRun, Ledger, LedgerError};

/// Frames that are being unsealed.
#[must_use = "give it to `Ledger::unseal`, or leave the frames sealed by dropping it"]
#[derive(PartialEq, Eq, Debug)]
pub struct Unsealing {
    vm: VmId,
    run: FrameRun,
}

impl Ledger<'_> {
    /// Seals a VM's frames under `key`: from now on nobody can map them, and each has a version that it never had under
    /// this key. The right is the hypervisor's, to encrypt them through a window.
    ///
    /// # Errors
    /// The frames are not the VM's, still mapped, or not [`State::Clear`]; [`LedgerError::NoVersionLeft`]; then
    /// nothing changed.
    pub fn seal(&mut self, vm: VmId, run: FrameRun, key: KeyId) -> Result<MapRight, LedgerError> {
        self.check_owned(run, Owner::Vm(vm))?;
        self.check_unmapped(run)?;
        self.check_state(run, State::Clear)?;
        self.each(run, |frame, entry| match entry.has_version_left() {
            true => Ok(()),
            false => Err(LedgerError::NoVersionLeft(frame)),
        })?;
        self.update(run, |entry| entry.seal(key));
        self.issue(Holder::Hypervisor, run, Rights::READ | Rights::WRITE)
    }

    /// The hypervisor's right to decrypt a VM's sealed frames through a window.
    ///
    /// # Errors
    /// The frames are not the VM's, not [`State::Sealed`], or somebody else has a right to them; then nothing changed.
    pub fn grant_unseal(
        &mut self,
        vm: VmId,
        run: FrameRun,
    ) -> Result<(Unsealing, MapRight), LedgerError> {
        self.check_owned(run, Owner::Vm(vm))?;
        self.check_unmapped(run)?;
        self.check_state(run, State::Sealed)?;
        let right = self.issue(Holder::Hypervisor, run, Rights::READ | Rights::WRITE)?;
        Ok((Unsealing { vm, run }, right))
    }

    /// Makes frames readable to their VM again: they were verified and decrypted by `right`, which came with `unsealing`.
    ///
    /// # Errors
    /// [`LedgerError::StillMapped`] where the right is to other frames, or somebody else has one; the frames stay sealed, and the right is
    /// surrendered.
    pub fn unseal(&mut self, unsealing: Unsealing, right: MapRight) -> Result<(), LedgerError> {
        let Unsealing { vm, run } = unsealing;
        self.surrender(right);
        self.check_owned(run, Owner::Vm(vm))?;
        self.check_unmapped(run)?;
        self.check_state(run, State::Sealed)?;
        self.update(run, Entry::unseal);
        Ok(())
    }

    /// Makes a VM's frames dirty, sealed ones too, whose key is gone: they stay the VM's, and it can have them zeroed.
    ///
    /// # Errors
    /// The frames are not the VM's, shared, or still mapped; then nothing changed.
    pub fn discard(&mut self, vm: VmId, run: FrameRun) -> Result<(), LedgerError> {
        self.check_owned(run, Owner::Vm(vm))?;
        self.check_unmapped(run)?;
        self.each(run, |frame, entry| match entry.state() {
            State::Shared => Err(LedgerError::StillMapped(frame)),
            _ => Ok(()),
        })?;
        self.update(run, Entry::discard);
        Ok(())
    }

    /// Lets the operator read frames of a VM whose memory is not encrypted.
    ///
    /// # Errors
    /// The frames are not the VM's; then nothing changed.
    pub fn open_to_operator(&mut self, vm: VmId, run: FrameRun) -> Result<(), LedgerError> {
        self.check_owned(run, Owner::Vm(vm))?;
        self.update(run, Entry::open);
        Ok(())
    }

    /// The hypervisor's right to show frames of a VM to the operator, as they lie in memory: sealed ones, and clear ones where the VM's
    /// memory is not encrypted.
    ///
    /// # Errors
    /// The frames are not the VM's; [`LedgerError::StillMapped`] where one is being sealed or unsealed; [`LedgerError::Private`] where one is clear and the VM's alone.
    pub fn grant_inspect(&mut self, vm: VmId, run: FrameRun) -> Result<MapRight, LedgerError> {
        self.check_owned(run, Owner::Vm(vm))?;
        self.each(run, |frame, entry| match entry.state() {
            // Under a right that is out it may be half encrypted.
            State::Sealed if entry.is_mapped() => Err(LedgerError::StillMapped(frame)),
            State::Sealed => Ok(()),
            State::Clear | State::Shared if entry.is_open() => Ok(()),
            _ => Err(LedgerError::Private(frame)),
        })?;
        self.issue(Holder::Hypervisor, run, Rights::READ)
    }
}
