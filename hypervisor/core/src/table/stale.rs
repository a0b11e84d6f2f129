//! What a page table gave up but a TLB may still hold.
//!
//! Unmapping returns a [`Stale`]; flushing returns a [`Flushed`]; only both together give back what
//! was mapped. A `Stale` that is dropped loses its content for good, which wastes memory but never
//! hands a frame out while a CPU can still reach it.

use core::marker::PhantomData;

use crate::addr::Frame;

use super::{Entry, Format, Table, TableMemory};

/// Makes every CPU forget what it cached from one tree; implemented by the shell.
pub trait Invalidate {
    /// Returns when no TLB or paging-structure cache of any CPU holds anything from `root`'s tree
    /// that was read before the call.
    fn invalidate(&mut self, root: Frame);

    /// The same for several trees. Who can have them all forgotten at once does so here.
    fn invalidate_all(&mut self, roots: &mut dyn Iterator<Item = Frame>) {
        for root in roots {
            self.invalidate(root);
        }
    }
}

/// Proof that a tree was flushed, with all that share its tables; made only by a flush.
#[derive(Debug)]
pub struct Flushed {
    root: Frame,
    generation: u64,
}

/// A `T` that some TLB may still reach.
#[must_use = "flush, then call `flushed`; dropping this loses the frames inside for good"]
#[derive(Debug)]
pub struct Stale<F: Format, T> {
    value: T,
    root: Frame,
    generation: u64,
    retired: Retired<F>,
}

impl<F: Format, T> Stale<F, T> {
    /// What was stale, now that `proof` shows it is no longer; retired tables go back to `memory`.
    ///
    /// # Errors
    /// `self`, unchanged, where the proof is for another tree or older than this unmapping.
    pub fn flushed(self, proof: &Flushed, memory: &mut impl TableMemory) -> Result<T, Self> {
        if proof.root != self.root || proof.generation < self.generation {
            return Err(self);
        }
        self.retired.free(memory);
        Ok(self.value)
    }

    /// The stale value, wrapped into what the owner of the tree deals in.
    pub(crate) fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Stale<F, U> {
        Stale {
            value: wrap(self.value),
            root: self.root,
            generation: self.generation,
            retired: self.retired,
        }
    }
}

impl<F: Format> Table<F> {
    /// Has every CPU forget this tree and proves it.
    pub fn flush(&self, tlb: &mut impl Invalidate) -> Flushed {
        tlb.invalidate(self.root);
        Flushed {
            root: self.root,
            generation: self.generation,
        }
    }

    /// Has every CPU forget this tree and those at the roots of `others`, which share tables with it, and proves it.
    pub(crate) fn flush_with(
        &self,
        tlb: &mut impl Invalidate,
        others: impl Iterator<Item = Frame>,
    ) -> Flushed {
        tlb.invalidate_all(&mut core::iter::once(self.root).chain(others));
        Flushed {
            root: self.root,
            generation: self.generation,
        }
    }

    /// Wraps what was taken out of a tree that shares tables with this one.
    pub(crate) fn outdated<T>(&mut self, value: T) -> Stale<F, T> {
        self.stale(value, Retired::none())
    }

    /// Wraps what the operation in progress took out of the tree.
    pub(super) fn stale<T>(&mut self, value: T, retired: Retired<F>) -> Stale<F, T> {
        self.generation += 1;
        Stale {
            value,
            root: self.root,
            generation: self.generation,
            retired,
        }
    }
}

/// Tables unlinked from the tree, waiting for a flush.
///
/// They form a list through their own first entries. A CPU that still walks one of them sees the
/// link as an absent entry: the low 12 bits, which hold every format's present bits, stay clear.
#[derive(Debug)]
pub(super) struct Retired<F: Format> {
    head: Option<Frame>,
    format: PhantomData<F>,
}

impl<F: Format> Retired<F> {
    pub(super) const fn none() -> Self {
        Self {
            head: None,
            format: PhantomData,
        }
    }

    /// Adds `table`, all of whose entries are absent.
    pub(super) fn push(&mut self, memory: &mut impl TableMemory, table: Frame) {
        // Frame 0 is never a table (the ledger withholds it), so 0 ends the list.
        let next = self.head.map_or(0, |frame| frame.start().0);
        debug_assert!(matches!(F::decode(F::ABSENT | next, 1), Entry::Absent));
        memory.write(table, 0, F::ABSENT | next);
        self.head = Some(table);
    }

    fn free(mut self, memory: &mut impl TableMemory) {
        while let Some(table) = self.head {
            let next = (memory.read(table, 0) & !F::ABSENT) >> 12;
            memory.free(table);
            self.head = (next != 0).then_some(Frame(next));
        }
    }
}
