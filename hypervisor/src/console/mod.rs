//! The hypervisor's console: a memory ring that keeps the log, the serial port and the screen.
//!
//! Log lines go to all three. What guests write and what an operator types share the serial port with them, by
//! [`terminal`], through the same queue, so that lines never mix in the middle of a byte. Laptops have no serial port,
//! which is why the firmware's framebuffer shows the log too.

pub mod screen;
pub mod serial;
pub mod terminal;

use bulkhead_core::console::mux::Sink;
use bulkhead_core::console::{History, Mux};
use bulkhead_core::manifest;
use core::fmt::{self, Write};
use screen::Screen;
use serial::{Port, Serial};
use spin::Mutex;

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
    /// Who is typed to and who is shown, once there are VMs.
    pub mux: Option<Mux>,
    screen: Option<Screen>,
    history: Option<History>,
    to_serial: bool,
    to_screen: bool,
}

impl Console {
    const fn new() -> Self {
        Self {
            serial: Serial::new(Port::Com1),
            mux: None,
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
        self.history = Some(History::new(HISTORY_BYTES));
    }

    /// Follows the manifest's `console` key from here on.
    pub fn choose(&mut self, choice: manifest::Console) {
        self.to_serial = matches!(choice, manifest::Console::Serial | manifest::Console::Both);
        self.to_screen = matches!(
            choice,
            manifest::Console::Framebuffer | manifest::Console::Both
        );
    }

    /// Starts a line of its own on the serial port, where the guest in front may have left one open.
    pub fn fresh_line(&mut self) {
        let prompts = self.mux.as_ref().is_some_and(Mux::prompt_is_open);
        if !prompts && !self.serial.at_line_start() {
            self.serial.write(b"\r\n");
        }
    }

    /// Writes a line of the log; a line being typed at the prompt makes way for it.
    fn log(&mut self, kind: &str, what: fmt::Arguments<'_>) {
        self.around_log(Mux::before_log);
        // A console takes everything.
        let _ = writeln!(self, "bulkhead: {kind}{what}");
        self.around_log(Mux::after_log);
    }

    fn around_log<'a>(&'a mut self, change: impl FnOnce(&mut Mux, &mut Show<'a>)) {
        if let Some(mux) = &mut self.mux
            && self.to_serial
        {
            change(mux, &mut Show(&mut self.serial));
        }
    }

    /// The end of the log: at most `wanted` lines, in two pieces, and how many they are.
    #[must_use]
    pub fn last_lines(&self, wanted: u32) -> ([&[u8]; 2], u32) {
        self.history
            .as_ref()
            .map_or(([&[], &[]], 0), |history| history.last_lines(wanted))
    }

    /// Keeps `text` in the log's memory, where a debugger finds it on a machine that shows nothing.
    fn record(&mut self, text: &str) {
        if let Some(history) = &mut self.history {
            history.push(text.as_bytes());
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

/// The serial port as the terminal's.
pub struct Show<'a>(pub &'a mut Serial);

impl Sink for Show<'_> {
    fn show(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

struct Logger;
static LOGGER: Logger = Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let kind = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        CONSOLE.lock().log(kind, *record.args());
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
