//! COM1 by polling: [`print!`](crate::print!) and [`println!`](crate::println!), and what was typed ([`receive`]).

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use bulkhead_core::platform::COM1_BASE;

use crate::cpu;

/// Line status register: offset, and its "transmitter holding register empty" bit.
const LINE_STATUS: u16 = 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const DATA_READY: u8 = 1;
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

/// Writes whole texts, so that those of several vCPUs do not mix.
pub fn write(text: fmt::Arguments<'_>) {
    static BUSY: AtomicBool = AtomicBool::new(false);
    // A vCPU may have been stopped in the middle of its text: the others wait for it only so long.
    for _ in 0..MAX_POLLS {
        if !BUSY.swap(true, Ordering::Acquire) {
            break;
        }
        core::hint::spin_loop();
    }
    // Writing to the UART cannot fail.
    let _ = fmt::Write::write_fmt(&mut Serial, text);
    BUSY.store(false, Ordering::Release);
}

/// A byte that was typed, if there is one.
#[must_use]
pub fn receive() -> Option<u8> {
    (cpu::inb(COM1_BASE + LINE_STATUS) & DATA_READY != 0).then(|| cpu::inb(COM1_BASE))
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
    ($($arg:tt)*) => {
        $crate::serial::write(format_args!($($arg)*))
    };
}

/// Prints a line to COM1.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {
        $crate::serial::write(format_args!("{}\n", format_args!($($arg)*)))
    };
}
