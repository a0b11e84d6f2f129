//! The guest platform's fixed numbers: the one place that the ACPI tables, the device models and the guests share.
//!
//! `guest-loader` describes these to the guest in ACPI; the exit handlers decode accesses against the same
//! constants. A platform has a hardware-reduced ACPI power block with a power button, one UART, one real-time clock, a
//! watchdog, a PCI bus, one I/O APIC and a local APIC per vCPU.

use crate::addr::Gpa;

/// SLEEP_CONTROL_REG of the hardware-reduced FADT (ACPI 6.5, "Sleep Control and Status Registers"), one byte wide.
pub const POWER_SLEEP_CONTROL_PORT: u16 = 0x600;
/// SLEEP_STATUS_REG of the hardware-reduced FADT, one byte wide.
pub const POWER_SLEEP_STATUS_PORT: u16 = 0x601;
/// RESET_REG of the FADT, one byte wide.
pub const RESET_PORT: u16 = 0x602;
/// RESET_VALUE: what a guest writes to [`RESET_PORT`] to restart.
pub const RESET_VALUE: u8 = 1;

/// SLP_TYP of the S5 (soft off) state, as the DSDT's `\_S5` package gives it.
pub const S5_SLEEP_TYPE: u8 = 5;
/// Position of the 3-bit SLP_TYP field in the sleep control register.
pub const SLEEP_TYPE_SHIFT: u32 = 2;
/// Width mask of SLP_TYP before it is shifted into place.
pub const SLEEP_TYPE_MASK: u8 = 0b111;
/// SLP_EN of the sleep control register: enter the state that SLP_TYP names.
pub const SLEEP_ENABLE: u8 = 1 << 5;
/// The byte that powers a VM off when written to [`POWER_SLEEP_CONTROL_PORT`].
pub const POWER_OFF_COMMAND: u8 = SLEEP_ENABLE | (S5_SLEEP_TYPE << SLEEP_TYPE_SHIFT);

/// The event register of the generic event device: bits are [`EVENT_POWER_BUTTON`], and a read clears it.
pub const EVENT_PORT: u16 = 0x604;
/// Set in the event register: somebody pressed the power button.
pub const EVENT_POWER_BUTTON: u8 = 1 << 0;
/// Global system interrupt of the generic event device: edge triggered, active high.
pub const EVENT_GSI: u32 = 9;

/// First port of the watchdog.
pub const WATCHDOG_BASE: u16 = 0x610;
/// Ports the watchdog decodes.
pub const WATCHDOG_PORTS: u16 = 16;
/// One byte: [`WATCHDOG_RUN`] starts the countdown afresh, 0 stops it, and a read says which it is.
pub const WATCHDOG_CONTROL_PORT: u16 = WATCHDOG_BASE;
/// What starts the watchdog, and what a running one reads as.
pub const WATCHDOG_RUN: u8 = 1;
/// One byte: [`WATCHDOG_FIRED`] until it is written back.
pub const WATCHDOG_STATUS_PORT: u16 = WATCHDOG_BASE + 1;
/// The watchdog ended the life of the VM before this one.
pub const WATCHDOG_FIRED: u8 = 1;
/// One byte: a write of any value starts a running countdown afresh.
pub const WATCHDOG_RELOAD_PORT: u16 = WATCHDOG_BASE + 2;
/// Four bytes: the milliseconds that each countdown starts from.
pub const WATCHDOG_COUNTDOWN_PORT: u16 = WATCHDOG_BASE + 4;
/// Four bytes, read-only: the milliseconds left, 0 when stopped. Reading the lowest byte holds the others.
pub const WATCHDOG_REMAINING_PORT: u16 = WATCHDOG_BASE + 8;
/// Shortest countdown; a shorter one counts as this.
pub const WATCHDOG_MIN_MS: u32 = 100;
/// Longest countdown, one day; a longer one counts as this.
pub const WATCHDOG_MAX_MS: u32 = 24 * 60 * 60 * 1000;

/// Where the register of the real-time clock is chosen.
pub const RTC_INDEX_PORT: u16 = 0x70;
/// Where the chosen register of the real-time clock is read and written.
pub const RTC_DATA_PORT: u16 = 0x71;
/// The register of the real-time clock that holds the century, as FADT announces it.
pub const RTC_CENTURY_REGISTER: u8 = 0x32;

