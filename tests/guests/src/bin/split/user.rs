//! Into user mode and back: whatever ends it is written down, and the kernel goes on where it was.
//!
//! | step | registers |
//! |---|---|
//! | `split_run` | EDI = [`How`]; callee-saved registers on the stack, RSP kept in `split_kernel_rsp` |
//! | user code | all registers as [`CONTEXT`](split_context) has them |
//! | `split_syscall`, `split_syscall_again`, a stub of `split_stubs` | the user's, which go back into the context |
//!
//! Everything the processor comes to by itself is reached by addresses of the kernel half, and addresses its data relative to RIP.

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::world::{self, Page, USER_CODE, USER_STACK_TOP};

/// What ended user mode where it was a system call, by which entry point.
pub(crate) const SYSCALL: u64 = 0x100;
pub(crate) const SYSCALL_AGAIN: u64 = 0x101;
/// Size of an entry stub.
pub(crate) const STUB_SIZE: u64 = 16;

const USER_CS: u64 = 0x2b;
const USER_SS: u64 = 0x23;
const RFLAGS: u64 = 2;

/// Interrupts are on.
pub(crate) const INTERRUPTS: u64 = 1 << 9;

#[repr(C)]
struct Context {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    registers: [AtomicU64; 15],
    rip: AtomicU64,
    cs: AtomicU64,
    rflags: AtomicU64,
    rsp: AtomicU64,
    ss: AtomicU64,
    vector: AtomicU64,
    error: AtomicU64,
    cr2: AtomicU64,
}

const _: () = assert!(core::mem::offset_of!(Context, rip) == 120 && size_of::<Context>() == 184);

unsafe extern "C" {
    safe static split_context: Context;
    pub(crate) safe static split_stubs: u8;
    pub(crate) safe static split_syscall: u8;
    pub(crate) safe static split_syscall_again: u8;
    fn split_run(how: How);
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
    load(code);
    let context = &split_context;
    for (register, number) in context.registers.iter().zip(0..) {
        register.store(marker(number), Relaxed);
    }
    context.registers[RDI].store(rdi, Relaxed);
    context.registers[RSI].store(rsi, Relaxed);
    context.rip.store(USER_CODE, Relaxed);
    context.rflags.store(RFLAGS, Relaxed);
    resume(How::Iret)
}

/// Goes on where user mode ended.
pub(crate) fn resume(how: How) -> End {
    let context = &split_context;
    context.cs.store(USER_CS, Relaxed);
    context.ss.store(USER_SS, Relaxed);
    context.rsp.store(USER_STACK_TOP, Relaxed);
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

const fn marker(number: u64) -> u64 {
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

global_asm!(
    r#"
    .section .data.split, "aw", @progbits
    .balign 8
    .globl split_context
split_context:
    .skip 120
split_rip:
    .quad 0
split_cs:
    .quad 0
split_rflags:
    .quad 0
split_rsp:
    .quad 0
split_ss:
    .quad 0
split_vector:
    .quad 0
split_error:
    .quad 0
split_cr2:
    .quad 0
split_kernel_rsp:
    .quad 0

    .macro load_registers
    mov rax, [rip + split_context]
    mov rbx, [rip + split_context + 8]
    mov rcx, [rip + split_context + 16]
    mov rdx, [rip + split_context + 24]
    mov rsi, [rip + split_context + 32]
    mov rdi, [rip + split_context + 40]
    mov rbp, [rip + split_context + 48]
    mov r8, [rip + split_context + 56]
    mov r9, [rip + split_context + 64]
    mov r10, [rip + split_context + 72]
    mov r11, [rip + split_context + 80]
    mov r12, [rip + split_context + 88]
    mov r13, [rip + split_context + 96]
    mov r14, [rip + split_context + 104]
    mov r15, [rip + split_context + 112]
    .endm

    .macro save_registers
    mov [rip + split_context], rax
    mov [rip + split_context + 8], rbx
    mov [rip + split_context + 16], rcx
    mov [rip + split_context + 24], rdx
    mov [rip + split_context + 32], rsi
    mov [rip + split_context + 40], rdi
    mov [rip + split_context + 48], rbp
    mov [rip + split_context + 56], r8
    mov [rip + split_context + 64], r9
    mov [rip + split_context + 72], r10
    mov [rip + split_context + 80], r11
    mov [rip + split_context + 88], r12
    mov [rip + split_context + 96], r13
    mov [rip + split_context + 104], r14
    mov [rip + split_context + 112], r15
    .endm

    .section .text.split, "ax", @progbits
    .globl split_run
split_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + split_kernel_rsp], rsp
    cmp edi, 1
    je 2f
    ja 3f
    push qword ptr [rip + split_ss]
    push qword ptr [rip + split_rsp]
    push qword ptr [rip + split_rflags]
    push qword ptr [rip + split_cs]
    push qword ptr [rip + split_rip]
    load_registers
    iretq
2:
    load_registers
    mov rcx, [rip + split_rip]
    mov r11, [rip + split_rflags]
    mov rsp, [rip + split_rsp]
    sysretq
3:
    jmp qword ptr [rip + split_rip]

    .globl split_syscall
split_syscall:
    mov qword ptr [rip + split_vector], 0x100
    jmp split_called
    .globl split_syscall_again
split_syscall_again:
    mov qword ptr [rip + split_vector], 0x101
split_called:
    mov [rip + split_rsp], rsp
    mov [rip + split_rip], rcx
    mov [rip + split_rflags], r11
    mov qword ptr [rip + split_cs], 0x2b
    mov qword ptr [rip + split_error], 0
    save_registers
    jmp split_back

    .balign 16
    .globl split_stubs
split_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp split_trap
    .set vector, vector + 1
    .endr

split_trap:
    save_registers
    pop qword ptr [rip + split_vector]
    pop qword ptr [rip + split_error]
    pop qword ptr [rip + split_rip]
    pop qword ptr [rip + split_cs]
    pop qword ptr [rip + split_rflags]
    pop qword ptr [rip + split_rsp]
    pop qword ptr [rip + split_ss]
    mov rax, cr2
    mov [rip + split_cr2], rax
split_back:
    cld
    mov rsp, [rip + split_kernel_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    "#
);
