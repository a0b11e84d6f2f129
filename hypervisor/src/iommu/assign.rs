//! Letting functions into domains, and out of them.

use super::tables::IoTables;
use super::{Iommu, IommuError};
use crate::memory::Memory;
use alloc::vec::Vec;
use bulkhead_core::ledger::VmId;
use bulkhead_core::pci::Address;
use bulkhead_core::vtd::SourceId;
use bulkhead_core::vtd::domain::{IoDomain, IoFlushed};
use bulkhead_core::vtd::invalidate::{InvalidationCounts, Ticket, UnitSet};
use bulkhead_core::vtd::shape::{DomainId, TreeShape};

/// A function in a domain.
pub(super) struct Attachment {
    pub(super) function: Address,
    pub(super) vm: VmId,
    domain: DomainId,
    /// All the names that its requests may come under.
    pub(super) requesters: Vec<Address>,
    /// It caused too many faults.
    pub(super) cut_off: bool,
    /// It could not be taken out: what is left of it stays.
    pub(super) is_broken: bool,
}

impl Iommu {
    /// What a domain's tables must look like for these functions.
    ///
    /// # Errors
    /// A function has no unit in front of it, or there is no function.
    pub fn shape_for(&self, functions: &[Address]) -> Result<TreeShape, IommuError> {
        let mut shape: Option<TreeShape> = None;
        for function in functions {
            for requester in self.requesters(*function)? {
                let unit = self.unit_of(requester)?;
                if let Some(remapper) = self.units.get(unit) {
                    let tree = remapper.unit.chosen().tree;
                    shape = Some(shape.map_or(tree, |shape| shape.meet(tree)));
                }
            }
        }
        shape.ok_or(IommuError::Unfinished)
    }

    pub(super) fn requesters(&self, function: Address) -> Result<Vec<Address>, IommuError> {
        let inventory = &self.functions.inventory;
        let found = inventory.find(function);
        found
            .map(|found| inventory.requesters(found))
            .ok_or(IommuError::NoFunction(function))
    }

    /// Lets a function into `domain`, under every name that its requests may have. Its bus mastering stays as it is.
    ///
    /// # Errors
    /// It cannot be let in, and is in no domain then; or the unit does not answer, which leaves it neither in nor out, silent
    /// for good.
    pub fn attach(
        &mut self,
        memory: &mut Memory,
        domain: &mut IoDomain,
        function: Address,
    ) -> Result<(), IommuError> {
        let requesters = self.requesters(function)?;
        let units = self.check(domain, function, &requesters)?;
        let mut attachment = Attachment {
            function,
            vm: domain.vm(),
            domain: domain.id(),
            requesters: Vec::new(),
            cut_off: false,
            is_broken: false,
        };
        let mut result = Ok(());
        for (requester, unit) in requesters.into_iter().zip(units) {
            let mut sharers = self.attached.iter();
            let sharer = sharers.find(|one| one.requesters.contains(&requester));
            // A bridge puts its name to all that is behind it: the first of a group makes the entry, and one that was
            // cut off cuts off all.
            if let Some(sharer) = sharer {
                attachment.cut_off |= sharer.cut_off;
            } else {
                self.floods.forgive(requester);
                result = self.install(memory, domain, requester, unit);
            }
            // Also where that failed: the entry may be there.
            attachment.requesters.push(requester);
            if result.is_err() {
                break;
            }
        }
        self.attached.push(attachment);
        if result.is_err() {
            let _ = self.detach(memory, domain, function);
        }
        result
    }

    /// Whether the function may be let into the domain: the units in front of it, for each of its names.
    fn check(
        &self,
        domain: &IoDomain,
        function: Address,
        requesters: &[Address],
    ) -> Result<Vec<usize>, IommuError> {
        if self.attached.iter().any(|one| one.function == function) {
            return Err(IommuError::Attached(function));
        }
        let group = self.groups().of(function).unwrap_or_default();
        let mut others = self.attached.iter();
        if let Some(other) =
            others.find(|one| one.domain != domain.id() && group.contains(&one.function))
        {
            return Err(IommuError::Split(function, other.function));
        }
        let mut units = Vec::with_capacity(requesters.len());
        for requester in requesters {
            let unit = self.unit_of(*requester)?;
            let Some(remapper) = self.units.get(unit) else {
                return Err(IommuError::NoUnit(*requester));
            };
            if !remapper.remaps_interrupts() {
                return Err(IommuError::NoInterrupts(function));
            }
            if !domain.suits(remapper.unit.chosen().tree) {
                return Err(IommuError::Shape(function));
            }
            units.push(unit);
        }
        Ok(units)
    }