/// First port of the console UART, a 16550.
pub const COM1_BASE: u16 = 0x3f8;
/// Ports the console UART decodes.
pub const COM1_PORTS: u16 = 8;
/// Global system interrupt of the console UART: edge triggered, active high.
pub const COM1_GSI: u32 = 4;

/// The PCI configuration address register, four bytes wide (PCI Local Bus Specification 3.0, "Configuration
/// Mechanism").
pub const PCI_CONFIG_ADDRESS_PORT: u16 = 0xcf8;
/// The PCI configuration data register, four bytes wide.
pub const PCI_CONFIG_DATA_PORT: u16 = 0xcfc;
/// The enhanced configuration window: 4 KiB for each function of bus 0, the only bus.
pub const ECAM_BASE: Gpa = Gpa(0xe000_0000);
/// Bytes the enhanced configuration window occupies: one bus.
pub const ECAM_SIZE: u64 = 1 << 20;
/// Where memory BARs lie.
pub const PCI_MMIO_BASE: Gpa = Gpa(0xe010_0000);
/// Bytes there are for memory BARs.
pub const PCI_MMIO_SIZE: u64 = 0x01f0_0000;
/// Where the memory of real devices lies that a VM was given, as far as it fits.
pub const DEVICE_MMIO_BASE: Gpa = LOW_RAM_LIMIT;
/// Bytes there are for that.
pub const DEVICE_MMIO_SIZE: u64 = 512 << 20;
/// Where I/O BARs lie.
pub const PCI_IO_BASE: u16 = 0xc000;
/// Ports there are for I/O BARs.
pub const PCI_IO_PORTS: u16 = 0x1000;

/// The I/O APIC's register window.
pub const IOAPIC_BASE: Gpa = Gpa(0xfec0_0000);
/// Bytes the I/O APIC's window occupies.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The I/O APIC's identifier in MADT and in its ID register.
pub const IOAPIC_ID: u8 = 0;
/// First global system interrupt the I/O APIC serves.
pub const IOAPIC_GSI_BASE: u32 = 0;
/// Redirection entries the I/O APIC has.
pub const IOAPIC_PINS: u32 = 24;

const _: () = assert!(COM1_GSI < IOAPIC_PINS && EVENT_GSI < IOAPIC_PINS && COM1_GSI != EVENT_GSI);

/// The local APIC's register window after reset (Intel SDM vol. 3A, "Relocating the Local APIC Registers").
pub const LAPIC_BASE: Gpa = Gpa(0xfee0_0000);
/// Bytes the local APIC's window occupies.
pub const LAPIC_SIZE: u64 = 0x1000;

/// End of RAM below 4 GiB: RAM beyond continues at [`HIGH_RAM_START`].
pub const LOW_RAM_LIMIT: Gpa = Gpa(3 << 30);
/// Where RAM that does not fit below [`LOW_RAM_LIMIT`] continues.
pub const HIGH_RAM_START: Gpa = Gpa(4 << 30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_off_command_encodes_sleep_type_and_enable() {
        assert_eq!(POWER_OFF_COMMAND, 0x34);
        assert_eq!(S5_SLEEP_TYPE & !SLEEP_TYPE_MASK, 0);
    }

    #[test]
    fn port_ranges_are_disjoint() {
        let mut ranges = [
            (RTC_INDEX_PORT, 2),
            (COM1_BASE, COM1_PORTS),
            (POWER_SLEEP_CONTROL_PORT, 1),
            (POWER_SLEEP_STATUS_PORT, 1),
            (RESET_PORT, 1),
            (EVENT_PORT, 1),
            (WATCHDOG_BASE, WATCHDOG_PORTS),
            (PCI_CONFIG_ADDRESS_PORT, 4),
            (PCI_CONFIG_DATA_PORT, 4),
            (PCI_IO_BASE, PCI_IO_PORTS),
        ];
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }

    #[test]
    fn windows_are_disjoint_and_lie_between_low_and_high_ram() {
        let windows = [
            (DEVICE_MMIO_BASE, DEVICE_MMIO_SIZE),
            (ECAM_BASE, ECAM_SIZE),
            (PCI_MMIO_BASE, PCI_MMIO_SIZE),
            (IOAPIC_BASE, IOAPIC_SIZE),
            (LAPIC_BASE, LAPIC_SIZE),
        ];
        let mut free_from = LOW_RAM_LIMIT;
        for (base, size) in windows {
            assert!(base >= free_from);
            free_from = base.checked_add(size).unwrap();
        }
        assert!(free_from <= HIGH_RAM_START);
    }
}
