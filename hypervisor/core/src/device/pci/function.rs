//! One function of the bus: its configuration space, what that makes it decode, and the virtio device behind it
//! (Virtio 1.2, "PCI Device Layout").

use super::config::{Command, ConfigSpace, register};
use super::{Outcome, layout};
use crate::bus::Bus;
use crate::device::virtio::transport::{Transport, region};
use crate::device::virtio::{DeviceKind, Effect, Model};
use crate::platform::{PCI_IO_BASE, PCI_IO_PORTS, PCI_MMIO_BASE, PCI_MMIO_SIZE};

/// A virtio device as a PCI function.
pub struct Function {
    config: ConfigSpace,
    transport: Transport,
    /// Where the register window answers, if it does.
    memory: Option<u64>,
    /// Where the notification ports answer, if they do.
    ports: Option<u16>,
    /// Its number on the bus.
    device: u8,
    /// Which network card of the bus it is, for those that are.
    nic: u8,
}

impl Function {
    /// Function `device` of the bus, with `model` behind it, as firmware leaves it. `nic` counts network cards.
    #[must_use]
    pub fn new(model: Model, device: u8, nic: u8) -> Self {
        let transport = Transport::new(model);
        let mut function = Self {
            config: firmware_config(&transport, device),
            transport,
            memory: None,
            ports: None,
            device,
            nic,
        };
        function.decode();
        function
    }

    /// As when the VM started.
    pub fn restart(&mut self) {
        self.transport.restart();
        self.config = firmware_config(&self.transport, self.device);
        self.decode();
    }

