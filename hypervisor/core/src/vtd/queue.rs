//! Queued invalidation: descriptors in a ring in memory, completion by a status written back.
//!
//! `Queue::submit` writes a batch and a wait descriptor behind it, rings the tail once, and returns when the wait's
//! status has arrived or the unit reports an error. Since every submission is waited for, the ring is empty when
//! the next begins, and a batch plus its wait always fits: it cannot overrun. Neighbours: [`super::invalidate`] says
//! what is forgotten, [`super::fallback`] does the same by registers. See Intel VT-d, "Queued Invalidation Interface".

use crate::addr::{FRAME_SIZE, Frame, Hpa};

use super::invalidate::{BATCH, Batch, InvalidationCounts, InvalidationError, Request};
use super::registers::{
    self, FaultStatus, POLLS, QUEUE_ADDRESS, QUEUE_HEAD, QUEUE_TAIL, UnitRegisters,
};

/// Bytes of a descriptor.
const DESCRIPTOR_BYTES: u64 = size_of::<Descriptor>() as u64;
/// Descriptors in the ring: one frame of them.
pub const SLOTS: usize = (FRAME_SIZE / DESCRIPTOR_BYTES) as usize;

// A batch with a fence behind each request and its wait fit, with the one slot free that tells a full ring from an empty one.
const _: () = assert!(2 * BATCH + 2 <= SLOTS && SLOTS == 256);

/// A descriptor in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Descriptor(pub [u64; 2]);

const _: () = assert!(size_of::<Descriptor>() == 16);

/// The memory of one unit's queue; the shell implements it over frames of its own.
pub trait QueueMemory {
    /// The frame of the ring.
    fn ring(&self) -> Frame;
    /// Where the unit writes a wait's status: four bytes, aligned.
    fn status_address(&self) -> Hpa;
    /// Writes the descriptor in slot `slot` (below [`SLOTS`]), visible to the unit before any later register access.
    fn write(&mut self, slot: usize, descriptor: Descriptor);
    /// What the unit wrote last to the status.
    fn status(&mut self) -> u32;
}

/// Descriptor types ("Context-cache Invalidate Descriptor" and the following sections).
mod kind {
    pub(super) const CONTEXT: u64 = 1;
    pub(super) const IOTLB: u64 = 2;
    pub(super) const INTERRUPT: u64 = 4;
    pub(super) const WAIT: u64 = 5;
}

/// Granularities of context-cache and IOTLB invalidation.
pub(super) mod granularity {
    pub(in super::super) const GLOBAL: u64 = 1;
    pub(in super::super) const DOMAIN: u64 = 2;
    /// A device's context entry, or a domain's pages.
    pub(in super::super) const SELECTIVE: u64 = 3;
}

impl Descriptor {
    const GRANULARITY: u32 = 4;
    const DOMAIN: u32 = 16;
    const SOURCE: u32 = 32;
    /// Reads and writes that wait in the unit are finished first (DR, DW).
    const DRAIN: u64 = 3 << 6;
    const INDEX_SELECTIVE: u64 = 1 << 4;
    const INDEX_MASK: u32 = 27;
    const INDEX: u32 = 32;
    const STATUS_WRITE: u64 = 1 << 5;
    const FENCE: u64 = 1 << 6;
    const STATUS_DATA: u32 = 32;

    /// The descriptor that asks for `request`.
    #[must_use]
    pub const fn of(request: Request) -> Self {
        match request {
            Request::AllContexts => {
                Self([kind::CONTEXT | granularity::GLOBAL << Self::GRANULARITY, 0])
            }
            Request::Context(domain, source) => Self([
                kind::CONTEXT
                    | granularity::SELECTIVE << Self::GRANULARITY
                    | (domain.raw() as u64) << Self::DOMAIN
                    | (source.0 as u64) << Self::SOURCE,
                0,
            ]),
            Request::AllTranslations => Self([
                kind::IOTLB | granularity::GLOBAL << Self::GRANULARITY | Self::DRAIN,
                0,
            ]),
            Request::Domain(domain) => Self([
                kind::IOTLB
                    | granularity::DOMAIN << Self::GRANULARITY
                    | Self::DRAIN
                    | (domain.raw() as u64) << Self::DOMAIN,
                0,
            ]),
            // The invalidation hint stays clear: emptied tables are retired, so their parents are to be forgotten too.
            Request::Pages(domain, block) => Self([
                kind::IOTLB
                    | granularity::SELECTIVE << Self::GRANULARITY
                    | Self::DRAIN
                    | (domain.raw() as u64) << Self::DOMAIN,
                block.start().0 | block.order() as u64,
            ]),
            Request::AllInterrupts => Self([kind::INTERRUPT, 0]),
            Request::Interrupts { index, order } => Self([
                kind::INTERRUPT
                    | Self::INDEX_SELECTIVE
                    | (order as u64) << Self::INDEX_MASK
                    | (index as u64) << Self::INDEX,
                0,
            ]),
        }
    }