    fn install(
        &mut self,
        memory: &mut Memory,
        domain: &mut IoDomain,
        requester: Address,
        unit: usize,
    ) -> Result<(), IommuError> {
        let Some(remapper) = self.units.get_mut(unit) else {
            return Err(IommuError::NoUnit(requester));
        };
        let entry = domain.attach(remapper.unit.id());
        let mut tables = IoTables::new(&mut memory.pool, remapper.is_coherent());
        let source = SourceId(requester.source_id());
        match remapper.contexts.install(&mut tables, source, entry) {
            Ok(ticket) => self.work_off(ticket).map(drop),
            Err(rejected) => {
                let occupied = rejected.occupied;
                let _ = domain.release(rejected.abandon());
                Err(match occupied {
                    true => IommuError::Attached(requester),
                    false => IommuError::NoTable(requester),
                })
            }
        }
    }

    /// Takes a function out of `domain`: when this returns, nothing that it has under way reaches the domain's memory.
    /// Its bus mastering is off afterwards.
    ///
    /// # Errors
    /// It is not in the domain, or the unit does not answer; then its frames must not be used again.
    pub fn detach(
        &mut self,
        memory: &mut Memory,
        domain: &mut IoDomain,
        function: Address,
    ) -> Result<(), IommuError> {
        let mine = |one: &Attachment| one.function == function && one.domain == domain.id();
        let place = self.attached.iter().position(mine);
        let mut attachment = self
            .attached
            .swap_remove(place.ok_or(IommuError::NotAttached(function))?);
        self.functions.force_master(function, false);
        // Every entry first: whatever a unit then fails to forget, none is left for it to read again.
        let mut tickets = Vec::with_capacity(attachment.requesters.len());
        let mut result = Ok(());
        for requester in &attachment.requesters {
            if is_shared(&self.attached, *requester, domain.id()) {
                continue;
            }
            let unit = self.unit_of(*requester).ok();
            let Some(remapper) = unit.and_then(|unit| self.units.get_mut(unit)) else {
                // It fell silent: nobody can say what it still remembers.
                result = Err(IommuError::NoUnit(*requester));
                continue;
            };
            let mut tables = IoTables::new(&mut memory.pool, remapper.is_coherent());
            let source = SourceId(requester.source_id());
            tickets.extend(remapper.contexts.remove(&mut tables, source, domain.id()));
        }
        for ticket in tickets {
            match self.work_off(ticket) {
                Ok(detached) => {
                    if domain.release(detached).is_err() {
                        result = Err(IommuError::NotAttached(function));
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        if result.is_err() {
            attachment.is_broken = true;
            self.attached.push(attachment);
        }
        result
    }

    /// Has every unit see what was mapped and forget what was unmapped in `domain` so far.
    ///
    /// # Errors
    /// A unit does not answer; what was unmapped stays locked.
    pub fn flush(&mut self, domain: &mut IoDomain) -> Result<IoFlushed, IommuError> {
        let mut ticket = domain.ticket();
        self.submit(&mut ticket)?;
        domain.settle(ticket).map_err(|_| IommuError::Unfinished)
    }

    /// What was invalidated so far, by all units.
    #[must_use]
    pub fn invalidations(&self) -> InvalidationCounts {
        let each = self.units.iter().map(|remapper| remapper.unit.counts());
        each.fold(InvalidationCounts::default(), |sum, counts| {
            InvalidationCounts {
                submissions: sum.submissions + counts.submissions,
                requests: sum.requests + counts.requests,
                polls: sum.polls + counts.polls,
            }
        })
    }

    pub(super) fn work_off<P>(&mut self, mut ticket: Ticket<P>) -> Result<P, IommuError> {
        self.submit(&mut ticket)?;
        ticket.redeem().map_err(|_| IommuError::Unfinished)
    }

    fn submit<P>(&mut self, ticket: &mut Ticket<P>) -> Result<(), IommuError> {
        let waiting: UnitSet = ticket.waiting();
        for index in 0..self.units.len() {
            let Some(remapper) = self.units.get_mut(index) else {
                continue;
            };
            if !waiting.contains(remapper.unit.id()) {
                continue;
            }
            if let Err(error) = remapper.unit.work_off(ticket) {
                self.silence_behind(index);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// A unit is not to be trusted any more: nothing behind it may use the bus, now or later.
    fn silence_behind(&mut self, index: usize) {
        let functions = self.functions.inventory.functions().iter();
        let addresses: Vec<Address> = functions.map(|function| function.address).collect();
        for address in addresses {
            if self.unit_of(address).is_ok_and(|unit| unit == index) {
                self.functions.force_master(address, false);
            }
        }
        if let Some(remapper) = self.units.get_mut(index) {
            remapper.is_dead = true;
        }
    }
}

/// Whether another function of the domain comes under this name too.
fn is_shared(attached: &[Attachment], requester: Address, domain: DomainId) -> bool {
    attached
        .iter()
        .any(|one| one.domain == domain && one.requesters.contains(&requester))
}
