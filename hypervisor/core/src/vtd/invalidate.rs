//! What a unit is told to forget, and the proof that it did.
//!
//! A [`Request`] is one thing to forget, a [`Batch`] what is handed to a unit at once. A [`Ticket`] locks a proof
//! until every unit that may hold something has worked off the ticket's batch; only [`super::queue`] and
//! [`super::fallback`], having seen the completion, mark a unit as done. See Intel VT-d, "Invalidation of Translation
//! Caches".

use core::fmt;

use crate::addr::{FRAME_SIZE, Gpa};

use super::SourceId;
use super::capability::DomainId;
use super::registers::FaultStatus;

/// One thing to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Every context entry.
    AllContexts,
    /// The context entry of one device, which had the domain's id.
    Context(DomainId, SourceId),
    /// Every translation.
    AllTranslations,
    /// A domain's translations.
    Domain(DomainId),
    /// A domain's translations of an aligned block, with the paging-structure entries on the way.
    Pages(DomainId, PageBlock),
    /// Every interrupt-remapping entry.
    AllInterrupts,
    /// `1 << order` interrupt-remapping entries from an index that is a multiple of that.
    Interrupts {
        /// The first.
        index: u16,
        /// The logarithm of their number.
        order: u8,
    },
}

/// `1 << order` pages, aligned to their size: what an address and a mask can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageBlock {
    first: u64,
    order: u8,
}

impl PageBlock {
    /// The smallest block that covers `count` pages from page number `first`, or `None` where that exceeds
    /// `1 << largest_order` pages.
    #[must_use]
    pub const fn covering(first: u64, count: u64, largest_order: u8) -> Option<Self> {
        let last = match first.checked_add(count.saturating_sub(1)) {
            Some(last) => last,
            None => return None,
        };
        let order = (u64::BITS - (first ^ last).leading_zeros()) as u8;
        if order > largest_order || order >= 52 {
            return None;
        }
        Some(Self {
            first: first & !((1 << order) - 1),
            order,
        })
    }

    /// Its first address.
    #[must_use]
    pub const fn start(self) -> Gpa {
        Gpa(self.first * FRAME_SIZE)
    }

    /// The logarithm of its pages: the address mask.
    #[must_use]
    pub const fn order(self) -> u8 {
        self.order
    }
}

/// How many requests a batch holds; more ranges than fit are cheaper forgotten domain by domain anyway.
pub const BATCH: usize = 8;

/// Requests handed to a unit at once, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    requests: [Option<Request>; BATCH],
    len: usize,
}

impl Batch {
    /// Nothing to forget.
    pub const EMPTY: Self = Self {
        requests: [None; BATCH],
        len: 0,
    };

    /// The batch of these requests; beyond [`BATCH`] of them, of none but the widest there are.
    #[must_use]
    pub fn of(requests: &[Request]) -> Self {
        let mut batch = Self::EMPTY;
        for request in requests {
            if !batch.push(*request) {
                return Self::of(&[
                    Request::AllContexts,
                    Request::AllTranslations,
                    Request::AllInterrupts,
                ]);
            }
        }
        batch
    }

