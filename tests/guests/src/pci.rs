//! PCI bus 0: configuration space through its window in memory or through ports, base addresses, MSI-X.
//!
//! PCI Local Bus Specification 3.0, "Configuration Space Organization" and "MSI-X Capability and Table Structures".
#![allow(unsafe_code, reason = "reads and writes device registers in memory")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bulkhead_core::platform::{PCI_CONFIG_ADDRESS_PORT, PCI_CONFIG_DATA_PORT};

use crate::params::Params;
use crate::{acpi, cpu};

/// Command and status, and in the command: ports decode, memory decodes, the device may reach memory.
pub const COMMAND: u16 = 0x04;
/// I/O space, memory space and bus mastering.
pub const COMMAND_ALL: u32 = 0b111;
/// The first base address register.
pub const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const DEVICES: u8 = 32;
const ENABLE_CONFIG: u32 = 1 << 31;
const BAR_IS_PORT: u32 = 1;
const BAR_IS_64_BIT: u32 = 0b100;
const CAPABILITY_MSIX: u8 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;
/// Bytes of an MSI-X table entry.
pub const MSIX_ENTRY_SIZE: u64 = 16;
/// Where interrupt messages go (Intel SDM vol. 3A, "Message Address Register Format").
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;

/// Where configuration space lies in memory; 0 where only ports reach it.
static ECAM: AtomicU64 = AtomicU64::new(0);

/// Registers in memory or in port space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port.
    Port(u16),
    /// An address.
    Memory(u64),
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $in:ident, $out:ident) => {
        /// Reads the register here.
        #[must_use]
        pub fn $read(self) -> $type {
            match self {
                Self::Port(port) => cpu::$in(port),
                // SAFETY: a device register below 4 GiB, all of which is mapped.
                Self::Memory(at) => unsafe { (at as *const $type).read_volatile() },
            }
        }

        /// Writes the register here.
        pub fn $write(self, value: $type) {
            match self {
                Self::Port(port) => cpu::$out(port, value),
                // SAFETY: as for reading; what the device then does to memory is the driver's to know.
                Self::Memory(at) => unsafe { (at as *mut $type).write_volatile(value) },
            }
        }
    };
}

impl Place {
    access!(read_u8, write_u8, u8, inb, outb);
    access!(read_u16, write_u16, u16, inw, outw);
    access!(read_u32, write_u32, u32, inl, outl);

    /// The place `offset` further on.
    #[must_use]
    pub const fn at(self, offset: u64) -> Self {
        match self {
            Self::Port(port) => Self::Port(port.wrapping_add(offset as u16)),
            Self::Memory(address) => Self::Memory(address.wrapping_add(offset)),
        }
    }

    /// Writes eight bytes, the lower half first.
    pub fn write_u64(self, value: u64) {
        self.write_u32(value as u32);
        self.at(4).write_u32((value >> 32) as u32);
    }
}

/// Learns where configuration space is.
pub fn find(params: &Params) {
    ECAM.store(acpi::ecam(params).unwrap_or(0), Relaxed);
}

/// A function, always number 0 of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub u8);

/// Every function there is.
pub fn functions() -> impl Iterator<Item = Function> {
    (0..DEVICES)
        .map(Function)
        .filter(|function| function.vendor() != u16::MAX)
}

impl Function {
    /// Reads four bytes of configuration space at `offset`, a multiple of four.
    #[must_use]
    pub fn read(self, offset: u16) -> u32 {
        self.config(offset).read_u32()
    }

    /// Writes them.
    pub fn write(self, offset: u16, value: u32) {
        self.config(offset).write_u32(value);
    }

    /// Reads them through the ports.
    #[must_use]
    pub fn read_by_port(self, offset: u16) -> u32 {
        self.select(offset).read_u32()
    }

    fn config(self, offset: u16) -> Place {
        match ECAM.load(Relaxed) {
            0 => self.select(offset),
            base => Place::Memory(base + (u64::from(self.0) << 15) + u64::from(offset)),
        }
    }

    fn select(self, offset: u16) -> Place {
        let address = ENABLE_CONFIG | (u32::from(self.0) << 11) | u32::from(offset & 0xfc);
        cpu::outl(PCI_CONFIG_ADDRESS_PORT, address);
        Place::Port(PCI_CONFIG_DATA_PORT)
    }

    /// Its vendor.
    #[must_use]
    pub fn vendor(self) -> u16 {
        self.read(0) as u16
    }

    /// What the vendor calls it.
    #[must_use]
    pub fn device(self) -> u16 {
        (self.read(0) >> 16) as u16
    }

    /// Lets it decode its base addresses and reach memory.
    pub fn enable(self) {
        self.write(COMMAND, COMMAND_ALL);
    }

    /// Where base address register `index` puts it.
    #[must_use]
    pub fn bar(self, index: u8) -> Place {
        let register = BAR0 + u16::from(index) * 4;
        let low = self.read(register);
        if low & BAR_IS_PORT != 0 {
            return Place::Port(low as u16 & !0b11);
        }
        let high = match low & BAR_IS_64_BIT {
            0 => 0,
            _ => self.read(register + 4),
        };
        Place::Memory((u64::from(high) << 32) | u64::from(low & !0xf))
    }

    /// Its capabilities: where each is, and which.
    pub fn capabilities(self) -> impl Iterator<Item = (u16, u8)> {
        let mut next = self.read(CAPABILITIES) as u8;
        // A list cannot have more entries than there is room for.
        (0..48).map_while(move |_| {
            let at = u16::from(next & !0b11);
            let header = (at != 0).then(|| self.read(at))?;
            next = (header >> 8) as u8;
            Some((at, header as u8))
        })
    }

    /// Its MSI-X table, and the capability that controls it.
    #[must_use]
    pub fn msix(self) -> Option<Msix> {
        let (at, _) = self.capabilities().find(|&(_, id)| id == CAPABILITY_MSIX)?;
        let table = self.read(at + 4);
        Some(Msix {
            function: self,
            control: at,
            table: self
                .bar((table & 0b111) as u8)
                .at(u64::from(table & !0b111)),
        })
    }
}

/// A function's MSI-X capability.
#[derive(Clone, Copy, Debug)]
pub struct Msix {
    function: Function,
    control: u16,
    /// Its table.
    pub table: Place,
}

impl Msix {
    /// Has entry `index` send `vector` to the local APIC with `apic_id`.
    pub fn route(&self, index: u16, apic_id: u32, vector: u8) {
        self.write_entry(
            index,
            u64::from(MESSAGE_ADDRESS | (apic_id << MESSAGE_DESTINATION_SHIFT)),
            u32::from(vector),
            0,
        );
    }

    /// Writes entry `index`: address, data, and the word with the mask bit.
    pub fn write_entry(&self, index: u16, address: u64, data: u32, mask: u32) {
        let entry = self.table.at(u64::from(index) * MSIX_ENTRY_SIZE);
        entry.write_u64(address);
        entry.at(8).write_u32(data);
        entry.at(12).write_u32(mask);
    }

    /// Switches it on.
    pub fn enable(&self) {
        let control = self.function.read(self.control);
        self.function
            .write(self.control, (control | MSIX_ENABLE) & !MSIX_MASK_ALL);
    }
}
