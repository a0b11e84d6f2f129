//! The hypervisor's console: a memory ring that keeps the log, the serial port and the screen.
//!
//! Log lines go to all three. Guest output goes to the serial port only, through the same queue, so that
//! lines never mix in the middle of a byte. Laptops have no serial port, which is why the firmware's
//! framebuffer shows the log too.

pub mod screen;
pub mod serial;

use crate::vm::Vm;
use crate::vm::shared::{VmBus, VmShared};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_core::manifest;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU16, Ordering};
use screen::Screen;
use serial::{Port, Serial};
use spin::{Mutex, Once};

/// Bytes of log kept in memory.
const HISTORY_BYTES: usize = 64 << 10;

/// The one console.
pub static CONSOLE: Mutex<Console> = Mutex::new(Console::new());
/// The event stream, one JSON object a line.
pub static EVENTS: Mutex<Serial> = Mutex::new(Serial::new(Port::Com2));

/// Where log lines go.
pub struct Console {
    /// COM1.
    pub serial: Serial,
    screen: Option<Screen>,
    history: Option<History>,
    to_serial: bool,
    to_screen: bool,
}

struct History {
    bytes: Box<[u8]>,
    next: usize,
}

impl Console {
    const fn new() -> Self {
        Self {
            serial: Serial::new(Port::Com1),
            screen: None,
            history: None,
            to_serial: true,
            to_screen: true,
        }
    }

    /// Starts the serial ports, the log's memory and, where the firmware gave one, the screen.
    pub fn start(&mut self, screen: Option<Screen>) {
        self.serial.start();
        self.screen = screen;
        let bytes = vec![0; HISTORY_BYTES];
        self.history = Some(History {
            bytes: bytes.into_boxed_slice(),
            next: 0,
        });
    }

    /// Follows the manifest's `console` key from here on.
    pub fn choose(&mut self, choice: manifest::Console) {
        self.to_serial = matches!(choice, manifest::Console::Serial | manifest::Console::Both);
        self.to_screen = matches!(
            choice,
            manifest::Console::Framebuffer | manifest::Console::Both
        );
    }

    /// Starts a line of its own on the serial port, where a guest may have left one open.
    pub fn fresh_line(&mut self) {
        if !self.serial.at_line_start() {
            self.serial.write(b"\r\n");
        }
    }

    /// Keeps `text` in the log's memory, where a debugger finds it on a machine that shows nothing.
    fn record(&mut self, text: &str) {
        let Some(history) = &mut self.history else {
            return;
        };
        for byte in text.bytes() {
            if let Some(slot) = history.bytes.get_mut(history.next) {
                *slot = byte;
            }
            history.next = (history.next + 1) % HISTORY_BYTES;
        }
    }

    /// Shows `text` on the screen, whatever was chosen: for the panic report, which drives the port itself.
    pub fn show(&mut self, text: &str) {
        self.record(text);
        if let Some(screen) = &mut self.screen {
            screen.write(text);
        }
    }

    /// Gives the screen up: its memory cannot be mapped.
    pub fn lose_screen(&mut self) {
        self.screen = None;
    }

    /// The range of the framebuffer, to map it.
    #[must_use]
    pub fn framebuffer(&self) -> Option<(u64, u64)> {
        self.screen.as_ref().map(Screen::range)
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.record(text);
        if self.to_screen
            && let Some(screen) = &mut self.screen
        {
            screen.write(text);
        }
        if self.to_serial {
            for piece in text.split_inclusive('\n') {
                match piece.strip_suffix('\n') {
                    Some(line) => {
                        self.serial.write(line.as_bytes());
                        self.serial.write(b"\r\n");
                    }
                    None => self.serial.write(piece.as_bytes()),
                }
            }
        }
        Ok(())
    }
}

/// Bytes that may wait for the serial port before guests' consoles are told to hold their own.
const BACKLOG: usize = 16 << 10;

/// The VMs whose consoles share the serial port.
static VMS: Once<Vec<Arc<VmShared>>> = Once::new();
/// A typed byte that the VM in front has no room for yet, plus one; 0 for none.
static TYPED: AtomicU16 = AtomicU16::new(0);

/// Lets the consoles of `vms` share the serial port.
pub fn attend(vms: &[Vm]) {
    VMS.call_once(|| vms.iter().map(|vm| Arc::clone(&vm.shared)).collect());
}

/// Takes what a VM's guest wrote, as far as there is room.
pub fn exchange(vm: &VmShared) {
    let mut bytes = [0; 64];
    while CONSOLE.lock().serial.waiting() < BACKLOG {
        let count = vm
            .devices
            .lock()
            .take_output(&mut bytes, &mut VmBus(vm));
        if count == 0 {
            return;
        }
        let mut console = CONSOLE.lock();
        for byte in bytes.iter().take(count) {
            console.serial.enqueue(*byte);
        }
        console.serial.pump();
    }
}

/// Sends all that a stopped VM's guest wrote.
pub fn drain(vm: &VmShared) {
    let mut bytes = [0; 64];
    loop {
        let count = vm
            .devices
            .lock()
            .take_output(&mut bytes, &mut VmBus(vm));
        if count == 0 {
            return;
        }
        let mut console = CONSOLE.lock();
        console.serial.write(bytes.get(..count).unwrap_or_default());
    }
}

/// Feeds the serial port, and gives what was typed to the VM in front.
pub fn pump() {
    let received = {
        let mut console = CONSOLE.lock();
        console.serial.pump();
        match TYPED.load(Ordering::Relaxed) {
            0 => console.serial.receive(),
            waiting => Some((waiting - 1) as u8),
        }
    };
    let Some(byte) = received else { return };
    let Some(vm) = VMS.get().and_then(|vms| vms.first()) else {
        return;
    };
    let taken = vm.devices.lock().push_input(byte, &mut VmBus(vm));
    let waiting = if taken { 0 } else { u16::from(byte) + 1 };
    TYPED.store(waiting, Ordering::Relaxed);
}

struct Logger;
static LOGGER: Logger = Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut console = CONSOLE.lock();
        let _ = match record.level() {
            log::Level::Error => writeln!(console, "bulkhead: error: {}", record.args()),
            log::Level::Warn => writeln!(console, "bulkhead: warning: {}", record.args()),
            _ => writeln!(console, "bulkhead: {}", record.args()),
        };
    }

    fn flush(&self) {}
}

/// Connects the `log` macros to the console.
pub fn install_logger() {
    // A second call would find the same logger in place, which is what it wants.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Info);
}

/// Follows the manifest's `log_level` key.
pub fn set_level(level: manifest::LogLevel) {
    log::set_max_level(match level {
        manifest::LogLevel::Error => log::LevelFilter::Error,
        manifest::LogLevel::Warn => log::LevelFilter::Warn,
        manifest::LogLevel::Info => log::LevelFilter::Info,
        manifest::LogLevel::Debug => log::LevelFilter::Debug,
        manifest::LogLevel::Trace => log::LevelFilter::Trace,
    });
}
