//! The common configuration (Virtio 1.2, "Common configuration structure layout").
//!
//! A driver accesses each field at its own width, 64-bit ones as two halves. Anything else reads as zero and changes
//! nothing.

use super::{NO_VECTOR, Status, Transport};
use crate::addr::Gpa;
use crate::bus::Bus;
use crate::device::virtio::{Features, Queue};

/// What the driver selected to look at.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Selectors {
    device_features: u32,
    driver_features: u32,
    queue: u16,
}

/// The fields, by offset.
mod field {
    pub(super) const DEVICE_FEATURE_SELECT: u32 = 0x00;
    pub(super) const DEVICE_FEATURE: u32 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u32 = 0x08;
    pub(super) const DRIVER_FEATURE: u32 = 0x0c;
    pub(super) const CONFIG_VECTOR: u32 = 0x10;
    pub(super) const QUEUE_COUNT: u32 = 0x12;
    pub(super) const STATUS: u32 = 0x14;
    pub(super) const GENERATION: u32 = 0x15;
    pub(super) const QUEUE_SELECT: u32 = 0x16;
    pub(super) const QUEUE_SIZE: u32 = 0x18;
    pub(super) const QUEUE_VECTOR: u32 = 0x1a;
    pub(super) const QUEUE_ENABLE: u32 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFFSET: u32 = 0x1e;
    pub(super) const QUEUE_DESCRIPTORS: u32 = 0x20;
    pub(super) const QUEUE_DRIVER: u32 = 0x28;
    pub(super) const QUEUE_DEVICE: u32 = 0x30;
}

/// No device here changes its own configuration, so a driver never reads half of two.
const GENERATION: u64 = 0;

impl Transport {
    pub(super) fn read_common(&self, offset: u32, size: u8) -> u64 {
        let queue = self.queues.get(usize::from(self.selectors.queue));
        let number = |of: fn(&Queue) -> u64| queue.map_or(0, of);
        match (offset, size) {
            (field::DEVICE_FEATURE_SELECT, 4) => self.selectors.device_features.into(),
            (field::DEVICE_FEATURE, 4) => {
                half(self.offered.bits(), self.selectors.device_features).into()
            }
            (field::DRIVER_FEATURE_SELECT, 4) => self.selectors.driver_features.into(),
            (field::DRIVER_FEATURE, 4) => {
                half(self.accepted.bits(), self.selectors.driver_features).into()
            }
            (field::CONFIG_VECTOR, 2) => self.config_vector.into(),
            (field::QUEUE_COUNT, 2) => self.queues.len() as u64,
            (field::STATUS, 1) => self.status.bits().into(),
            (field::GENERATION, 1) => GENERATION,
            (field::QUEUE_SELECT, 2) => self.selectors.queue.into(),
            (field::QUEUE_SIZE, 2) => number(|queue| queue.size().into()),
            (field::QUEUE_VECTOR, 2) => self
                .queue_vectors
                .get(usize::from(self.selectors.queue))
                .filter(|_| queue.is_some())
                .map_or(NO_VECTOR, |vector| *vector)
                .into(),
            (field::QUEUE_ENABLE, 2) => number(|queue| queue.is_enabled().into()),
            (field::QUEUE_NOTIFY_OFFSET, 2) if queue.is_some() => self.selectors.queue.into(),
            (_, 4) => address_half(offset)
                .and_then(|(field, high)| Some(half(queue_address(queue?, field).0, high).into()))
                .unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn write_common(&mut self, offset: u32, size: u8, value: u64, bus: &mut dyn Bus) {
        let word = value as u32;
        let short = value as u16;
        match (offset, size) {
            (field::DEVICE_FEATURE_SELECT, 4) => self.selectors.device_features = word,
            (field::DRIVER_FEATURE_SELECT, 4) => self.selectors.driver_features = word,
            (field::DRIVER_FEATURE, 4) => self.accept_features(word),
            (field::CONFIG_VECTOR, 2) => self.config_vector = self.known_vector(short),
            (field::STATUS, 1) => self.set_status(value as u8),
            (field::QUEUE_SELECT, 2) => self.selectors.queue = short,
            (field::QUEUE_SIZE, 2) => {
                if let Some(queue) = self.selected_queue() {
                    queue.set_size(short);
                }
            }
            (field::QUEUE_VECTOR, 2) => {
                let vector = self.known_vector(short);
                let selected = usize::from(self.selectors.queue);
                let count = self.queues.len();
                if let Some(slot) = self.queue_vectors.iter_mut().take(count).nth(selected) {
                    *slot = vector;
                }
            }
            (field::QUEUE_ENABLE, 2) if short == 1 => self.enable_queue(bus),
            (_, 4) => self.set_queue_address(offset, word),
            _ => {}
        }
    }

    fn selected_queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(self.selectors.queue))
    }

