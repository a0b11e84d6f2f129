//! The entropy device (Virtio 1.2, "Entropy Device").

use alloc::boxed::Box;

use super::{Chain, DeviceKind, Effect, Queue, QueueError, VirtioDevice};
use crate::bus::Bus;

const QUEUE_SIZE: u16 = 16;
/// Bytes a request gets at most: enough for any seed, little enough to ask the processor for at once.
const REQUEST_BYTES: usize = 256;

/// Where random bytes come from: fills the buffer, or says that it cannot now.
pub type EntropySource = Box<dyn FnMut(&mut [u8]) -> bool + Send>;

/// An entropy device.
pub struct Rng {
    source: EntropySource,
}

impl Rng {
    /// A device that gives what `source` does.
    #[must_use]
    pub fn new(source: EntropySource) -> Self {
        Self { source }
    }

    /// Answers one request; how many bytes that wrote.
    fn serve(&mut self, chain: &Chain, bus: &mut dyn Bus) -> Result<u32, QueueError> {
        let mut bytes = [0; REQUEST_BYTES];
        let wanted = REQUEST_BYTES.min(chain.writable_len() as usize);
        let bytes = bytes.get_mut(..wanted).unwrap_or_default();
        // Without entropy the request ends with none: better than bytes somebody could guess.
        if !(self.source)(bytes) {
            return Ok(0);
        }
        chain.write(bus, 0, bytes)?;
        Ok(wanted as u32)
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _: u32, _: &mut [u8]) {}

    fn reset(&mut self) {}

    fn notify(
        &mut self,
        _: usize,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
    ) -> Result<Effect, QueueError> {
        if let Some(queue) = queues.first_mut() {
            queue.serve_all(bus, |chain, bus| self.serve(chain, bus))?;
        }
        Ok(Effect::Nothing)
    }
}
