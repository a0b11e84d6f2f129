//! The devices there are, as one type: a further kind of device is a line here and a module of its own.

use alloc::boxed::Box;

use super::console::Console;
use super::rng::Rng;
use super::{DeviceKind, Queue, QueueError, VirtioDevice};
use crate::bus::Bus;

/// A virtio device of some kind.
pub enum Model {
    /// A console.
    Console(Box<Console>),
    /// An entropy source.
    Entropy(Rng),
}

impl Model {
    /// What every kind of device has.
    #[must_use]
    pub fn device(&self) -> &dyn VirtioDevice {
        match self {
            Self::Console(console) => console.as_ref(),
            Self::Entropy(rng) => rng,
        }
    }

    /// What every kind of device has.
    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        match self {
            Self::Console(console) => console.as_mut(),
            Self::Entropy(rng) => rng,
        }
    }

    /// Whether it is a network card.
    #[must_use]
    pub fn is_nic(&self) -> bool {
        self.device().kind() == DeviceKind::Net
    }

    /// Takes the next frame that a network card sends, and says how long it is.
    ///
    /// # Errors
    /// A [`QueueError`] of a queue.
    pub fn transmit(
        &mut self,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
        frame: &mut [u8],
    ) -> Result<Option<usize>, QueueError> {
        let _ = (queues, bus, frame);
        Ok(None)
    }

    /// Brings a frame to a network card; false where its driver has no buffer for it.
    ///
    /// # Errors
    /// A [`QueueError`] of a queue.
    pub fn receive(
        &mut self,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
        frame: &[u8],
    ) -> Result<bool, QueueError> {
        let _ = (queues, bus, frame);
        Ok(false)
    }
}
