//! Bringing a unit up, step by step, in the one order that leaves no gap.
//!
//! Each step of [`Unit`] consumes the state before it, so a step cannot be left out or come too early:
//!
//! ```text
//!   found --quiet--> Quiet --invalidation--> Invalidating --root--> Rooted --interrupts--> Guarded --enable--> Enabled
//! ```
//!
//! Every step waits for the status that answers it, for a bounded time. A unit that firmware left translating goes on
//! doing so until it has the new tables: there is no moment in which devices reach everything. See Intel VT-d,
//! "Programming Considerations", "Global Command Register" and "Global Status Register".

use core::fmt;
use core::marker::PhantomData;

use crate::addr::Frame;

use super::capability::{Chosen, InterruptMode, InvalidationWay};
use super::fallback::RegisterInvalidation;
use super::fault::{self, Drained, FaultRecord};
use super::invalidate::{Batch, InvalidationCounts, InvalidationError, Request, Ticket, UnitId};
use super::queue::{self, Queue, QueueMemory};
use super::registers::{
    self, EventControl, GLOBAL_COMMAND, GLOBAL_STATUS, Global, INTERRUPT_TABLE, POLLS,
    PROTECTED_MEMORY, ProtectedMemory, ROOT_TABLE, ROOT_TABLE_MODE, UnitRegisters,
};

/// A step of bringing a unit up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Working off what firmware had queued.
    DrainQueue,
    /// Turning firmware's queue off.
    QueueOff,
    /// Turning firmware's scalable-mode translation off, which other tables cannot replace while it is on.
    ForeignTranslationOff,
    /// Turning firmware's interrupt remapping off.
    ForeignInterruptsOff,
    /// Flushing the write buffer.
    WriteBuffer,
    /// Turning the queue on.
    QueueOn,
    /// Setting the root table pointer.
    RootPointer,
    /// Setting the interrupt-remapping table pointer.
    InterruptPointer,
    /// Turning interrupt remapping on.
    InterruptRemapping,
    /// Blocking compatibility-format interrupts.
    CompatibilityOff,
    /// Turning translation on.
    Translation,
    /// Turning the protected memory regions off.
    ProtectedMemoryOff,
}

/// Why a unit could not be brought up or used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitError {
    /// The unit did not answer.
    NoAnswer {
        /// The unit.
        unit: UnitId,
        /// What it was to do.
        step: Step,
    },
    /// It did not forget what it was to forget.
    Invalidation {
        /// The unit.
        unit: UnitId,
        /// Why.
        error: InvalidationError,
    },
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { unit, step } => write!(
                f,
                "{unit} did not answer {step:?} after {POLLS} polls; its devices stay off"
            ),
            Self::Invalidation { unit, error } => write!(f, "{unit}: {error}"),
        }
    }
}

impl core::error::Error for UnitError {}

/// The interrupt-remapping table of a unit, as its pointer register says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptPointer {
    /// The table's first frame, aligned to the table's size.
    pub table: Frame,
    /// The logarithm of its number of entries, 1 to 16.
    pub order: u8,
    /// How its destinations are read.
    pub mode: InterruptMode,
}

impl InterruptPointer {
    const EXTENDED: u64 = 1 << 11;

    /// The register's value.
    #[must_use]
    pub const fn raw(self) -> u64 {
        let extended = match self.mode {
            InterruptMode::X2apic => Self::EXTENDED,
            InterruptMode::Xapic => 0,
        };
        self.table.start().0 | extended | (self.order.saturating_sub(1) & 0xf) as u64
    }
}

/// How a unit is told to forget.
#[derive(Debug)]
enum Forget<M> {
    Queue(Queue<M>),
    Registers(RegisterInvalidation),
}

impl<M: QueueMemory> Forget<M> {
    fn submit(
        &mut self,
        registers: &mut impl UnitRegisters,
        batch: &Batch,
    ) -> Result<(), InvalidationError> {
        match self {
            Self::Queue(queue) => queue.submit(registers, batch),
            Self::Registers(way) => way.submit(registers, batch),
        }
    }
}

/// No queue, no fault interrupt, no old faults.
#[derive(Debug)]
pub enum Quiet {}
/// The unit can be told to forget.
#[derive(Debug)]
pub enum Invalidating {}
/// It has Bulkhead's root table, and remembers no other.
#[derive(Debug)]
pub enum Rooted {}
/// It has Bulkhead's interrupt-remapping table, or none on machines without.
#[derive(Debug)]
pub enum Guarded {}
/// It translates.
#[derive(Debug)]
pub enum Enabled {}

