//! Models of the platform's devices: pure state machines that the exit dispatcher drives.
//!
//! [`uart16550`] is the console, [`ioapic`] routes device interrupts to local APICs, [`power`] is the ACPI sleep and
//! reset block. Their addresses are in [`crate::platform`].

pub mod board;
pub mod ioapic;
pub mod power;
pub mod uart16550;
