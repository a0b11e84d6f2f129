//! The network card, without offloads (Virtio 1.2, "Network Device").
//!
//! It moves one frame at a time: [`Nic::transmit`] takes the driver's next one out, [`Nic::receive`] brings one in.
//! Where frames go is [`crate::switch`]'s decision, and so is which of them are proper.

use super::config;
use super::{DeviceKind, Effect, Queue, QueueError, VirtioDevice};
use crate::bus::{Bus, GuestRam};
use crate::manifest::MacAddress;
use crate::switch::MAX_FRAME;

const QUEUE_SIZE: u16 = 256;
/// The queue that brings frames to the guest.
const RECEIVE: usize = 0;
/// The queue that brings frames from the guest.
const TRANSMIT: usize = 1;

bitflags::bitflags! {
    /// Feature bits (Virtio 1.2, "Network Device", "Feature bits").
    #[derive(Clone, Copy)]
    struct NetFeatures: u64 {
        /// VIRTIO_NET_F_MAC: the configuration has the card's address.
        const MAC = 1 << 5;
        /// VIRTIO_NET_F_STATUS: the configuration has the link's status.
        const STATUS = 1 << 16;
    }
}

/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

/// What precedes each frame: `struct virtio_net_hdr` (Virtio 1.2, "Network Device", "Device Operation").
const HEADER_BYTES: usize = 12;
/// The first two bytes ask for offloads, which were not offered.
const OFFLOADS: core::ops::Range<usize> = 0..2;
/// The header of a frame that arrives: no offload, and the frame in one buffer.
const RECEIVED: [u8; HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// What a driver did wrong, without harm to its queues.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NicCounters {
    /// Frames to send that were too long, had no whole header, or asked for offloads.
    pub bad_frames: u64,
    /// Buffers too small for the frame that arrived.
    pub small_buffers: u64,
}

/// A network card.
#[derive(Clone, Debug)]
pub struct Nic {
    mac: MacAddress,
    counters: NicCounters,
}

impl Nic {
    /// A card with this address.
    #[must_use]
    pub const fn new(mac: MacAddress) -> Self {
        Self {
            mac,
            counters: NicCounters {
                bad_frames: 0,
                small_buffers: 0,
            },
        }
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> NicCounters {
        self.counters
    }

    /// The VM starts anew, not only its driver.
    pub fn forget_counters(&mut self) {
        self.counters = NicCounters::default();
    }

    /// Takes the next frame that the driver sends into `frame`, which has room for [`MAX_FRAME`] bytes, and says how
    /// long it is. Frames that cannot be sent are completed, counted and passed over.
    ///
    /// # Errors
    /// A [`QueueError`] of the transmit queue.
    pub fn transmit(
        &mut self,
        queues: &mut [Queue],
        ram: &mut (impl GuestRam + ?Sized),
        frame: &mut [u8],
    ) -> Result<Option<usize>, QueueError> {
        let Some(queue) = queues.get_mut(TRANSMIT) else {
            return Ok(None);
        };
        while let Some(chain) = queue.pop(ram)? {
            let length = (chain.readable_len() as usize).checked_sub(HEADER_BYTES);
            let body = length
                .filter(|length| *length <= MAX_FRAME)
                .and_then(|length| frame.get_mut(..length));
            let sent = match body {
                Some(body) => {
                    let mut header = [0; HEADER_BYTES];
                    chain.read(ram, 0, &mut header)?;
                    let plain = header.get(OFFLOADS) == Some(&[0, 0]);
                    if plain {
                        chain.read(ram, HEADER_BYTES as u32, body)?;
                    }
                    plain.then_some(body.len())
                }
                None => None,
            };
            queue.complete(ram, chain.head(), 0)?;
            if sent.is_some() {
                return Ok(sent);
            }
            self.counters.bad_frames = self.counters.bad_frames.saturating_add(1);
        }
        Ok(None)
    }

    /// Puts a frame into the driver's next buffer; false where there is none, or it is too small. Such a buffer goes
    /// back empty, for its driver would otherwise wait for it for ever.
    ///
    /// # Errors
    /// A [`QueueError`] of the receive queue.
    pub fn receive(
        &mut self,
        queues: &mut [Queue],
        ram: &mut (impl GuestRam + ?Sized),
        frame: &[u8],
    ) -> Result<bool, QueueError> {
        let Some(queue) = queues.get_mut(RECEIVE) else {
            return Ok(false);
        };
        // The queue is looked at when a frame comes: to be told of new buffers would be an exit for nothing.
        queue.suppress_notifications(ram)?;
        let Some(chain) = queue.pop(ram)? else {
            return Ok(false);
        };
        let fits = frame
            .len()
            .checked_add(HEADER_BYTES)
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| *bytes <= chain.writable_len());
        let Some(written) = fits else {
            self.counters.small_buffers = self.counters.small_buffers.saturating_add(1);
            queue.complete(ram, chain.head(), 0)?;
            return Ok(false);
        };
        chain.write(ram, 0, &RECEIVED)?;
        chain.write(ram, HEADER_BYTES as u32, frame)?;
        queue.complete(ram, chain.head(), written)?;
        Ok(true)
    }
}

impl VirtioDevice for Nic {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        (NetFeatures::MAC | NetFeatures::STATUS).bits()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    /// `struct virtio_net_config` up to the link's status.
    fn read_config(&self, offset: u32, into: &mut [u8]) {
        let [a, b, c, d, e, f] = self.mac.octets();
        let [low, high] = LINK_UP.to_le_bytes();
        config::read(&[a, b, c, d, e, f, low, high], offset, into);
    }

    fn reset(&mut self) {}

    fn notify(
        &mut self,
        queue: usize,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
    ) -> Result<Effect, QueueError> {
        match (queue, queues.get_mut(RECEIVE)) {
            (TRANSMIT, _) => Ok(Effect::Transmit),
            (RECEIVE, Some(buffers)) => {
                buffers.suppress_notifications(bus)?;
                Ok(Effect::Nothing)
            }
            _ => Ok(Effect::Nothing),
        }
    }
}

#[cfg(test)]
mod tests;
