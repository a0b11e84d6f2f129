//! Memory that remapping units read: tables from the hypervisor's pool, and the invalidation queue.
//!
//! A unit that does not look into the processors' caches finds in memory what was written back: every write here is,
//! where the unit asks for it.
#![allow(unsafe_code, reason = "writes descriptors into frames it owns")]

use crate::arch::cpu;
use crate::memory::pool::Pool;
use bulkhead_core::addr::{FRAME_SIZE, Frame, Hpa};
use bulkhead_core::table::TableMemory;
use bulkhead_core::vtd::queue::{Descriptor, QueueMemory, SLOTS};
use core::ptr;
use core::sync::atomic::{Ordering, fence};

/// The pool's frames as tables of units.
pub struct IoTables<'a> {
    pool: &'a mut Pool,
    coherent: bool,
}

impl<'a> IoTables<'a> {
    /// Tables for units that look into caches (`coherent`), or do not.
    pub const fn new(pool: &'a mut Pool, coherent: bool) -> Self {
        Self { pool, coherent }
    }

    fn write_back(&self, table: Frame, offset: usize, bytes: usize) {
        if !self.coherent {
            cpu::write_back(
                ptr::with_exposed_provenance(table.start().0 as usize + offset),
                bytes,
            );
        }
    }
}

impl TableMemory for IoTables<'_> {
    fn read(&self, table: Frame, index: usize) -> u64 {
        self.pool.read(table, index)
    }

    fn write(&mut self, table: Frame, index: usize, entry: u64) {
        self.pool.write(table, index, entry);
        self.write_back(table, index * size_of::<u64>(), size_of::<u64>());
    }

    fn alloc(&mut self) -> Option<Frame> {
        let table = self.pool.alloc()?;
        self.write_back(table, 0, FRAME_SIZE as usize);
        Some(table)
    }

    fn free(&mut self, table: Frame) {
        self.pool.free(table);
    }
}

/// One unit's invalidation queue: a frame of descriptors, and one that the unit writes its answers to.
#[derive(Debug)]
pub struct QueueFrames {
    ring: Frame,
    answers: Frame,
    coherent: bool,
}

impl QueueFrames {
    /// A queue in zeroed frames of the pool, or `None` where it is empty.
    pub fn new(pool: &mut Pool, coherent: bool) -> Option<Self> {
        let mut tables = IoTables::new(pool, coherent);
        Some(Self {
            ring: tables.alloc()?,
            answers: tables.alloc()?,
            coherent,
        })
    }
}

impl QueueMemory for QueueFrames {
    fn ring(&self) -> Frame {
        self.ring
    }

    fn status_address(&self) -> Hpa {
        self.answers.start()
    }

    fn write(&mut self, slot: usize, Descriptor(words): Descriptor) {
        assert!(slot < SLOTS, "a descriptor beyond the queue");
        let at = self.ring.start().0 as usize + slot * size_of::<Descriptor>();
        let place = ptr::with_exposed_provenance_mut::<[u64; 2]>(at);
        // SAFETY: the ring is a frame of the pool that only this queue writes, mapped where addresses are equal; the slot is
        // within it, and the unit does not read it before the tail says so.
        unsafe { place.write_volatile(words) };
        if !self.coherent {
            cpu::write_back(place.cast(), size_of::<Descriptor>());
        }
        fence(Ordering::SeqCst);
    }

    fn status(&mut self) -> u32 {
        let at = ptr::with_exposed_provenance::<u32>(self.answers.start().0 as usize);
        if !self.coherent {
            // The line is clean: it was never written here. Dropped, it is read from memory again.
            cpu::write_back(at.cast(), size_of::<u32>());
        }
        // SAFETY: as above; the unit writes it, so it is read as it is, once.
        unsafe { at.read_volatile() }
    }
}
