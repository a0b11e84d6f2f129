//! Just enough driver to make three PCI devices move memory, for the hypervisor's self-test of VT-d.
//!
//! | module | device | what it moves |
//! |---|---|---|
//! | [`edu`] | QEMU's educational device | one range, on command, in either direction |
//! | [`e1000e`] | Intel 82574L network controller | frames to itself, by MAC loopback |
//! | [`nvme`] | NVM Express controller | blocks to namespace 1 and back |
//!
//! The drivers reach everything by three traits: the device's [`Registers`], the [`DmaMemory`] they share with it, and a
//! [`Clock`]. The self-test implements them over real devices, the tests here over devices that only exist as code.
//!
//! The caller maps the registers, lets the function decode memory and be a bus master, and leaves its MSI and MSI-X off.
//! The drivers poll and keep interrupts masked. What they do not want is out of reach: none allocates, and none keeps
//! more than 64 bytes of data on the stack.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod e1000e;
pub mod edu;
pub mod nvme;
mod pattern;
#[cfg(test)]
mod testing;

pub use pattern::Difference;

/// A device's registers, from one memory base address. Every access is one access of the width named, in program order
/// with each other and with what [`DmaMemory`] does.
pub trait Registers {
    /// Reads the 32-bit register at `at`.
    fn read32(&mut self, at: u32) -> u32;
    /// Writes the 32-bit register at `at`.
    fn write32(&mut self, at: u32, value: u32);
    /// Writes the 64-bit register at `at` in one access: some devices take the halves for nothing, or for the whole.
    fn write64(&mut self, at: u32, value: u64);
    /// Reads the 64-bit register at `at` by its halves, the low one first.
    fn read64(&mut self, at: u32) -> u64 {
        let low = self.read32(at);
        u64::from(self.read32(at.wrapping_add(4))) << 32 | u64::from(low)
    }
}

/// Memory that both the driver and the device reach, by the addresses the device uses.
pub trait DmaMemory {
    /// Copies from `at`, as much as `into` holds.
    fn read(&mut self, at: u64, into: &mut [u8]);
    /// Copies `bytes` to `at`; the device sees them before any later register access.
    fn write(&mut self, at: u64, bytes: &[u8]);
}

/// Time to wait by.
pub trait Clock {
    /// Microseconds since some moment.
    fn now_us(&mut self) -> u64;
    /// Lets a moment pass between two looks at a device.
    fn pause(&mut self);
}

/// A device and what its driver needs beside it.
pub struct Access<'a> {
    /// The device's registers.
    pub registers: &'a mut dyn Registers,
    /// The memory shared with it.
    pub memory: &'a mut dyn DmaMemory,
    /// The time.
    pub clock: &'a mut dyn Clock,
}

/// Whether `done` became true before `limit_us` had passed. It is asked once more after the time is up, so that a
/// driver that was itself held up does not blame the device.
fn wait_until(clock: &mut dyn Clock, limit_us: u64, done: &mut dyn FnMut() -> bool) -> bool {
    let start = clock.now_us();
    loop {
        let late = clock.now_us().wrapping_sub(start) >= limit_us;
        if done() {
            return true;
        }
        if late {
            return false;
        }
        clock.pause();
    }
}

/// A part of the memory a driver asks for.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    bytes: u64,
}

impl Region {
    const fn end(self) -> u64 {
        self.start + self.bytes
    }

    /// The region of `bytes` bytes that begins where this one ends.
    const fn then(self, bytes: u64) -> Self {
        Self {
            start: self.end(),
            bytes,
        }
    }
}
