//! The console UART: a 16550A with FIFOs, as Linux's 8250 driver detects and drives it
//! (PC16550D data sheet, "Registers").
//!
//! Time is not modelled: a byte leaves as soon as the output ring has room for a full FIFO, and received bytes below
//! the trigger level count as timed out at once. A full ring keeps the transmitter busy, so that a guest waits instead
//! of losing output.

use crate::ring::ByteRing;

/// Depth of the receive FIFO, and the bytes a driver may send for each "transmitter empty".
const FIFO: usize = 16;
/// Bytes of output held for the sink.
const OUTPUT: usize = 1024;

bitflags::bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Ier: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// Modem control register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mcr: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// Connects the interrupt output on a PC.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// Line status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Lsr: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const TRANSMITTER_EMPTY = 1 << 5;
        const TRANSMITTER_IDLE = 1 << 6;
    }

    /// Modem status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Msr: u8 {
        const DELTA_CTS = 1 << 0;
        const DELTA_DSR = 1 << 1;
        const TRAILING_RI = 1 << 2;
        const DELTA_DCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;

        const DELTAS = 0x0f;
        /// A peer that is there and ready.
        const CONNECTED = Self::CTS.bits() | Self::DSR.bits() | Self::DCD.bits();
    }

    /// FIFO control register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Fcr: u8 {
        const ENABLE = 1 << 0;
        const CLEAR_RECEIVER = 1 << 1;
        const TRIGGER = 0b11 << 6;
    }
}

/// Interrupt identification values, by falling priority; bit 0 clear means pending.
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFOS: u8 = 0xc0;

/// LCR's divisor latch access bit.
const DLAB: u8 = 1 << 7;

/// One UART.
#[derive(Clone, Debug)]
pub struct Uart16550 {
    received: ByteRing<FIFO>,
    output: ByteRing<OUTPUT>,
    divisor: [u8; 2],
    ier: Ier,
    fcr: Fcr,
    lcr: u8,
    mcr: Mcr,
    scratch: u8,
    overrun: bool,
    /// Modem status changes not read yet.
    deltas: Msr,
    /// The transmitter-empty interrupt waits to be identified.
    empty_pending: bool,
}

