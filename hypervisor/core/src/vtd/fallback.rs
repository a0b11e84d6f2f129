//! Invalidation by registers, for units without a queue: one request at a time, each polled until done.
//!
//! The same [`Request`]s as [`super::queue`] takes, except for interrupt-remapping entries: units that remap
//! interrupts have a queue. See Intel VT-d, "Register-based Invalidation Interface".

use super::invalidate::{Batch, InvalidationCounts, InvalidationError, Request};
use super::queue::granularity;
use super::registers::{CONTEXT_COMMAND, IOTLB_FROM_ADDRESS, POLLS, Reg64, UnitRegisters};

/// Set to start, clear when done (ICC, IVT).
const BUSY: u64 = 1 << 63;
const CONTEXT_GRANULARITY: u32 = 61;
const CONTEXT_ACTUAL: u32 = 59;
const CONTEXT_SOURCE: u32 = 16;
const IOTLB_GRANULARITY: u32 = 60;
const IOTLB_ACTUAL: u32 = 57;
const IOTLB_DOMAIN: u32 = 32;
/// Reads and writes that wait in the unit are finished first (DR, DW); ignored by units that don't do so.
const IOTLB_DRAIN: u64 = 3 << 48;

/// The registers one unit is invalidated by.
#[derive(Debug)]
pub struct RegisterInvalidation {
    /// The invalidate address register.
    address: Reg64,
    /// A request was not finished: what the unit does now answers nobody.
    dead: bool,
    counts: InvalidationCounts,
}

impl RegisterInvalidation {
    pub(super) fn new(address: Reg64) -> Self {
        Self {
            address,
            dead: false,
            counts: InvalidationCounts::default(),
        }
    }

    /// What was done so far.
    pub(super) const fn counts(&self) -> InvalidationCounts {
        self.counts
    }

    /// Has the unit do `batch`, request by request.
    ///
    /// # Errors
    /// The unit did not finish, or not as it was asked to.
    pub(super) fn submit(
        &mut self,
        registers: &mut impl UnitRegisters,
        batch: &Batch,
    ) -> Result<(), InvalidationError> {
        if self.dead {
            return Err(InvalidationError::Dead);
        }
        self.counts.submissions += 1;
        for request in batch.iter() {
            self.counts.requests += 1;
            let done = self.one(registers, request);
            self.dead = matches!(done, Err(InvalidationError::Timeout { .. }));
            done?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        registers: &mut impl UnitRegisters,
        request: Request,
    ) -> Result<(), InvalidationError> {
        let iotlb = Reg64(self.address.0 + IOTLB_FROM_ADDRESS);
        let (register, command, granularity, actual) = match request {
            Request::AllContexts => (CONTEXT_COMMAND, 0, granularity::GLOBAL, CONTEXT_ACTUAL),
            Request::Context(domain, source) => (
                CONTEXT_COMMAND,
                u64::from(domain.raw()) | u64::from(source.0) << CONTEXT_SOURCE,
                granularity::SELECTIVE,
                CONTEXT_ACTUAL,
            ),
            Request::AllTranslations => (iotlb, 0, granularity::GLOBAL, IOTLB_ACTUAL),
            Request::Domain(domain) => (
                iotlb,
                u64::from(domain.raw()) << IOTLB_DOMAIN,
                granularity::DOMAIN,
                IOTLB_ACTUAL,
            ),
            Request::Pages(domain, block) => {
                let address = block.start().0 | u64::from(block.order());
                registers.write64(self.address, address);
                (
                    iotlb,
                    u64::from(domain.raw()) << IOTLB_DOMAIN,
                    granularity::SELECTIVE,
                    IOTLB_ACTUAL,
                )
            }
            Request::AllInterrupts | Request::Interrupts { .. } => {
                return Err(InvalidationError::NoRegister(request));
            }
        };
        let (at, extra) = if register == CONTEXT_COMMAND {
            (CONTEXT_GRANULARITY, 0)
        } else {
            (IOTLB_GRANULARITY, IOTLB_DRAIN)
        };
        registers.write64(register, BUSY | granularity << at | extra | command);
        for _ in 0..POLLS {
            self.counts.polls += 1;
            let value = registers.read64(register);
            if value & BUSY == 0 {
                // A unit may do more than it was asked for: a smaller number says so. Zero says it did nothing.
                let done = value >> actual & 3;
                return if done == 0 || done > granularity {
                    Err(InvalidationError::Refused(request))
                } else {
                    Ok(())
                };
            }
        }
        Err(InvalidationError::Timeout { polls: POLLS })
    }
}
