//! The VM's PCI bus: a host bridge, and behind it one function for each virtio device, then the real ones it was given.
//!
//! [`Bus`] answers the enhanced configuration window, the two configuration ports, and where the guest's base addresses
//! put a [`Function`]'s registers and notification ports. `config` is a function's configuration space, `layout` what a
//! virtio function's says, [`msix`] its interrupts. The device models are in [`crate::device::virtio`]. A real function
//! is a [`Passed`].
//!
//! A base address decodes only within its window of the [platform](crate::platform): moved elsewhere it is kept, and
//! reaches nothing. What nobody decodes reads as all ones. Where two overlap, the lower function answers.

pub(crate) mod config;
mod devices;
mod function;
mod layout;
pub mod msix;
mod passed;

pub use function::Function;
pub use passed::Passed;

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use config::{Command, ConfigSpace};

use super::virtio::Model;
use super::virtio::transport::Transport;
use crate::addr::Gpa;
use crate::bus;
use crate::platform::{
    DEVICE_MMIO_BASE, DEVICE_MMIO_SIZE, ECAM_BASE, ECAM_SIZE, PCI_CONFIG_ADDRESS_PORT,
    PCI_CONFIG_DATA_PORT, PCI_IO_BASE, PCI_IO_PORTS, PCI_MMIO_BASE, PCI_MMIO_SIZE,
};

/// The most devices behind the bridge.
pub const MAX_DEVICES: usize = 31;

/// What an access asks of the VM's surroundings beyond its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// Nothing.
    Nothing,
    /// This network card has frames to send: [`Bus::transmit`] them, then [`Bus::transmit_done`].
    Transmit(u8),
    /// The console has output: [`Bus::take_output`].
    ConsoleOutput,
    /// The guest gave its device more than one exit may take. The instruction is to be carried out again (it notifies,
    /// and that can be said twice), so that everybody else has a turn in between.
    Again,
}

/// What a network card gave when it was asked for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Transmission {
    /// A frame of so many bytes.
    Frame(usize),
    /// It has none.
    Nothing,
    /// Enough since the last [`Bus::transmit_done`]. It may have more, which are to be taken when others had their turn.
    Enough,
}

/// More devices than the bus has places for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyDevices(pub usize);

impl fmt::Display for TooManyDevices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count) = self;
        write!(
            f,
            "a VM's PCI bus has room for {MAX_DEVICES} devices, and {count} are asked for: remove disks, network cards or devices"
        )
    }
}

impl core::error::Error for TooManyDevices {}

/// One VM's PCI bus.
pub struct Bus {
    bridge: ConfigSpace,
    /// The function of device number n + 1.
    functions: Vec<Function>,
    /// The real functions, of the device numbers that follow.
    passed: Vec<Passed>,
    /// Where those decode above RAM.
    high: Option<Range<Gpa>>,
    /// The configuration address port.
    address: u32,
}

impl Bus {
    /// A bus with `models` as device 1, 2, and so on, set up as firmware would.
    ///
    /// # Errors
    /// [`TooManyDevices`].
    pub fn new(models: Vec<Model>) -> Result<Self, TooManyDevices> {
        if models.len() > MAX_DEVICES {
            return Err(TooManyDevices(models.len()));
        }
        let mut nics = 0;
        let functions = (1..)
            .zip(models)
            .map(|(device, model)| {
                let nic = nics;
                nics += u8::from(model.is_nic());
                Function::new(model, device, nic)
            })
            .collect();
        Ok(Self {
            bridge: bridge(),
            functions,
            passed: Vec::new(),
            high: None,
            address: 0,
        })
    }

    /// Adds real functions as the next devices; `high` is where they decode above RAM.
    ///
    /// # Errors
    /// [`TooManyDevices`].
    pub fn give(
        &mut self,
        passed: Vec<Passed>,
        high: Option<Range<Gpa>>,
    ) -> Result<(), TooManyDevices> {
        let count = self.functions.len() + self.passed.len() + passed.len();
        if count > MAX_DEVICES {
            return Err(TooManyDevices(count));
        }
        self.passed.extend(passed);
        self.high = high;
        Ok(())
    }

    /// The VM starts anew: every function is as firmware leaves it, and every device has forgotten its last life.
    pub fn restart(&mut self) {
        self.functions.iter_mut().for_each(Function::restart);
        self.passed.iter_mut().for_each(Passed::restart);
        self.address = 0;
    }

