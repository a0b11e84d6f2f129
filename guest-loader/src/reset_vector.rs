//! The real-mode reset vector at F000:FFF0: a few instructions that write the platform's reset register.
//!
//! A guest that knows no better restarts by jumping there, as into a PC's firmware. Linux does: on hardware-reduced
//! ACPI it prefers EFI's reset to the FADT's reset register, and without EFI falls back to the firmware's entry point.

use bulkhead_core::platform;

use crate::boot_area;
use crate::memory::{GuestMemory, OutOfRange};

/// `mov dx, RESET_PORT; mov al, RESET_VALUE; out dx, al`, then `hlt` for ever.
const CODE: [u8; 9] = {
    let [port_low, port_high] = platform::RESET_PORT.to_le_bytes();
    [
        0xba,
        port_low,
        port_high,
        0xb0,
        platform::RESET_VALUE,
        0xee,
        0xf4,
        0xeb,
        0xfd,
    ]
};

const _: () = assert!(CODE.len() as u64 <= boot_area::RESET_VECTOR.len());

/// Writes the code.
pub(crate) fn write(mem: &mut impl GuestMemory) -> Result<(), OutOfRange> {
    mem.write(boot_area::RESET_VECTOR.start, &CODE)
}
