//! Events about encrypted memory.

use core::fmt;

use super::json::Object;
use crate::ledger::KeyId;
use crate::secmem::Counts;

/// What happened to an encrypted VM's memory in one life, from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecmemCounters {
    /// The number of its key.
    pub key: KeyId,
    /// Pages brought and sealed.
    pub counts: Counts,
    /// Pages that were ever used.
    pub touched: u64,
    /// Pages that are readable.
    pub readable: u64,
    /// Ticks in cipher and tag, for pages that were unsealed.
    pub unseal_ticks: u64,
    /// Ticks in cipher and tag, for pages that were sealed.
    pub seal_ticks: u64,
    /// Ticks in everything else of both.
    pub other_ticks: u64,
}

/// What was found of an encrypted VM's memory at one of its exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecmemSample {
    /// Pages that were ever used.
    pub touched: u64,
    /// Of these, those that the ledger has as sealed.
    pub sealed: u64,
    /// Of these, the others.
    pub readable: u64,
    /// Of some sealed pages, those whose frames hold what was sealed there.
    pub verified: u64,
    /// And those whose frames hold something else.
    pub failed: u64,
}

impl SecmemCounters {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        let numbers = [
            ("key", self.key.0.into()),
            ("faults", self.counts.faults),
            ("fresh", self.counts.fresh),
            ("unsealed", self.counts.unsealed),
            ("prefetched", self.counts.ahead),
            ("sealed", self.counts.sealed),
            ("flushes", self.counts.flushes),
            ("pinned", self.counts.pinned),
            ("touched", self.touched),
            ("readable", self.readable),
            ("crypto_ticks", self.unseal_ticks),
            ("seal_ticks", self.seal_ticks),
            ("other_ticks", self.other_ticks),
        ];
        numbers
            .into_iter()
            .try_for_each(|(key, value)| object.number(key, value))
    }
}

impl SecmemSample {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        let numbers = [
            ("touched", self.touched),
            ("sealed", self.sealed),
            ("readable", self.readable),
            ("verified", self.verified),
            ("failed", self.failed),
        ];
        numbers
            .into_iter()
            .try_for_each(|(key, value)| object.number(key, value))
    }
}
