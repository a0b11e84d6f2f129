//! The event register behind the generic event device (ACPI 6.5, "Generic Event Device"): what the platform has to tell
//! the guest's ACPI code, one bit each.
//!
//! The guest's `_EVT` method reads the register when the line at [`EVENT_GSI`](crate::platform::EVENT_GSI) interrupts,
//! and notifies the devices that its bits name.

use crate::platform::{EVENT_PORT, EVENT_POWER_BUTTON};

/// Events the guest has not read yet.
#[derive(Clone, Debug, Default)]
pub struct EventRegister {
    pending: u8,
}

impl EventRegister {
    /// The register after reset: nothing happened.
    #[must_use]
    pub const fn new() -> Self {
        Self { pending: 0 }
    }

    /// Whether `port` is the register's.
    #[inline]
    #[must_use]
    pub const fn owns(port: u16) -> bool {
        port == EVENT_PORT
    }

    /// Reads and clears the register. It is read-only: there is nothing to write.
    #[must_use]
    pub const fn read(&mut self) -> u8 {
        core::mem::replace(&mut self.pending, 0)
    }

    /// Records that the power button was pressed. The caller then pulses the line, even where an earlier press is still
    /// unread: a guest that had the line masked missed that edge and can only learn of both by the next one.
    pub const fn press_power_button(&mut self) {
        self.pending |= EVENT_POWER_BUTTON;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_press_is_read_once() {
        let mut register = EventRegister::new();
        assert_eq!(register.read(), 0);
        register.press_power_button();
        register.press_power_button();
        assert_eq!(register.read(), EVENT_POWER_BUTTON);
        assert_eq!(register.read(), 0);
    }

    #[test]
    fn the_register_is_one_port() {
        let owned: Vec<u16> = (0..=u16::MAX)
            .filter(|&port| EventRegister::owns(port))
            .collect();
        assert_eq!(owned, [0x604]);
    }
}