    /// The device behind it.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The device behind it.
    pub const fn transport_mut(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Where in the register window `gpa` is, if it is.
    #[must_use]
    pub fn window_offset(&self, gpa: u64) -> Option<u64> {
        let offset = gpa.checked_sub(self.memory?)?;
        (offset < region::WINDOW_BYTES.into()).then_some(offset)
    }

    /// Which of the notification ports `port` is, if it is one.
    #[must_use]
    #[inline]
    pub fn port_offset(&self, port: u16) -> Option<u16> {
        let offset = port.checked_sub(self.ports?)?;
        (offset < region::NOTIFY_PORTS).then_some(offset)
    }

    /// A write to one of the notification ports. The port says which queue; what is written says it once more.
    #[inline]
    pub fn write_port(&mut self, offset: u16, bus: &mut dyn Bus) -> Outcome {
        if !offset.is_multiple_of(region::NOTIFY_STRIDE) {
            return Outcome::Nothing;
        }
        let queue = offset / region::NOTIFY_STRIDE;
        match self.transport.notify(queue.into(), bus) {
            Effect::Transmit => Outcome::Transmit(self.nic),
            Effect::ConsoleOutput => Outcome::ConsoleOutput,
            Effect::Nothing if self.transport.has_more() => Outcome::Again,
            Effect::Nothing => Outcome::Nothing,
        }
    }

    /// Reads configuration space.
    pub fn read_config(&mut self, at: u16, size: u8) -> u32 {
        if let Some(access) = self.window_access(at, size) {
            return match access.bar {
                layout::MEMORY_BAR => self.transport.read(access.offset.into(), size) as u32,
                _ => u32::MAX,
            };
        }
        self.config.read(at, size)
    }

    /// Writes configuration space, which can be all sorts of things.
    pub fn write_config(&mut self, at: u16, size: u8, value: u32, bus: &mut dyn Bus) -> Outcome {
        if let Some(access) = self.window_access(at, size) {
            return self.write_through(access, size, value, bus);
        }
        self.config.write(at, size, value);
        self.decode();
        let control = self.config.u16(layout::MSIX_CONTROL);
        self.transport.set_control(
            control & layout::MSIX_ENABLE != 0,
            control & layout::MSIX_MASK_ALL != 0,
            self.command().contains(Command::MASTER),
            bus,
        );
        Outcome::Nothing
    }

    fn write_through(
        &mut self,
        access: WindowAccess,
        size: u8,
        value: u32,
        bus: &mut dyn Bus,
    ) -> Outcome {
        match access.bar {
            layout::MEMORY_BAR => {
                let offset = access.offset.into();
                self.transport.write(offset, size, value.into(), bus);
                Outcome::Nothing
            }
            layout::PORT_BAR => self.write_port(access.offset as u16, bus),
            _ => Outcome::Nothing,
        }
    }

    /// What an access to the window in configuration space is an access to; `None` where it is to something else.
    fn window_access(&self, at: u16, size: u8) -> Option<WindowAccess> {
        if at != u16::from(layout::WINDOW_DATA) {
            return None;
        }
        let bar = self.config.read(layout::WINDOW_BAR.into(), 1) as u8;
        let offset = self.config.u32(layout::WINDOW_OFFSET);
        let length = self.config.u32(layout::WINDOW_LENGTH);
        let bytes = match bar {
            layout::MEMORY_BAR => region::WINDOW_BYTES,
            layout::PORT_BAR => region::NOTIFY_PORTS.into(),
            _ => 0,
        };
        let size = u32::from(size);
        let inside = offset.checked_add(size).is_some_and(|end| end <= bytes);
        // A window that is set up wrongly is none: its data register is then as dead as the rest of it.
        let right = inside && length == size && offset.is_multiple_of(size);
        right.then_some(WindowAccess { bar, offset })
    }

    fn command(&self) -> Command {
        Command::from_bits_truncate(self.config.u16(register::COMMAND))
    }

    /// Works out where the base addresses decode: within their windows, while the command register lets them.
    fn decode(&mut self) {
        let command = self.command();
        let memory = u64::from(self.config.u32(register::BAR0) & layout::MEMORY_BAR_MASK);
        let fits = memory
            .checked_sub(PCI_MMIO_BASE.0)
            .is_some_and(|offset| offset <= PCI_MMIO_SIZE - u64::from(region::WINDOW_BYTES));
        self.memory = (command.contains(Command::MEMORY) && fits).then_some(memory);
        let ports = self.config.u32(register::BAR1) & layout::PORT_BAR_MASK;
        let fits = ports
            .checked_sub(PCI_IO_BASE.into())
            .is_some_and(|offset| offset <= u32::from(PCI_IO_PORTS - region::NOTIFY_PORTS));
        self.ports = (command.contains(Command::IO) && fits).then_some(ports as u16);
    }
}

/// An access through the window in configuration space.
#[derive(Clone, Copy)]
struct WindowAccess {
    bar: u8,
    offset: u32,
}

/// The configuration space of `device` as firmware leaves it: addresses of its own, which decode.
fn firmware_config(transport: &Transport, device: u8) -> ConfigSpace {
    let mut config = identity(transport.model().device().kind());
    layout::add_capabilities(&mut config, transport.queue_count());
    let slot = u32::from(device).saturating_sub(1);
    let memory = PCI_MMIO_BASE.0 as u32 + slot * region::WINDOW_BYTES;
    let ports = u32::from(PCI_IO_BASE) + slot * u32::from(region::NOTIFY_PORTS);
    layout::add_bars(&mut config, memory, ports);
    let enabled = Command::IO | Command::MEMORY;
    config.put(register::COMMAND, &enabled.bits().to_le_bytes());
    config
}

/// What the function says it is (Virtio 1.2, "PCI Device Discovery").
fn identity(kind: DeviceKind) -> ConfigSpace {
    const VENDOR: u16 = 0x1af4;
    const DEVICE_BASE: u16 = 0x1040;
    /// A modern device that no legacy driver can take for its own.
    const REVISION: u8 = 1;
    const SUBSYSTEM: u16 = 0x40;
    let (number, class) = match kind {
        DeviceKind::Net => (1, 0x02_0000),
        DeviceKind::Block => (2, 0x01_8000),
        DeviceKind::Console => (3, 0x07_8000),
        DeviceKind::Entropy => (4, 0xff_0000),
    };
    let mut config = ConfigSpace::new(VENDOR, DEVICE_BASE + number, class, REVISION);
    config.put(register::SUBSYSTEM, &VENDOR.to_le_bytes());
    config.put(register::SUBSYSTEM + 2, &SUBSYSTEM.to_le_bytes());
    config
}
