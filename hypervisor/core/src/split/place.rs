//! What views, addresses and pages are to the split.

use crate::addr::{FRAME_SIZE, Gpa, Gva};

/// The view that a vCPU of a VM with the split is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// `base`: the guest has not set up system calls yet, or carries out a single instruction that `kernel` does not allow.
    Base,
    /// `kernel`.
    Kernel,
    /// `user`.
    User,
}

impl Side {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Base, Self::Kernel, Self::User];
}

/// What a guest physical address is to the split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A level-3 table of the kernel half, or what stands in for one: user code has no way past it.
    Barrier,
    /// A table that `kernel` keeps from being written unseen.
    Guarded,
    /// The kernel's code, where that has to be found.
    Code,
    /// User code's, which the kernel is not to read.
    Private,
    /// A page with which the view allows by now whatever it allows with any: an access that was refused was too early.
    Open,
    /// Anything else.
    Elsewhere,
}

/// Where in the guest's physical address space the split has pages of its own: at the end, where no VM has anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    pub(super) first: Gpa,
}

impl Places {
    /// Bytes at the end of the physical address space.
    const SIZE: u64 = 1 << 30;

    /// For a processor whose physical addresses have `bits` bits.
    #[must_use]
    pub const fn for_width(bits: u32) -> Self {
        Self {
            // Tables of four levels end there, whatever the processor could address.
            first: Gpa((1 << if bits < 48 { bits } else { 48 }) - Self::SIZE),
        }
    }

    /// Where page `page` of the split's shows.
    pub(super) const fn page(self, page: usize) -> Gpa {
        Gpa(self.first.0 + page as u64 * FRAME_SIZE)
    }

    /// Where no view has anything.
    pub(super) const fn void(self) -> Gpa {
        Gpa(self.first.0 + Self::SIZE - FRAME_SIZE)
    }
}

/// A page of the kernel half that the processor needs while user code runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// Where the kernel has it: the page's first address.
    pub gva: Gva,
    /// Its first physical address.
    pub gpa: Gpa,
    /// Whether the kernel may write to it there.
    pub writable: bool,
    /// Whether it may execute it.
    pub executable: bool,
}

/// What a vCPU needs while user code runs, and the guest's tables on the way there.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The pages.
    pub names: &'a [Name],
    /// The tables, each once.
    pub tables: &'a [Gpa],
    /// [`Split::changes`](super::Split::changes), before they were read.
    pub changes: u64,
}
