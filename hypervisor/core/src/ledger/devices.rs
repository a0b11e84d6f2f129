//! What VMs have of the machine that is no memory: registers of devices, and what the firmware reserved for one.
//!
//! The ledger has no entries for frames above all memory, where many devices are. So what was given away is a list of its
//! own, by runs: a run is one VM's, or the hypervisor's, and nobody else gets any of it. A VM's run is free again once
//! every frame's [`MapRight`] came back; the hypervisor keeps what it took.

use crate::addr::{Frame, FrameCount};

use super::entry::{Owner, Rights, State, VmId};
use super::{FrameRun, Holder, Ledger, LedgerError, MapRight};

/// How many runs can be given away.
const MAX_CLAIMS: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Claim {
    holder: Holder,
    run: FrameRun,
    /// Frames whose right is out.
    out: u64,
}

/// Who has which frames that are no memory.
#[derive(Debug)]
pub(super) struct Claims([Option<Claim>; MAX_CLAIMS]);

impl Claims {
    pub(super) const NONE: Self = Self([None; MAX_CLAIMS]);

    /// The first frame of `run` that is in somebody's run, unless all such are `holder`'s.
    fn taken(&self, run: FrameRun, holder: Option<Holder>) -> Option<Frame> {
        let claims = self.0.iter().flatten();
        claims
            .filter(|claim| Some(claim.holder) != holder && overlap(claim.run, run) > 0)
            .map(|claim| claim.run.first.max(run.first))
            .min()
    }

    fn add(&mut self, holder: Holder, run: FrameRun) -> Result<(), LedgerError> {
        let place = self.0.iter_mut().find(|place| place.is_none());
        let place = place.ok_or(LedgerError::TooManyDevices)?;
        *place = Some(Claim {
            holder,
            run,
            out: run.count.0,
        });
        Ok(())
    }

    /// The right to `run` came back.
    pub(super) fn surrender(&mut self, holder: Holder, run: FrameRun) {
        if holder == Holder::Hypervisor {
            return;
        }
        for place in &mut self.0 {
            if let Some(claim) = place.as_mut().filter(|claim| claim.holder == holder) {
                claim.out = claim.out.saturating_sub(overlap(claim.run, run));
                if claim.out == 0 {
                    *place = None;
                }
            }
        }
    }
}

/// How many frames are in both.
fn overlap(one: FrameRun, other: FrameRun) -> u64 {
    let end = one.end().min(other.end());
    end.0.saturating_sub(one.first.max(other.first).0)
}

impl Ledger<'_> {
    /// The hypervisor's right to map device registers, for reading and writing: what the firmware's map calls
    /// a device, keeps to itself, or does not mention. Frames beyond the ledger's end are no memory.
    ///
    /// # Errors
    /// [`LedgerError::NotDevice`] where a frame is memory that somebody can own, [`LedgerError::DeviceTaken`] where it is
    /// a VM's device.
    pub fn grant_device(&mut self, run: FrameRun) -> Result<MapRight, LedgerError> {
        self.check_no_memory(run, |kind| {
            matches!(
                kind,
                (Owner::Mmio | Owner::Firmware, _) | (Owner::Nobody, State::Absent)
            )
        })?;
        let holder = Holder::Hypervisor;
        if let Some(frame) = self.claims.taken(run, Some(holder)) {
            return Err(LedgerError::DeviceTaken(frame));
        }
        let has = |claim: &Claim| claim.holder == holder && overlap(claim.run, run) == run.count.0;
        if !self.claims.0.iter().flatten().any(has) {
            self.claims.add(holder, run)?;
        }
        self.issue(holder, run, Rights::READ | Rights::WRITE)
    }

    /// The right of `vm` to map registers of a device that it was given, for reading and writing. Nobody else, the
    /// hypervisor included, gets any of these frames before all of the right came back.
    ///
    /// # Errors
    /// [`LedgerError::NotDevice`] where a frame is memory of anybody, the firmware included;
    /// [`LedgerError::DeviceTaken`] or [`LedgerError::StillMapped`] where somebody has it.
    pub fn grant_passthrough(&mut self, vm: VmId, run: FrameRun) -> Result<MapRight, LedgerError> {
        self.check_no_memory(run, |kind| {
            matches!(kind, (Owner::Mmio, _) | (Owner::Nobody, State::Absent))
        })?;
        self.check_untaken(run)?;
        if let (Some(known), _) = self.known(run) {
            self.check_unmapped(known)?;
        }
        self.give(vm, run)
    }

    /// The right of `vm` to have a device of its map memory that the firmware reserved for that device, for reading and
    /// writing. No other VM gets any of it before all of the right came back.
    ///
    /// # Errors
    /// [`LedgerError::NotReserved`] where the firmware's map does not keep a frame, [`LedgerError::DeviceTaken`] where a VM
    /// has it.
    pub fn grant_reserved(&mut self, vm: VmId, run: FrameRun) -> Result<MapRight, LedgerError> {
        self.each(run, |frame, entry| match entry.kind().get() {
            (Owner::Firmware, State::Clear) if frame != Frame(0) => Ok(()),
            _ => Err(LedgerError::NotReserved(frame)),
        })?;
        self.check_untaken(run)?;
        self.give(vm, run)
    }

    fn check_untaken(&self, run: FrameRun) -> Result<(), LedgerError> {
        match self.claims.taken(run, None) {
            Some(frame) => Err(LedgerError::DeviceTaken(frame)),
            None => Ok(()),
        }
    }

    fn give(&mut self, vm: VmId, run: FrameRun) -> Result<MapRight, LedgerError> {
        let right = self.issue(Holder::Vm(vm), run, Rights::READ | Rights::WRITE)?;
        match self.claims.add(right.holder(), run) {
            Ok(()) => Ok(right),
            Err(error) => {
                self.surrender(right);
                Err(error)
            }
        }
    }

    /// Fails unless `run` is not empty and what the ledger knows of it passes `fits`.
    fn check_no_memory(
        &self,
        run: FrameRun,
        fits: impl Fn((Owner, State)) -> bool,
    ) -> Result<(), LedgerError> {
        if run.count == FrameCount(0) || run.first.0.checked_add(run.count.0).is_none() {
            return Err(LedgerError::BeyondEnd(run));
        }
        let (Some(known), _) = self.known(run) else {
            return Ok(());
        };
        self.each(known, |frame, entry| match fits(entry.kind().get()) {
            true => Ok(()),
            false => Err(LedgerError::NotDevice(frame)),
        })
    }
}
