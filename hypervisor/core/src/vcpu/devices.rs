//! The devices of one VM and where they answer: ports, the I/O APIC's window, interrupt lines.

use crate::addr::Gpa;
use crate::apic::LocalApic;
use crate::device::ioapic::{Interrupt, IoApic, PinDelivery};
use crate::device::power::{PowerAction, PowerBlock};
use crate::device::uart16550::Uart16550;
use crate::platform;

/// What a port access asks for beyond its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum PortOutcome {
    /// Nothing.
    Nothing,
    /// The console UART was touched: its line or its output may have changed.
    Uart,
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
    /// A non-maskable interrupt that the I/O APIC delivered, for the vCPU to pick up.
    nmi: bool,
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
            nmi: false,
        }
    }

    /// IN of `size` bytes from `port`: ports nobody claims read as all ones.
    #[inline(always)]
    pub(super) fn read_port(&mut self, port: u16, size: u8) -> (u32, PortOutcome) {
        if size == 1 && uart_register(port).is_some() {
            return (
                self.uart.read(port - platform::COM1_BASE).into(),
                PortOutcome::Uart,
            );
        }
        self.read_wide(port, size)
    }

    /// Byte by byte, as a PC bus splits accesses to 8-bit devices.
    fn read_wide(&mut self, port: u16, size: u8) -> (u32, PortOutcome) {
        let mut bytes = [0xff; 4];
        let mut outcome = PortOutcome::Nothing;
        for (byte, index) in bytes.iter_mut().zip(0..u16::from(size)) {
            let port = port.wrapping_add(index);
            if let Some(register) = uart_register(port) {
                *byte = self.uart.read(register);
                outcome = PortOutcome::Uart;
            } else if PowerBlock::owns(port) {
                *byte = self.power.read(port);
            }
        }
        (u32::from_le_bytes(bytes), outcome)
    }

    /// OUT of the low `size` bytes of `value` to `port`: ports nobody claims swallow it.
    #[inline(always)]
    pub(super) fn write_port(&mut self, port: u16, size: u8, value: u32) -> PortOutcome {
        if size == 1 && uart_register(port).is_some() {
            self.uart.write(port - platform::COM1_BASE, value as u8);
            return PortOutcome::Uart;
        }
        self.write_wide(port, size, value)
    }

    fn write_wide(&mut self, port: u16, size: u8, value: u32) -> PortOutcome {
        let mut outcome = PortOutcome::Nothing;
        for (byte, index) in value.to_le_bytes().into_iter().zip(0..u16::from(size)) {
            let port = port.wrapping_add(index);
            if let Some(register) = uart_register(port) {
                self.uart.write(register, byte);
                outcome = PortOutcome::Uart;
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

    /// Whether a device answers at `gpa`.
    #[must_use]
    pub fn owns(gpa: Gpa) -> bool {
        gpa.0.wrapping_sub(platform::IOAPIC_BASE.0) < platform::IOAPIC_SIZE
    }

    /// A read of a device register in memory space.
    #[must_use]
    pub fn read_register(&self, gpa: Gpa) -> u32 {
        self.ioapic
            .read(gpa.0.wrapping_sub(platform::IOAPIC_BASE.0))
    }

    /// A write to a device register in memory space.
    pub fn write_register(&mut self, gpa: Gpa, value: u32, apic: &mut LocalApic) {
        let nmi = &mut self.nmi;
        let offset = gpa.0.wrapping_sub(platform::IOAPIC_BASE.0);
        self.ioapic.write(offset, value, &mut |interrupt| {
            deliver(interrupt, apic, nmi)
        });
    }

    /// A level-triggered interrupt ended: lines still asserted interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8, apic: &mut LocalApic) {
        let nmi = &mut self.nmi;
        self.ioapic
            .eoi(vector, &mut |interrupt| deliver(interrupt, apic, nmi));
    }

    /// Carries interrupt lines to the local APIC; true where something is pending now.
    #[inline]
    pub fn route_interrupts(&mut self, apic: &mut LocalApic) -> bool {
        match self
            .ioapic
            .set_line(platform::COM1_GSI, self.uart.irq_level())
        {
            Some(interrupt) => {
                deliver(interrupt, apic, &mut self.nmi);
                true
            }
            None => false,
        }
    }

    /// Takes the NMI that the I/O APIC delivered, if it did.
    pub fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }

    /// Whether a device's interrupt would arrive as an NMI at the vCPU with this local APIC.
    #[must_use]
    pub fn can_send_nmi(&self, apic: &LocalApic) -> bool {
        self.ioapic
            .nmi_destination(platform::COM1_GSI)
            .is_some_and(|destination| destination.selects(apic.id(), apic.id()))
    }

    /// Whether so many console bytes wait that they should be taken before the next look at the console is due.
    #[inline]
    #[must_use]
    pub const fn wants_draining(&self) -> bool {
        self.uart.output_len() >= DRAIN_BYTES
    }

    /// Takes console bytes that the guest wrote and says how many.
    #[must_use]
    pub fn take_output(&mut self, into: &mut [u8]) -> usize {
        self.uart.take_output(into)
    }

    /// Offers the guest a typed byte; false where its receiver is full.
    #[must_use]
    pub fn push_input(&mut self, byte: u8) -> bool {
        self.uart.push_input(&[byte]) == 1
    }
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

/// Delivers an I/O APIC interrupt in a VM with one vCPU: it is for that one or for nobody.
fn deliver(interrupt: Interrupt, apic: &mut LocalApic, nmi: &mut bool) {
    if !interrupt.destination.selects(apic.id(), apic.id()) {
        return;
    }
    match interrupt.delivery {
        PinDelivery::Fixed | PinDelivery::LowestPriority => {
            apic.raise(interrupt.vector, interrupt.trigger);
        }
        PinDelivery::Nmi => *nmi = true,
    }
}
