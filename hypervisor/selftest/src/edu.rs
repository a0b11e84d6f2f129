//! QEMU's educational device: DMA of any range to any address, on command.
//!
//! [`Edu`] moves bytes between memory and the device's own buffer of [`BUFFER_BYTES`]. It never notices a transfer that
//! was refused on its way: that shows in memory, or in the buffer read back. Documented in QEMU's "EDU device".

use core::fmt;

use crate::{Clock, Registers, wait_until};

/// Its PCI vendor and device identifier.
pub const VENDOR_DEVICE: (u16, u16) = (0x1234, 0x11e8);

/// Bytes of the buffer inside the device that transfers can reach. There is one more, but QEMU 7.2, for one, takes a
/// transfer that ends with it for one that leaves the buffer, and ends the emulation.
pub const BUFFER_BYTES: u32 = 4095;

/// Where the device's own address space has that buffer.
const BUFFER: u64 = 0x4_0000;

/// Registers ("MMIO area spec").
mod register {
    pub(super) const IDENTIFICATION: u32 = 0x00;
    pub(super) const LIVENESS: u32 = 0x04;
    pub(super) const INTERRUPT_STATUS: u32 = 0x24;
    pub(super) const INTERRUPT_RAISE: u32 = 0x60;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u32 = 0x64;
    pub(super) const DMA_SOURCE: u32 = 0x80;
    pub(super) const DMA_DESTINATION: u32 = 0x88;
    pub(super) const DMA_COUNT: u32 = 0x90;
    pub(super) const DMA_COMMAND: u32 = 0x98;
}

/// Version 1.0 of the device.
const IDENTIFICATION: u32 = 0x0100_00ed;

/// In the command register: a transfer is wanted, or under way.
const START: u32 = 1 << 0;
/// In the command register: from the device to memory.
const TO_MEMORY: u32 = 1 << 1;

/// A transfer takes 100 ms of the machine's time.
const TRANSFER_US: u64 = 2_000_000;

/// Which way a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The device reads memory into its buffer.
    ToDevice,
    /// The device writes its buffer to memory.
    FromDevice,
}

/// The device, known to be one and alive.
pub struct Edu<'a> {
    registers: &'a mut dyn Registers,
    clock: &'a mut dyn Clock,
}

impl<'a> Edu<'a> {
    /// Checks that these are the registers of a live educational device.
    pub fn find(registers: &'a mut dyn Registers, clock: &'a mut dyn Clock) -> Result<Self, Error> {
        let identification = registers.read32(register::IDENTIFICATION);
        if identification != IDENTIFICATION {
            return Err(Error::Unknown(identification));
        }
        const PROBE: u32 = 0x5a69_c33c;
        registers.write32(register::LIVENESS, PROBE);
        if registers.read32(register::LIVENESS) != !PROBE {
            return Err(Error::NotAlive);
        }
        Ok(Self { registers, clock })
    }

    /// Moves `bytes` bytes between memory at `memory_address` and the device's buffer at `offset_in_buffer`; returns when
    /// the device says that it is done. Of the address, the device drops the bits outside its property `dma_mask`, by
    /// default all above bit 27.
    pub fn transfer(
        &mut self,
        direction: Direction,
        memory_address: u64,
        offset_in_buffer: u32,
        bytes: u32,
    ) -> Result<(), Error> {
        // Of a transfer outside the buffer, or of none, some releases make an end of the emulation, others an access to
        // the emulator's own memory.
        if !(1..=BUFFER_BYTES).contains(&bytes) || offset_in_buffer > BUFFER_BYTES - bytes {
            return Err(Error::OutsideBuffer);
        }
        if self.registers.read32(register::DMA_COMMAND) & START != 0 {
            return Err(Error::Busy);
        }
        let buffer = BUFFER + u64::from(offset_in_buffer);
        let (source, destination, command) = match direction {
            Direction::ToDevice => (memory_address, buffer, START),
            Direction::FromDevice => (buffer, memory_address, START | TO_MEMORY),
        };
        self.registers.write64(register::DMA_SOURCE, source);
        self.registers
            .write64(register::DMA_DESTINATION, destination);
        self.registers.write64(register::DMA_COUNT, bytes.into());
        self.registers
            .write64(register::DMA_COMMAND, command.into());
        let registers = &mut *self.registers;
        let mut done = || registers.read32(register::DMA_COMMAND) & START == 0;
        if wait_until(self.clock, TRANSFER_US, &mut done) {
            Ok(())
        } else {
            Err(Error::TimedOut)
        }
    }

    /// Raises the device's interrupt, with `value` added to its status.
    pub fn raise(&mut self, value: u32) {
        self.registers.write32(register::INTERRUPT_RAISE, value);
    }

    /// Takes `value` out of the interrupt's status; with nothing left in it, the device lowers its line.
    pub fn acknowledge(&mut self, value: u32) {
        self.registers
            .write32(register::INTERRUPT_ACKNOWLEDGE, value);
    }

    /// The interrupt's status: what was raised and not acknowledged.
    pub fn interrupt_status(&mut self) -> u32 {
        self.registers.read32(register::INTERRUPT_STATUS)
    }
}

/// Why the device moved nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Its identification register holds another value.
    Unknown(u32),
    /// Its liveness register does not invert what is written.
    NotAlive,
    /// The transfer would leave the device's buffer, or is of nothing; it was not started.
    OutsideBuffer,
    /// An earlier transfer is still under way; the device would ignore this one.
    Busy,
    /// The transfer did not end; it may still.
    TimedOut,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(value) => write!(f, "identifies itself as {value:#x}, not as edu"),
            Self::NotAlive => f.write_str("does not answer its liveness check"),
            Self::OutsideBuffer => {
                f.write_str("was given a range outside its buffer, or an empty one")
            }
            Self::Busy => f.write_str("is still busy with an earlier transfer"),
            Self::TimedOut => f.write_str("did not end a transfer within 2 s"),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests;
