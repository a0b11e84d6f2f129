//! One split virtqueue (Virtio 1.2, "Split Virtqueues"): taking the chains that a driver made available, and handing
//! them back.
//!
//! The driver may be hostile, and may change its rings while they are read: an index or descriptor is read once, into a
//! value, and checked there. [`Queue::pop`] gives a [`Chain`], whose copies cannot leave the buffers it describes;
//! [`Queue::complete`] returns it. A [`QueueError`] stops the queue until the device is reset and concerns nobody else.
//!
//! A pass over a queue ends: [`Queue::pop`] gives no more chains than [`Queue::grant`] allowed, however fast other
//! processors of the VM add to it, and [`Queue::has_more`] then says that some may be left.

mod chain;
mod error;
mod memory;

pub use chain::{Chain, MAX_CHAIN_BYTES, MAX_SEGMENTS};
pub use error::QueueError;

use core::sync::atomic::{Ordering, fence};

use memory::{read_u16, write, write_u16};

use super::Features;
use crate::addr::Gpa;
use crate::bus::GuestRam;

/// The most entries a queue can have.
pub const MAX_SIZE: u16 = 256;

/// Where the parts of a ring are: flags, index and the entries (Virtio 1.2, "The Virtqueue Available Ring").
const FLAGS: u64 = 0;
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
/// Bytes of an entry: of the descriptor table, the available ring, the used ring.
const DESCRIPTOR_BYTES: u64 = 16;
const AVAILABLE_BYTES: u64 = 2;
const USED_BYTES: u64 = 8;
/// Bytes of a ring beside its entries: flags, index, event index.
const RING_OVERHEAD: u64 = 6;

/// VIRTQ_AVAIL_F_NO_INTERRUPT: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY: the device wants no notifications.
const NO_NOTIFY: u16 = 1;

/// How many times its size a pass may take chains: those that wait when it starts, and some added meanwhile.
const PASS_SIZES: u32 = 4;
/// Bytes in chains after which a pass takes no more: what is copied in one exit delays everybody on that processor.
const PASS_BYTES: u32 = 1 << 20;
/// What following one descriptor counts as, in bytes copied: chains of many small ones cost no less.
const DESCRIPTOR_COST: u32 = 2048;

/// One virtqueue, as the driver set it up.
#[derive(Clone, Debug)]
pub struct Queue {
    max_size: u16,
    size: u16,
    descriptors: Gpa,
    driver: Gpa,
    device: Gpa,
    enabled: bool,
    failed: bool,
    event_index: bool,
    indirect: bool,
    /// Index of the next available entry to take.
    next: u16,
    /// The driver's index when last read; entries from `next` up to here are available.
    available: u16,
    /// Index of the next used entry to fill.
    used: u16,
    /// `used` when the driver was last considered for an interrupt.
    signalled: u16,
    /// The device told the driver that it wants no notifications.
    suppressed: bool,
    /// Chains that this pass may still take.
    chains_left: u32,
    /// Bytes that their buffers may still hold; the last one may go beyond.
    bytes_left: u32,
    /// The pass ended at its limit.
    more: bool,
}

impl Queue {
    /// A queue of up to `max_size` entries (a power of two, at most [`MAX_SIZE`]) that no driver has set up yet.
    #[must_use]
    pub const fn new(max_size: u16) -> Self {
        assert!(max_size.is_power_of_two() && max_size <= MAX_SIZE);
        Self {
            max_size,
            size: max_size,
            descriptors: Gpa(0),
            driver: Gpa(0),
            device: Gpa(0),
            enabled: false,
            failed: false,
            event_index: false,
            indirect: false,
            next: 0,
            available: 0,
            used: 0,
            signalled: 0,
            suppressed: false,
            chains_left: 0,
            bytes_left: 0,
            more: false,
        }
    }

    /// Back to as no driver has set it up.
    pub const fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    /// Entries, as the driver chose, at most what the device offers.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Address of the descriptor table.
    #[must_use]
    pub const fn descriptors(&self) -> Gpa {
        self.descriptors
    }

    /// Address of the available ring, which the driver writes.
    #[must_use]
    pub const fn driver(&self) -> Gpa {
        self.driver
    }

    /// Address of the used ring, which the device writes.
    #[must_use]
    pub const fn device(&self) -> Gpa {
        self.device
    }

