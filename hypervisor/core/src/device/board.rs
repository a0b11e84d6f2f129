//! The devices of one VM and where they answer: ports, windows in memory space, interrupt lines.
//!
//! [`Devices`] belongs to the whole VM. A vCPU's exit brings an access here; what a device wants of memory and vCPUs goes
//! through the [`Bus`] that comes along.

use super::ged::EventRegister;
use super::ioapic::{Interrupt, IoApic, PinDelivery};
use super::pci::{self, TooManyDevices, Transmission};
use super::power::{PowerAction, PowerBlock};
use super::rtc::Rtc;
use super::uart16550::Uart16550;
use super::virtio::Model;
use super::watchdog::Watchdog;
use crate::addr::Gpa;
use crate::bus::{Bus, Signal, Signals};
use crate::manifest::VmConsole;
use crate::platform;
use alloc::vec::Vec;
use core::ops::Range;

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
    /// The device has more to do than one exit may take: the instruction is to be carried out again.
    Again,
}

impl From<pci::Outcome> for PortOutcome {
    fn from(outcome: pci::Outcome) -> Self {
        match outcome {
            pci::Outcome::Nothing => Self::Nothing,
            pci::Outcome::Transmit(nic) => Self::Transmit(nic),
            pci::Outcome::ConsoleOutput => Self::ConsoleOutput,
            pci::Outcome::Again => Self::Again,
        }
    }
}

/// Console bytes worth an exchange of their own; fewer wait for the next regular one.
const DRAIN_BYTES: usize = 128;

/// What a VM's devices begin with.
pub struct Setup {
    /// Its virtio devices, in the order of their places on the bus.
    pub models: Vec<Model>,
    /// Where typed bytes go.
    pub console: VmConsole,
    /// How the VM starts.
    pub start: Start,
}

/// What a VM's devices find when it starts, or starts anew.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Seconds since 1970, in UTC, at host TSC `now`.
    pub unix_seconds: u64,
    /// Host TSC.
    pub now: u64,
    /// Its frequency in kHz.
    pub tsc_khz: u32,
    /// Whether the watchdog ended the run before this one.
    pub watchdog_fired: bool,
}

impl Start {
    fn clock(self) -> Rtc {
        Rtc::new(self.unix_seconds, self.now, self.tsc_khz)
    }

    fn watchdog(self) -> Watchdog {
        Watchdog::new(self.tsc_khz, self.watchdog_fired)
    }
}

/// The devices of one VM.
pub struct Devices {
    uart: Uart16550,
    ioapic: IoApic,
    power: PowerBlock,
    events: EventRegister,
    clock: Rtc,
    watchdog: Watchdog,
    pci: pci::Bus,
    console: VmConsole,
}

impl Devices {
    /// The devices after reset.
    ///
    /// # Errors
    /// [`TooManyDevices`].
    pub fn new(setup: Setup) -> Result<Self, TooManyDevices> {
        let Setup {
            models,
            console,
            start,
        } = setup;
        Ok(Self {
            uart: Uart16550::new(),
            ioapic: IoApic::new(),
            power: PowerBlock::new(),
            events: EventRegister::new(),
            clock: start.clock(),
            watchdog: start.watchdog(),
            pci: pci::Bus::new(models)?,
            console,
        })
    }

    /// Adds real functions to the bus; `high` is where they decode above RAM.
    ///
    /// # Errors
    /// [`TooManyDevices`].
    pub fn give(
        &mut self,
        passed: Vec<pci::Passed>,
        high: Option<Range<Gpa>>,
    ) -> Result<(), TooManyDevices> {
        self.pci.give(passed, high)
    }

    /// The VM starts anew: its devices are as [`new`](Self::new) made them, in the memory they have.
    pub fn restart(&mut self, start: Start) {
        self.uart = Uart16550::new();
        self.ioapic = IoApic::new();
        self.power = PowerBlock::new();
        self.events = EventRegister::new();
        self.clock = start.clock();
        self.watchdog = start.watchdog();
        self.pci.restart();
    }

    /// The VM's run ended: none of its devices reaches its memory from here to the next start.
    pub fn disconnect(&mut self) {
        self.pci.disconnect();
    }

    /// IN of `size` bytes from `port` at host TSC `now`: ports nobody claims read as all ones.
    #[inline(always)]
    pub fn read_port(
        &mut self,
        port: u16,
        size: u8,
        now: u64,
        bus: &mut impl Bus,
    ) -> (u32, PortOutcome) {
        if size == 1
            && let Some(register) = uart_register(port)
        {
            let value = self.uart.read(register);
            return (value.into(), self.after_uart(bus));
        }
        self.read_other(port, size, now, bus)
    }

