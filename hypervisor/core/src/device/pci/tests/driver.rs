//! A driver as an operating system has it: finds its device on the bus, agrees with it on features, sets queues up,
//! kicks, and takes interrupts.

use super::*;
use crate::bus::Signal;
use crate::device::virtio::testing::{Machine, Ring};

/// Where the rings of a device's queues are: each gets 1 MiB.
const RINGS: u64 = 0x10_0000;
const RING_SIZE: u16 = 16;

/// Status bits.
pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 0x40;

/// Fields of the common configuration.
pub(super) const STATUS: u64 = 0x14;
pub(super) const QUEUE_SELECT: u64 = 0x16;
pub(super) const QUEUE_SIZE: u64 = 0x18;
pub(super) const QUEUE_VECTOR: u64 = 0x1a;
pub(super) const QUEUE_ENABLE: u64 = 0x1c;

pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const INDIRECT: u64 = 1 << 28;

/// A VM with a bus.
pub(super) struct Guest {
    pub(super) machine: Machine,
    pub(super) bus: Bus,
}

impl Guest {
    pub(super) fn new(models: Vec<Model>) -> Self {
        Self {
            machine: Machine::new(0x80_0000),
            bus: Bus::new(models).unwrap(),
        }
    }

    pub(super) fn config_address(device: u8, at: u16) -> Gpa {
        Gpa(ECAM_BASE.0 + (u64::from(device) << 15) + u64::from(at))
    }

    pub(super) fn config(&mut self, device: u8, at: u16, size: u8) -> u32 {
        self.bus.read(Self::config_address(device, at), size) as u32
    }

    pub(super) fn set_config(&mut self, device: u8, at: u16, size: u8, value: u32) {
        let gpa = Self::config_address(device, at);
        let outcome = self.bus.write(gpa, size, value.into(), &mut self.machine);
        assert_eq!(outcome, Outcome::Nothing);
    }

    pub(super) fn read(&mut self, gpa: u64, size: u8) -> u64 {
        assert!(Bus::owns(Gpa(gpa)));
        self.bus.read(Gpa(gpa), size)
    }

    pub(super) fn write(&mut self, gpa: u64, size: u8, value: u64) {
        let outcome = self.bus.write(Gpa(gpa), size, value, &mut self.machine);
        assert_eq!(outcome, Outcome::Nothing);
    }

    pub(super) fn out(&mut self, port: u16, size: u8, value: u32) -> Outcome {
        assert!(Bus::owns_port(port));
        self.bus.write_port(port, size, value, &mut self.machine)
    }

    /// The capabilities of a device: where, and which.
    pub(super) fn capabilities(&mut self, device: u8) -> Vec<(u16, u8)> {
        let mut found = Vec::new();
        let mut at = self.config(device, 0x34, 1) as u16;
        while at != 0 {
            found.push((at, self.config(device, at, 1) as u8));
            at = self.config(device, at + 1, 1) as u16;
            assert!(found.len() < 20);
        }
        found
    }
}

/// What the driver knows about its device.
pub(super) struct Driver {
    pub(super) device: u8,
    pub(super) common: u64,
    pub(super) isr: u64,
    pub(super) own: u64,
    pub(super) vectors: u64,
    pub(super) pending: u64,
    pub(super) notify: u16,
    pub(super) stride: u16,
    pub(super) msix: u16,
    pub(super) window: u16,
    pub(super) rings: Vec<Ring>,
}

impl Driver {
    /// Finds the parts of `device` by its capabilities.
    pub(super) fn probe(guest: &mut Guest, device: u8) -> Self {
        let mut bars = [0; 2];
        for (n, bar) in (0..).zip(&mut bars) {
            *bar = guest.config(device, 0x10 + 4 * n, 4) & !0xf;
        }
        let mut driver = Self {
            device,
            common: 0,
            isr: 0,
            own: 0,
            vectors: 0,
            pending: 0,
            notify: 0,
            stride: 0,
            msix: 0,
            window: 0,
            rings: Vec::new(),
        };
        for (at, id) in guest.capabilities(device) {
            if id == 0x11 {
                driver.msix = at;
                let table = guest.config(device, at + 4, 4);
                let pending = guest.config(device, at + 8, 4);
                driver.vectors = u64::from(bars[(table & 7) as usize] + (table & !7));
                driver.pending = u64::from(bars[(pending & 7) as usize] + (pending & !7));
                continue;
            }
            assert_eq!(id, 9);
            let bar = bars[guest.config(device, at + 4, 1) as usize];
            let place = u64::from(bar + guest.config(device, at + 8, 4));
            match guest.config(device, at + 3, 1) {
                1 => driver.common = place,
                2 => {
                    driver.notify = place as u16;
                    driver.stride = guest.config(device, at + 16, 4) as u16;
                }
                3 => driver.isr = place,
                4 => driver.own = place,
                5 => driver.window = at,
                other => panic!("structure {other}"),
            }
        }
        driver
    }

    pub(super) fn common(&self, guest: &mut Guest, field: u64, size: u8) -> u64 {
        guest.read(self.common + field, size)
    }

