//! Where a Linux kernel goes back to user code, found in its instructions.
//!
//! A *site* is where the kernel has loaded all of a process's registers but those that the last instructions load, and exchanges the GS base. What is
//! looked for is the sequence of instructions from there on, as Linux 6.1 to 6.12 have it, whatever the run-time patching of alternatives made of
//! the gap in it. Nothing depends on finding a site: what is not found costs exits.

use alloc::vec::Vec;

use crate::addr::Gva;

/// How a site goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `pop rdi; pop rsp; swapgs; sysretq`, on the entry stack.
    Sysret,
    /// `pop rdi; swapgs; iretq`, on the entry stack.
    IretOnEntryStack(Iret),
    /// `swapgs; iretq`, on a process's kernel stack.
    IretOnKernelStack(Iret),
}

/// What the kernel does for IRET.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Iret {
    /// Where it goes to for it.
    pub target: Gva,
    /// The instruction, which its exception handlers know.
    pub instruction: Gva,
}

/// One place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Where. The first five bytes are one or more whole instructions, and nothing jumps between them.
    pub at: Gva,
    /// How it goes on.
    pub kind: Kind,
    /// The selector that VERW is executed with, where it is: it clears the processor's buffers.
    pub verw: Option<u16>,
}

/// What is found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sites {
    /// The sites, in order.
    pub all: Vec<Site>,
    /// Where, from GS, the kernel has the address of the entry stack.
    pub entry_stack: Option<i32>,
}

/// The most sites that are looked for. Linux has two.
pub const MOST_SITES: usize = 4;
const SWAPGS: [u8; 3] = [0x0f, 0x01, 0xf8];
const SYSRETQ: [u8; 3] = [0x48, 0x0f, 0x07];
const IRETQ: [u8; 2] = [0x48, 0xcf];
const POP_RDI: u8 = 0x5f;
const POP_RSP: u8 = 0x5c;
/// `test byte ptr [rsp + 8], 3`: whether the frame is user code's.
const TEST_USER: [u8; 5] = [0xf6, 0x44, 0x24, 0x08, 0x03];
/// `test byte ptr [rsp + 32], 4`: whether its stack segment is of a local descriptor table.
const TEST_LDT: [u8; 5] = [0xf6, 0x44, 0x24, 0x20, 0x04];
/// `push [rdi + 40]; push [rdi]`, after the entry stack was taken.
const PUSH_TO_ENTRY_STACK: [u8; 5] = [0xff, 0x77, 0x28, 0xff, 0x37];

impl Sites {
    /// Looks through `text`, which the kernel has at `base`.
    #[must_use]
    pub fn find(text: &[u8], base: Gva) -> Self {
        let code = Code { text, base };
        let mut sites = Self::default();
        for at in 0..text.len() {
            if sites.all.len() < MOST_SITES {
                sites.all.extend(code.site(at));
            }
            sites.entry_stack = sites.entry_stack.or_else(|| code.entry_stack(at));
        }
        sites
    }
}

#[derive(Clone, Copy)]
struct Code<'a> {
    text: &'a [u8],
    base: Gva,
}

