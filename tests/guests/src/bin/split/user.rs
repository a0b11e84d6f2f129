//! Into user mode and back: whatever ends it is written down, and the kernel goes on where it was.
//! The instructions are [`entry`](crate::entry)'s.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::entry::{split_context, split_fast, split_run};
use crate::world::{self, Page, USER_CODE, USER_STACK_TOP};

/// What ended user mode where it was a system call, by which entry point.
pub(crate) const SYSCALL: u64 = 0x100;
pub(crate) const SYSCALL_AGAIN: u64 = 0x101;

const USER_CS: u64 = 0x2b;
const USER_SS: u64 = 0x23;
const RFLAGS: u64 = 2;

/// Interrupts are on.
pub(crate) const INTERRUPTS: u64 = 1 << 9;
/// Each instruction is followed by a debug exception.
pub(crate) const TRAP: u64 = 1 << 8;

/// User mode is returned to as Linux does it, where gates may be.
static BY_SITES: AtomicBool = AtomicBool::new(false);
/// IRET has two such places, which take turns.
static TURN: AtomicBool = AtomicBool::new(false);

/// Has user mode be returned to as Linux does it.
pub(crate) fn return_by_sites() {
    BY_SITES.store(true, Relaxed);
}

/// Has SYSCALL, INT3 and page faults not end user mode, or has them end it.
pub(crate) fn go_on_by_itself(yes: bool) {
    split_fast.store(u8::from(yes), Relaxed);
}

/// The way into user mode, or what is tried instead.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "the assembly knows the numbers")]
pub(crate) enum How {
    Iret = 0,
    Sysret = 1,
    /// A jump at CPL 0.
    Jump = 2,
    /// Linux' SYSRET, its IRET from the entry stack, and the one from a process's kernel stack.
    SysretSite = 3,
    EntryStackSite = 4,
    KernelStackSite = 5,
}

impl How {
    fn by_site(self) -> Self {
        match self {
            Self::Sysret => Self::SysretSite,
            Self::Iret if TURN.fetch_xor(true, Relaxed) => Self::EntryStackSite,
            Self::Iret => Self::KernelStackSite,
            other => other,
        }
    }
}

/// What ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct End {
    pub(crate) vector: u64,
    pub(crate) error: u64,
    /// Of a page fault.
    pub(crate) cr2: u64,
    pub(crate) rip: u64,
    pub(crate) is_user: bool,
    /// RAX.
    pub(crate) result: u64,
}

impl End {
    /// A page fault.
    pub(crate) fn is_page_fault(&self, error: u64, at: u64) -> bool {
        (self.vector, self.error, self.cr2) == (14, error, at)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.is_user { 3 } else { 0 };
        write!(
            f,
            "vector {:#x} error {:#x} at CPL {level} {:#x} cr2 {:#x} rax {:#x}",
            self.vector, self.error, self.rip, self.cr2, self.result
        )
    }
}

/// Runs `code` in user mode with RDI and RSI; up to its end.
pub(crate) fn run(code: &[u8], rdi: u64, rsi: u64) -> End {
    prepare(code, rdi, rsi, 0);
    resume(How::Iret)
}

/// Has user mode begin with all that and more flags than usual, once it is resumed.
pub(crate) fn prepare(code: &[u8], rdi: u64, rsi: u64, flags: u64) {
    load(code);
    let context = &split_context;
    for (register, number) in context.registers.iter().zip(0..) {
        register.store(marker(number), Relaxed);
    }
    context.registers[RDI].store(rdi, Relaxed);
    context.registers[RSI].store(rsi, Relaxed);
    context.rip.store(USER_CODE, Relaxed);
    context.rflags.store(RFLAGS | flags, Relaxed);
}

/// Has it begin with another value in register `number`, in the order of [`Context`](crate::entry::Context).
pub(crate) fn set_register(number: usize, value: u64) {
    if let Some(register) = split_context.registers.get(number) {
        register.store(value, Relaxed);
    }
}

/// Goes on where user mode ended.
pub(crate) fn resume(how: How) -> End {
    let context = &split_context;
    context.cs.store(USER_CS, Relaxed);
    context.ss.store(USER_SS, Relaxed);
    context.rsp.store(USER_STACK_TOP, Relaxed);
    let how = match BY_SITES.load(Relaxed) {
        true => how.by_site(),
        false => how,
    };
    // SAFETY: comes back with callee-saved registers as they were; what the code at RIP may do is up to page tables and privilege.
    unsafe { split_run(how) };
    End {
        vector: context.vector.load(Relaxed),
        error: context.error.load(Relaxed),
        cr2: context.cr2.load(Relaxed),
        rip: context.rip.load(Relaxed),
        is_user: context.cs.load(Relaxed) & 3 == 3,
        result: context.registers[RAX].load(Relaxed),
    }
}

/// Has the kernel jump to `code` in a user page.
pub(crate) fn jump(code: &[u8]) -> End {
    load(code);
    split_context.rip.store(USER_CODE, Relaxed);
    resume(How::Jump)
}

/// Has the kernel go on at `code`, where an exception is what ends it.
pub(crate) fn jump_to(code: &'static u8) -> End {
    split_context
        .rip
        .store(core::ptr::from_ref(code) as u64, Relaxed);
    resume(How::Jump)
}

/// Has user mode go on `length` bytes further.
pub(crate) fn skip(length: u64) {
    split_context.rip.fetch_add(length, Relaxed);
}

/// Has user mode go on with `code`, and with other flags.
pub(crate) fn set_code(code: &[u8], flags: u64) {
    load(code);
    split_context.rip.store(USER_CODE, Relaxed);
    split_context.rflags.store(RFLAGS | flags, Relaxed);
}

/// Whether the registers that nobody gave anything else are as `run` set them.
pub(crate) fn registers_are_kept() -> bool {
    let registers = split_context.registers.iter().zip(0..);
    let mut kept =
        registers.filter(|(_, number)| ![RAX, RCX, RSI, RDI, R11].contains(&(*number as usize)));
    kept.all(|(register, number)| register.load(Relaxed) == marker(number))
}

const RAX: usize = 0;
const RCX: usize = 2;
const RSI: usize = 4;
const RDI: usize = 5;
const R11: usize = 10;

pub(crate) const fn marker(number: u64) -> u64 {
    0x5a00_1234_0000_0001 * (number + 1)
}

fn load(code: &[u8]) {
    let page: &Page = world::user_code();
    let (words, rest) = code.as_chunks::<8>();
    let mut last = [0xcc; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().copied().chain([last]);
    for (word, bytes) in page.0.iter().zip(words) {
        word.store(u64::from_le_bytes(bytes), Relaxed);
    }
}