    /// Keeps every device from the VM's memory until [`restart`](Self::restart).
    pub fn disconnect(&mut self) {
        self.devices_mut().for_each(Transport::disconnect);
        self.passed.iter_mut().for_each(Passed::disconnect);
    }

    /// Whether an access to `gpa` is for [`read`](Self::read) and [`write`](Self::write) because this bus has real
    /// functions.
    #[must_use]
    pub fn reaches(&self, gpa: Gpa) -> bool {
        let low = gpa.0.wrapping_sub(DEVICE_MMIO_BASE.0) < DEVICE_MMIO_SIZE;
        let high = || self.high.as_ref().is_some_and(|range| range.contains(&gpa));
        !self.passed.is_empty() && (low || high())
    }

    /// Whether an access to `gpa` is for [`read`](Self::read) and [`write`](Self::write).
    #[must_use]
    pub const fn owns(gpa: Gpa) -> bool {
        ecam_offset(gpa).is_some() || gpa.0.wrapping_sub(PCI_MMIO_BASE.0) < PCI_MMIO_SIZE
    }

    /// Whether `port` is for [`read_port`](Self::read_port) and [`write_port`](Self::write_port).
    #[must_use]
    #[inline]
    pub const fn owns_port(port: u16) -> bool {
        port.wrapping_sub(PCI_IO_BASE) < PCI_IO_PORTS
            || port.wrapping_sub(PCI_CONFIG_ADDRESS_PORT) < 8
    }

    /// A read of `size` bytes (1, 2, 4 or 8) in memory space.
    #[must_use]
    pub fn read(&mut self, gpa: Gpa, size: u8) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        if let Some(offset) = ecam_offset(gpa) {
            return match ConfigAccess::ecam(offset, size) {
                Some(access) => self.read_config(access).into(),
                None => ones,
            };
        }
        if let Some((function, offset)) = self.decode(gpa) {
            return function.transport_mut().read(offset, size) & ones;
        }
        let mut passed = self.passed.iter_mut();
        passed
            .find_map(|function| function.read(gpa, size))
            .unwrap_or(ones)
    }

    /// A write of `size` bytes (1, 2, 4 or 8) in memory space.
    pub fn write(&mut self, gpa: Gpa, size: u8, value: u64, bus: &mut dyn bus::Bus) -> Outcome {
        if let Some(offset) = ecam_offset(gpa) {
            return match ConfigAccess::ecam(offset, size) {
                Some(access) => self.write_config(access, value as u32, bus),
                None => Outcome::Nothing,
            };
        }
        if let Some((function, offset)) = self.decode(gpa) {
            function.transport_mut().write(offset, size, value, bus);
        } else {
            let mut passed = self.passed.iter_mut();
            let _ = passed.any(|function| function.write(gpa, size, value));
        }
        Outcome::Nothing
    }

    /// IN of `size` bytes (1, 2 or 4).
    #[must_use]
    pub fn read_port(&mut self, port: u16, size: u8) -> u32 {
        let ones = u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)));
        match (port, size) {
            (PCI_CONFIG_ADDRESS_PORT, 4) => self.address,
            _ => match ConfigAccess::port(self.address, port, size) {
                Some(access) => self.read_config(access),
                None => ones,
            },
        }
    }

    /// OUT of `size` bytes (1, 2 or 4).
    #[inline]
    pub fn write_port(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        bus: &mut dyn bus::Bus,
    ) -> Outcome {
        if port.wrapping_sub(PCI_IO_BASE) < PCI_IO_PORTS {
            return self.notify(port, bus);
        }
        match (port, size) {
            (PCI_CONFIG_ADDRESS_PORT, 4) => {
                self.address = value & ADDRESS_BITS;
                Outcome::Nothing
            }
            _ => match ConfigAccess::port(self.address, port, size) {
                Some(access) => self.write_config(access, value, bus),
                None => Outcome::Nothing,
            },
        }
    }

    #[inline]
    fn notify(&mut self, port: u16, bus: &mut dyn bus::Bus) -> Outcome {
        for function in &mut self.functions {
            if let Some(offset) = function.port_offset(port) {
                return function.write_port(offset, bus);
            }
        }
        Outcome::Nothing
    }

    /// The function whose register window `gpa` is in, and where.
    fn decode(&mut self, gpa: Gpa) -> Option<(&mut Function, u64)> {
        self.functions.iter_mut().find_map(|function| {
            let offset = function.window_offset(gpa.0)?;
            Some((function, offset))
        })
    }

    fn read_config(&mut self, access: ConfigAccess) -> u32 {
        let ConfigAccess { device, at, size } = access;
        match device.checked_sub(1) {
            None => self.bridge.read(at, size),
            Some(index) => match self.at(index) {
                Some(Place::Emulated(function)) => function.read_config(at, size),
                Some(Place::Passed(function)) => function.read_config(at, size),
                None => u32::MAX >> (32 - 8 * u32::from(size)),
            },
        }
    }

    fn write_config(
        &mut self,
        access: ConfigAccess,
        value: u32,
        bus: &mut dyn bus::Bus,
    ) -> Outcome {
        let ConfigAccess { device, at, size } = access;
        match device.checked_sub(1) {
            None => self.bridge.write(at, size, value),
            Some(index) => match self.at(index) {
                Some(Place::Emulated(function)) => {
                    return function.write_config(at, size, value, bus);
                }
                Some(Place::Passed(function)) => return function.write_config(at, size, value),
                None => {}
            },
        }
        Outcome::Nothing
    }

    /// The function of device number `index` + 1.
    fn at(&mut self, index: u8) -> Option<Place<'_>> {
        let index = usize::from(index);
        match index.checked_sub(self.functions.len()) {
            None => self.functions.get_mut(index).map(Place::Emulated),
            Some(index) => self.passed.get_mut(index).map(Place::Passed),
        }
    }

    /// The devices, in their order.
    pub fn devices(&self) -> impl Iterator<Item = &Transport> {
        self.functions.iter().map(Function::transport)
    }

    fn devices_mut(&mut self) -> impl Iterator<Item = &mut Transport> {
        self.functions.iter_mut().map(Function::transport_mut)
    }
}

