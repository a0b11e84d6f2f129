//! Extended page tables: what a VM's guest physical addresses mean.
//!
//! [`Ept`] is one tree: a VM's only view, or its base view under [`crate::views`]. It maps only what a [`MapRight`] of its VM covers, and gives rights back
//! only through a [`Stale`]. Where the right says a hardware key, the entry has it above the frame's number
//! ([`crate::secmem::tmemk`]); what comes out again has none. Neighbours: [`crate::ledger`] makes the rights, [`crate::table`] does the
//! tree work, [`crate::mtrr`] knows the memory types, `vmx` decodes the exits that EPT causes.
//! See Intel SDM vol. 3C, "The Extended Page Table Mechanism (EPT)".

mod caps;
mod entry;
#[cfg(test)]
mod tests;

use core::fmt;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::{FrameRun, Holder, Holding, MapRight, Rights, VmId};
use crate::mtrr::Mtrrs;
use crate::table::{Flushed, Invalidate, Leaf, Stale, Table, TableError, TableMemory};

pub use caps::{EptCapError, EptCaps, EptFeatures};
pub(crate) use entry::{ACCESSED, masked_table};
pub use entry::{EptAttr, EptFormat, EptPerms, Eptp};

/// Where a run was mapped and the right to it, to be had after a flush.
pub type Unmapped = Stale<EptFormat, (Gpa, MapRight)>;

/// The EPT root of one view of a VM.
#[derive(Debug)]
pub struct Ept {
    table: Table<EptFormat>,
    holding: Holding,
    caps: EptCaps,
}

/// A mapping that was refused, with the right that was not used up.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub error: EptError,
    /// The right, unused.
    pub right: MapRight,
}

/// Why an EPT could not be changed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EptError {
    /// The page tables said no.
    Table(TableError<Gpa>),
    /// The right is for somebody else's page tables.
    WrongHolder(Holder),
    /// The permissions exceed the right.
    ExceedsRight {
        /// What was asked for.
        wanted: Rights,
        /// What the right allows.
        allowed: Rights,
    },
    /// This processor can't express the permissions: nothing at all, writable but unreadable, or
    /// execute-only where that is not supported.
    Permissions(EptPerms),
    /// What is mapped at the address is not what the right covers.
    OtherFrames(Gpa),
}

impl fmt::Display for EptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => write!(f, "EPT: {error}"),
            Self::WrongHolder(holder) => write!(f, "EPT: the map right is {holder:?}'s"),
            Self::ExceedsRight { wanted, allowed } => {
                write!(
                    f,
                    "EPT: {wanted:?} asked for, the ledger allows {allowed:?}"
                )
            }
            Self::Permissions(perms) => write!(f, "EPT: this processor has no {perms:?} pages"),
            Self::OtherFrames(at) => write!(f, "EPT: other frames are mapped at {at}"),
        }
    }
}

impl core::error::Error for EptError {}

impl From<TableError<Gpa>> for EptError {
    fn from(error: TableError<Gpa>) -> Self {
        Self::Table(error)
    }
}

impl Ept {
    /// An empty view of `vm`.
    ///
    /// # Errors
    /// [`TableError::OutOfTables`] where there is no frame for the root.
    pub fn new(vm: VmId, caps: EptCaps, memory: &mut impl TableMemory) -> Result<Self, EptError> {
        let table = Table::new(memory, caps.largest_page())?;
        Ok(Self {
            table,
            holding: Holding::new(Holder::Vm(vm)),
            caps,
        })
    }

    /// What the VMCS points to this view with.
    #[must_use]
    pub const fn eptp(&self) -> Eptp {
        Eptp::new(self.table.root(), self.caps.has_accessed_dirty())
    }

    /// How many frames are mapped.
    #[must_use]
    pub const fn mapped(&self) -> FrameCount {
        self.holding.frames()
    }

