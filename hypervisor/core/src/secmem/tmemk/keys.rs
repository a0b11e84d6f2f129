//! Which keys are in use, and the order in which one comes and goes.
//!
//! ```text
//!   make:  program every package -> the ledger puts the VM's frames, which nobody maps, under the key, all dirty
//!          -> empty every cache -> they are scrubbed under the key, and used
//!   erase: the ledger takes the frames, which nobody maps any more, from under the key, all dirty
//!          -> empty every cache -> clear the key in every package -> they are freed, and so is the id
//! ```
//!
//! Caches are emptied because they keep lines by address, key id included: one written under the old key would reach memory after, and
//! over, what was written under the new one; and one that stayed would show the next VM with this id what the last one had there.

use core::fmt;

use super::{HardwareKeyId, KeyIds, KeyProgram, KeyTag, ProgramError};
use crate::ledger::LedgerError;

/// Attempts for one package: the processor makes random numbers within microseconds, and nobody else programs keys.
const ATTEMPTS: u32 = 1000;

/// The machine's memory controllers and caches; implemented by the shell.
pub trait Engines {
    /// How many CPUs there are.
    fn cpus(&self) -> usize;
    /// Whether CPU number `cpu` is the first of its package; each package has a table of keys of its own.
    fn leads(&self, cpu: usize) -> bool;
    /// Has it execute PCONFIG once.
    ///
    /// # Errors
    /// What it answered.
    fn program(&mut self, cpu: usize, program: &KeyProgram) -> Result<(), ProgramError>;
    /// Has every CPU write its caches back to memory and empty them; returns when all did.
    fn empty_caches(&mut self);
}

/// A key of one life of a VM. Dropped instead of erased, it stays in the memory controllers, and its id is not used again.
#[must_use = "erase it once nobody maps frames under it"]
#[derive(PartialEq, Eq, Debug)]
pub struct HardwareKey {
    id: HardwareKeyId,
    tag: KeyTag,
}

impl HardwareKey {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> HardwareKeyId {
        self.id
    }

    /// What its frames' numbers get.
    #[must_use]
    pub const fn tag(&self) -> KeyTag {
        self.tag
    }
}

/// The machine's keys.
#[derive(Debug)]
pub struct HardwareKeys {
    ids: KeyIds,
    /// A bit for each id from 1 on: in use, or lost.
    used: u64,
}

impl HardwareKeys {
    /// All of `ids` are free; more than 64 are not needed, since there are no more VMs.
    #[must_use]
    pub const fn new(ids: KeyIds) -> Self {
        Self { ids, used: 0 }
    }

    /// Has every package make a key for the lowest free id, and `rekey` put frames under it: [`crate::ledger::Ledger::rekey`].
    ///
    /// # Errors
    /// No id is free, a package did not make its key, or the ledger refuses: then it is cleared in all of them again.
    #[cold]
    pub fn make(
        &mut self,
        engines: &mut impl Engines,
        rekey: impl FnOnce(KeyTag) -> Result<(), LedgerError>,
    ) -> Result<HardwareKey, KeyError> {
        let index = self.used.trailing_ones();
        let id = HardwareKeyId::new(index as u16 + 1)
            .filter(|id| index < u64::BITS && id.number() <= self.ids.count())
            .ok_or(KeyError::NoneFree)?;
        let tag = self.ids.field().tag(id).ok_or(KeyError::NoneFree)?;
        self.used |= 1 << index;
        let program = KeyProgram::make_key(id);
        let made = everywhere(engines, &program).map_err(KeyError::Program);
        if let Err(error) = made.and_then(|()| rekey(tag).map_err(KeyError::Ledger)) {
            // If this fails, too, the id stays taken; no frame was ever under it.
            let _ = self.clear(id, engines);
            return Err(error);
        }
        engines.empty_caches();
        Ok(HardwareKey { id, tag })
    }

    /// Has `rekey` take the frames from under `key`, and every package forget it.
    ///
    /// # Errors
    /// [`KeyError::Ledger`]: a frame is mapped, and all stay under the key for good. [`KeyError::Program`]: a package did not forget
    /// the key. Its id is not used again in either case; in the latter the frames can be.
    pub fn erase(
        &mut self,
        key: HardwareKey,
        engines: &mut impl Engines,
        rekey: impl FnOnce(KeyTag) -> Result<(), LedgerError>,
    ) -> Result<(), KeyError> {
        rekey(KeyTag::NONE).map_err(KeyError::Ledger)?;
        engines.empty_caches();
        self.clear(key.id, engines).map_err(KeyError::Program)
    }

    fn clear(&mut self, id: HardwareKeyId, engines: &mut impl Engines) -> Result<(), ProgramError> {
        everywhere(engines, &KeyProgram::clear_key(id))?;
        self.release(id);
        Ok(())
    }

    fn release(&mut self, id: HardwareKeyId) {
        self.used &= !(1 << (id.number() - 1));
    }
}

/// Has every package do what `program` says, though one fails; the last failure.
fn everywhere(engines: &mut impl Engines, program: &KeyProgram) -> Result<(), ProgramError> {
    let mut result = Ok(());
    for cpu in 0..engines.cpus() {
        if !engines.leads(cpu) {
            continue;
        }
        for attempt in 1..=ATTEMPTS {
            match engines.program(cpu, program) {
                Ok(()) => break,
                Err(error) if error.passes() && attempt < ATTEMPTS => core::hint::spin_loop(),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
    }
    result
}

/// Why there is no key, or why there still is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// Every id is in use.
    NoneFree,
    /// PCONFIG.
    Program(ProgramError),
    /// The frames cannot change their key.
    Ledger(LedgerError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneFree => f.write_str("every key id is in use"),
            Self::Program(error) => error.fmt(f),
            Self::Ledger(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for KeyError {}
