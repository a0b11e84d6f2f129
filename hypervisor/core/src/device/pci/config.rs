//! A function's configuration space: bytes, and which of their bits the guest may write (PCI Local Bus Specification
//! 3.0, "Configuration Space"). It holds an emulated function's registers, and what a guest sees of a real one.
//!
//! A base address register sizes itself by its mask: bits below the size are read-only, so that all ones written read
//! back as the size. What the bytes mean is [`super::function`]'s to say.

pub use crate::pci::register::{self, Command};

/// Bytes of a configuration space that hold registers; extended space is empty.
pub const SIZE: usize = register::LEGACY_BYTES as usize;

/// One function's registers.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Where the next capability's "next" byte is to be linked from.
    last_link: u8,
}

impl ConfigSpace {
    /// A type 0 header with these identifiers, and `class` of 24 bits.
    #[must_use]
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            last_link: register::CAPABILITIES,
        };
        config.put(register::ID, &vendor.to_le_bytes());
        config.put(register::ID + 2, &device.to_le_bytes());
        config.put(
            register::REVISION,
            &(class << 8 | u32::from(revision)).to_le_bytes(),
        );
        let command = Command::all().bits();
        config.allow(register::COMMAND, &command.to_le_bytes());
        config.allow(register::INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Sets bytes, whatever the guest may write.
    pub fn put(&mut self, at: u8, bytes: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(at.into()).zip(bytes) {
            *slot = *byte;
        }
    }

    /// Lets the guest write the bits set in `mask`, from register `at` on.
    pub fn allow(&mut self, at: u8, mask: &[u8]) {
        for (slot, byte) in self.writable.iter_mut().skip(at.into()).zip(mask) {
            *slot = *byte;
        }
    }

    /// Adds the capability `id` at `at` (a multiple of 4) with what follows its two-byte header.
    pub fn add_capability(&mut self, at: u8, id: u8, body: &[u8]) {
        self.put(self.last_link, &[at]);
        self.put(at, &[id, 0]);
        self.put(at.saturating_add(2), body);
        self.last_link = at.saturating_add(1);
        let status = self.u16(register::STATUS) | register::HAS_CAPABILITIES;
        self.put(register::STATUS, &status.to_le_bytes());
    }

    /// A 16-bit register.
    #[must_use]
    pub fn u16(&self, at: u8) -> u16 {
        self.read(at.into(), 2) as u16
    }

    /// A 32-bit register.
    #[must_use]
    pub fn u32(&self, at: u8) -> u32 {
        self.read(at.into(), 4)
    }

    /// The guest reads `size` bytes (1, 2 or 4) from `at` on; what is not there reads as zero.
    #[must_use]
    pub fn read(&self, at: u16, size: u8) -> u32 {
        self.bytes
            .iter()
            .skip(at.into())
            .take(usize::from(size.min(4)))
            .enumerate()
            .fold(0, |value, (n, byte)| value | u32::from(*byte) << (8 * n))
    }

    /// The guest writes `size` bytes (1, 2 or 4) from `at` on; bits it may not write stay.
    pub fn write(&mut self, at: u16, size: u8, value: u32) {
        let slots = self.bytes.iter_mut().zip(&self.writable);
        let values = value.to_le_bytes();
        for ((slot, mask), byte) in slots.skip(at.into()).zip(values).take(usize::from(size)) {
            *slot = (*slot & !mask) | (byte & mask);
        }
    }
}