    /// Maps the frames of `right` at `gpa`.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing is mapped.
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        right: MapRight,
        attr: EptAttr,
    ) -> Result<(), Rejected> {
        let FrameRun { first, count } = right.run();
        let mapped = self.check(&right, attr.perms).and_then(|()| {
            self.table
                .map(memory, gpa, right.tag().on(first), count, attr)
                .map_err(EptError::from)
        });
        match mapped {
            Ok(()) => {
                self.holding.deposit(right);
                Ok(())
            }
            Err(error) => Err(Rejected { error, right }),
        }
    }

    /// Maps memory with the memory types that the MTRRs give its frames.
    ///
    /// # Errors
    /// The reason with the right to what is not mapped. Parts of other memory types before the failure
    /// stay mapped; a caller that gives up unmaps its range.
    pub fn map_memory(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        right: MapRight,
        perms: EptPerms,
        mtrrs: &Mtrrs,
    ) -> Result<(), Rejected> {
        let mut next = gpa;
        let mut rest = right;
        for (run, memory_type) in mtrrs.runs(rest.run()) {
            let attr = EptAttr::new(perms, memory_type);
            match rest.split(run.count) {
                Err(last) => return self.map(memory, next, last, attr),
                Ok((part, more)) => {
                    if let Err(Rejected { error, right }) = self.map(memory, next, part, attr) {
                        return Err(Rejected {
                            error,
                            right: right.join(more),
                        });
                    }
                    // A wrapped address is not mapped twice: the tree ends long before.
                    next = Gpa(next.0.wrapping_add(run.count.0.wrapping_mul(FRAME_SIZE)));
                    rest = more;
                }
            }
        }
        Err(Rejected {
            error: EptError::Table(TableError::Misaligned(next)),
            right: rest,
        })
    }

    /// Takes out the first contiguous run within `count` frames from `gpa`: where it was and, once flushed,
    /// the right to it. `None` where nothing is mapped; call until then to empty a range.
    ///
    /// # Errors
    /// A bad range, or no frame left to split a large page; nothing changed.
    pub fn unmap_run(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        count: FrameCount,
    ) -> Result<Option<Unmapped>, EptError> {
        let Some(stale) = self.table.unmap_run(memory, gpa, count)? else {
            return Ok(None);
        };
        let (holding, keys) = (&mut self.holding, self.caps.keys());
        Ok(Some(stale.map(|run| {
            let rights = run.attr.perms.rights();
            let (frame, tag) = keys.split(run.frame);
            (
                run.input,
                holding.withdraw(FrameRun::new(frame, run.count), rights, tag),
            )
        })))
    }

    /// Changes the permissions of the frames of `evidence`, mapped in one run at `gpa`.
    ///
    /// # Errors
    /// Other frames are mapped there, or the permissions exceed the evidence; nothing changed.
    pub fn protect(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        perms: EptPerms,
        evidence: &MapRight,
    ) -> Result<Stale<EptFormat, ()>, EptError> {
        self.check(evidence, perms)?;
        let FrameRun { first, count } = evidence.run();
        let first = evidence.tag().on(first);
        let start = gpa.0 / FRAME_SIZE;
        for leaf in self.table.leaves(memory, gpa, count)? {
            let page = leaf.input.0 / FRAME_SIZE;
            // Equal distance between page and frame on both sides means the frames are the right's.
            if leaf.frame.0.wrapping_sub(page) != first.0.wrapping_sub(start) {
                return Err(EptError::OtherFrames(leaf.input));
            }
        }
        Ok(self
            .table
            .protect(memory, gpa, count, |attr| EptAttr { perms, ..attr })?)
    }

    /// The page that holds `gpa`, or `None` where nothing is mapped.
    pub fn translate(&self, memory: &impl TableMemory, gpa: Gpa) -> Option<Leaf<Gpa, EptAttr>> {
        let leaf = self.table.translate(memory, gpa)?;
        let (frame, _) = self.caps.keys().split(leaf.frame);
        Some(Leaf { frame, ..leaf })
    }

    /// Whether the page that holds `gpa` was accessed since the last time this was asked and the view was flushed; false where the
    /// processor does not note that.
    pub fn take_accessed(&mut self, memory: &mut impl TableMemory, gpa: Gpa) -> bool {
        self.table.take_noted(memory, gpa, ACCESSED)
    }

    /// Has every CPU forget this view, and proves it.
    pub fn flush(&self, tlb: &mut impl Invalidate) -> Flushed {
        self.table.flush(tlb)
    }

    /// Has every CPU forget this view and those at the roots of `others`, which share tables with it, and proves it.
    pub(crate) fn flush_with(
        &self,
        tlb: &mut impl Invalidate,
        others: impl Iterator<Item = Frame>,
    ) -> Flushed {
        self.table.flush_with(tlb, others)
    }

    /// Wraps what was taken out of a view that shares tables with this one.
    pub(crate) fn outdated<T>(&mut self, value: T) -> Stale<EptFormat, T> {
        self.table.outdated(value)
    }

    pub(crate) const fn root(&self) -> Frame {
        self.table.root()
    }

    pub(crate) const fn caps(&self) -> EptCaps {
        self.caps
    }

    pub(crate) const fn holder(&self) -> Holder {
        self.holding.holder()
    }

    /// Whether nothing is mapped.
    pub(crate) fn is_empty(&self, memory: &impl TableMemory) -> bool {
        self.table.is_empty(memory)
    }

    /// Frees the tables of an empty view. No VMCS may name it any more.
    ///
    /// # Errors
    /// `self` where something is still mapped.
    pub fn destroy(
        self,
        memory: &mut impl TableMemory,
        tlb: &mut impl Invalidate,
    ) -> Result<(), Self> {
        let Self {
            table,
            holding,
            caps,
        } = self;
        table.destroy(memory, tlb).map_err(|table| Self {
            table,
            holding,
            caps,
        })
    }

    pub(crate) fn check(&self, right: &MapRight, perms: EptPerms) -> Result<(), EptError> {
        if right.holder() != self.holding.holder() {
            return Err(EptError::WrongHolder(right.holder()));
        }
        if !self.caps.allows(perms) {
            return Err(EptError::Permissions(perms));
        }
        let (wanted, allowed) = (perms.rights(), right.rights());
        match allowed.contains(wanted) {
            true => Ok(()),
            false => Err(EptError::ExceedsRight { wanted, allowed }),
        }
    }
}
