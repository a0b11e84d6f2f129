//! The keyboard of an interactive run: raw, passed through byte by byte, given back on every way out.

use std::io::{Read, Write, stdin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::{Error, Result};
use crate::session::console::Console;

/// Ctrl-\, which asks programs on a terminal to quit: ends the run. Ctrl-] is the hypervisor's and passes.
const QUIT: u8 = 0x1c;

/// The connected keyboard; dropping it restores the terminal.
#[derive(Debug)]
pub struct Keyboard {
    saved: Termios,
    quit: Arc<AtomicBool>,
}

impl Keyboard {
    /// Puts the terminal into raw mode and passes what is typed to `console`.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn connect(console: &Console) -> Result<Self> {
        let failed =
            |e: &dyn std::fmt::Display| Error::Run(format!("cannot connect the keyboard: {e}"));
        let saved = tcgetattr(stdin()).map_err(|e| failed(&e))?;
        let mut writer = console.writer().map_err(|e| failed(&e))?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).map_err(|e| failed(&e))?;
        let keyboard = Self {
            saved,
            quit: Arc::new(AtomicBool::new(false)),
        };
        let quit = Arc::clone(&keyboard.quit);
        // Blocks in `read` until the process ends; it holds nothing that needs releasing.
        thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = stdin().lock().read(&mut bytes) {
                let typed = &bytes[..count];
                let until = typed.iter().position(|byte| *byte == QUIT);
                if writer.write_all(&typed[..until.unwrap_or(count)]).is_err() {
                    break;
                }
                if until.is_some() {
                    break;
                }
            }
            quit.store(true, Ordering::Relaxed);
        });
        Ok(keyboard)
    }

    /// Whether the key that ends the run was typed.
    #[must_use]
    pub fn wants_to_quit(&self) -> bool {
        self.quit.load(Ordering::Relaxed)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // Nothing better to do when the terminal is gone.
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.saved);
        eprintln!();
    }
}
