//! The guest platform's fixed numbers: the one place that the ACPI tables, the device models and the guests share.
//!
//! `guest-loader` describes these to the guest in ACPI; the exit handlers decode accesses against the same
//! constants. A platform has a hardware-reduced ACPI power block, one UART, one I/O APIC and a local APIC per vCPU.

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

/// First port of the console UART, a 16550.
pub const COM1_BASE: u16 = 0x3f8;
/// Ports the console UART decodes.
pub const COM1_PORTS: u16 = 8;
/// Global system interrupt of the console UART: edge triggered, active high.
pub const COM1_GSI: u32 = 4;

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
    fn platform_ports_do_not_overlap() {
        let mut ports: Vec<u16> = (COM1_BASE..COM1_BASE + COM1_PORTS).collect();
        ports.extend([
            POWER_SLEEP_CONTROL_PORT,
            POWER_SLEEP_STATUS_PORT,
            RESET_PORT,
        ]);
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count);
    }

    #[test]
    fn windows_lie_between_low_and_high_ram() {
        for (base, size) in [(IOAPIC_BASE, IOAPIC_SIZE), (LAPIC_BASE, LAPIC_SIZE)] {
            assert!(base >= LOW_RAM_LIMIT);
            assert!(
                base.checked_add(size)
                    .is_some_and(|end| end <= HIGH_RAM_START)
            );
        }
    }
}
