//! The ways a guest ends: power off and reset, by the ports that ACPI gives an operating system.

use bulkhead_core::platform::{
    POWER_OFF_COMMAND, POWER_SLEEP_CONTROL_PORT, RESET_PORT, RESET_VALUE,
};

use crate::cpu;

/// Port of the `isa-debug-exit` device, with which the runtime itself can be tried on QEMU; nothing answers elsewhere.
const QEMU_EXIT_PORT: u16 = 0xf4;

/// Powers the VM off.
pub fn off() -> ! {
    cpu::outb(POWER_SLEEP_CONTROL_PORT, POWER_OFF_COMMAND);
    cpu::outb(QEMU_EXIT_PORT, 0);
    halt()
}

/// Resets the VM.
pub fn reset() -> ! {
    cpu::outb(RESET_PORT, RESET_VALUE);
    halt()
}

/// Stops this vCPU for good.
pub fn halt() -> ! {
    loop {
        cpu::halt_without_interrupts();
    }
}