impl Uart16550 {
    /// The UART after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            received: ByteRing::new(),
            output: ByteRing::new(),
            divisor: [12, 0],
            ier: Ier::empty(),
            fcr: Fcr::empty(),
            lcr: 0,
            mcr: Mcr::empty(),
            scratch: 0,
            overrun: false,
            deltas: Msr::empty(),
            empty_pending: false,
        }
    }

    /// Reads the register at `offset` 0 to 7 of the port range; only the low three bits count.
    pub fn read(&mut self, offset: u16) -> u8 {
        match (offset & 7, self.lcr & DLAB != 0) {
            (0, true) => self.divisor[0],
            (1, true) => self.divisor[1],
            (0, false) => self.received.pop().unwrap_or(0),
            (1, false) => self.ier.bits(),
            (2, _) => self.identify(),
            (3, _) => self.lcr,
            (4, _) => self.mcr.bits(),
            (5, _) => {
                let status = self.line_status();
                self.overrun = false;
                status.bits()
            }
            (6, _) => {
                let status = self.modem_lines() | self.deltas;
                self.deltas = Msr::empty();
                status.bits()
            }
            _ => self.scratch,
        }
    }

    /// Writes the register at `offset` 0 to 7 of the port range; only the low three bits count.
    pub fn write(&mut self, offset: u16, value: u8) {
        match (offset & 7, self.lcr & DLAB != 0) {
            (0, true) => self.divisor[0] = value,
            (1, true) => self.divisor[1] = value,
            (0, false) => self.transmit(value),
            (1, false) => self.write_ier(value),
            (2, _) => self.write_fcr(value),
            (3, _) => self.lcr = value,
            (4, _) => self.write_mcr(value),
            (7, _) => self.scratch = value,
            // Line and modem status are read-only.
            _ => {}
        }
    }

    /// Whether the interrupt line is asserted.
    #[inline]
    #[must_use]
    pub fn irq_level(&self) -> bool {
        self.mcr & (Mcr::OUT2 | Mcr::LOOPBACK) == Mcr::OUT2 && self.pending() != IIR_NONE
    }

    /// Hands received bytes in and says how many were taken; the rest is the caller's to offer again.
    #[must_use]
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        if self.mcr.contains(Mcr::LOOPBACK) {
            return 0;
        }
        let room = self.receive_depth().saturating_sub(self.received.len());
        self.received
            .push_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default())
    }

    /// Bytes of output waiting for the sink.
    #[inline]
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Takes output for the sink and says how many bytes there were; this can raise the transmitter-empty interrupt.
    #[must_use]
    pub fn take_output(&mut self, into: &mut [u8]) -> usize {
        let was_busy = !self.transmitter_empty();
        let count = self.output.pop_slice(into);
        if was_busy && self.transmitter_empty() {
            self.empty_pending = true;
        }
        count
    }

    #[inline]
    fn transmitter_empty(&self) -> bool {
        self.output.room() >= FIFO
    }

    fn receive_depth(&self) -> usize {
        if self.fcr.contains(Fcr::ENABLE) {
            FIFO
        } else {
            1
        }
    }

    fn trigger_level(&self) -> usize {
        match self.fcr.bits() >> 6 {
            _ if !self.fcr.contains(Fcr::ENABLE) => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    #[inline]
    fn transmit(&mut self, byte: u8) {
        if self.mcr.contains(Mcr::LOOPBACK) {
            let fits = self.received.len() < self.receive_depth() && self.received.push(byte);
            self.overrun |= !fits;
        } else {
            // A guest that ignores the status register overruns a full transmitter; the byte is lost as on hardware.
            let _ = self.output.push(byte);
        }
        self.empty_pending = self.transmitter_empty();
    }

    fn write_ier(&mut self, value: u8) {
        let new = Ier::from_bits_truncate(value);
        // Enabling the interrupt while the transmitter is empty raises it, and drivers probe for that.
        if (new - self.ier).contains(Ier::TRANSMITTER_EMPTY) && self.transmitter_empty() {
            self.empty_pending = true;
        }
        self.ier = new;
    }

    fn write_fcr(&mut self, value: u8) {
        let new = Fcr::from_bits_truncate(value);
        let mode_changed = (new ^ self.fcr).contains(Fcr::ENABLE);
        if mode_changed || new.contains(Fcr::CLEAR_RECEIVER) {
            self.received.clear();
        }
        // Clearing the transmit FIFO loses nothing here: its bytes have already left.
        self.fcr = new & (Fcr::ENABLE | Fcr::TRIGGER);
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = Mcr::from_bits_truncate(value);
        let after = self.modem_lines();
        let changed = before ^ after;
        self.deltas.set(
            Msr::DELTA_CTS,
            self.deltas.contains(Msr::DELTA_CTS) || changed.contains(Msr::CTS),
        );
        self.deltas.set(
            Msr::DELTA_DSR,
            self.deltas.contains(Msr::DELTA_DSR) || changed.contains(Msr::DSR),
        );
        self.deltas.set(
            Msr::DELTA_DCD,
            self.deltas.contains(Msr::DELTA_DCD) || changed.contains(Msr::DCD),
        );
        if (before - after).contains(Msr::RI) {
            self.deltas |= Msr::TRAILING_RI;
        }
    }

    /// The four modem inputs: a ready peer, or in loopback the UART's own outputs.
    fn modem_lines(&self) -> Msr {
        if !self.mcr.contains(Mcr::LOOPBACK) {
            return Msr::CONNECTED;
        }
        let mut lines = Msr::empty();
        lines.set(Msr::CTS, self.mcr.contains(Mcr::RTS));
        lines.set(Msr::DSR, self.mcr.contains(Mcr::DTR));
        lines.set(Msr::RI, self.mcr.contains(Mcr::OUT1));
        lines.set(Msr::DCD, self.mcr.contains(Mcr::OUT2));
        lines
    }

    fn line_status(&self) -> Lsr {
        let mut status = Lsr::empty();
        status.set(Lsr::DATA_READY, !self.received.is_empty());
        status.set(Lsr::OVERRUN, self.overrun);
        status.set(
            Lsr::TRANSMITTER_EMPTY | Lsr::TRANSMITTER_IDLE,
            self.transmitter_empty(),
        );
        status
    }

    /// The pending interrupt of highest priority.
    #[inline]
    fn pending(&self) -> u8 {
        let received = self.received.len();
        if self.ier.contains(Ier::LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier.contains(Ier::RECEIVED) && received != 0 {
            if received >= self.trigger_level() {
                IIR_RECEIVED
            } else {
                IIR_TIMEOUT
            }
        } else if self.ier.contains(Ier::TRANSMITTER_EMPTY) && self.empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if self.ier.contains(Ier::MODEM_STATUS) && self.deltas.intersects(Msr::DELTAS) {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Reads the interrupt identification; naming the transmitter-empty interrupt acknowledges it.
    fn identify(&mut self) -> u8 {
        let pending = self.pending();
        if pending == IIR_TRANSMITTER_EMPTY {
            self.empty_pending = false;
        }
        if self.fcr.contains(Fcr::ENABLE) {
            pending | IIR_FIFOS
        } else {
            pending
        }
    }
}

impl Default for Uart16550 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "uart16550_tests.rs"]
mod tests;
