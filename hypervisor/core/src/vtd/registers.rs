//! The registers of a remapping unit: where they are and what their bits mean.
//!
//! An offset is typed by its register's width, so a wrong access does not compile. [`UnitRegisters`] is how
//! sequences ([`super::unit`], [`super::queue`], [`super::fault`]) reach a unit: the shell implements it over
//! the unit's mapped page, tests over a fake unit. See Intel VT-d, "Register Descriptions".

use bitflags::bitflags;

/// The offset of a 32-bit register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg32(pub u32);

/// The offset of a 64-bit register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg64(pub u32);

/// Access to one unit's registers. Every call is one access, in program order, and after all earlier writes
/// to memory.
pub trait UnitRegisters {
    /// Reads a 32-bit register.
    fn read32(&mut self, register: Reg32) -> u32;
    /// Reads a 64-bit register.
    fn read64(&mut self, register: Reg64) -> u64;
    /// Writes a 32-bit register.
    fn write32(&mut self, register: Reg32, value: u32);
    /// Writes a 64-bit register.
    fn write64(&mut self, register: Reg64, value: u64);
}

/// Architecture version.
pub const VERSION: Reg32 = Reg32(0x00);
/// Capability.
pub const CAPABILITY: Reg64 = Reg64(0x08);
/// Extended capability.
pub const EXTENDED_CAPABILITY: Reg64 = Reg64(0x10);
/// Global command: [`Global`].
pub const GLOBAL_COMMAND: Reg32 = Reg32(0x18);
/// Global status: [`Global`].
pub const GLOBAL_STATUS: Reg32 = Reg32(0x1c);
/// Root table address.
pub const ROOT_TABLE: Reg64 = Reg64(0x20);
/// Context command: register-based context-cache invalidation.
pub const CONTEXT_COMMAND: Reg64 = Reg64(0x28);
/// Fault status: [`FaultStatus`].
pub const FAULT_STATUS: Reg32 = Reg32(0x34);
/// Fault event control: [`EventControl`].
pub const FAULT_CONTROL: Reg32 = Reg32(0x38);
/// Fault event data: the data of the interrupt message.
pub const FAULT_DATA: Reg32 = Reg32(0x3c);
/// Fault event address: the low half of the message's address.
pub const FAULT_ADDRESS: Reg32 = Reg32(0x40);
/// Fault event upper address.
pub const FAULT_UPPER_ADDRESS: Reg32 = Reg32(0x44);
/// Protected memory enable: [`ProtectedMemory`].
pub const PROTECTED_MEMORY: Reg32 = Reg32(0x64);
/// Invalidation queue head: the byte offset of what the unit fetches next.
pub const QUEUE_HEAD: Reg64 = Reg64(0x80);
/// Invalidation queue tail: the byte offset behind the last descriptor.
pub const QUEUE_TAIL: Reg64 = Reg64(0x88);
/// Invalidation queue address.
pub const QUEUE_ADDRESS: Reg64 = Reg64(0x90);
/// Invalidation event control: [`EventControl`].
pub const INVALIDATION_CONTROL: Reg32 = Reg32(0xa0);
/// Interrupt remapping table address.
pub const INTERRUPT_TABLE: Reg64 = Reg64(0xb8);

/// Bytes from the invalidate address register to the IOTLB invalidate register behind it.
pub const IOTLB_FROM_ADDRESS: u32 = 8;
/// Bytes of one fault recording register.
pub const FAULT_RECORD_BYTES: u32 = 16;

bitflags! {
    /// Global command and global status, which have the same layout: a command's bit is answered by the status bit
    /// in its place.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Global: u32 {
        /// Compatibility-format interrupts pass (CFI).
        const COMPATIBILITY_FORMAT = 1 << 23;
        /// The interrupt-remapping table pointer is taken over (SIRTP).
        const INTERRUPT_TABLE = 1 << 24;
        /// Interrupts are remapped (IRE).
        const INTERRUPT_REMAPPING = 1 << 25;
        /// Invalidations are queued (QIE).
        const QUEUED_INVALIDATION = 1 << 26;
        /// The write buffer is flushed (WBF); the status bit is set until that is done.
        const WRITE_BUFFER = 1 << 27;
        /// Advanced fault logging (EAFL).
        const ADVANCED_FAULT_LOG = 1 << 28;
        /// The fault log pointer is taken over (SFL).
        const FAULT_LOG = 1 << 29;
        /// The root table pointer is taken over (SRTP).
        const ROOT_TABLE = 1 << 30;
        /// DMA is remapped (TE).
        const TRANSLATION = 1 << 31;
    }

    /// Fault status.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FaultStatus: u32 {
        /// A fault was lost because every recording register was in use (PFO).
        const OVERFLOW = 1 << 0;
        /// A recording register holds a fault (PPF).
        const PENDING = 1 << 1;
        /// The unit could not make sense of a queued descriptor or of the queue (IQE).
        const QUEUE_ERROR = 1 << 4;
        /// A device answered an invalidation wrongly (ICE).
        const COMPLETION_ERROR = 1 << 5;
        /// A device did not answer an invalidation (ITE).
        const TIMEOUT_ERROR = 1 << 6;
    }

    /// Fault event control and invalidation event control.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EventControl: u32 {
        /// An interrupt is waiting for the mask to fall.
        const PENDING = 1 << 30;
        /// No interrupt is sent.
        const MASKED = 1 << 31;
    }

    /// Protected memory enable.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ProtectedMemory: u32 {
        /// The regions are protected now (PRS).
        const STATUS = 1 << 0;
        /// They shall be (EPM).
        const ENABLE = 1 << 31;
    }
}

impl Global {
    /// Commands that do something once; written back from a status they would do it again.
    pub const ONE_SHOT: Self = Self::ROOT_TABLE
        .union(Self::FAULT_LOG)
        .union(Self::WRITE_BUFFER)
        .union(Self::INTERRUPT_TABLE);
}

impl FaultStatus {
    /// What stops the invalidation queue.
    pub const QUEUE_ERRORS: Self = Self::QUEUE_ERROR
        .union(Self::COMPLETION_ERROR)
        .union(Self::TIMEOUT_ERROR);

    /// The index of the first recording register that holds a fault (FRI), meaningful while one is pending.
    #[must_use]
    pub const fn record_index(raw: u32) -> u32 {
        raw >> 8 & 0xff
    }
}

/// How the root table address register says that tables are in the legacy format: translation table mode 0.
pub const ROOT_TABLE_MODE: u64 = 3 << 10;

/// How often a register or a status in memory is looked at before a wait is given up. One look at a register takes a
/// real unit most of a microsecond, and everything waited for here is done in far less than a second.
pub const POLLS: u32 = 1_000_000;
