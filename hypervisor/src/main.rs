//! Bulkhead, the UEFI binary.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

// SAFETY: the firmware's entry symbol; nothing else in the image has this name.
#[unsafe(no_mangle)]
extern "efiapi" fn efi_main() -> usize {
    0
}
