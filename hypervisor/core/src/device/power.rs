//! The hardware-reduced ACPI power block: sleep control, sleep status and reset, one byte each
//! (ACPI 6.5, "Sleep Control and Status Registers" and "Reset Register").

use crate::platform::{
    POWER_SLEEP_CONTROL_PORT, POWER_SLEEP_STATUS_PORT, RESET_PORT, RESET_VALUE, S5_SLEEP_TYPE,
    SLEEP_ENABLE, SLEEP_TYPE_MASK, SLEEP_TYPE_SHIFT,
};

/// What a write asks of the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum PowerAction {
    /// Go on.
    None,
    /// Power the VM off.
    Off,
    /// Start the VM again.
    Reset,
}

/// The block's state: the sleep type last written.
#[derive(Clone, Debug, Default)]
pub struct PowerBlock {
    sleep_control: u8,
}

impl PowerBlock {
    /// The block after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self { sleep_control: 0 }
    }

    /// Whether `port` belongs to the block.
    #[inline]
    #[must_use]
    pub const fn owns(port: u16) -> bool {
        matches!(
            port,
            POWER_SLEEP_CONTROL_PORT | POWER_SLEEP_STATUS_PORT | RESET_PORT
        )
    }

    /// Reads a port. The status register's wake bit is never set: a VM that sleeps is gone.
    #[must_use]
    pub const fn read(&self, port: u16) -> u8 {
        match port {
            POWER_SLEEP_CONTROL_PORT => self.sleep_control,
            _ => 0,
        }
    }

    /// Writes a port. Sleep types other than soft-off are not announced and do nothing.
    pub const fn write(&mut self, port: u16, value: u8) -> PowerAction {
        match (port, value) {
            (POWER_SLEEP_CONTROL_PORT, _) => {
                // SLP_EN is write-only and reads as zero.
                self.sleep_control = value & SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT;
                let soft_off = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == S5_SLEEP_TYPE;
                if value & SLEEP_ENABLE != 0 && soft_off {
                    PowerAction::Off
                } else {
                    PowerAction::None
                }
            }
            (RESET_PORT, RESET_VALUE) => PowerAction::Reset,
            _ => PowerAction::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::POWER_OFF_COMMAND;

    #[test]
    fn only_the_power_off_command_powers_off() {
        for value in 0..=u8::MAX {
            let action = PowerBlock::new().write(POWER_SLEEP_CONTROL_PORT, value);
            let expected = value & 0x3c == POWER_OFF_COMMAND;
            assert_eq!(action == PowerAction::Off, expected, "{value:#x}");
        }
    }

    #[test]
    fn only_the_reset_value_resets() {
        for value in 0..=u8::MAX {
            let action = PowerBlock::new().write(RESET_PORT, value);
            assert_eq!(action == PowerAction::Reset, value == RESET_VALUE);
        }
        assert_eq!(
            PowerBlock::new().write(POWER_SLEEP_STATUS_PORT, 0xff),
            PowerAction::None
        );
    }

    #[test]
    fn sleep_type_reads_back_without_the_enable_bit() {
        let mut block = PowerBlock::new();
        assert_eq!(
            block.write(POWER_SLEEP_CONTROL_PORT, 0x28),
            PowerAction::None
        );
        assert_eq!(block.read(POWER_SLEEP_CONTROL_PORT), 0x08);
        assert_eq!(block.read(POWER_SLEEP_STATUS_PORT), 0);
        assert!(PowerBlock::owns(0x602) && !PowerBlock::owns(0x603));
    }
}
