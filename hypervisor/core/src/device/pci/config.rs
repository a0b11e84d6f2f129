//! A function's configuration space: bytes, and which of their bits the guest may write (PCI Local Bus Specification
//! 3.0, "Configuration Space").
//!
//! A base address register sizes itself by its mask: bits below the size are read-only, so that all ones written read
//! back as the size. What the bytes mean is [`super::function`]'s to say.

/// Bytes of a configuration space that hold registers; extended space is empty.
pub const SIZE: usize = 256;

/// Registers of the type 0 header.
pub mod register {
    /// Vendor and device identifiers.
    pub const ID: u8 = 0x00;
    /// The command register, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// The status register, 16 bits.
    pub const STATUS: u8 = 0x06;
    /// Revision, and the three bytes of class code above it.
    pub const REVISION: u8 = 0x08;
    /// The first of six base address registers.
    pub const BAR0: u8 = 0x10;
    /// The second base address register.
    pub const BAR1: u8 = 0x14;
    /// Subsystem vendor and identifier.
    pub const SUBSYSTEM: u8 = 0x2c;
    /// Where the capability list starts.
    pub const CAPABILITIES: u8 = 0x34;
    /// A byte that firmware and system use as they like.
    pub const INTERRUPT_LINE: u8 = 0x3c;
}

bitflags::bitflags! {
    /// The command register's bits that mean something here.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Command: u16 {
        /// I/O base addresses decode.
        const IO = 1;
        /// Memory base addresses decode.
        const MEMORY = 1 << 1;
        /// The function may write to memory, which is what an interrupt message is.
        const MASTER = 1 << 2;
        /// Legacy interrupts are off. There are none.
        const NO_INTX = 1 << 10;
    }
}

/// Status bit: there is a capability list.
const HAS_CAPABILITIES: u16 = 1 << 4;

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
        let status = self.u16(register::STATUS) | HAS_CAPABILITIES;
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