    /// Whether the driver enabled the queue.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The driver's choice of size: ignored where the queue is enabled or cannot have it.
    pub const fn set_size(&mut self, size: u16) {
        if !self.enabled && size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }

    /// Where descriptor table, available ring and used ring are: ignored where the queue is enabled.
    pub const fn set_addresses(&mut self, descriptors: Gpa, driver: Gpa, device: Gpa) {
        if !self.enabled {
            self.descriptors = descriptors;
            self.driver = driver;
            self.device = device;
        }
    }

    /// Enables the queue with the negotiated `features`.
    ///
    /// # Errors
    /// [`QueueError::Layout`] where a part is misaligned or runs over the end of the address space.
    pub fn enable(&mut self, features: Features) -> Result<(), QueueError> {
        if self.enabled {
            return Ok(());
        }
        let size = u64::from(self.size);
        for (at, align, bytes) in [
            (self.descriptors, 16, DESCRIPTOR_BYTES * size),
            (self.driver, 2, AVAILABLE_BYTES * size + RING_OVERHEAD),
            (self.device, 4, USED_BYTES * size + RING_OVERHEAD),
        ] {
            if !at.is_aligned(align) || at.checked_add(bytes).is_none() {
                self.failed = true;
                return Err(QueueError::Layout(at));
            }
        }
        self.enabled = true;
        self.event_index = features.contains(Features::EVENT_INDEX);
        self.indirect = features.contains(Features::INDIRECT);
        Ok(())
    }

    /// Starts a pass: [`pop`](Self::pop) may again give as many chains as can wait, and some that are added meanwhile.
    pub fn grant(&mut self) {
        self.chains_left = PASS_SIZES * u32::from(self.size);
        self.bytes_left = PASS_BYTES;
        self.more = false;
    }

