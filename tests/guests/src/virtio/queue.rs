//! A split virtqueue at a fixed address, with buffers beside it (Virtio 1.2, "Split Virtqueues").
//!
//! Each queue has an [`AREA`] of its own: rings first, then buffers. Guests that use it have at least 32 MiB of memory.
#![allow(
    unsafe_code,
    reason = "reads and writes rings and buffers at fixed addresses"
)]

use core::sync::atomic::{Ordering, fence};

use crate::pci::{Function, Place};
use crate::timer;

/// Where the queues' memory begins; the guest's image and other uses end before.
pub const AREAS: u64 = 24 << 20;
/// Bytes for each queue.
pub const AREA: u64 = 64 << 10;
/// Queues of a device that have memory.
const QUEUES: u64 = 4;
/// Devices that have.
const DEVICES: u64 = 16;
/// Most entries.
pub const MAX_SIZE: u16 = 256;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x4000;
const BUFFERS: u64 = 0x6000;
/// Bytes for buffers.
pub const BUFFER_BYTES: u64 = AREA - BUFFERS;
const DESCRIPTOR_SIZE: u64 = 16;
const AVAILABLE_RING: u64 = 4;
const USED_RING: u64 = 4;
const INDEX: u64 = 2;
/// A device that has not answered after so many ticks will not.
const LIMIT: u64 = 2_000_000_000;

/// The buffer goes on in the descriptor that `next` names.
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// A descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Where the buffer is.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The next descriptor.
    pub next: u16,
}

const _: () = assert!(size_of::<Descriptor>() as u64 == DESCRIPTOR_SIZE);

/// A queue that the device knows.
#[derive(Clone, Debug)]
pub struct Queue {
    area: u64,
    size: u16,
    index: u16,
    notify: Place,
    offered: u16,
    seen: u16,
}

impl Queue {
    /// Queue `index` of `function`, empty, with `size` entries.
    pub(super) fn new(function: Function, index: u16, size: u16, notify: Place) -> Self {
        let number = u64::from(function.0) % DEVICES * QUEUES + u64::from(index) % QUEUES;
        let queue = Self {
            area: AREAS + number * AREA,
            size: size.min(MAX_SIZE),
            index,
            notify,
            offered: 0,
            seen: 0,
        };
        // SAFETY: the area is this queue's, and the device does not know of it yet.
        unsafe { core::ptr::write_bytes(queue.area as *mut u8, 0, BUFFERS as usize) };
        queue
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Address of the descriptor table.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        self.area
    }

    /// Address of the available ring.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.area + AVAILABLE
    }

    /// Address of the used ring.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.area + USED
    }

    /// Address of [`BUFFER_BYTES`] bytes for buffers.
    #[must_use]
    pub fn buffers(&self) -> u64 {
        self.area + BUFFERS
    }

    /// Where the device is told of new entries.
    #[must_use]
    pub fn place(&self) -> Place {
        self.notify
    }

    /// Writes descriptor `index` of the table.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        write(
            self.descriptors() + u64::from(index) * DESCRIPTOR_SIZE,
            descriptor,
        );
    }

    /// Makes the chain that begins at `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.offered % self.size.max(1));
        write(self.available() + AVAILABLE_RING + slot * 2, head);
        self.offered = self.offered.wrapping_add(1);
        self.set_available_index(self.offered);
    }

    /// Sets the available ring's index, whatever has been offered.
    pub fn set_available_index(&self, index: u16) {
        fence(Ordering::SeqCst);
        write(self.available() + INDEX, index);
        fence(Ordering::SeqCst);
    }

    /// Tells the device.
    pub fn kick(&self) {
        self.notify.write_u16(self.index);
    }

    /// The next chain that the device is done with: its first descriptor, and how many bytes were written.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if read::<u16>(self.used() + INDEX) == self.seen {
            return None;
        }
        fence(Ordering::Acquire);
        let slot = u64::from(self.seen % self.size.max(1));
        let entry: [u32; 2] = read(self.used() + USED_RING + slot * 8);
        self.seen = self.seen.wrapping_add(1);
        Some((entry[0] as u16, entry[1]))
    }

    /// Looks for such a chain until there is one.
    pub fn wait(&mut self) -> Option<(u16, u32)> {
        let index = self.used() + INDEX;
        let seen = self.seen;
        timer::spin_until(LIMIT, || read::<u16>(index) != seen);
        self.take()
    }
}

/// Reads memory that a device may have written.
#[must_use]
pub fn read<T: Copy>(at: u64) -> T {
    // SAFETY: RAM set aside for queues and buffers, all of which is mapped; T is plain data.
    unsafe { (at as *const T).read_volatile() }
}

/// Writes memory that a device may read.
pub fn write<T: Copy>(at: u64, value: T) {
    // SAFETY: as for `read`; nothing else of this guest lies there.
    unsafe { (at as *mut T).write_volatile(value) };
}