    /// Adds a request; `false` where there is no room.
    #[must_use]
    pub fn push(&mut self, request: Request) -> bool {
        match self.requests.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(request);
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The requests, in order.
    pub fn iter(&self) -> impl Iterator<Item = Request> + '_ {
        self.requests.iter().copied().flatten()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A unit's number, in the order the DMAR table names them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UnitId(u8);

impl UnitId {
    /// The number of the unit at `index`, or `None` beyond the 64 that a set holds.
    #[must_use]
    pub const fn new(index: u8) -> Option<Self> {
        if index < 64 { Some(Self(index)) } else { None }
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VT-d unit {}", self.0)
    }
}

/// A set of units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnitSet(u64);

impl UnitSet {
    /// No unit.
    pub const EMPTY: Self = Self(0);

    /// The set with `unit` added.
    #[must_use]
    pub const fn with(self, unit: UnitId) -> Self {
        Self(self.0 | 1 << unit.0)
    }

    /// The set with `unit` taken out.
    #[must_use]
    pub const fn without(self, unit: UnitId) -> Self {
        Self(self.0 & !(1 << unit.0))
    }

    /// Whether `unit` is in it.
    #[must_use]
    pub const fn contains(self, unit: UnitId) -> bool {
        self.0 & 1 << unit.0 != 0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its units.
    pub fn iter(self) -> impl Iterator<Item = UnitId> {
        (0..64).map(UnitId).filter(move |unit| self.contains(*unit))
    }
}

/// A proof `P` that is locked until each of some units has forgotten what the ticket's batch says.
#[must_use = "have every waiting unit work it off, then redeem it; dropped, what it proves stays locked for good"]
#[derive(Debug)]
pub struct Ticket<P> {
    proof: P,
    batch: Batch,
    waiting: UnitSet,
}

impl<P> Ticket<P> {
    pub(super) const fn new(proof: P, batch: Batch, units: UnitSet) -> Self {
        Self {
            proof,
            batch,
            waiting: units,
        }
    }

    /// What each unit is to forget.
    #[must_use]
    pub const fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The units that have not done so yet.
    #[must_use]
    pub const fn waiting(&self) -> UnitSet {
        self.waiting
    }

    pub(super) const fn proof(&self) -> &P {
        &self.proof
    }

    /// `unit` has completed the batch.
    pub(super) const fn complete(&mut self, unit: UnitId) {
        self.waiting = self.waiting.without(unit);
    }

    /// The proof.
    ///
    /// # Errors
    /// `self` where a unit has not completed the batch.
    #[expect(
        clippy::result_large_err,
        reason = "a ticket comes back whole; nothing is allocated for it"
    )]
    pub fn redeem(self) -> Result<P, Self> {
        if self.waiting.is_empty() {
            Ok(self.proof)
        } else {
            Err(self)
        }
    }
}

/// Why a unit did not forget. What the ticket locks stays locked, and the unit's devices are to be cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidationError {
    /// The queue stopped at a descriptor the unit could not make sense of (IQE).
    Queue,
    /// A device did not answer in time (ITE).
    DeviceTimeout,
    /// A device answered wrongly (ICE).
    DeviceCompletion,
    /// Nothing happened for as many polls.
    Timeout {
        /// How often was looked.
        polls: u32,
    },
    /// A register-based invalidation was asked for what has no register: interrupt-remapping entries.
    NoRegister(Request),
    /// The unit did less than what it was asked for, or nothing (the actual granularity it reports).
    Refused(Request),
    /// The queue failed earlier and is not used any more.
    Dead,
}

impl InvalidationError {
    /// The error that the fault status names, if it names one.
    #[must_use]
    pub const fn in_status(status: FaultStatus) -> Option<Self> {
        if status.contains(FaultStatus::QUEUE_ERROR) {
            Some(Self::Queue)
        } else if status.contains(FaultStatus::TIMEOUT_ERROR) {
            Some(Self::DeviceTimeout)
        } else if status.contains(FaultStatus::COMPLETION_ERROR) {
            Some(Self::DeviceCompletion)
        } else {
            None
        }
    }
}

impl fmt::Display for InvalidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VT-d invalidation: ")?;
        match self {
            Self::Queue => write!(f, "the unit stopped at a queued descriptor (IQE)"),
            Self::DeviceTimeout => write!(f, "a device did not answer (ITE)"),
            Self::DeviceCompletion => write!(f, "a device answered wrongly (ICE)"),
            Self::Timeout { polls } => write!(f, "not completed after {polls} polls"),
            Self::NoRegister(request) => write!(f, "{request:?} takes the queue, which is absent"),
            Self::Refused(request) => write!(f, "the unit did not do {request:?}"),
            Self::Dead => write!(f, "the queue failed before and is out of use"),
        }?;
        write!(f, "; the devices behind this unit must be cut off")
    }
}

impl core::error::Error for InvalidationError {}

/// What invalidations cost so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InvalidationCounts {
    /// Batches handed over.
    pub submissions: u64,
    /// Requests in them.
    pub requests: u64,
    /// Looks at whether they were done.
    pub polls: u64,
}
