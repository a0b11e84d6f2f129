//! The screen of an emulator that shows it on a pseudo-terminal, which somebody has to read: Bochs' text display blinks its
//! cursor there, and once the terminal's buffer is full, after a few minutes, the emulator waits for ever.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// How often, and how many times, the emulator's output is looked at for the screen's name.
const PAUSE: Duration = Duration::from_millis(100);
const LOOKS: usize = 300;

/// Reads what the emulator whose output goes to `log` shows on its screen, and forgets it, until the emulator ends. One that
/// names no screen within half a minute has none.
pub fn forget(log: PathBuf) {
    // Blocks in `read` until the emulator ends; it holds nothing that needs releasing.
    thread::spawn(move || {
        let screen = (0..LOOKS).find_map(|_| {
            thread::sleep(PAUSE);
            name(&fs::read_to_string(&log).unwrap_or_default())
        });
        // The end of a pseudo-terminal whose other side has gone is an error of `read`.
        let _ = screen.map(|screen| io::copy(&mut raw(&screen)?, &mut io::sink()));
    });
}

/// The terminal that an emulator's output names.
fn name(output: &str) -> Option<PathBuf> {
    const BEFORE: &str = "Bochs connected to screen \"";
    let (_, rest) = output.split_once(BEFORE)?;
    let (name, _) = rest.split_once('"')?;
    Some(name.into())
}

/// The terminal `screen`, passing on each byte as it comes, not each line.
fn raw(screen: &Path) -> io::Result<File> {
    let terminal = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(screen)?;
    let mut mode = tcgetattr(&terminal)?;
    cfmakeraw(&mut mode);
    tcsetattr(&terminal, SetArg::TCSANOW, &mode)?;
    Ok(terminal)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use nix::fcntl::open;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn the_screen_is_named_once_the_emulator_says_so() {
        let output = "[PLUGIN] loaded\n\nBochs connected to screen \"/dev/pts/7\"\n";
        assert_eq!(name(output), Some("/dev/pts/7".into()));
        assert_eq!(name(&output[..output.len() - 4]), None);
    }

    /// Without a reader the terminal takes some ten thousand bytes.
    #[test]
    fn a_screen_never_fills_up() {
        let mut emulator =
            posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK).unwrap();
        grantpt(&emulator).unwrap();
        unlockpt(&emulator).unwrap();
        let screen = ptsname_r(&emulator).unwrap();
        // Held open, so that it does not end before it is read.
        let _held = open(
            screen.as_str(),
            OFlag::O_RDWR | OFlag::O_NOCTTY,
            Mode::empty(),
        )
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, format!("Bochs connected to screen \"{screen}\"\n")).unwrap();
        forget(log);
        let begin = Instant::now();
        let mut written = 0;
        while written < 1 << 20 {
            assert!(begin.elapsed() < Duration::from_secs(60), "{written} bytes");
            match emulator.write(&[b'.'; 512]) {
                Ok(count) => written += count,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
