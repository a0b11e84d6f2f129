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
pub(crate) fn write(mem: &mut dyn GuestMemory) -> Result<(), OutOfRange> {
    mem.write(boot_area::RESET_VECTOR.start, &CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_writes_the_reset_value_to_the_reset_port_and_stays() {
        let [mov_dx, low, high, mov_al, value, out, hlt, jmp, back] = CODE;
        assert_eq!(
            [mov_dx, mov_al, out, hlt, jmp],
            [0xba, 0xb0, 0xee, 0xf4, 0xeb]
        );
        assert_eq!(u16::from_le_bytes([low, high]), platform::RESET_PORT);
        assert_eq!(value, platform::RESET_VALUE);
        // The jump is relative to its own end and reaches the `hlt`.
        let hlt_offset = 6;
        assert_eq!(CODE.len() as i64 + i64::from(back as i8), hlt_offset);
    }
}
