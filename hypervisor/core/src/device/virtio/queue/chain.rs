//! A descriptor chain, read once and checked: buffers to read, then buffers to write.
//!
//! What [`Chain`] holds does not change when the driver rewrites its descriptors. Buffers may overlap each other, the
//! rings, or anything else in the VM's memory: copies go in order, and harm only who arranged that.

use super::memory::{read, write};
use super::{DESCRIPTOR_BYTES, QueueError};
use crate::addr::Gpa;
use crate::bus::GuestRam;

/// The most buffers a chain can have.
pub const MAX_SEGMENTS: usize = 64;
/// The most bytes a chain's buffers can have together.
pub const MAX_CHAIN_BYTES: u32 = 16 << 20;

bitflags::bitflags! {
    /// A descriptor's flags (Virtio 1.2, "The Virtqueue Descriptor Table").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Flags: u16 {
        const NEXT = 1;
        const WRITE = 2;
        const INDIRECT = 4;
    }
}

/// A descriptor as read.
#[derive(Clone, Copy)]
struct Descriptor {
    at: Gpa,
    bytes: u32,
    flags: Flags,
    next: u16,
}

/// A descriptor table: the queue's own, or an indirect one.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) at: Gpa,
    pub(super) entries: u32,
}

impl Table {
    fn descriptor(
        self,
        ram: &mut (impl GuestRam + ?Sized),
        index: u16,
    ) -> Result<Descriptor, QueueError> {
        if u32::from(index) >= self.entries {
            return Err(QueueError::Descriptor(index));
        }
        let at = self
            .at
            .checked_add(u64::from(index) * DESCRIPTOR_BYTES)
            .ok_or(QueueError::BufferWraps(self.at))?;
        let mut raw = [0; DESCRIPTOR_BYTES as usize];
        read(ram, at, &mut raw)?;
        let raw = u128::from_le_bytes(raw);
        Ok(Descriptor {
            at: Gpa(raw as u64),
            bytes: (raw >> 64) as u32,
            flags: Flags::from_bits_truncate((raw >> 96) as u16),
            next: (raw >> 112) as u16,
        })
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
struct Segment {
    at: Gpa,
    bytes: u32,
}

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub struct Chain {
    head: u16,
    /// Buffers to read, and after them buffers to write.
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
    /// How many of them are to read.
    readable: usize,
    readable_bytes: u32,
    writable_bytes: u32,
}

impl Chain {
    /// Reads the chain that starts at descriptor `head` of `table`.
    pub(super) fn collect(
        ram: &mut (impl GuestRam + ?Sized),
        head: u16,
        table: Table,
        indirect: bool,
    ) -> Result<Self, QueueError> {
        let mut chain = Self {
            head,
            segments: [Segment {
                at: Gpa(0),
                bytes: 0,
            }; MAX_SEGMENTS],
            count: 0,
            readable: 0,
            readable_bytes: 0,
            writable_bytes: 0,
        };
        let mut table = table;
        let mut may_go_indirect = indirect;
        let mut index = head;
        // A chain has no more descriptors than its table: one that goes on is a loop.
        let mut left = table.entries;
        loop {
            left = left.checked_sub(1).ok_or(QueueError::TooLong)?;
            let descriptor = table.descriptor(ram, index)?;
            if descriptor.flags.contains(Flags::INDIRECT) {
                if !may_go_indirect || descriptor.flags.contains(Flags::NEXT) {
                    return Err(QueueError::Indirect);
                }
                may_go_indirect = false;
                table = indirect_table(descriptor)?;
                left = table.entries;
                index = 0;
                continue;
            }
            chain.push(descriptor)?;
            if !descriptor.flags.contains(Flags::NEXT) {
                return Ok(chain);
            }
            index = descriptor.next;
        }
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), QueueError> {
        let Descriptor { at, bytes, .. } = descriptor;
        let held = self.len();
        let slot = self
            .segments
            .get_mut(self.count)
            .ok_or(QueueError::TooLong)?;
        if bytes == 0 {
            return Err(QueueError::EmptyBuffer);
        }
        if at.checked_add(bytes.into()).is_none() {
            return Err(QueueError::BufferWraps(at));
        }
        if bytes > MAX_CHAIN_BYTES - held {
            return Err(QueueError::TooLarge);
        }
        *slot = Segment { at, bytes };
        if descriptor.flags.contains(Flags::WRITE) {
            self.writable_bytes += bytes;
        } else if self.writable_bytes != 0 {
            return Err(QueueError::ReadableAfterWritable);
        } else {
            self.readable += 1;
            self.readable_bytes += bytes;
        }
        self.count += 1;
        Ok(())
    }

    /// The descriptor it starts with, by which it is completed.
    #[must_use]
    pub const fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device can read.
    #[must_use]
    pub const fn readable_len(&self) -> u32 {
        self.readable_bytes
    }

    /// Bytes that the device can write.
    #[must_use]
    pub const fn writable_len(&self) -> u32 {
        self.writable_bytes
    }

    /// How many buffers it has.
    pub(super) const fn descriptors(&self) -> u32 {
        self.count as u32
    }

    /// Bytes in all its buffers.
    pub(super) const fn len(&self) -> u32 {
        self.readable_bytes + self.writable_bytes
    }

    /// Copies from the readable buffers, taken as one, from byte `offset` on.
    ///
    /// # Errors
    /// [`QueueError::TooShort`] where they end before `into` is full, and then nothing is copied;
    /// [`QueueError::OutsideMemory`] where a buffer is not memory of the VM.
    pub fn read(
        &self,
        ram: &mut (impl GuestRam + ?Sized),
        offset: u32,
        into: &mut [u8],
    ) -> Result<(), QueueError> {
        check_range(offset, into.len(), self.readable_bytes)?;
        let segments = self.segments.get(..self.readable).unwrap_or_default();
        let mut rest = into;
        for piece in pieces(segments, offset) {
            let bytes = rest.len().min(piece.bytes as usize);
            let Some((now, later)) = rest.split_at_mut_checked(bytes) else {
                break;
            };
            if now.is_empty() {
                break;
            }
            read(ram, piece.at, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies to the writable buffers, taken as one, from byte `offset` on.
    ///
    /// # Errors
    /// [`QueueError::TooShort`] where they end before `bytes` does, and then nothing is copied;
    /// [`QueueError::OutsideMemory`] where a buffer is not memory of the VM.
    pub fn write(
        &self,
        ram: &mut (impl GuestRam + ?Sized),
        offset: u32,
        bytes: &[u8],
    ) -> Result<(), QueueError> {
        check_range(offset, bytes.len(), self.writable_bytes)?;
        let segments = self
            .segments
            .get(self.readable..self.count)
            .unwrap_or_default();
        let mut rest = bytes;
        for piece in pieces(segments, offset) {
            let count = rest.len().min(piece.bytes as usize);
            let Some((now, later)) = rest.split_at_checked(count) else {
                break;
            };
            if now.is_empty() {
                break;
            }
            write(ram, piece.at, now)?;
            rest = later;
        }
        Ok(())
    }
}

/// The table that an indirect descriptor refers to; whether it says "write" means nothing there.
const fn indirect_table(descriptor: Descriptor) -> Result<Table, QueueError> {
    let Descriptor { at, bytes, .. } = descriptor;
    if bytes == 0 || bytes % DESCRIPTOR_BYTES as u32 != 0 {
        return Err(QueueError::IndirectLength(bytes));
    }
    Ok(Table {
        at,
        entries: bytes / DESCRIPTOR_BYTES as u32,
    })
}

fn check_range(offset: u32, bytes: usize, available: u32) -> Result<(), QueueError> {
    let fits = available
        .checked_sub(offset)
        .is_some_and(|left| bytes <= left as usize);
    if fits {
        Ok(())
    } else {
        Err(QueueError::TooShort)
    }
}

/// What is left of `segments` when the first `skip` bytes are left out.
fn pieces(segments: &[Segment], skip: u32) -> impl Iterator<Item = Segment> {
    let mut skip = skip;
    segments.iter().filter_map(move |segment| {
        let skipped = skip.min(segment.bytes);
        skip -= skipped;
        let at = segment.at.checked_add(skipped.into())?;
        let bytes = segment.bytes - skipped;
        (bytes != 0).then_some(Segment { at, bytes })
    })
}