    #[inline(never)]
    fn read_other(
        &mut self,
        port: u16,
        size: u8,
        now: u64,
        bus: &mut impl Bus,
    ) -> (u32, PortOutcome) {
        if pci::Bus::owns_port(port) {
            return (self.pci.read_port(port, size), PortOutcome::Nothing);
        }
        // Byte by byte, as a PC bus splits accesses to 8-bit devices.
        let mut bytes = [0xff; 4];
        let mut outcome = PortOutcome::Nothing;
        for (byte, index) in bytes.iter_mut().zip(0..u16::from(size)) {
            let port = port.wrapping_add(index);
            if let Some(register) = uart_register(port) {
                *byte = self.uart.read(register);
                outcome = self.after_uart(bus);
            } else if PowerBlock::owns(port) {
                *byte = self.power.read(port);
            } else if EventRegister::owns(port) {
                *byte = self.events.read();
            } else if Rtc::owns(port) {
                *byte = self.clock.read(port, now);
            } else if Watchdog::owns(port) {
                *byte = self.watchdog.read(port, now);
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
        now: u64,
        bus: &mut impl Bus,
    ) -> PortOutcome {
        if size == 1
            && let Some(register) = uart_register(port)
        {
            self.uart.write(register, value as u8);
            return self.after_uart(bus);
        }
        self.write_other(port, size, value, now, bus)
    }

    #[inline(never)]
    fn write_other(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        now: u64,
        bus: &mut impl Bus,
    ) -> PortOutcome {
        if pci::Bus::owns_port(port) {
            return self.pci.write_port(port, size, value, bus).into();
        }
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
            } else if Rtc::owns(port) {
                self.clock.write(port, byte, now);
            } else if Watchdog::owns(port) {
                self.watchdog.write(port, byte, now);
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
    pub const fn owns(gpa: Gpa) -> bool {
        in_ioapic(gpa) || pci::Bus::owns(gpa)
    }

    /// Whether a real device answers at `gpa`, where no other does.
    #[must_use]
    pub fn reaches(&self, gpa: Gpa) -> bool {
        self.pci.reaches(gpa)
    }

    /// A read of `size` bytes of a device register in memory space.
    #[must_use]
    pub fn read_register(&mut self, gpa: Gpa, size: u8) -> u64 {
        if in_ioapic(gpa) {
            let offset = gpa.0.wrapping_sub(platform::IOAPIC_BASE.0);
            self.ioapic.read(offset).into()
        } else {
            self.pci.read(gpa, size)
        }
    }

    /// A write of `size` bytes to a device register in memory space.
    pub fn write_register(
        &mut self,
        gpa: Gpa,
        size: u8,
        value: u64,
        bus: &mut impl Bus,
    ) -> PortOutcome {
        if !in_ioapic(gpa) {
            return self.pci.write(gpa, size, value, bus).into();
        }
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

    /// Takes console bytes that the guest wrote, on whichever console, and says how many.
    #[must_use]
    pub fn take_output(&mut self, into: &mut [u8], bus: &mut impl Bus) -> usize {
        match self.uart.take_output(into) {
            0 if self.pci.has_output() => self.pci.take_output(into, bus),
            count => count,
        }
    }

    /// Offers the guest a typed byte; false where its console has no room.
    #[must_use]
    pub fn push_input(&mut self, byte: u8, bus: &mut impl Bus) -> bool {
        match self.console {
            VmConsole::Serial => {
                let taken = self.uart.push_input(&[byte]) == 1;
                self.route_interrupts(bus);
                taken
            }
            VmConsole::Virtio => self.pci.push_input(&[byte], bus) == 1,
        }
    }

    /// Takes the next frame that network card `nic` sends.
    pub fn transmit(&mut self, nic: u8, frame: &mut [u8], bus: &mut impl Bus) -> Transmission {
        self.pci.transmit(nic, frame, bus)
    }

    /// Card `nic`'s frames were taken.
    pub fn transmit_done(&mut self, nic: u8, bus: &mut impl Bus) {
        self.pci.transmit_done(nic, bus);
    }

    /// A frame arrives at card `nic`; false where the guest has no room for it.
    #[must_use]
    pub fn receive(&mut self, nic: u8, frame: &[u8], bus: &mut impl Bus) -> bool {
        self.pci.receive(nic, frame, bus)
    }

    /// Presses the VM's power button.
    pub fn press_power_button(&mut self, bus: &mut impl Signals) {
        self.events.press_power_button();
        if let Some(interrupt) = self.ioapic.set_line(platform::EVENT_GSI, true) {
            deliver(interrupt, bus);
        }
        // The line pulses: it is edge-triggered.
        let _ = self.ioapic.set_line(platform::EVENT_GSI, false);
    }

    /// Whether the watchdog that the guest armed ran out by host TSC `now`.
    #[must_use]
    pub fn watchdog_expired(&self, now: u64) -> bool {
        self.watchdog.expired(now)
    }

    /// The milliseconds that the guest set its watchdog to.
    #[must_use]
    pub const fn watchdog_ms(&self) -> u32 {
        self.watchdog.countdown_ms()
    }

    /// The VM was kept from running for so many ticks: they do not count for its watchdog.
    pub fn postpone_watchdog(&mut self, ticks: u64) {
        self.watchdog.postpone(ticks);
    }

    /// Its virtio devices.
    #[must_use]
    pub const fn pci(&self) -> &pci::Bus {
        &self.pci
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
