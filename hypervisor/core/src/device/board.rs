//! The devices of one VM and where they answer: ports, windows in memory space, interrupt lines.
//!
//! [`Devices`] belongs to the whole VM. A vCPU's exit brings an access here; what a device wants of memory and vCPUs goes
//! through the [`Bus`] that comes along.

use super::ioapic::{Interrupt, IoApic, PinDelivery};
use super::power::{PowerAction, PowerBlock};
use super::uart16550::Uart16550;
use crate::addr::Gpa;
use crate::bus::{Bus, Signal, Signals};
use crate::platform;

/// What a device access asks for beyond its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum PortOutcome {
    /// Nothing.
    Nothing,
    /// So much console output waits that it should be taken before the next regular look.
    ConsoleOutput,
    /// This network card has frames to send.
    Transmit(u8),
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
}

/// Console bytes worth an exchange of their own; fewer wait for the next regular one.
const DRAIN_BYTES: usize = 128;

/// The devices of one VM.
pub struct Devices {
    uart: Uart16550,
    ioapic: IoApic,
    power: PowerBlock,
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

impl Devices {
    /// The devices after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            uart: Uart16550::new(),
            ioapic: IoApic::new(),
            power: PowerBlock::new(),
        }
    }

    /// IN of `size` bytes from `port` at host TSC `now`: ports nobody claims read as all ones.
    #[inline(always)]
    pub fn read_port(
        &mut self,
        port: u16,
        size: u8,
        _now: u64,
        bus: &mut impl Bus,
    ) -> (u32, PortOutcome) {
        if size == 1
            && let Some(register) = uart_register(port)
        {
            let value = self.uart.read(register);
            return (value.into(), self.after_uart(bus));
        }
        self.read_wide(port, size, bus)
    }

    /// Byte by byte, as a PC bus splits accesses to 8-bit devices.
    fn read_wide(&mut self, port: u16, size: u8, bus: &mut impl Bus) -> (u32, PortOutcome) {
        let mut bytes = [0xff; 4];
        let mut outcome = PortOutcome::Nothing;
        for (byte, index) in bytes.iter_mut().zip(0..u16::from(size)) {
            let port = port.wrapping_add(index);
            if let Some(register) = uart_register(port) {
                *byte = self.uart.read(register);
                outcome = self.after_uart(bus);
            } else if PowerBlock::owns(port) {
                *byte = self.power.read(port);
            }
        }
        (u32::from_le_bytes(bytes), outcome)
    }

    /// OUT of the low `size` bytes of `value` to `port` at host TSC `now`: ports nobody claims swallow it.
    #[inline(always)]
    pub fn write_port(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        _now: u64,
        bus: &mut impl Bus,
    ) -> PortOutcome {
        if size == 1
            && let Some(register) = uart_register(port)
        {
            self.uart.write(register, value as u8);
            return self.after_uart(bus);
        }
        self.write_wide(port, size, value, bus)
    }

    fn write_wide(&mut self, port: u16, size: u8, value: u32, bus: &mut impl Bus) -> PortOutcome {
        let mut outcome = PortOutcome::Nothing;
        for (byte, index) in value.to_le_bytes().into_iter().zip(0..u16::from(size)) {
            let port = port.wrapping_add(index);
            if let Some(register) = uart_register(port) {
                self.uart.write(register, byte);
                outcome = self.after_uart(bus);
            } else if PowerBlock::owns(port) {
                match self.power.write(port, byte) {
                    PowerAction::None => {}
                    PowerAction::Off => return PortOutcome::PowerOff,
                    PowerAction::Reset => return PortOutcome::Reset,
                }
            }
        }
        outcome
    }

    /// The console UART was touched: its line or its output may have changed.
    #[inline(always)]
    fn after_uart(&mut self, bus: &mut impl Signals) -> PortOutcome {
        self.route_interrupts(bus);
        if self.uart.output_len() >= DRAIN_BYTES {
            PortOutcome::ConsoleOutput
        } else {
            PortOutcome::Nothing
        }
    }

    /// Whether a device answers at `gpa`.
    #[must_use]
    pub fn owns(&self, gpa: Gpa) -> bool {
        in_ioapic(gpa)
    }

    /// A read of `size` bytes of a device register in memory space.
    #[must_use]
    pub fn read_register(&mut self, gpa: Gpa, _size: u8) -> u64 {
        self.ioapic
            .read(gpa.0.wrapping_sub(platform::IOAPIC_BASE.0))
            .into()
    }

    /// A write of `size` bytes to a device register in memory space.
    pub fn write_register(
        &mut self,
        gpa: Gpa,
        _size: u8,
        value: u64,
        bus: &mut impl Bus,
    ) -> PortOutcome {
        let offset = gpa.0.wrapping_sub(platform::IOAPIC_BASE.0);
        self.ioapic.write(offset, value as u32, &mut |interrupt| {
            deliver(interrupt, bus);
        });
        PortOutcome::Nothing
    }

    /// A level-triggered interrupt ended: lines still asserted interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8, bus: &mut impl Signals) {
        self.ioapic
            .eoi(vector, &mut |interrupt| deliver(interrupt, bus));
    }

    /// Carries interrupt lines to the local APICs.
    #[inline]
    pub fn route_interrupts(&mut self, bus: &mut impl Signals) {
        let line = self.uart.irq_level();
        if let Some(interrupt) = self.ioapic.set_line(platform::COM1_GSI, line) {
            deliver(interrupt, bus);
        }
    }

    /// Whether a device's interrupt line would arrive as an NMI at one of the first `vcpus` vCPUs.
    #[must_use]
    pub fn can_send_nmi(&self, vcpus: u32) -> bool {
        self.ioapic
            .nmi_destination(platform::COM1_GSI)
            .is_some_and(|destination| (0..vcpus).any(|id| destination.selects(id, NOBODY)))
    }

    /// Takes console bytes that the guest wrote and says how many.
    #[must_use]
    pub fn take_output(&mut self, into: &mut [u8]) -> usize {
        self.uart.take_output(into)
    }

    /// Offers the guest a typed byte; false where its receiver is full. [`Devices::route_interrupts`] tells the guest.
    #[must_use]
    pub fn push_input(&mut self, byte: u8) -> bool {
        self.uart.push_input(&[byte]) == 1
    }
}

/// The identifier of a sender that is no vCPU.
const NOBODY: u32 = u32::MAX - 1;

const fn in_ioapic(gpa: Gpa) -> bool {
    gpa.0.wrapping_sub(platform::IOAPIC_BASE.0) < platform::IOAPIC_SIZE
}

/// The console UART's register at `port`.
#[inline(always)]
const fn uart_register(port: u16) -> Option<u16> {
    let register = port.wrapping_sub(platform::COM1_BASE);
    if register < platform::COM1_PORTS {
        Some(register)
    } else {
        None
    }
}

/// Delivers an I/O APIC interrupt to each vCPU that its destination selects, or to the first of them.
fn deliver(interrupt: Interrupt, bus: &mut impl Signals) {
    let (signal, one) = match interrupt.delivery {
        PinDelivery::Nmi => (Signal::Nmi, false),
        delivery => (
            Signal::Interrupt {
                vector: interrupt.vector,
                trigger: interrupt.trigger,
            },
            delivery == PinDelivery::LowestPriority,
        ),
    };
    for id in 0..bus.vcpus() {
        if interrupt.destination.selects(id, NOBODY) {
            bus.signal(id, signal);
            if one {
                return;
            }
        }
    }
}