    /// The wait that holds back what follows it until everything before it is done. It writes `data` to `status` besides: QEMU 10
    /// refuses a wait that only holds back.
    #[must_use]
    pub const fn fence(status: Hpa, data: u32) -> Self {
        let Self([low, high]) = Self::wait(status, data);
        Self([low | Self::FENCE, high])
    }

    /// The wait that writes `data` to `status` when everything before it is done.
    #[must_use]
    pub const fn wait(status: Hpa, data: u32) -> Self {
        Self([
            kind::WAIT | Self::STATUS_WRITE | (data as u64) << Self::STATUS_DATA,
            status.0 & !3,
        ])
    }
}

/// One unit's invalidation queue.
#[derive(Debug)]
pub struct Queue<M> {
    memory: M,
    tail: usize,
    /// What the next wait writes; never what the last one wrote.
    serial: u32,
    dead: bool,
    counts: InvalidationCounts,
}

impl<M: QueueMemory> Queue<M> {
    /// Points a unit whose queue is off to `memory`; [`super::unit`] turns the queue on.
    pub(super) fn point(registers: &mut impl UnitRegisters, mut memory: M) -> Self {
        registers.write64(QUEUE_TAIL, 0);
        // One frame, 16-byte descriptors: size and width fields are zero.
        registers.write64(QUEUE_ADDRESS, memory.ring().start().0);
        let serial = memory.status().wrapping_add(1);
        Self {
            memory,
            tail: 0,
            serial,
            dead: false,
            counts: InvalidationCounts::default(),
        }
    }

    /// What was done so far.
    pub(super) const fn counts(&self) -> InvalidationCounts {
        self.counts
    }

    /// Has the unit work off `batch`, and returns when it has.
    ///
    /// # Errors
    /// The unit reported an error or did not finish; the queue is not used again.
    pub(super) fn submit(
        &mut self,
        registers: &mut impl UnitRegisters,
        batch: &Batch,
    ) -> Result<(), InvalidationError> {
        if self.dead {
            return Err(InvalidationError::Dead);
        }
        let mut last_was_context = false;
        for request in batch.iter() {
            // A unit may work off requests side by side, and refill its IOTLB by a context entry that is not forgotten yet.
            let is_context = matches!(request, Request::AllContexts | Request::Context(..));
            if last_was_context && !is_context {
                // What is there already.
                let before = self.serial.wrapping_sub(1);
                let status = self.memory.status_address();
                self.put(Descriptor::fence(status, before));
            }
            last_was_context = is_context;
            self.put(Descriptor::of(request));
        }
        let data = self.serial;
        self.serial = data.wrapping_add(1);
        self.put(Descriptor::wait(self.memory.status_address(), data));
        self.counts.submissions += 1;
        self.counts.requests += batch.len() as u64;
        registers.write64(QUEUE_TAIL, self.tail as u64 * DESCRIPTOR_BYTES);
        let done = self.await_status(registers, data);
        self.dead = done.is_err();
        done
    }

    fn put(&mut self, descriptor: Descriptor) {
        self.memory.write(self.tail, descriptor);
        self.tail = (self.tail + 1) % SLOTS;
    }

    fn await_status(
        &mut self,
        registers: &mut impl UnitRegisters,
        data: u32,
    ) -> Result<(), InvalidationError> {
        for _ in 0..POLLS {
            self.counts.polls += 1;
            if self.memory.status() == data {
                return Ok(());
            }
            let status = registers.read32(registers::FAULT_STATUS);
            if let Some(error) =
                InvalidationError::in_status(FaultStatus::from_bits_truncate(status))
            {
                return Err(error);
            }
        }
        Err(InvalidationError::Timeout { polls: POLLS })
    }
}

/// Whether the unit has fetched everything up to its tail.
pub(super) fn is_drained(registers: &mut impl UnitRegisters) -> bool {
    registers.read64(QUEUE_HEAD) == registers.read64(QUEUE_TAIL)
}
