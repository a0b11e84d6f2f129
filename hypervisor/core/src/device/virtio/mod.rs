//! Virtio devices (Virtio 1.2, "Basic Facilities of a Virtio Device").
//!
//! A model implements [`VirtioDevice`]: what it is, its own configuration, and what it does with chains. [`queue`] takes
//! the driver's queues apart. [`transport`] does everything else: negotiation, queue set-up, status, interrupts.
//! [`crate::device::pci`] puts a [`Model`] behind a PCI function.
//!
//! # What a model does and does not
//!
//! - In [`notify`](VirtioDevice::notify) it pops chains from its queues until there are none, carries them out, and
//!   completes them. It raises no interrupt, sets no status: the transport asks each queue afterwards.
//! - A [`QueueError`] it meets it returns with `?`: the transport then marks the device as needing a reset, and calls
//!   nothing but [`reset`](VirtioDevice::reset) before the driver has reset it.
//! - A request that is wrong, but whose chain is sound, is the model's to answer (a block device has a status byte).
//! - A frame's way out and in is not a notification's to go: [`notify`](VirtioDevice::notify) of a network card answers
//!   [`Effect::Transmit`], and the transport then calls its two other methods, with the same arguments and errors:
//!   `transmit(&mut self, queues: &mut [Queue], ram: &mut (impl GuestRam + ?Sized), frame: &mut [u8]) ->
//!   Result<Option<usize>, QueueError>` takes the next frame out, `receive(.., frame: &[u8]) -> Result<bool, QueueError>`
//!   brings one in, false where the driver has no buffer for it.
//! - `queues` has one [`Queue`] for each of [`queue_sizes`](VirtioDevice::queue_sizes); those not enabled give no chains.

pub mod blk;
#[cfg(test)]
mod buffers;
mod config;
pub mod console;
mod model;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;

pub use model::Model;
pub use queue::{Chain, Queue, QueueError};

use crate::bus::Bus;

bitflags::bitflags! {
    /// Feature bits that belong to no device type (Virtio 1.2, "Reserved Feature Bits").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u64 {
        /// VIRTIO_F_INDIRECT_DESC: descriptors may refer to tables of descriptors.
        const INDIRECT = 1 << 28;
        /// VIRTIO_F_EVENT_IDX: either side says from which index on it wants to hear of the other.
        const EVENT_INDEX = 1 << 29;
        /// VIRTIO_F_VERSION_1: the device and the driver are not legacy ones.
        const VERSION_1 = 1 << 32;
        /// The bits of the device types.
        const DEVICE = 0x00ff_ffff;
    }
}

/// The kinds of device there are (Virtio 1.2, "Device Types").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// A network card.
    Net,
    /// A block device.
    Block,
    /// A console.
    Console,
    /// An entropy source.
    Entropy,
}

/// What a notification asks of the VM's surroundings once the model is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Frames wait in a transmit queue.
    Transmit,
    /// Console output waits to be taken.
    ConsoleOutput,
}

/// One device type's part of a virtio device.
pub trait VirtioDevice: Send {
    /// What kind it is.
    fn kind(&self) -> DeviceKind;

    /// The device type's feature bits that it offers ([`Features::DEVICE`]); the transport adds the others.
    fn features(&self) -> u64;

    /// The largest size of each of its queues: powers of two, at most [`queue::MAX_SIZE`].
    fn queue_sizes(&self) -> &'static [u16];

    /// Fills `into` from byte `offset` of the device configuration on; bytes beyond its end are left as they are (0).
    fn read_config(&self, offset: u32, into: &mut [u8]);

    /// The driver writes `bytes` from byte `offset` of the device configuration on. Most configurations are read-only.
    fn write_config(&mut self, offset: u32, bytes: &[u8]) {
        let _ = (offset, bytes);
    }

    /// The driver settled on these feature bits of the device type, a subset of [`features`](Self::features).
    fn negotiated(&mut self, features: u64) {
        let _ = features;
    }

    /// The driver reset the device: what it was told and all it had not finished is forgotten. Its queues are reset too.
    fn reset(&mut self);

    /// The driver says that queue number `queue` has chains.
    ///
    /// # Errors
    /// A [`QueueError`] of a queue: the device needs a reset.
    fn notify(
        &mut self,
        queue: usize,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
    ) -> Result<Effect, QueueError>;
}