    /// Whether the last pass ended before the queue was empty.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.more
    }

    /// Takes the next available chain. Where there is none, the driver is asked to notify when it adds one (unless
    /// [`suppress_notifications`](Self::suppress_notifications) said otherwise).
    ///
    /// # Errors
    /// Any [`QueueError`]: the driver broke the rules, and the queue stops.
    pub fn pop(&mut self, ram: &mut (impl GuestRam + ?Sized)) -> Result<Option<Chain>, QueueError> {
        if !self.enabled || self.failed {
            return Ok(None);
        }
        let popped = self.try_pop(ram);
        self.failed = popped.is_err();
        popped
    }

    fn try_pop(&mut self, ram: &mut (impl GuestRam + ?Sized)) -> Result<Option<Chain>, QueueError> {
        if !self.any_available(ram)? {
            return Ok(None);
        }
        if self.chains_left == 0 || self.bytes_left == 0 {
            self.more = true;
            return Ok(None);
        }
        let entry = self.slot(self.driver, self.next, AVAILABLE_BYTES);
        let head = read_u16(ram, entry)?;
        self.next = self.next.wrapping_add(1);
        let table = chain::Table {
            at: self.descriptors,
            entries: u32::from(self.size),
        };
        let chain = Chain::collect(ram, head, table, self.indirect)?;
        self.chains_left -= 1;
        let cost = chain
            .len()
            .saturating_add(chain.descriptors().saturating_mul(DESCRIPTOR_COST));
        self.bytes_left = self.bytes_left.saturating_sub(cost);
        Ok(Some(chain))
    }

    /// Whether a chain waits; where none does, the driver's next one comes with a notification.
    fn any_available(&mut self, ram: &mut (impl GuestRam + ?Sized)) -> Result<bool, QueueError> {
        if self.next != self.available || self.look(ram)? {
            return Ok(true);
        }
        if !self.event_index || self.suppressed {
            return Ok(false);
        }
        let event = self.device_event();
        write_u16(ram, event, self.next)?;
        // A chain added before the driver saw the event index comes without a notification: look once more.
        fence(Ordering::SeqCst);
        self.look(ram)
    }

    /// Reads the driver's index; whether it is ahead of what was taken.
    fn look(&mut self, ram: &mut (impl GuestRam + ?Sized)) -> Result<bool, QueueError> {
        let available = read_u16(ram, offset(self.driver, INDEX))?;
        // What the driver wrote before its index is read after it.
        fence(Ordering::Acquire);
        if available.wrapping_sub(self.next) > self.size {
            return Err(QueueError::AvailableIndex {
                available,
                taken: self.next,
            });
        }
        self.available = available;
        Ok(available != self.next)
    }

    /// Hands the chain that starts at `head` back, with `written` bytes written to it.
    ///
    /// # Errors
    /// [`QueueError`] where the used ring is not guest memory, or `head` is no descriptor.
    pub fn complete(
        &mut self,
        ram: &mut (impl GuestRam + ?Sized),
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        if !self.enabled || self.failed {
            return Ok(());
        }
        let completed = self.try_complete(ram, head, written);
        self.failed = completed.is_err();
        completed
    }

    fn try_complete(
        &mut self,
        ram: &mut (impl GuestRam + ?Sized),
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        if head >= self.size {
            return Err(QueueError::Descriptor(head));
        }
        let at = self.slot(self.device, self.used, USED_BYTES);
        let entry = u64::from(head) | u64::from(written) << 32;
        write(ram, at, &entry.to_le_bytes())?;
        // The driver that sees the index sees the entry, and what was written to the chain.
        fence(Ordering::Release);
        self.used = self.used.wrapping_add(1);
        write_u16(ram, offset(self.device, INDEX), self.used)
    }

    /// Whether what was completed since the last call deserves an interrupt (Virtio 1.2, "Used Buffer Notification
    /// Suppression").
    ///
    /// # Errors
    /// [`QueueError`] where the available ring is not guest memory.
    pub fn should_interrupt(
        &mut self,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<bool, QueueError> {
        if !self.enabled || self.failed || self.used == self.signalled {
            return Ok(false);
        }
        // The used index has to be visible before the driver's wish is read, or both sides wait.
        fence(Ordering::SeqCst);
        let wish = self.wants_interrupt(ram);
        self.failed = wish.is_err();
        self.signalled = self.used;
        wish
    }

    fn wants_interrupt(&self, ram: &mut (impl GuestRam + ?Sized)) -> Result<bool, QueueError> {
        if !self.event_index {
            let flags = read_u16(ram, offset(self.driver, FLAGS))?;
            return Ok(flags & NO_INTERRUPT == 0);
        }
        let event = read_u16(ram, self.driver_event())?;
        let since_event = self.used.wrapping_sub(event).wrapping_sub(1);
        Ok(since_event < self.used.wrapping_sub(self.signalled))
    }

    /// Tells the driver, until the queue is reset, that the device looks at the queue on its own: notifications
    /// would be exits for nothing.
    ///
    /// # Errors
    /// [`QueueError`] where the used ring is not guest memory.
    pub fn suppress_notifications(
        &mut self,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<(), QueueError> {
        if !self.enabled || self.failed || self.suppressed {
            return Ok(());
        }
        self.suppressed = true;
        // With event indices the flag has to stay 0, and silence is an event index that is not moved on.
        if self.event_index {
            return Ok(());
        }
        let told = write_u16(ram, offset(self.device, FLAGS), NO_NOTIFY);
        self.failed = told.is_err();
        told
    }

    /// Takes every chain there is, and completes each with as many bytes as `serve` says it wrote.
    ///
    /// # Errors
    /// As [`pop`](Self::pop)'s and `serve`'s.
    pub fn serve_all<R: GuestRam + ?Sized>(
        &mut self,
        ram: &mut R,
        mut serve: impl FnMut(&Chain, &mut R) -> Result<u32, QueueError>,
    ) -> Result<(), QueueError> {
        while let Some(chain) = self.pop(ram)? {
            let written = serve(&chain, ram)?;
            self.complete(ram, chain.head(), written)?;
        }
        Ok(())
    }

    /// The entry of a ring that a free-running index names.
    const fn slot(&self, ring: Gpa, index: u16, entry_bytes: u64) -> Gpa {
        let slot = (index & (self.size - 1)) as u64;
        offset(ring, ENTRIES + slot * entry_bytes)
    }

    /// Where the driver says from which used index on it wants an interrupt.
    const fn driver_event(&self) -> Gpa {
        offset(self.driver, ENTRIES + AVAILABLE_BYTES * self.size as u64)
    }

    /// Where the device says from which available index on it wants a notification.
    const fn device_event(&self) -> Gpa {
        offset(self.device, ENTRIES + USED_BYTES * self.size as u64)
    }
}

/// An address within a ring; [`Queue::enable`] saw to it that none wraps.
const fn offset(ring: Gpa, bytes: u64) -> Gpa {
    Gpa(ring.0.wrapping_add(bytes))
}

#[cfg(test)]
mod tests;
