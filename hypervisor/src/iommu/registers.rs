//! A unit's registers, where physical addresses are mapped as they are.
#![allow(unsafe_code, reason = "device registers lie at physical addresses")]

use bulkhead_core::addr::Hpa;
use bulkhead_core::vtd::registers::{Reg32, Reg64, UnitRegisters};
use core::ptr;
use core::sync::atomic::{Ordering, fence};

/// The registers of one unit.
pub struct Mapped {
    base: *mut u8,
}

// SAFETY: the address means the same on every CPU, and registers have no owner among them; who may use them is whoever
// has the unit.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Those at `base`, which the caller saw in the DMAR table, and below what is mapped.
    pub const fn new(base: Hpa) -> Self {
        Self {
            base: ptr::with_exposed_provenance_mut(base.0 as usize),
        }
    }

    fn at<T>(&self, offset: u32) -> *mut T {
        self.base.wrapping_add(offset as usize).cast()
    }
}

impl UnitRegisters for Mapped {
    fn read32(&mut self, register: Reg32) -> u32 {
        // SAFETY: a register of the unit, aligned; reading it changes nothing.
        unsafe { self.at::<u32>(register.0).read_volatile() }
    }

    fn read64(&mut self, register: Reg64) -> u64 {
        // SAFETY: as above.
        unsafe { self.at::<u64>(register.0).read_volatile() }
    }

    fn write32(&mut self, register: Reg32, value: u32) {
        fence(Ordering::SeqCst);
        // SAFETY: a register of the unit, aligned; what it sets off is `bulkhead_core::vtd`'s argument.
        unsafe { self.at::<u32>(register.0).write_volatile(value) }
    }

    fn write64(&mut self, register: Reg64, value: u64) {
        fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { self.at::<u64>(register.0).write_volatile(value) }
    }
}
