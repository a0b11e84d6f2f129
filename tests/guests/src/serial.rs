//! COM1 by polling: [`print!`](crate::print!) and [`println!`](crate::println!).

use core::fmt;

use bulkhead_core::platform::COM1_BASE;

use crate::cpu;

/// Line status register: offset, and its "transmitter holding register empty" bit.
const LINE_STATUS: u16 = 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// A transmitter that stays busy this many polls is given up on, so that a broken UART cannot hang a test.
const MAX_POLLS: u32 = 100_000;

/// Writes to COM1, a carriage return before each line feed.
#[derive(Clone, Copy, Debug)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    for _ in 0..MAX_POLLS {
        if cpu::inb(COM1_BASE + LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    cpu::outb(COM1_BASE, byte);
}

/// Prints to COM1.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => {{
        use core::fmt::Write as _;
        // Writing to the UART cannot fail.
        let _ = write!($crate::serial::Serial, $($arg)*);
    }};
}

/// Prints a line to COM1.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {{
        $crate::print!($($arg)*);
        $crate::print!("\n");
    }};
}