    /// A vector the function has, or none: the driver reads back which.
    fn known_vector(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.count() {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// The driver's features, until they are settled.
    fn accept_features(&mut self, word: u32) {
        if self.status.contains(Status::FEATURES_OK) {
            return;
        }
        let shift = match self.selectors.driver_features {
            0 => 0,
            1 => 32,
            _ => return,
        };
        let kept = self.accepted.bits() & !(0xffff_ffff << shift);
        self.accepted = Features::from_bits_retain(kept | u64::from(word) << shift);
    }

    /// Status bits are added one by one; writing 0 resets.
    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut added = Status::from_bits_truncate(value) - self.status - Status::NEEDS_RESET;
        if added.contains(Status::FEATURES_OK) {
            let agreed =
                self.offered.contains(self.accepted) && self.accepted.contains(Features::VERSION_1);
            if agreed {
                let features = (self.accepted & Features::DEVICE).bits();
                self.model.device_mut().negotiated(features);
            } else {
                added -= Status::FEATURES_OK;
            }
        }
        if !(self.status | added).contains(Status::FEATURES_OK) {
            added -= Status::DRIVER_OK;
        }
        self.status |= added;
    }

    /// A queue is enabled once the features that it works by are settled.
    fn enable_queue(&mut self, bus: &mut dyn Bus) {
        if !self.status.contains(Status::FEATURES_OK) {
            return;
        }
        let features = self.accepted;
        let enabled = self.selected_queue().map(|queue| queue.enable(features));
        if let Some(Err(error)) = enabled {
            self.fail(error, bus);
        }
    }

    fn set_queue_address(&mut self, offset: u32, word: u32) {
        let Some((field, high)) = address_half(offset) else {
            return;
        };
        let Some(queue) = self.selected_queue() else {
            return;
        };
        let old = queue_address(queue, field).0;
        let shift = 32 * high;
        let new = Gpa(old & !(0xffff_ffff << shift) | u64::from(word) << shift);
        let choose = |of: u32, current: Gpa| if field == of { new } else { current };
        queue.set_addresses(
            choose(field::QUEUE_DESCRIPTORS, queue.descriptors()),
            choose(field::QUEUE_DRIVER, queue.driver()),
            choose(field::QUEUE_DEVICE, queue.device()),
        );
    }
}

/// The 32-bit half of `bits` that `select` names; there are two.
const fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

/// The queue address field that a 32-bit access is to, and which half of it.
const fn address_half(offset: u32) -> Option<(u32, u32)> {
    match (offset & !7, offset & 7) {
        (
            field @ (field::QUEUE_DESCRIPTORS | field::QUEUE_DRIVER | field::QUEUE_DEVICE),
            low @ (0 | 4),
        ) => Some((field, low / 4)),
        _ => None,
    }
}

const fn queue_address(queue: &Queue, field: u32) -> Gpa {
    match field {
        field::QUEUE_DESCRIPTORS => queue.descriptors(),
        field::QUEUE_DRIVER => queue.driver(),
        _ => queue.device(),
    }
}
