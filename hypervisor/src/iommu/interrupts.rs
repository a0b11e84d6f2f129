//! Letting functions raise interrupts: those that were set up for them, and no others.

use super::tables::IoTables;
use super::{Iommu, IommuError};
use crate::memory::Memory;
use bulkhead_core::pci::Address;
use bulkhead_core::vtd::SourceId;
use bulkhead_core::vtd::capability::InterruptMode;
use bulkhead_core::vtd::interrupt::{Handles, InterruptTable, Remapped};
use bulkhead_core::vtd::invalidate::Ticket;

impl Iommu {
    /// How the unit in front of a function names processors.
    ///
    /// # Errors
    /// It has no unit, or one that remaps no interrupts.
    pub fn interrupt_mode(&self, function: Address) -> Result<InterruptMode, IommuError> {
        let unit = self.unit_of(function)?;
        let chosen = self.units.get(unit).map(|remapper| remapper.unit.chosen());
        chosen
            .and_then(|chosen| chosen.interrupts)
            .ok_or(IommuError::NoInterrupts(function))
    }

    /// Reserves `1 << order` interrupts for a function. They are blocked until set.
    ///
    /// # Errors
    /// The unit has no room, or remaps no interrupts.
    pub fn interrupts(&mut self, function: Address, order: u8) -> Result<Handles, IommuError> {
        if self.requesters(function)?.len() > 1 {
            return Err(IommuError::NoInterrupts(function));
        }
        let (table, _) = self.table_of(function)?;
        Ok(table.reserve(SourceId(function.source_id()), order)?)
    }

    /// Has a function's interrupt `number` go where `entry` says.
    ///
    /// # Errors
    /// There is no such interrupt, or the unit does not answer.
    pub fn remap(
        &mut self,
        memory: &mut Memory,
        function: Address,
        handles: &Handles,
        number: u16,
        entry: Remapped,
    ) -> Result<(), IommuError> {
        self.change(memory, function, |table, tables| {
            table.remap(tables, handles, number, entry)
        })
    }

    /// Takes a function's interrupts away.
    ///
    /// # Errors
    /// The unit does not answer; the interrupts are not used again then.
    pub fn release_interrupts(
        &mut self,
        memory: &mut Memory,
        function: Address,
        handles: Handles,
    ) -> Result<(), IommuError> {
        let (table, coherent) = self.table_of(function)?;
        let mut tables = IoTables::new(&mut memory.pool, coherent);
        let ticket = table.clear(&mut tables, handles);
        let freed = self.work_off(ticket)?;
        let (table, _) = self.table_of(function)?;
        table.free(freed);
        Ok(())
    }

    fn change<E: Into<IommuError>>(
        &mut self,
        memory: &mut Memory,
        function: Address,
        change: impl FnOnce(&mut InterruptTable, &mut IoTables<'_>) -> Result<Ticket<()>, E>,
    ) -> Result<(), IommuError> {
        let (table, coherent) = self.table_of(function)?;
        let mut tables = IoTables::new(&mut memory.pool, coherent);
        let ticket = change(table, &mut tables).map_err(Into::into)?;
        self.work_off(ticket)
    }

    /// The table that a function's interrupts are in, and whether the unit sees caches.
    fn table_of(&mut self, function: Address) -> Result<(&mut InterruptTable, bool), IommuError> {
        let unit = self.unit_of(function)?;
        let Some(remapper) = self.units.get_mut(unit) else {
            return Err(IommuError::NoUnit(function));
        };
        let coherent = remapper.is_coherent();
        let table = remapper.interrupts.as_mut();
        Ok((table.ok_or(IommuError::NoInterrupts(function))?, coherent))
    }
}
