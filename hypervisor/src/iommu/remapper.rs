//! One unit, up and running, with its tables.

use super::registers::Mapped;
use super::tables::{IoTables, QueueFrames};
use crate::arch::lapic;
use crate::memory::{Memory, MemoryError, frames_of};
use bulkhead_core::addr::{FrameCount, Hpa};
use bulkhead_core::hostpt::HostAttr;
use bulkhead_core::vtd::capability::{CapabilityError, Chosen};
use bulkhead_core::vtd::context::ContextTables;
use bulkhead_core::vtd::dmar;
use bulkhead_core::vtd::interrupt::InterruptTable;
use bulkhead_core::vtd::invalidate::UnitId;
use bulkhead_core::vtd::unit::{Enabled, Unit, UnitError, Way};
use core::fmt;

/// The logarithm of how many interrupts the functions behind one unit may have: a frame of entries.
const INTERRUPTS_ORDER: u8 = 8;

/// A unit that translates.
pub(super) struct Remapper {
    pub(super) unit: Unit<Mapped, Enabled, Way<QueueFrames>>,
    pub(super) contexts: ContextTables,
    pub(super) interrupts: Option<InterruptTable>,
    /// Its place in the DMAR table.
    pub(super) number: usize,
    /// It did not answer once: nothing behind it is let near the bus again.
    pub(super) is_dead: bool,
    /// The PCI segment that it serves.
    pub(super) segment: u16,
    registers: Hpa,
}

/// Why a unit could not be brought up.
#[derive(Debug)]
pub(super) enum Unusable {
    /// There are more units than sets of them hold.
    TooMany,
    /// Its registers cannot be mapped.
    Mapping(MemoryError),
    /// It lacks something.
    Capability(CapabilityError),
    /// It does not answer.
    Unit(UnitError),
    /// No frame is left for its tables.
    OutOfPool,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => f.write_str("there are more than 64 units"),
            Self::Mapping(error) => error.fmt(f),
            Self::Capability(error) => error.fmt(f),
            Self::Unit(error) => error.fmt(f),
            Self::OutOfPool => f.write_str("no memory is left for its tables"),
        }
    }
}

impl From<UnitError> for Unusable {
    fn from(error: UnitError) -> Self {
        Self::Unit(error)
    }
}

impl Remapper {
    /// Takes over the unit with this number from the firmware, with empty tables. Interrupts are remapped only where the firmware
    /// says that the platform can (`remaps_interrupts`).
    pub(super) fn start(
        memory: &mut Memory,
        number: usize,
        found: &dmar::Unit,
        remaps_interrupts: bool,
    ) -> Result<Self, Unusable> {
        let id = u8::try_from(number).ok().and_then(UnitId::new);
        let id = id.ok_or(Unusable::TooMany)?;
        let at = found.registers;
        memory
            .map_device(frames_of(at.0, found.size), HostAttr::DEVICE)
            .map_err(Unusable::Mapping)?;
        let mut registers = Mapped::new(at);
        // What is not remapped may be as narrow as it likes.
        let wide = remaps_interrupts && lapic::has_x2apic();
        let mut chosen = Chosen::read(&mut registers, wide).map_err(Unusable::Capability)?;
        if !remaps_interrupts {
            chosen.interrupts = None;
            chosen.posted = false;
        }
        let used = u64::from(chosen.register_bytes());
        if used > found.size {
            // Fault records and the like may lie behind what the table names.
            let rest = frames_of(at.0 + found.size, used - found.size);
            memory
                .map_device(rest, HostAttr::DEVICE)
                .map_err(Unusable::Mapping)?;
        }
        let coherent = chosen.tree.coherent;
        let pool = &mut memory.pool;
        let queue = QueueFrames::new(pool, coherent).ok_or(Unusable::OutOfPool)?;
        let mut tables = IoTables::new(pool, coherent);
        let contexts = ContextTables::new(&mut tables, id).ok_or(Unusable::OutOfPool)?;
        let interrupts = match chosen.interrupts {
            None => None,
            Some(mode) => {
                const { assert!(InterruptTable::frames(INTERRUPTS_ORDER).0 == FrameCount(1).0) };
                let table = bulkhead_core::table::TableMemory::alloc(&mut tables);
                let table = table.ok_or(Unusable::OutOfPool)?;
                InterruptTable::new(id, table, INTERRUPTS_ORDER, mode)
            }
        };
        let unit = Unit::quiet(id, registers, chosen)?
            .invalidation(queue)?
            .root(contexts.root())?
            .interrupts(interrupts.as_ref().map(InterruptTable::pointer))?
            .enable()?;
        Ok(Self {
            unit,
            contexts,
            interrupts,
            number,
            is_dead: false,
            segment: found.segment,
            registers: at,
        })
    }

    pub(super) const fn registers(&self) -> Hpa {
        self.registers
    }

    pub(super) const fn remaps_interrupts(&self) -> bool {
        self.interrupts.is_some()
    }

    /// Whether table walks of this unit see the processors' caches.
    pub(super) const fn is_coherent(&self) -> bool {
        self.unit.chosen().tree.coherent
    }
}
