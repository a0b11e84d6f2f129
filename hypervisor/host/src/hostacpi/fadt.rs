//! The fixed hardware that the FADT describes (ACPI specification, "Fixed ACPI Description Table (FADT)").

use bitflags::bitflags;

use crate::addr::Hpa;

use super::table::{byte, u16_at, u32_at, u64_at};

/// Where a register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSpace {
    /// In memory.
    Memory,
    /// An I/O port.
    Io,
    /// In PCI configuration space.
    PciConfig,
    /// A kind this code does not know.
    Unknown(u8),
}

/// A register, as a Generic Address Structure names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenericAddress {
    /// What kind of address.
    pub space: AddressSpace,
    /// Its width in bits.
    pub bit_width: u8,
    /// The address: a port, a physical address, or a packed PCI function and offset.
    pub address: u64,
}

impl GenericAddress {
    /// The port, where it is one.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        match self.space {
            AddressSpace::Io => u16::try_from(self.address).ok(),
            _ => None,
        }
    }

    /// The structure at `at`, or `None` where it is all zero: no such register.
    fn parse(bytes: &[u8], at: usize) -> Option<Self> {
        let address = u64_at(bytes, at + 4)?;
        let space = match byte(bytes, at)? {
            0 => AddressSpace::Memory,
            1 => AddressSpace::Io,
            2 => AddressSpace::PciConfig,
            raw => AddressSpace::Unknown(raw),
        };
        let bit_width = byte(bytes, at + 1)?;
        (address != 0).then_some(Self {
            space,
            bit_width,
            address,
        })
    }

    /// A register of the ACPI 1.0 kind: a port number in 32 bits.
    fn legacy(bytes: &[u8], at: usize, bit_width: u8) -> Option<Self> {
        let port = u32_at(bytes, at)?;
        let space = AddressSpace::Io;
        (port != 0).then_some(Self {
            space,
            bit_width,
            address: port.into(),
        })
    }
}

bitflags! {
    /// IA-PC boot architecture flags.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct BootFlags: u16 {
        /// There are devices on an LPC or ISA bus.
        const LEGACY_DEVICES = 1 << 0;
        /// There is an 8042 keyboard controller.
        const KEYBOARD_8042 = 1 << 1;
        /// VGA must not be probed.
        const NO_VGA = 1 << 2;
        /// MSI must not be enabled.
        const NO_MSI = 1 << 3;
        /// PCIe power saving must not be controlled.
        const NO_ASPM = 1 << 4;
        /// There is no CMOS clock.
        const NO_RTC = 1 << 5;
    }

    #[derive(Clone, Copy)]
    struct Features: u32 {
        const RESET_REGISTER = 1 << 10;
        const HARDWARE_REDUCED = 1 << 20;
    }
}

/// How to take the power management registers over from the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmiHandover {
    /// The port.
    pub port: u16,
    /// What to write there to enable ACPI mode.
    pub enable: u8,
}

/// What the FADT says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fadt {
    /// Where the DSDT is.
    pub dsdt: Option<Hpa>,
    /// PM1a_CNT.
    pub pm1a_control: Option<GenericAddress>,
    /// PM1b_CNT, on machines that have two.
    pub pm1b_control: Option<GenericAddress>,
    /// The 3.579545 MHz timer.
    pub pm_timer: Option<GenericAddress>,
    /// The reset register and what to write there.
    pub reset: Option<(GenericAddress, u8)>,
    /// SLEEP_CONTROL_REG of hardware-reduced machines.
    pub sleep_control: Option<GenericAddress>,
    /// How to enter ACPI mode; `None` where the machine is always in it.
    pub smi_handover: Option<SmiHandover>,
    /// Interrupt line of system control interrupts.
    pub sci_interrupt: u16,
    /// There are no PM1 registers.
    pub hardware_reduced: bool,
    /// Which legacy devices there are.
    pub boot_flags: BootFlags,
}

/// The FADT of ACPI 1.0; the fields behind it are there if the table is longer.
const SHORTEST: usize = 116;

impl Fadt {
    /// The facts in the table's bytes, or `None` where it is too short.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < SHORTEST {
            return None;
        }
        let features = Features::from_bits_truncate(u32_at(bytes, 112)?);
        let extended = |at| GenericAddress::parse(bytes, at);
        let legacy = |at, width| GenericAddress::legacy(bytes, at, width);
        let dsdt = u64_at(bytes, 140)
            .filter(|at| *at != 0)
            .or(u32_at(bytes, 40).map(u64::from));
        let smi_port = u16::try_from(u32_at(bytes, 48)?)
            .ok()
            .filter(|port| *port != 0);
        let enable = byte(bytes, 52)?;
        let reset = features
            .contains(Features::RESET_REGISTER)
            .then(|| extended(116))
            .flatten();
        Some(Self {
            dsdt: dsdt.filter(|at| *at != 0).map(Hpa),
            pm1a_control: extended(172).or(legacy(64, 16)),
            pm1b_control: extended(184).or(legacy(68, 16)),
            pm_timer: extended(208).or(legacy(76, 32)),
            reset: reset.zip(byte(bytes, 128)),
            sleep_control: extended(244),
            smi_handover: smi_port
                .filter(|_| enable != 0)
                .map(|port| SmiHandover { port, enable }),
            sci_interrupt: u16_at(bytes, 46)?,
            hardware_reduced: features.contains(Features::HARDWARE_REDUCED),
            boot_flags: BootFlags::from_bits_truncate(u16_at(bytes, 109)?),
        })
    }
}