/// A remapping unit in state `S`; `F` is how it is told to forget, which it cannot be while [`Quiet`].
#[derive(Debug)]
pub struct Unit<R, S, F> {
    id: UnitId,
    registers: R,
    chosen: Chosen,
    forget: F,
    state: PhantomData<S>,
}

/// The way a unit is told to forget: opaque, made by [`Unit::invalidation`].
#[derive(Debug)]
pub struct Way<M>(Forget<M>);

impl<R, S, F> Unit<R, S, F> {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> UnitId {
        self.id
    }

    /// What is used of it.
    #[must_use]
    pub const fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    fn becomes<T>(self) -> Unit<R, T, F> {
        Unit {
            id: self.id,
            registers: self.registers,
            chosen: self.chosen,
            forget: self.forget,
            state: PhantomData,
        }
    }
}

impl<R: UnitRegisters, S, F> Unit<R, S, F> {
    fn status(&mut self) -> Global {
        Global::from_bits_truncate(self.registers.read32(GLOBAL_STATUS))
    }

    /// Turns one thing on or off and waits until it is.
    fn command(&mut self, bit: Global, on: bool, step: Step) -> Result<(), UnitError> {
        let mut command = self.status().difference(Global::ONE_SHOT);
        command.set(bit, on);
        self.registers.write32(GLOBAL_COMMAND, command.bits());
        self.wait(step, |unit| unit.status().contains(bit) == on)
    }

    fn flush_write_buffer(&mut self) -> Result<(), UnitError> {
        if !self.chosen.write_buffer_flush {
            return Ok(());
        }
        let command = self.status().difference(Global::ONE_SHOT) | Global::WRITE_BUFFER;
        self.registers.write32(GLOBAL_COMMAND, command.bits());
        self.wait(Step::WriteBuffer, |unit| {
            !unit.status().contains(Global::WRITE_BUFFER)
        })
    }

    fn wait(&mut self, step: Step, done: impl Fn(&mut Self) -> bool) -> Result<(), UnitError> {
        for _ in 0..POLLS {
            if done(self) {
                return Ok(());
            }
        }
        Err(UnitError::NoAnswer {
            unit: self.id,
            step,
        })
    }
}

impl<R: UnitRegisters, S, M: QueueMemory> Unit<R, S, Way<M>> {
    fn forget(&mut self, batch: &Batch) -> Result<(), UnitError> {
        self.flush_write_buffer()?;
        if batch.is_empty() {
            return Ok(());
        }
        let Way(way) = &mut self.forget;
        way.submit(&mut self.registers, batch)
            .map_err(|error| UnitError::Invalidation {
                unit: self.id,
                error,
            })
    }
}

impl<R: UnitRegisters> Unit<R, Quiet, ()> {
    /// Takes a unit over from firmware. Bus mastering of every function behind it must be off.
    ///
    /// # Errors
    /// The unit does not answer.
    pub fn quiet(id: UnitId, registers: R, chosen: Chosen) -> Result<Self, UnitError> {
        let mut unit = Self {
            id,
            registers,
            chosen,
            forget: (),
            state: PhantomData,
        };
        let masked = EventControl::MASKED.bits();
        unit.registers.write32(registers::FAULT_CONTROL, masked);
        let found = unit.status();
        if found.contains(Global::QUEUED_INVALIDATION) {
            unit.registers
                .write32(registers::INVALIDATION_CONTROL, masked);
            unit.wait(Step::DrainQueue, |unit| {
                queue::is_drained(&mut unit.registers)
            })?;
        }
        if found.contains(Global::INTERRUPT_REMAPPING) {
            // Interrupts are off, and firmware's destinations mean nothing any more.
            let step = Step::ForeignInterruptsOff;
            unit.command(Global::INTERRUPT_REMAPPING, false, step)?;
        }
        let foreign = unit.registers.read64(ROOT_TABLE) & ROOT_TABLE_MODE != 0;
        if found.contains(Global::TRANSLATION) && foreign {
            unit.command(Global::TRANSLATION, false, Step::ForeignTranslationOff)?;
        }
        if found.contains(Global::QUEUED_INVALIDATION) {
            unit.command(Global::QUEUED_INVALIDATION, false, Step::QueueOff)?;
        }
        let records = unit.chosen.fault_records;
        let _stale: Drained = fault::drain(&mut unit.registers, records, |_| {});
        Ok(unit)
    }

