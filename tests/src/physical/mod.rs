//! A machine's whole physical memory as a thief finds it: read, searched and written from outside, by the emulator's process.
//!
//! [`Frozen`] stops the emulator while it exists. [`Frozen::scan`] goes through all memory that the machine ever touched, piece by
//! piece; [`Strings`] finds any 16 bytes of given texts in it, and [`schedule`] finds expanded AES-256 keys that nobody told it of.
//! Where Bochs keeps the memory is `bochs`'s. What the processors hold in registers, and what the emulator copied for itself, is not
//! memory and not looked at.

mod bochs;
pub mod schedule;
mod strings;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_core::addr::Hpa;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use bochs::Layout;
pub use schedule::Schedule;
pub use strings::{Hit, STRING, Strings};

/// How long the emulator's threads may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(2);

/// Why a machine's memory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The emulator's process does not let itself be looked into.
    #[error("cannot {doing} of process {process}: {error}; it has to be a child of this one")]
    Process {
        /// What was tried.
        doing: &'static str,
        /// Which process.
        process: u32,
        /// What the system says.
        error: std::io::Error,
    },
    /// The process is not a Bochs whose memory can be found.
    #[error("process {process} is no Bochs whose memory can be found: {why}")]
    Unknown {
        /// Which process.
        process: u32,
        /// What is missing or not as it should be.
        why: String,
    },
    /// The machine has no memory there, or has never touched it.
    #[error("the machine holds nothing at {0}")]
    Nothing(Hpa),
}

/// A machine that stands still, and its memory. It goes on when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    process: u32,
    memory: File,
    layout: Layout,
    _stopped: Stopped,
}

impl Frozen {
    /// Stops the Bochs that runs as `process`, with a machine of `bytes` bytes of memory.
    ///
    /// # Errors
    /// When it is no such Bochs, or does not stop.
    pub fn new(process: u32, bytes: u64) -> Result<Self, MemoryError> {
        let stopped = Stopped::new(process)?;
        let path = format!("/proc/{process}/mem");
        let memory = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| MemoryError::Process {
                doing: "open the memory",
                process,
                error,
            })?;
        let layout = Layout::read(process, &memory, bytes)?;
        Ok(Self {
            process,
            memory,
            layout,
            _stopped: stopped,
        })
    }

    /// Reads the machine's memory from `at` on, which lies in one page.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn read(&self, at: Hpa, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let place = self
            .layout
            .place(at, bytes.len())
            .ok_or(MemoryError::Nothing(at))?;
        self.memory
            .read_exact_at(bytes, place)
            .map_err(|error| self.failed("read the memory", error))
    }

    /// Changes the machine's memory from `at` on, which lies in one page. No processor is told.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn write(&self, at: Hpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let place = self
            .layout
            .place(at, bytes.len())
            .ok_or(MemoryError::Nothing(at))?;
        self.memory
            .write_all_at(bytes, place)
            .map_err(|error| self.failed("change the memory", error))
    }

    /// Shows `look` all memory that the machine ever touched, in the order of its addresses: where a piece begins, and what it
    /// holds. What is contiguous shows `overlap` bytes of the piece before again, so that nothing is cut unseen.
    /// The rest of the machine's memory is zeroes.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn scan(
        &self,
        overlap: usize,
        mut look: impl FnMut(Hpa, &[u8]),
    ) -> Result<Scanned, MemoryError> {
        let block = self.layout.block_bytes();
        let mut piece = Vec::with_capacity(overlap + block);
        let mut end = None;
        let mut scanned = Scanned::default();
        for (start, place) in self.layout.blocks() {
            let kept = match end {
                Some(end) if end == start => overlap.min(piece.len()),
                _ => 0,
            };
            piece.drain(..piece.len() - kept);
            piece.resize(kept + block, 0);
            self.memory
                .read_exact_at(&mut piece[kept..], place)
                .map_err(|error| self.failed("read the memory", error))?;
            look(Hpa(start.0 - kept as u64), &piece);
            end = start.checked_add(block as u64);
            scanned.bytes += block as u64;
        }
        Ok(scanned)
    }

    /// Where any 16 bytes of `strings` are, and how much was looked at.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn find(&self, strings: &Strings) -> Result<(Vec<Hit>, Scanned), MemoryError> {
        let mut hits = Vec::new();
        let scanned = self.scan(STRING, |at, bytes| strings.look(at, bytes, &mut hits))?;
        Ok((hits, scanned))
    }

    /// Every expanded AES-256 key.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn schedules(&self) -> Result<Vec<Schedule>, MemoryError> {
        let mut found = Vec::new();
        self.scan(schedule::MAX_BYTES, |at, bytes| {
            schedule::look(at, bytes, &mut found);
        })?;
        Ok(found)
    }

    fn failed(&self, doing: &'static str, error: std::io::Error) -> MemoryError {
        MemoryError::Process {
            doing,
            process: self.process,
            error,
        }
    }
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scanned {
    /// Bytes of memory that the machine ever touched.
    pub bytes: u64,
}

/// A process that stands still until this is dropped.
#[derive(Debug)]
struct Stopped(Pid);

impl Stopped {
    fn new(process: u32) -> Result<Self, MemoryError> {
        let failed = |error: nix::Error| MemoryError::Process {
            doing: "stop the threads",
            process,
            error: error.into(),
        };
        let id = i32::try_from(process).map_err(|_| failed(nix::Error::ESRCH))?;
        kill(Pid::from_raw(id), Signal::SIGSTOP).map_err(failed)?;
        let stopped = Self(Pid::from_raw(id));
        let deadline = Instant::now() + STOP_LIMIT;
        while !has_stopped(process) {
            if Instant::now() >= deadline {
                return Err(failed(nix::Error::ETIMEDOUT));
            }
            thread::sleep(TICK);
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails only where the process has ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Whether every thread of `process` stands still.
fn has_stopped(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which may have anything in it, in parentheses.
        state
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_stands_still_until_it_is_let_go() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let state = |id| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        let stopped = Stopped::new(child.id()).unwrap();
        assert_eq!(state(child.id()), 'T');
        drop(stopped);
        let goes_on = (0..500).any(|_| {
            thread::sleep(TICK);
            state(child.id()) != 'T'
        });
        let unknown = Frozen::new(child.id(), 1 << 30).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(goes_on);
        assert!(matches!(unknown, MemoryError::Unknown { .. }), "{unknown}");
    }
}
