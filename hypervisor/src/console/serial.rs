//! A 16550 port with a queue: writers never wait, the port is fed whenever somebody has time.
//!
//! At 115,200 baud a byte takes 87 microseconds; a guest's boot log would stall the hypervisor
//! for seconds if each byte were waited for.
#![allow(
    unsafe_code,
    reason = "naming the port is a promise to the driver library"
)]

use alloc::collections::VecDeque;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::LSR;
use uart_16550::{Config, Uart16550};

/// The two ports that exist by convention on every PC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// Console.
    Com1,
    /// Events.
    Com2,
}

/// Queued bytes above which a writer does wait.
const QUEUE_LIMIT: usize = 64 << 10;
/// The transmitter's FIFO.
const FIFO_BYTES: usize = 16;
/// Status reads after which a port that takes no byte counts as absent; each is about a microsecond.
const PATIENCE: u32 = 1_000_000;

/// One port and what waits to be sent.
pub struct Serial {
    port: Port,
    uart: Option<Uart16550<PioBackend>>,
    queue: VecDeque<u8>,
    at_line_start: bool,
    /// Nobody will call [`Serial::pump`] later: writers send everything themselves.
    synchronous: bool,
}

impl Serial {
    /// A port not yet started.
    #[must_use]
    pub const fn new(port: Port) -> Self {
        Self {
            port,
            uart: None,
            queue: VecDeque::new(),
            at_line_start: true,
            synchronous: true,
        }
    }

    /// Probes and configures the port; one that is absent swallows what is written.
    pub fn start(&mut self) {
        let base = match self.port {
            Port::Com1 => 0x3f8,
            Port::Com2 => 0x2f8,
        };
        // SAFETY: the legacy COM addresses decode to a UART or to nothing on a PC, and this is the only
        // driver of them once the firmware is asked nothing more.
        let Ok(mut uart) = (unsafe { Uart16550::new_port(base) }) else {
            return;
        };
        if uart.init(Config::default()).is_ok() {
            self.uart = Some(uart);
            self.queue.reserve(QUEUE_LIMIT);
        }
    }

    /// Queues `bytes`; feeds the port until the queue is short enough.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.uart.is_none() {
            return;
        }
        for &byte in bytes {
            let mut patience = PATIENCE;
            while self.queue.len() >= QUEUE_LIMIT && patience > 0 {
                self.pump();
                patience -= 1;
            }
            if patience == 0 {
                self.uart = None;
                return;
            }
            self.enqueue(byte);
        }
        if self.synchronous {
            self.empty_queue();
        } else {
            self.pump();
        }
    }

    /// Queues one byte, whatever the queue's length: the caller keeps that in bounds.
    #[inline]
    pub fn enqueue(&mut self, byte: u8) {
        if self.uart.is_some() {
            self.queue.push_back(byte);
            self.at_line_start = byte == b'\n';
        }
    }

    /// Whether the next byte starts a line.
    #[must_use]
    pub const fn at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// From here on writers do not wait: a guest runs.
    pub const fn go_asynchronous(&mut self) {
        self.synchronous = false;
    }

    /// How many bytes wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Moves up to a FIFO's worth of bytes to the port, if it is ready. Never waits.
    #[inline]
    pub fn pump(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let Some(uart) = &mut self.uart else {
            self.queue.clear();
            return;
        };
        let mut burst = [0; FIFO_BYTES];
        let mut filled = 0;
        for (slot, byte) in burst.iter_mut().zip(self.queue.iter()) {
            *slot = *byte;
            filled += 1;
        }
        let sent = uart.send_bytes(burst.get(..filled).unwrap_or_default());
        self.queue.drain(..sent);
    }

    /// Sends everything that waits, down to the last bit on the wire, or gives up on a port that takes nothing.
    pub fn flush(&mut self) {
        self.empty_queue();
        let Some(uart) = &mut self.uart else { return };
        for _ in 0..PATIENCE {
            if uart.lsr().contains(LSR::TRANSMITTER_EMPTY) {
                return;
            }
        }
    }

    fn empty_queue(&mut self) {
        let mut patience = PATIENCE;
        while !self.queue.is_empty() && patience > 0 {
            let before = self.queue.len();
            self.pump();
            patience = if self.queue.len() < before {
                PATIENCE
            } else {
                patience - 1
            };
        }
    }

    /// One byte typed by the operator, if there is one.
    #[inline]
    pub fn receive(&mut self) -> Option<u8> {
        self.uart.as_mut()?.try_receive_byte().ok()
    }
}