    /// Sets up the way the unit is told to forget: the queue in `memory`, or registers where it has none.
    ///
    /// # Errors
    /// The unit does not answer.
    pub fn invalidation<M: QueueMemory>(
        mut self,
        memory: M,
    ) -> Result<Unit<R, Invalidating, Way<M>>, UnitError> {
        let forget = match self.chosen.invalidation {
            InvalidationWay::Queued => {
                let queue = Queue::point(&mut self.registers, memory);
                self.command(Global::QUEUED_INVALIDATION, true, Step::QueueOn)?;
                Forget::Queue(queue)
            }
            InvalidationWay::Registers(address) => {
                Forget::Registers(RegisterInvalidation::new(address))
            }
        };
        Ok(Unit {
            id: self.id,
            registers: self.registers,
            chosen: self.chosen,
            forget: Way(forget),
            state: PhantomData,
        })
    }
}

impl<R: UnitRegisters, M: QueueMemory> Unit<R, Invalidating, Way<M>> {
    /// Gives the unit its root table, and has it forget whatever it had before.
    ///
    /// # Errors
    /// The unit does not answer.
    pub fn root(mut self, root: Frame) -> Result<Unit<R, Rooted, Way<M>>, UnitError> {
        self.flush_write_buffer()?;
        self.registers.write64(ROOT_TABLE, root.start().0);
        self.command(Global::ROOT_TABLE, true, Step::RootPointer)?;
        self.forget(&Batch::of(&[
            Request::AllContexts,
            Request::AllTranslations,
        ]))?;
        Ok(self.becomes())
    }
}

impl<R: UnitRegisters, M: QueueMemory> Unit<R, Rooted, Way<M>> {
    /// Gives the unit its interrupt-remapping table and blocks every interrupt that is not in it; `None` on a unit that
    /// cannot remap interrupts.
    ///
    /// # Errors
    /// The unit does not answer.
    pub fn interrupts(
        mut self,
        pointer: Option<InterruptPointer>,
    ) -> Result<Unit<R, Guarded, Way<M>>, UnitError> {
        if let Some(pointer) = pointer {
            self.flush_write_buffer()?;
            self.registers.write64(INTERRUPT_TABLE, pointer.raw());
            self.command(Global::INTERRUPT_TABLE, true, Step::InterruptPointer)?;
            self.forget(&Batch::of(&[Request::AllInterrupts]))?;
            // First, so that remapping never lets any of it through.
            let step = Step::CompatibilityOff;
            self.command(Global::COMPATIBILITY_FORMAT, false, step)?;
            self.command(Global::INTERRUPT_REMAPPING, true, Step::InterruptRemapping)?;
        }
        Ok(self.becomes())
    }
}

impl<R: UnitRegisters, M: QueueMemory> Unit<R, Guarded, Way<M>> {
    /// Turns translation on, and only then what firmware protected memory by.
    ///
    /// # Errors
    /// The unit does not answer.
    pub fn enable(mut self) -> Result<Unit<R, Enabled, Way<M>>, UnitError> {
        self.command(Global::TRANSLATION, true, Step::Translation)?;
        if self.chosen.protected_memory {
            self.registers.write32(PROTECTED_MEMORY, 0);
            self.wait(Step::ProtectedMemoryOff, |unit| {
                let raw = unit.registers.read32(PROTECTED_MEMORY);
                !ProtectedMemory::from_bits_truncate(raw).contains(ProtectedMemory::STATUS)
            })?;
        }
        Ok(self.becomes())
    }
}

impl<R: UnitRegisters, M: QueueMemory> Unit<R, Enabled, Way<M>> {
    /// Works off a ticket that waits for this unit, and marks it as done.
    ///
    /// # Errors
    /// The unit did not forget; the ticket stays locked.
    pub fn work_off<P>(&mut self, ticket: &mut Ticket<P>) -> Result<(), UnitError> {
        if !ticket.waiting().contains(self.id) {
            return Ok(());
        }
        self.forget(ticket.batch())?;
        ticket.complete(self.id);
        Ok(())
    }

    /// Hands every recorded fault to `each` and clears it.
    pub fn faults(&mut self, each: impl FnMut(FaultRecord)) -> Drained {
        fault::drain(&mut self.registers, self.chosen.fault_records, each)
    }

    /// What was invalidated so far.
    #[must_use]
    pub fn counts(&self) -> InvalidationCounts {
        match &self.forget.0 {
            Forget::Queue(queue) => queue.counts(),
            Forget::Registers(way) => way.counts(),
        }
    }

    /// Has the unit signal faults with this message, in the compatibility format: a unit's own messages are not remapped.
    pub fn signal_faults(&mut self, address: u64, data: u32) {
        self.registers.write32(registers::FAULT_DATA, data);
        self.registers
            .write32(registers::FAULT_ADDRESS, address as u32);
        self.registers
            .write32(registers::FAULT_UPPER_ADDRESS, (address >> 32) as u32);
        self.registers.write32(registers::FAULT_CONTROL, 0);
    }
}