    pub(super) fn set(&self, guest: &mut Guest, field: u64, size: u8, value: u64) {
        guest.write(self.common + field, size, value);
    }

    pub(super) fn status(&self, guest: &mut Guest) -> u8 {
        self.common(guest, STATUS, 1) as u8
    }

    pub(super) fn set_status(&self, guest: &mut Guest, status: u8) {
        self.set(guest, STATUS, 1, status.into());
    }

    pub(super) fn offered(&self, guest: &mut Guest) -> u64 {
        (0..2).fold(0, |features, half| {
            self.set(guest, 0, 4, half);
            features | self.common(guest, 4, 4) << (32 * half)
        })
    }

    pub(super) fn accept(&self, guest: &mut Guest, features: u64) {
        for half in 0..2 {
            self.set(guest, 8, 4, half);
            self.set(guest, 12, 4, features >> (32 * half) & 0xffff_ffff);
        }
    }

    /// Reset, acknowledge, and agree on `features`; whether the device agreed.
    pub(super) fn negotiate(&self, guest: &mut Guest, features: u64) -> bool {
        self.set_status(guest, 0);
        assert_eq!(self.status(guest), 0);
        self.set_status(guest, ACKNOWLEDGE);
        self.set_status(guest, ACKNOWLEDGE | DRIVER);
        self.accept(guest, features);
        self.set_status(guest, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.status(guest) & FEATURES_OK != 0
    }

    /// Points vector `vector` at vCPU `vcpu` and unmasks it.
    pub(super) fn set_vector(&self, guest: &mut Guest, vector: u64, vcpu: u64, number: u64) {
        let entry = self.vectors + 16 * vector;
        guest.write(entry, 4, 0xfee0_0000 | vcpu << 12);
        guest.write(entry + 4, 4, 0);
        guest.write(entry + 8, 4, number);
        guest.write(entry + 12, 4, 0);
    }

    pub(super) fn enable_msix(&self, guest: &mut Guest) {
        guest.set_config(self.device, self.msix + 2, 2, 0x8000);
    }

    pub(super) fn set_master(&self, guest: &mut Guest) {
        guest.set_config(self.device, 4, 2, 7);
    }

    /// Sets all queues up: queue n interrupts vCPU 0 with vector 0x41 + n, the configuration with 0x40.
    pub(super) fn set_up_queues(&mut self, guest: &mut Guest) {
        let base = RINGS + u64::from(self.device - 1) * 0x20_0000;
        let count = self.common(guest, 0x12, 2);
        self.rings.clear();
        self.set_vector(guest, 0, 0, 0x40);
        self.set(guest, 0x10, 2, 0);
        for n in 0..count {
            let ring = Ring::new(base + n * 0x10_0000, RING_SIZE);
            self.set(guest, QUEUE_SELECT, 2, n);
            self.set(guest, QUEUE_SIZE, 2, RING_SIZE.into());
            self.set_vector(guest, n + 1, 0, 0x41 + n);
            self.set(guest, QUEUE_VECTOR, 2, n + 1);
            assert_eq!(self.common(guest, QUEUE_VECTOR, 2), n + 1);
            for (field, value) in [
                (0x20, ring.descriptors),
                (0x28, ring.driver),
                (0x30, ring.device),
            ] {
                self.set(guest, field, 4, value & 0xffff_ffff);
                self.set(guest, field + 4, 4, value >> 32);
                guest.machine.put(value, &[0; 0x1000]);
            }
            self.set(guest, QUEUE_ENABLE, 2, 1);
            assert_eq!(self.common(guest, QUEUE_ENABLE, 2), 1);
            self.rings.push(ring);
        }
    }

    /// All that it takes to work with `device`.
    pub(super) fn start(guest: &mut Guest, device: u8) -> Self {
        let mut driver = Self::probe(guest, device);
        driver.restart(guest);
        driver
    }

    /// Brings the device up, whatever state it is in.
    pub(super) fn restart(&mut self, guest: &mut Guest) {
        self.set_master(guest);
        assert!(self.negotiate(guest, VERSION_1 | INDIRECT));
        self.enable_msix(guest);
        self.set_up_queues(guest);
        let ready = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        self.set_status(guest, ready);
        assert_eq!(self.status(guest), ready);
    }

    pub(super) fn kick(&self, guest: &mut Guest, queue: u16) -> Outcome {
        guest.out(self.notify + queue * self.stride, 2, queue.into())
    }

    /// Makes a chain available.
    pub(super) fn send(
        &mut self,
        guest: &mut Guest,
        queue: usize,
        readable: &[&[u8]],
        writable: &[usize],
    ) -> Vec<u64> {
        let (_, at) = self.rings[queue].send(&mut guest.machine, readable, writable);
        at
    }

    /// Bytes written to the next completed chain of a queue.
    pub(super) fn used(&mut self, guest: &Guest, queue: usize) -> Option<u32> {
        self.rings[queue]
            .used(&guest.machine)
            .map(|(_, bytes)| bytes)
    }
}

/// An interrupt with `vector`.
pub(super) fn interrupt(vector: u8) -> Signal {
    Signal::Interrupt {
        vector,
        trigger: crate::apic::Trigger::Edge,
    }
}
