//! The first serial port of a running machine: everything it said so far, and typing into it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::clean::Cleaner;

/// Bytes typed at once: no more than half of what a 16550 buffers.
const TYPE_BYTES: usize = 8;
/// The pause after them, in which even an emulated machine empties that buffer.
const TYPE_PAUSE: Duration = Duration::from_millis(15);

/// Receives the raw bytes as they arrive, besides the log.
pub type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// The console of one machine.
#[derive(Debug)]
pub struct Console {
    stream: TcpStream,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Follows `stream` on a thread of its own: raw bytes to `log` and `sink`, text into memory.
    ///
    /// # Errors
    /// When the stream cannot be shared with that thread.
    pub fn follow(stream: TcpStream, mut log: File, mut sink: Sink) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (mut from, into) = (stream.try_clone()?, Arc::clone(&shared));
        thread::spawn(move || {
            let mut cleaner = Cleaner::default();
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                let piece = &bytes[..count];
                // A full disk must not stop the run; the text stays in memory.
                let _ = log.write_all(piece);
                sink(piece);
                let text = cleaner.clean(piece);
                into.lock().text.extend_from_slice(&text);
                into.changed.notify_all();
            }
            into.lock().closed = true;
            into.changed.notify_all();
        });
        Ok(Self { stream, shared })
    }

    /// Waits until there is more than `seen` bytes of text, the machine hung up, or `limit` passed; returns the length.
    #[must_use]
    pub fn wait(&self, seen: usize, limit: Duration) -> usize {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, limit, |state| {
                state.text.len() <= seen && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let (length, idle) = (state.text.len(), state.closed && state.text.len() <= seen);
        drop(state);
        if idle {
            // Nothing will come any more; do not let a caller's loop spin until it notices.
            thread::sleep(limit.min(Duration::from_millis(20)));
        }
        length
    }

    /// What the machine said from byte `from` on.
    #[must_use]
    pub fn text_from(&self, from: usize) -> String {
        String::from_utf8_lossy(self.shared.lock().text.get(from..).unwrap_or_default())
            .into_owned()
    }

    /// How many bytes of text there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().text.len()
    }

    /// Whether the machine said nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A writer of raw bytes to the machine.
    ///
    /// # Errors
    /// When the stream cannot be shared.
    pub fn writer(&self) -> std::io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Types `bytes`, no faster than the machine's serial port takes it.
    ///
    /// # Errors
    /// When the machine hung up.
    pub fn type_bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        for piece in bytes.chunks(TYPE_BYTES) {
            (&self.stream).write_all(piece)?;
            thread::sleep(TYPE_PAUSE);
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ends the reading thread; the stream may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
