//! The ledger's counters: frames by state and by owner. Both sum to the number of frames, always.

use crate::addr::FrameCount;

use super::Ledger;
use super::entry::{Entry, Kind, Owner, State};

/// Owners, with all VMs as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OwnerClass {
    /// [`Owner::Nobody`].
    Nobody = 0,
    /// [`Owner::Hypervisor`].
    Hypervisor = 1,
    /// [`Owner::Firmware`].
    Firmware = 2,
    /// [`Owner::Mmio`].
    Mmio = 3,
    /// [`Owner::Payload`].
    Payload = 4,
    /// [`Owner::Vm`].
    Vm = 5,
}

impl OwnerClass {
    /// How many classes there are.
    pub const COUNT: usize = 6;
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Nobody,
        Self::Hypervisor,
        Self::Firmware,
        Self::Mmio,
        Self::Payload,
        Self::Vm,
    ];

    /// Its name in counters and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Hypervisor => "hypervisor",
            Self::Firmware => "firmware",
            Self::Mmio => "mmio",
            Self::Payload => "payload",
            Self::Vm => "vm",
        }
    }
}

impl From<Owner> for OwnerClass {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Nobody => Self::Nobody,
            Owner::Hypervisor => Self::Hypervisor,
            Owner::Firmware => Self::Firmware,
            Owner::Mmio => Self::Mmio,
            Owner::Payload => Self::Payload,
            Owner::Vm(_) => Self::Vm,
        }
    }
}

/// Frames by state and by owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Books {
    by_state: [u64; State::COUNT],
    by_owner: [u64; OwnerClass::COUNT],
}

/// A frame's change of owner and state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) before: Kind,
    pub(super) after: Kind,
}

impl Books {
    /// Frames in `state`.
    #[must_use]
    pub fn in_state(&self, state: State) -> FrameCount {
        FrameCount(self.by_state.get(state as usize).copied().unwrap_or(0))
    }

    /// Frames of `owner`.
    #[must_use]
    pub fn owned_by(&self, owner: OwnerClass) -> FrameCount {
        FrameCount(self.by_owner.get(owner as usize).copied().unwrap_or(0))
    }

    /// Frames that can be allocated: nobody's, free or to be scrubbed first.
    #[must_use]
    pub fn available(&self) -> FrameCount {
        // Absent frames are nobody's too, and nothing else nobody's is neither free nor dirty.
        FrameCount(self.owned_by(OwnerClass::Nobody).0 - self.in_state(State::Absent).0)
    }

    /// Frames that are memory, whoever has them.
    #[must_use]
    pub fn memory(&self) -> FrameCount {
        let other = self.in_state(State::Absent).0 + self.in_state(State::Device).0;
        FrameCount(self.by_state.iter().sum::<u64>() - other)
    }

    /// Whether both ways of counting give `total` frames.
    #[must_use]
    pub fn balance(&self, total: FrameCount) -> bool {
        let states: u64 = self.by_state.iter().sum();
        let owners: u64 = self.by_owner.iter().sum();
        states == total.0 && owners == total.0
    }

    pub(super) fn add(&mut self, kind: Kind, count: u64) {
        let (owner, state) = kind.get();
        if let Some(frames) = self.by_state.get_mut(state as usize) {
            *frames += count;
        }
        if let Some(frames) = self.by_owner.get_mut(OwnerClass::from(owner) as usize) {
            *frames += count;
        }
    }

    pub(super) fn record(&mut self, moved: Move, count: u64) {
        self.add(moved.after, count);
        let (owner, state) = moved.before.get();
        if let Some(frames) = self.by_state.get_mut(state as usize) {
            *frames -= count;
        }
        if let Some(frames) = self.by_owner.get_mut(OwnerClass::from(owner) as usize) {
            *frames -= count;
        }
    }
}

impl Ledger<'_> {
    /// Counts every entry anew: equal to [`Ledger::books`] unless the ledger is broken. Linear in the
    /// machine's memory.
    #[must_use]
    pub fn audit(&self) -> Books {
        let mut books = Books::default();
        self.count(self.entries, &mut books);
        books
    }

    fn count(&self, entries: &[Entry], books: &mut Books) {
        for run in entries.chunk_by(|one, next| one.kind() == next.kind()) {
            if let Some(first) = run.first() {
                books.add(first.kind(), run.len() as u64);
            }
        }
    }
}

/// A count of every entry that is made a piece at a time, because a machine has millions of them.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    next: usize,
    counted: Books,
    /// The books when it began: where they differ later, it begins anew.
    began: Option<Books>,
}

impl Audit {
    /// Counts the next `frames` entries of `ledger`. Once all are counted, says whether they are what the books say and
    /// add up to the ledger's length.
    #[must_use]
    pub fn step(&mut self, ledger: &Ledger<'_>, frames: FrameCount) -> Option<bool> {
        let books = *ledger.books();
        if self.began != Some(books) {
            *self = Self {
                began: Some(books),
                ..Self::default()
            };
        }
        let left = ledger.entries.get(self.next..).unwrap_or_default();
        let room = usize::try_from(frames.0).unwrap_or(usize::MAX);
        let piece = left.get(..room.min(left.len())).unwrap_or_default();
        ledger.count(piece, &mut self.counted);
        self.next += piece.len();
        if piece.len() < left.len() {
            return None;
        }
        Some(self.counted == books && books.balance(ledger.frames()))
    }
}
