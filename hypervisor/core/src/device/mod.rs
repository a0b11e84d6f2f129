//! Models of the platform's devices: pure state machines that the exit dispatcher drives.
//!
//! [`board`] is all of one VM's devices and where they answer. [`uart16550`] is the console, [`ioapic`] routes device
//! interrupts to local APICs, [`power`] is the ACPI sleep and reset block, [`ged`] tells of the power button, [`rtc`] gives
//! wall time, [`watchdog`] ends a VM that went silent, [`pci`] is the bus that [`virtio`] devices are on.
//! Their addresses are in [`crate::platform`].

pub mod board;
pub mod ged;
pub mod ioapic;
pub mod pci;
pub mod power;
pub mod rtc;
pub mod uart16550;
pub mod virtio;
pub mod watchdog;
