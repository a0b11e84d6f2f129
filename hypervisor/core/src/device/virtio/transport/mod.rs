//! What every virtio device on PCI has in common: negotiation, queue set-up, status, interrupts (Virtio 1.2, "Virtio
//! Over PCI Bus" and "Device Initialization").
//!
//! [`Transport`] owns a [`Model`] and its queues. Its registers lie in one memory window ([`region`]); notifications
//! come through ports. `common` has the registers of the common configuration.
//!
//! A driver that breaks a queue gets a device that needs a reset, and an interrupt that says so. Until then the model
//! sees nothing of it.

mod common;
pub mod region;

use alloc::vec::Vec;

use common::Selectors;

use super::{Effect, Features, Model, Queue, QueueError};
use crate::bus::Bus;
use crate::device::pci::msix::Msix;

/// The vector that means none (VIRTIO_MSI_NO_VECTOR).
const NO_VECTOR: u16 = 0xffff;
/// The most queues a device here has.
pub const MAX_QUEUES: usize = 4;

bitflags::bitflags! {
    /// The device status (Virtio 1.2, "Device Status Field").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u8 {
        /// The guest found the device.
        const ACKNOWLEDGE = 1;
        /// The guest has a driver for it.
        const DRIVER = 1 << 1;
        /// The driver is set up.
        const DRIVER_OK = 1 << 2;
        /// The features are settled, and the device agrees.
        const FEATURES_OK = 1 << 3;
        /// The device met an error that only a reset mends.
        const NEEDS_RESET = 1 << 6;
        /// The guest gave the device up.
        const FAILED = 1 << 7;
    }

    /// The interrupt status (Virtio 1.2, "ISR status capability").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Isr: u8 {
        const QUEUE = 1;
        const CONFIG = 1 << 1;
    }
}

/// What was counted since the VM started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Notifications that the driver sent.
    pub notifications: u64,
    /// Times that completed chains deserved an interrupt.
    pub interrupts: u64,
    /// Times that the driver broke a queue.
    pub failures: u64,
}

/// One virtio device behind its PCI function.
pub struct Transport {
    model: Model,
    offered: Features,
    /// What the driver accepted; settled once the status has [`Status::FEATURES_OK`].
    accepted: Features,
    status: Status,
    isr: Isr,
    selectors: Selectors,
    queues: Vec<Queue>,
    queue_vectors: [u16; MAX_QUEUES],
    config_vector: u16,
    msix: Msix,
    /// The function may reach memory.
    master: bool,
    counters: Counters,
}

impl Transport {
    /// `model` as no driver has met it.
    #[must_use]
    pub fn new(model: Model) -> Self {
        let device = model.device();
        let offered = Features::from_bits_retain(device.features()) & Features::DEVICE
            | Features::INDIRECT
            | Features::EVENT_INDEX
            | Features::VERSION_1;
        let queues: Vec<Queue> = device
            .queue_sizes()
            .iter()
            .take(MAX_QUEUES)
            .map(|size| Queue::new(*size))
            .collect();
        Self {
            offered,
            accepted: Features::empty(),
            status: Status::empty(),
            isr: Isr::empty(),
            selectors: Selectors::default(),
            queue_vectors: [NO_VECTOR; MAX_QUEUES],
            config_vector: NO_VECTOR,
            msix: Msix::new(queues.len() + 1),
            queues,
            model,
            master: false,
            counters: Counters::default(),
        }
    }

    /// The device.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// The device.
    pub const fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// How many queues it has.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The device status.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// What was counted since the VM started.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// As when the VM started: what the guest told the device, stored in it and did not take is forgotten.
    pub fn restart(&mut self) {
        self.reset();
        self.model.restart();
        self.msix = Msix::new(self.msix.count());
        self.master = false;
        self.counters = Counters::default();
    }

    /// The device no longer reaches memory.
    pub const fn disconnect(&mut self) {
        self.master = false;
    }

    /// The function's registers say: MSI-X is `enabled`, its vectors are `masked`, memory may be reached (`master`).
    pub fn set_control(&mut self, enabled: bool, masked: bool, master: bool, bus: &mut dyn Bus) {
        self.master = master;
        self.msix.set_control(enabled, masked, master, bus);
    }

