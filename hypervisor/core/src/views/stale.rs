//! What a change of one view gave up but a TLB may still hold.

use alloc::vec::Vec;

use crate::addr::Frame;
use crate::ept::EptFormat;
use crate::ledger::MapRight;
use crate::table::{Flushed, Stale, TableMemory};

/// Tables and rights that a view gave up. The tables keep what they hold until the flush: a CPU may be walking them.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) tables: Vec<Frame>,
    pub(super) rights: Vec<MapRight>,
}

/// Tables and rights that some TLB may still reach.
#[must_use = "flush, then call `flushed`; dropping this loses the tables and frames inside for good"]
#[derive(Debug)]
pub struct Withdrawn(pub(super) Stale<EptFormat, GivenUp>);

impl Withdrawn {
    /// The rights to frames that were remapped, now that `proof` shows that no CPU reaches them. The tables go back to `memory`.
    ///
    /// # Errors
    /// `self`, unchanged, where the proof is for another VM's views or older than the change.
    pub fn flushed(
        self,
        proof: &Flushed,
        memory: &mut impl TableMemory,
    ) -> Result<Vec<MapRight>, Self> {
        let GivenUp { tables, rights } = self.0.flushed(proof, memory).map_err(Self)?;
        tables.into_iter().for_each(|table| memory.free(table));
        Ok(rights)
    }
}
