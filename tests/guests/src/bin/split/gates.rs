//! The hypervisor's gates, as a kernel finds them that looks at its own page tables, and knows
//! [how they are laid out](../../../../../../hypervisor/core/src/split/gates.rs).

use crate::world::{self, KERNEL};

/// Pages of code.
const CODE_PAGES: u64 = 4;
const PAGE: u64 = 4096;
const WAYS: u64 = 0;
const SYSCALL: u64 = 1;
const STUBS: u64 = 2;
const WORDS: u64 = 4;
const SEEN: u64 = 5;
const SYSCALL_GATE: u64 = 64;
const STUB: u64 = 24;
/// How the stub of a vector begins that has a stack of its own: `mov [rsp - 256], rax`.
const OWN_STACK: u64 = 0xffff_ff00_2484_8948;
/// Bytes from one of them to the next.
const OWN_STACK_STUB: u64 = 64;

/// Where the kernel's level-3 table has them.
const CODE_GIB: usize = 509;
const DATA_GIB: usize = 508;
pub(crate) const GIBS: [usize; 2] = [CODE_GIB, DATA_GIB];

/// Where they are: code, and the same pages to be written to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gates {
    pub(crate) code: u64,
    pub(crate) data: u64,
}

/// Addresses that instructions may be at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Gates {
    /// Where they would be.
    pub(crate) const PLACE: Self = Self {
        code: KERNEL - (1 << 30),
        data: KERNEL - (2 << 30),
    };

    /// Where there are some: the kernel has no pages there by itself.
    pub(crate) fn find() -> Option<Self> {
        const PRESENT: u64 = 1;
        let there = GIBS.map(|gib| world::kernels_gib(gib) & PRESENT != 0);
        (there == [true; 2]).then_some(Self::PLACE)
    }

    /// Whether code at `rip` is theirs.
    pub(crate) const fn has(self, rip: u64) -> bool {
        rip.wrapping_sub(self.code) < CODE_PAGES * PAGE
    }

    /// The first vCPU's for SYSCALL.
    pub(crate) const fn syscall(self) -> Range {
        Range {
            start: self.code + SYSCALL * PAGE,
            length: SYSCALL_GATE,
        }
    }

    /// A vector's that comes to the entry stack.
    pub(crate) const fn stub(self, vector: u64) -> Range {
        Range {
            start: self.code + STUBS * PAGE + vector * STUB,
            length: STUB,
        }
    }

    /// The page with the ways out.
    pub(crate) const fn ways(self) -> u64 {
        self.code + WAYS * PAGE
    }

    /// The debug exception's, which lies behind the ways out; where they are.
    pub(crate) fn debug_stub(self) -> Option<Range> {
        let places = (self.ways()..self.ways() + PAGE).step_by(16);
        let mut stubs = places.filter(|at| world::read(*at) == OWN_STACK);
        let start = stubs.next()?;
        Some(Range {
            start,
            length: OWN_STACK_STUB,
        })
    }

    /// Where SYSCALL keeps RAX and RCX of the first vCPU.
    pub(crate) const fn words(self) -> [u64; 2] {
        let rax = self.data + WORDS * PAGE;
        [rax, rax + 8]
    }

    /// Where it says that a top-level table was looked at.
    pub(crate) const fn seen(self, table: u64) -> u64 {
        self.code + SEEN * PAGE + 8 * ((table >> 12) % 512)
    }
}
