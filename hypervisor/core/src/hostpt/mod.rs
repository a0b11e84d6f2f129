//! The hypervisor's own page tables: four levels, W^X, nothing mapped that is not needed.
//!
//! [`HostTables`] maps what the ledger grants the hypervisor: its image by section ([`pe`]), its data
//! and stacks (a guard page below each), device registers, firmware tables to read. Guest memory is
//! never mapped as a whole; a [`Window`] shows a few frames while they are copied. [`Access`] has no
//! writable and executable variant, so W^X cannot be got wrong.
//! Neighbours: [`crate::ledger`] (rights), [`crate::table`] (the engine); the shell loads CR3.

mod entry;
mod error;
pub mod pe;
#[cfg(test)]
mod tests;
mod window;

use crate::addr::{FrameCount, Hpa, Hva};
use crate::ledger::{FrameRun, Holder, Holding, MapRight};
use crate::secmem::tmemk::KeyTag;
use crate::table::{Flushed, Invalidate, Leaf, PageSize, Stale, Table, TableMemory};

pub use entry::{Access, Cache, HOST_PAT, HostAttr, HostFormat};
pub use error::{HostError, Rejected};
pub use window::{InvalidatePage, Window};

/// Where a run was mapped and the right to it, to be had after a flush.
pub type Unmapped = Stale<HostFormat, (Hva, MapRight)>;

/// The hypervisor's address space.
#[derive(Debug)]
pub struct HostTables {
    table: Table<HostFormat>,
    holding: Holding,
}

impl HostTables {
    /// An empty address space whose pages are at most as large as `largest` (1 GiB pages need the
    /// processor's `pdpe1gb`).
    ///
    /// # Errors
    /// No frame left for the root.
    pub fn new(memory: &mut impl TableMemory, largest: PageSize) -> Result<Self, HostError> {
        let table = Table::new(memory, largest)?;
        Ok(Self {
            table,
            holding: Holding::new(Holder::Hypervisor),
        })
    }

    /// The top-level table: what CR3 holds.
    #[must_use]
    pub const fn root(&self) -> Hpa {
        self.table.root().start()
    }

    /// Maps the frames of `right` where their addresses are equal, virtual and physical.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing is mapped.
    pub fn identity(
        &mut self,
        memory: &mut impl TableMemory,
        right: MapRight,
        attr: HostAttr,
    ) -> Result<(), Rejected> {
        let at = Hva(right.run().first.start().0);
        self.map(memory, at, right, attr)
    }

    /// Maps a stack where its addresses are equal, its lowest page left absent as a guard: an overflow
    /// faults instead of reaching what lies below. The right to the guard frame comes back.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing is mapped.
    pub fn stack(
        &mut self,
        memory: &mut impl TableMemory,
        right: MapRight,
    ) -> Result<MapRight, Rejected> {
        let at = Hva(right.run().first.start().0);
        match right.split(FrameCount(1)) {
            Err(right) => Err(Rejected {
                error: HostError::StackTooSmall(at),
                right,
            }),
            Ok((guard, stack)) => match self.identity(memory, stack, HostAttr::DATA) {
                Ok(()) => Ok(guard),
                Err(Rejected { error, right }) => Err(Rejected {
                    error,
                    right: guard.join(right),
                }),
            },
        }
    }

    /// Maps the frames of `right` at `at`.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing is mapped.
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        at: Hva,
        right: MapRight,
        attr: HostAttr,
    ) -> Result<(), Rejected> {
        let FrameRun { first, count } = right.run();
        let mapped = check(&right, attr).and_then(|()| {
            if right.tag().is_key() {
                return Err(HostError::UnderKey(at));
            }
            Ok(self.table.map(memory, at, first, count, attr)?)
        });
        match mapped {
            Ok(()) => {
                self.holding.deposit(right);
                Ok(())
            }
            Err(error) => Err(Rejected { error, right }),
        }
    }

    /// Takes out the first contiguous run within `count` frames from `at`; call until `None`. The
    /// right to it comes back once flushed.
    ///
    /// # Errors
    /// A bad range, or no frame left to split a large page; nothing changed.
    pub fn unmap_run(
        &mut self,
        memory: &mut impl TableMemory,
        at: Hva,
        count: FrameCount,
    ) -> Result<Option<Unmapped>, HostError> {
        let Some(stale) = self.table.unmap_run(memory, at, count)? else {
            return Ok(None);
        };
        let holding = &mut self.holding;
        Ok(Some(stale.map(|run| {
            let rights = run.attr.access.rights();
            (
                run.input,
                holding.withdraw(FrameRun::new(run.frame, run.count), rights, KeyTag::NONE),
            )
        })))
    }

    /// A window of `slots` pages at `at`, which nothing else may use; it must not cross a 2 MiB border.
    ///
    /// # Errors
    /// A bad place, something mapped there, or no frame left for tables.
    pub fn window(
        &mut self,
        memory: &mut impl TableMemory,
        at: Hva,
        slots: FrameCount,
    ) -> Result<Window, HostError> {
        Window::new(&mut self.table, memory, at, slots)
    }

    /// The page that holds `at`, or `None` where nothing is mapped.
    pub fn translate(&self, memory: &impl TableMemory, at: Hva) -> Option<Leaf<Hva, HostAttr>> {
        self.table.translate(memory, at)
    }

    /// Has every CPU forget these tables, and proves it.
    pub fn flush(&self, tlb: &mut impl Invalidate) -> Flushed {
        self.table.flush(tlb)
    }
}

/// Whether `right` lets the hypervisor map with `attr`.
fn check(right: &MapRight, attr: HostAttr) -> Result<(), HostError> {
    if right.holder() != Holder::Hypervisor {
        return Err(HostError::WrongHolder(right.holder()));
    }
    let (wanted, allowed) = (attr.access.rights(), right.rights());
    match allowed.contains(wanted) {
        true => Ok(()),
        false => Err(HostError::ExceedsRight { wanted, allowed }),
    }
}
