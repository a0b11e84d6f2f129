//! The registers of a configuration header (PCI Local Bus Specification 3.0, "Configuration Space"; PCI-to-PCI Bridge
//! Architecture Specification, "Configuration Space"). The emulated bus of a VM has the same.

/// Vendor and device identifiers.
pub const ID: u8 = 0x00;
/// The command register, 16 bits.
pub const COMMAND: u8 = 0x04;
/// The status register, 16 bits.
pub const STATUS: u8 = 0x06;
/// Revision, and the three bytes of class code above it.
pub const REVISION: u8 = 0x08;
/// The header's layout, and whether the device has several functions.
pub const HEADER_TYPE: u8 = 0x0e;
/// The first base address register: of six, or of a bridge's two.
pub const BAR0: u8 = 0x10;
/// The second base address register.
pub const BAR1: u8 = 0x14;
/// A bridge's bus numbers: its own, the one behind it, the last behind it.
pub const BUS_NUMBERS: u8 = 0x18;
/// Subsystem vendor and identifier.
pub const SUBSYSTEM: u8 = 0x2c;
/// The expansion ROM's base address.
pub const ROM: u8 = 0x30;
/// Where the capability list starts.
pub const CAPABILITIES: u8 = 0x34;
/// The expansion ROM's base address of a bridge.
pub const BRIDGE_ROM: u8 = 0x38;
/// A byte that firmware and system use as they like.
pub const INTERRUPT_LINE: u8 = 0x3c;
/// A bridge's control register, 16 bits; bit 6 resets what is behind it.
pub const BRIDGE_CONTROL: u8 = 0x3e;

/// Where the header ends and capabilities can be.
pub const HEADER_BYTES: u8 = 0x40;
/// Bytes that every function has, and the only ones that ports reach.
pub const LEGACY_BYTES: u16 = 256;
/// Bytes of a PCI Express function that the enhanced mechanism reaches.
pub const EXTENDED_BYTES: u16 = 4096;

/// Header type: the device has several functions.
pub const MULTI_FUNCTION: u8 = 1 << 7;
/// Status: there is a capability list.
pub const HAS_CAPABILITIES: u16 = 1 << 4;
/// Bridge control: resets what is behind the bridge for as long as it is set.
pub const SECONDARY_BUS_RESET: u16 = 1 << 6;

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
        /// Legacy interrupts are off.
        const NO_INTX = 1 << 10;
    }
}