impl Code<'_> {
    fn has(self, at: usize, bytes: &[u8]) -> bool {
        self.text
            .get(at..)
            .is_some_and(|rest| rest.starts_with(bytes))
    }

    fn byte(self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    fn displacement(self, at: usize) -> Option<i32> {
        let bytes = self.text.get(at..)?.first_chunk::<4>()?;
        Some(i32::from_le_bytes(*bytes))
    }

    fn address(self, at: usize) -> Gva {
        Gva(self.base.0.wrapping_add(at as u64))
    }

    fn site(self, at: usize) -> Option<Site> {
        let found = |kind, verw| Site {
            at: self.address(at),
            kind,
            verw,
        };
        if self.has(at, &[POP_RDI, POP_RSP]) && self.has(at + 2, &SWAPGS) {
            let (next, verw) = self.gap(at + 5)?;
            return self.has(next, &SYSRETQ).then(|| found(Kind::Sysret, verw));
        }
        if self.has(at, &[POP_RDI]) && self.has(at + 1, &SWAPGS) {
            let (next, verw) = self.gap(at + 4)?;
            let iret = self.iret(self.jump(next)?)?;
            return Some(found(Kind::IretOnEntryStack(iret), verw));
        }
        if self.has(at, &SWAPGS) {
            let (next, verw) = self.gap(at + 3)?;
            // Shorter, the jump to a gate would not fit.
            if next < at + 5 || !self.has(next, &TEST_USER) {
                return None;
            }
            let iret = self.iret(self.jump_if_not_zero(next + TEST_USER.len())?)?;
            return Some(found(Kind::IretOnKernelStack(iret), verw));
        }
        None
    }

    /// What run-time patching left between two instructions, from `at` on: no operations, a jump over VERW, or VERW. What comes after it, and
    /// the selector for VERW.
    fn gap(self, at: usize) -> Option<(usize, Option<u16>)> {
        const NOPS: [&[u8]; 8] = [
            &[0x66, 0x66, 0x90],
            &[0x66, 0x90],
            &[0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        ];
        const VERW: [u8; 3] = [0x0f, 0x00, 0x2d];
        const VERW_LENGTH: usize = 7;
        let (mut next, mut verw) = (at, None);
        while next < at + 32 {
            if let Some(nop) = NOPS.iter().find(|nop| self.has(next, nop)) {
                next += nop.len();
            } else if self.has(next, &[0xeb, VERW_LENGTH as u8]) && self.has(next + 2, &VERW) {
                next += 2 + VERW_LENGTH;
            } else if self.has(next, &VERW) {
                let selector = self.near_target(next + VERW.len())?;
                let selector = self.text.get(selector..)?.first_chunk::<2>()?;
                verw = Some(u16::from_le_bytes(*selector));
                next += VERW_LENGTH;
            } else {
                return Some((next, verw));
            }
        }
        None
    }

    /// Where the jump at `at` goes to.
    fn jump(self, at: usize) -> Option<usize> {
        match self.byte(at)? {
            0xeb => self.short_target(at + 1),
            0xe9 => self.near_target(at + 1),
            _ => None,
        }
    }

    /// Where the JNZ at `at` goes to.
    fn jump_if_not_zero(self, at: usize) -> Option<usize> {
        match self.byte(at)? {
            0x75 => self.short_target(at + 1),
            0x0f if self.byte(at + 1)? == 0x85 => self.near_target(at + 2),
            _ => None,
        }
    }

    fn short_target(self, at: usize) -> Option<usize> {
        (at + 1).checked_add_signed(isize::from(self.byte(at)? as i8))
    }

    fn near_target(self, at: usize) -> Option<usize> {
        (at + 4).checked_add_signed(self.displacement(at)? as isize)
    }

    /// The IRET that follows at `at`, with or without the test before it.
    fn iret(self, at: usize) -> Option<Iret> {
        let instruction = if self.has(at, &TEST_LDT) && self.byte(at + 5)? == 0x75 {
            at + 7
        } else {
            at
        };
        self.has(instruction, &IRETQ).then(|| Iret {
            target: self.address(at),
            instruction: self.address(instruction),
        })
    }

    /// `mov rsp, gs:[...]` in front of the pushes to the entry stack: what stands there.
    fn entry_stack(self, at: usize) -> Option<i32> {
        const ABSOLUTE: [u8; 5] = [0x65, 0x48, 0x8b, 0x24, 0x25];
        const RELATIVE: [u8; 4] = [0x65, 0x48, 0x8b, 0x25];
        let (displacement, next) = if self.has(at, &ABSOLUTE) {
            (self.displacement(at + 5)?, at + 9)
        } else if self.has(at, &RELATIVE) {
            let relative = i64::from(self.displacement(at + 4)?);
            let offset = self.address(at + 8).0.wrapping_add_signed(relative);
            (i32::try_from(offset as i64).ok()?, at + 8)
        } else {
            return None;
        };
        self.has(next, &PUSH_TO_ENTRY_STACK).then_some(displacement)
    }
}