/// What is at a place of the bus.
enum Place<'a> {
    Emulated(&'a mut Function),
    Passed(&'a mut Passed),
}

/// Bits of the configuration address port that can be set: enable, bus, device, function, register.
const ADDRESS_BITS: u32 = 0x80ff_fffc;

const fn ecam_offset(gpa: Gpa) -> Option<u64> {
    let offset = gpa.0.wrapping_sub(ECAM_BASE.0);
    if offset < ECAM_SIZE {
        Some(offset)
    } else {
        None
    }
}

/// An access to the configuration space of a device of bus 0; devices here have one function.
#[derive(Clone, Copy)]
struct ConfigAccess {
    device: u8,
    at: u16,
    /// 1, 2 or 4; the access stays within four aligned bytes.
    size: u8,
}

impl ConfigAccess {
    /// An access at `offset` into the window of bus 0; `None` where it names nothing that exists.
    fn ecam(offset: u64, size: u8) -> Option<Self> {
        let function = offset >> 12 & 7;
        let device = (offset >> 15) as u8 & 31;
        Self::new(device, function as u8, offset as u16 & 0xfff, size)
    }

    /// An access to `port` while the configuration address port holds `address`.
    fn port(address: u32, port: u16, size: u8) -> Option<Self> {
        const ENABLE: u32 = 1 << 31;
        let byte = port
            .checked_sub(PCI_CONFIG_DATA_PORT)
            .filter(|byte| *byte < 4)?;
        let other_bus = address >> 16 & 0xff != 0;
        if address & ENABLE == 0 || other_bus {
            return None;
        }
        let device = (address >> 11) as u8 & 31;
        let function = (address >> 8) as u8 & 7;
        Self::new(device, function, address as u16 & 0xfc | byte, size)
    }

    fn new(device: u8, function: u8, at: u16, size: u8) -> Option<Self> {
        let within = matches!(size, 1 | 2 | 4) && at % 4 + u16::from(size) <= 4;
        (within && function == 0).then_some(Self { device, at, size })
    }
}

/// The host bridge: there to be found, with nothing to set.
fn bridge() -> ConfigSpace {
    // The generic host bridge that virtual machines use: no system has special treatment for it.
    const VENDOR: u16 = 0x1b36;
    const DEVICE: u16 = 0x0008;
    const CLASS: u32 = 0x06_0000;
    let mut bridge = ConfigSpace::new(VENDOR, DEVICE, CLASS, 0);
    let enabled = Command::IO | Command::MEMORY | Command::MASTER;
    bridge.put(config::register::COMMAND, &enabled.bits().to_le_bytes());
    bridge.allow(config::register::COMMAND, &[0; 2]);
    bridge
}

#[cfg(test)]
mod tests;
