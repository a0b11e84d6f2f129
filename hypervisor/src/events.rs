//! Sends events to COM2, numbered in the order in which they happen.

use crate::arch::cpu::rdtsc;
use crate::console::EVENTS;
use crate::console::serial::Serial;
use bulkhead_core::events::Event;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

struct Lines<'a>(&'a mut Serial);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The number of the next event, for a report that drives the port itself.
pub fn take_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Ends whatever line the firmware left open on the port, so that the first event stands on one of its own.
pub fn start() {
    let mut port = EVENTS.lock();
    port.start();
    port.write(b"\n");
}

/// Queues `event` for the event stream.
pub fn send(event: &Event<'_>) {
    let mut port = EVENTS.lock();
    let number = take_number();
    // Writing to the queue cannot fail.
    let _ = event.write_json(rdtsc(), number, &mut Lines(&mut port));
}
