//! Interrupt remapping: a device raises only the interrupts that were set up for it.
//!
//! [`InterruptTable`] is one unit's table; [`Handles`] are a device's places in it, and every entry written there
//! verifies that the device is the one they were reserved for. [`message`] makes what the device, or the I/O APIC, is
//! programmed with. See Intel VT-d, "Interrupt Remapping".

mod entry;
pub mod message;
mod table;

pub use entry::{Destination, Posted, Remapped, Trigger};
pub use table::{Freed, HandleError, Handles, InterruptTable};
