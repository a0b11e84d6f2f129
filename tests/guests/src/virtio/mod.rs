//! Virtio 1.2 over PCI: finding a device, its registers, its set-up. Queues are in [`queue`], devices in [`block`] and
//! [`net`]; [`peer`] is for two guests that talk.
//!
//! Everything is as plain as it can be: split rings at fixed addresses, one MSI-X vector for each queue, no features but
//! those named.

pub mod block;
pub mod net;
pub mod peer;
pub mod queue;

use core::fmt;

use crate::apic;
use crate::pci::{self, Function, Msix, Place};
use queue::Queue;

/// Vendor of virtio devices, and what is added to a device's type for its PCI device number.
const VENDOR: u16 = 0x1af4;
const MODERN: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;

/// VIRTIO_F_INDIRECT_DESC.
pub const FEATURE_INDIRECT: u64 = 1 << 28;
/// VIRTIO_F_VERSION_1.
pub const FEATURE_VERSION_1: u64 = 1 << 32;

/// Offsets in the common configuration (Virtio 1.2, "Common configuration structure layout").
pub mod common {
    #![allow(missing_docs, reason = "the specification's names say it")]
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const CONFIG_MSIX_VECTOR: u64 = 16;
    pub const NUM_QUEUES: u64 = 18;
    pub const DEVICE_STATUS: u64 = 20;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_MSIX_VECTOR: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY_OFF: u64 = 30;
    pub const QUEUE_DESC: u64 = 32;
    pub const QUEUE_DRIVER: u64 = 40;
    pub const QUEUE_DEVICE: u64 = 48;
}

/// Device status bits (Virtio 1.2, "Device Status Field").
pub mod status {
    #![allow(missing_docs, reason = "the specification's names say it")]
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// Device types (Virtio 1.2, "Device Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Entropy = 4,
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is none of this kind.
    Absent(Kind),
    /// It lacks a capability that every modern device has.
    NoCapability(&'static str),
    /// It refuses the features.
    Features,
    /// It is not ready after its set-up; its status.
    Status(u8),
    /// A request was not answered.
    NoAnswer,
    /// A request was answered with this status.
    Refused(u8),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(kind) => write!(f, "no virtio device of type {kind:?}"),
            Self::NoCapability(name) => write!(f, "no virtio capability for {name}"),
            Self::Features => write!(f, "features refused"),
            Self::Status(status) => write!(f, "device status {status:#x}"),
            Self::NoAnswer => write!(f, "a request was not answered"),
            Self::Refused(status) => write!(f, "a request was answered with status {status}"),
        }
    }
}

/// A device's registers.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its PCI function.
    pub function: Function,
    /// Common configuration.
    pub common: Place,
    /// Where queues are notified.
    pub notify: Place,
    /// Bytes between two queues' places there.
    pub notify_stride: u32,
    /// The device type's own configuration.
    pub config: Place,
    /// Its interrupts.
    pub msix: Msix,
}

impl Device {
    /// The `nth` device of type `kind`; [`pci::find`] has to come first.
    ///
    /// # Errors
    /// Where there is none, or what every device has is missing.
    pub fn find(kind: Kind, nth: usize) -> Result<Self, Error> {
        let function = pci::functions()
            .filter(|function| {
                function.vendor() == VENDOR && function.device() == MODERN + kind as u16
            })
            .nth(nth)
            .ok_or(Error::Absent(kind))?;
        function.enable();
        let structure = |wanted: u8, name| {
            let (at, _) = function
                .capabilities()
                .find(|&(at, id)| {
                    id == CAPABILITY_VENDOR && (function.read(at) >> 24) as u8 == wanted
                })
                .ok_or(Error::NoCapability(name))?;
            let place = function.bar(function.read(at + 4) as u8);
            Ok((place.at(u64::from(function.read(at + 8))), at))
        };
        let (common, _) = structure(1, "the common configuration")?;
        let (notify, notify_at) = structure(2, "notifications")?;
        // An entropy source has no configuration of its own; nobody then asks for this place.
        let config = structure(4, "the device configuration").map_or(common, |(place, _)| place);
        Ok(Self {
            function,
            common,
            notify,
            notify_stride: function.read(notify_at + 16),
            config,
            msix: function.msix().ok_or(Error::NoCapability("MSI-X"))?,
        })
    }

    /// Device status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.common.at(common::DEVICE_STATUS).read_u8()
    }

    /// Sets it; 0 resets the device.
    pub fn set_status(&self, status: u8) {
        self.common.at(common::DEVICE_STATUS).write_u8(status);
    }

    /// The features that it offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        [0, 1].into_iter().fold(0, |all, half| {
            self.common
                .at(common::DEVICE_FEATURE_SELECT)
                .write_u32(half);
            all | u64::from(self.common.at(common::DEVICE_FEATURE).read_u32()) << (32 * half)
        })
    }

    /// Accepts `features`.
    pub fn set_features(&self, features: u64) {
        for half in [0, 1] {
            self.common
                .at(common::DRIVER_FEATURE_SELECT)
                .write_u32(half);
            self.common
                .at(common::DRIVER_FEATURE)
                .write_u32((features >> (32 * half)) as u32);
        }
    }

    /// Resets it and goes through its set-up until queues can be enabled, with those of the features `wanted` that it
    /// offers; returns them.
    ///
    /// # Errors
    /// Where it refuses the features.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, Error> {
        self.set_status(0);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = self.features() & (wanted | FEATURE_VERSION_1);
        self.set_features(features);
        let negotiated = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set_status(negotiated);
        match self.status() {
            now if now == negotiated => Ok(features),
            _ => Err(Error::Features),
        }
    }

    /// Sets queue `index` up with at most `limit` entries; `vector` is what it interrupts this vCPU with, if it is to.
    #[must_use]
    pub fn queue(&self, index: u16, limit: u16, vector: Option<u8>) -> Queue {
        let at = |register| self.common.at(register);
        at(common::QUEUE_SELECT).write_u16(index);
        let size = at(common::QUEUE_SIZE).read_u16().min(limit);
        at(common::QUEUE_SIZE).write_u16(size);
        if let Some(vector) = vector {
            self.msix.route(index, apic::id(), vector);
            self.msix.enable();
            at(common::QUEUE_MSIX_VECTOR).write_u16(index);
        }
        let offset = u64::from(at(common::QUEUE_NOTIFY_OFF).read_u16());
        let notify = self.notify.at(offset * u64::from(self.notify_stride));
        let queue = Queue::new(self.function, index, size, notify);
        at(common::QUEUE_DESC).write_u64(queue.descriptors());
        at(common::QUEUE_DRIVER).write_u64(queue.available());
        at(common::QUEUE_DEVICE).write_u64(queue.used());
        at(common::QUEUE_ENABLE).write_u16(1);
        queue
    }

    /// Ends the set-up.
    ///
    /// # Errors
    /// Where it is not ready then.
    pub fn start(&self) -> Result<(), Error> {
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.set_status(ready);
        match self.status() {
            now if now == ready => Ok(()),
            other => Err(Error::Status(other)),
        }
    }
}
