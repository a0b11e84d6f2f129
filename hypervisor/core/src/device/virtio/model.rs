//! The devices there are, as one type: a further kind of device is a line here and a module of its own.

use alloc::boxed::Box;

use super::blk::Block;
use super::console::Console;
use super::net::Nic;
use super::rng::Rng;
use super::{DeviceKind, Queue, QueueError, VirtioDevice};
use crate::bus::Bus;

/// A virtio device of some kind.
pub enum Model {
    /// A block device.
    Block(Box<Block>),
    /// A console.
    Console(Box<Console>),
    /// An entropy source.
    Entropy(Rng),
    /// A network card.
    Net(Nic),
}

impl Model {
    /// What every kind of device has.
    #[must_use]
    pub fn device(&self) -> &dyn VirtioDevice {
        match self {
            Self::Block(block) => block.as_ref(),
            Self::Console(console) => console.as_ref(),
            Self::Entropy(rng) => rng,
            Self::Net(nic) => nic,
        }
    }

    /// What every kind of device has.
    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        match self {
            Self::Block(block) => block.as_mut(),
            Self::Console(console) => console.as_mut(),
            Self::Entropy(rng) => rng,
            Self::Net(nic) => nic,
        }
    }

    /// The VM starts anew: what its last life left in the device is forgotten.
    pub fn restart(&mut self) {
        match self {
            Self::Block(block) => block.restart(),
            Self::Console(console) => console.forget_input(),
            Self::Net(nic) => nic.forget_counters(),
            Self::Entropy(_) => {}
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
        match self {
            Self::Net(nic) => nic.transmit(queues, bus, frame),
            Self::Block(_) | Self::Console(_) | Self::Entropy(_) => Ok(None),
        }
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
        match self {
            Self::Net(nic) => nic.receive(queues, bus, frame),
            Self::Block(_) | Self::Console(_) | Self::Entropy(_) => Ok(false),
        }
    }
}
