//! The console device with its one port (Virtio 1.2, "Console Device").
//!
//! Output that nobody took yet stays in a ring; when that is full, the driver's chain waits, and so does a driver that
//! waits for it. Nothing is lost, and nothing grows. Input waits in a ring for the driver's buffers.

use super::{Chain, DeviceKind, Effect, Queue, QueueError, VirtioDevice};
use crate::bus::{Bus, GuestRam};
use crate::ring::ByteRing;

const QUEUE_SIZE: u16 = 64;
/// The queue that brings input to the guest.
const RECEIVE: usize = 0;
/// The queue that brings output from the guest.
const TRANSMIT: usize = 1;

const OUTPUT_BYTES: usize = 4096;
const INPUT_BYTES: usize = 1024;
/// Bytes moved in one copy.
const COPY_BYTES: usize = 256;

/// An output chain of which a part is in the ring.
struct Sending {
    chain: Chain,
    sent: u32,
}

/// A console.
pub struct Console {
    output: ByteRing<OUTPUT_BYTES>,
    input: ByteRing<INPUT_BYTES>,
    sending: Option<Sending>,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console where nothing was said.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            output: ByteRing::new(),
            input: ByteRing::new(),
            sending: None,
        }
    }

    /// The VM starts anew: what was typed for its last life is not for the next. Its last words stay to be read.
    pub const fn forget_input(&mut self) {
        self.input.clear();
    }

    /// Whether output waits to be taken.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes typed bytes as far as there is room, and says how many.
    #[must_use]
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        self.input.push_slice(bytes)
    }

    /// Takes output and says how many bytes it was.
    #[must_use]
    pub fn take_output(&mut self, into: &mut [u8]) -> usize {
        self.output.pop_slice(into)
    }

    /// Moves input into the driver's buffers, and the driver's output into the ring, as far as both go.
    ///
    /// # Errors
    /// A [`QueueError`] of a queue.
    pub fn exchange(
        &mut self,
        queues: &mut [Queue],
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<(), QueueError> {
        if let Some(queue) = queues.get_mut(RECEIVE) {
            self.deliver(queue, ram)?;
        }
        match queues.get_mut(TRANSMIT) {
            Some(queue) => self.collect(queue, ram),
            None => Ok(()),
        }
    }

    fn deliver(
        &mut self,
        queue: &mut Queue,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<(), QueueError> {
        while !self.input.is_empty() {
            let Some(chain) = queue.pop(ram)? else { break };
            let mut bytes = [0; COPY_BYTES];
            let room = COPY_BYTES.min(chain.writable_len() as usize);
            let count = self
                .input
                .pop_slice(bytes.get_mut(..room).unwrap_or_default());
            chain.write(ram, 0, bytes.get(..count).unwrap_or_default())?;
            queue.complete(ram, chain.head(), count as u32)?;
        }
        Ok(())
    }

    fn collect(
        &mut self,
        queue: &mut Queue,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<(), QueueError> {
        loop {
            let sending = match &mut self.sending {
                Some(sending) => sending,
                none => {
                    let Some(chain) = queue.pop(ram)? else {
                        return Ok(());
                    };
                    // It would use up nothing, and so be no bound to those that come after it.
                    if chain.readable_len() == 0 {
                        return Err(QueueError::TooShort);
                    }
                    none.insert(Sending { chain, sent: 0 })
                }
            };
            let left = sending.chain.readable_len().saturating_sub(sending.sent);
            let count = self.output.room().min(COPY_BYTES).min(left as usize);
            let mut bytes = [0; COPY_BYTES];
            let bytes = bytes.get_mut(..count).unwrap_or_default();
            sending.chain.read(ram, sending.sent, bytes)?;
            sending.sent += self.output.push_slice(bytes) as u32;
            if sending.sent == sending.chain.readable_len() {
                queue.complete(ram, sending.chain.head(), 0)?;
                self.sending = None;
            } else if self.output.room() == 0 {
                return Ok(());
            }
        }
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn read_config(&self, _: u32, _: &mut [u8]) {}

    fn reset(&mut self) {
        self.sending = None;
    }

    fn notify(
        &mut self,
        _: usize,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
    ) -> Result<Effect, QueueError> {
        self.exchange(queues, bus)?;
        Ok(if self.has_output() {
            Effect::ConsoleOutput
        } else {
            Effect::Nothing
        })
    }
}