    /// Reads the register window.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        match region::of(offset) {
            Some((region::Region::Common, offset)) => self.read_common(offset, size),
            Some((region::Region::Isr, 0)) => {
                let isr = core::mem::replace(&mut self.isr, Isr::empty());
                isr.bits().into()
            }
            Some((region::Region::Device, offset)) => {
                let mut bytes = [0; 8];
                if let Some(into) = bytes.get_mut(..usize::from(size)) {
                    self.model.device().read_config(offset, into);
                }
                u64::from_le_bytes(bytes)
            }
            Some((region::Region::VectorTable, offset)) => self.msix.read(offset.into(), size),
            Some((region::Region::Pending, offset)) => self.msix.read_pending(offset.into(), size),
            Some((region::Region::Isr, _)) | None => 0,
        }
    }

    /// Writes the register window.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, bus: &mut dyn Bus) {
        match region::of(offset) {
            Some((region::Region::Common, offset)) => self.write_common(offset, size, value, bus),
            Some((region::Region::Device, offset)) => {
                let bytes = value.to_le_bytes();
                if let Some(bytes) = bytes.get(..usize::from(size)) {
                    self.model.device_mut().write_config(offset, bytes);
                }
            }
            Some((region::Region::VectorTable, offset)) => {
                self.msix.write(offset.into(), size, value, bus);
            }
            Some((region::Region::Isr | region::Region::Pending, _)) | None => {}
        }
    }

    /// The driver notifies queue number `queue`.
    pub fn notify(&mut self, queue: usize, bus: &mut dyn Bus) -> Effect {
        self.counters.notifications = self.counters.notifications.saturating_add(1);
        if !self.queues.get(queue).is_some_and(Queue::is_enabled) {
            return Effect::Nothing;
        }
        self.serve(bus, |model, queues, bus| {
            model.device_mut().notify(queue, queues, bus)
        })
        .unwrap_or(Effect::Nothing)
    }

    /// Whether a queue's last pass ended with chains left.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.queues.iter().any(Queue::has_more)
    }

    /// Lets the model work on its queues for one pass and raises the interrupts that follow; `None` where the driver is
    /// not ready, or broke a queue.
    pub fn serve<T>(
        &mut self,
        bus: &mut dyn Bus,
        work: impl FnOnce(&mut Model, &mut [Queue], &mut dyn Bus) -> Result<T, QueueError>,
    ) -> Option<T> {
        self.begin_pass();
        let result = self.work(bus, work)?;
        self.interrupt(bus);
        Some(result)
    }

    /// Begins a pass over all queues.
    pub fn begin_pass(&mut self) {
        self.queues.iter_mut().for_each(Queue::grant);
    }

    /// As [`serve`](Self::serve), within the pass that the last one began, and without interrupts.
    pub fn work<T>(
        &mut self,
        bus: &mut dyn Bus,
        work: impl FnOnce(&mut Model, &mut [Queue], &mut dyn Bus) -> Result<T, QueueError>,
    ) -> Option<T> {
        if !self.is_live() {
            return None;
        }
        match work(&mut self.model, &mut self.queues, bus) {
            Ok(result) => Some(result),
            Err(error) => {
                self.fail(error, bus);
                None
            }
        }
    }

    /// Interrupts for what the queues completed.
    pub fn interrupt(&mut self, bus: &mut dyn Bus) {
        if !self.is_live() {
            return;
        }
        let mut broken = None;
        for (queue, vector) in self.queues.iter_mut().zip(self.queue_vectors) {
            match queue.should_interrupt(bus) {
                Ok(false) => continue,
                Ok(true) if self.msix.is_enabled() => self.msix.raise(vector, bus),
                Ok(true) => self.isr |= Isr::QUEUE,
                Err(error) => {
                    broken = Some(error);
                    continue;
                }
            }
            self.counters.interrupts = self.counters.interrupts.saturating_add(1);
        }
        if let Some(error) = broken {
            self.fail(error, bus);
        }
    }

    fn is_live(&self) -> bool {
        self.master
            && self.status.contains(Status::DRIVER_OK)
            && !self.status.contains(Status::NEEDS_RESET)
    }

    /// The driver broke a queue: the device needs a reset, and says so (Virtio 1.2, "Device Status Field").
    fn fail(&mut self, error: QueueError, bus: &mut dyn Bus) {
        // Once is enough for the log: a driver can do this as often as it likes.
        if self.counters.failures == 0 {
            log::warn!("virtio {:?}: {error}", self.model.device().kind());
        }
        self.counters.failures = self.counters.failures.saturating_add(1);
        self.status |= Status::NEEDS_RESET;
        if self.status.contains(Status::DRIVER_OK) {
            self.isr |= Isr::CONFIG;
            self.msix.raise(self.config_vector, bus);
        }
    }

    /// As no driver has met it; the vector table is the function's and stays.
    fn reset(&mut self) {
        self.model.device_mut().reset();
        self.queues.iter_mut().for_each(Queue::reset);
        self.queue_vectors = [NO_VECTOR; MAX_QUEUES];
        self.config_vector = NO_VECTOR;
        self.accepted = Features::empty();
        self.status = Status::empty();
        self.isr = Isr::empty();
        self.selectors = Selectors::default();
    }
}
