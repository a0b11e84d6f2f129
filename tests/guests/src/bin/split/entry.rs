//! How the kernel is entered and left, in assembly. It is left as Linux is, so that the hypervisor may know the places.
//!
//! | step | registers |
//! |---|---|
//! | `split_run` | EDI = [`How`]; callee-saved registers on the stack, RSP kept in `split_kernel_rsp` |
//! | user code | all registers as [`Context`] has them, GS is its own |
//! | `split_syscall`, `split_syscall_again`, a stub of `split_stubs` | the user's, which go back into the context |
//! | `split_debug`, `split_nmi`, on stacks of their own | whoever's; `split_nested` keeps them in a [`Nested`] |
//!
//! While `split_fast` is 1, SYSCALL, INT3 and page faults of user code do not end it: the first two do nothing, and the last goes on at RSI. Everything the
//! processor comes to by itself is reached by addresses of the kernel half, and addresses its data relative to RIP.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU8, AtomicU64};

use crate::user::How;

/// Size of an entry stub.
pub(crate) const STUB_SIZE: u64 = 16;

/// What user code has, or had, and what ended it.
#[repr(C)]
pub(crate) struct Context {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub(crate) registers: [AtomicU64; 15],
    pub(crate) rip: AtomicU64,
    pub(crate) cs: AtomicU64,
    pub(crate) rflags: AtomicU64,
    pub(crate) rsp: AtomicU64,
    pub(crate) ss: AtomicU64,
    pub(crate) vector: AtomicU64,
    pub(crate) error: AtomicU64,
    pub(crate) cr2: AtomicU64,
}

const _: () = assert!(core::mem::offset_of!(Context, rip) == 120 && size_of::<Context>() == 184);

/// What a debug exception or an NMI interrupted.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Nested {
    registers: [u64; 15],
    pub(crate) vector: u64,
    error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    rsp: u64,
    ss: u64,
}

const _: () = assert!(size_of::<Nested>() == 22 * 8);

unsafe extern "C" {
    pub(crate) safe static split_context: Context;
    pub(crate) safe static split_fast: AtomicU8;
    pub(crate) safe static split_stubs: u8;
    pub(crate) safe static split_syscall: u8;
    pub(crate) safe static split_syscall_again: u8;
    pub(crate) safe static split_debug: u8;
    pub(crate) safe static split_nmi: u8;
    /// Where the kernel is left: each is one place from the first address to before the second.
    pub(crate) safe static split_sysret_site: u8;
    pub(crate) safe static split_sysret_site_end: u8;
    pub(crate) safe static split_entry_stack_site: u8;
    pub(crate) safe static split_kernel_stack_site: u8;
    pub(crate) safe static split_iret_end: u8;
    pub(crate) fn split_run(how: How);
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
    .globl split_fast
split_fast:
    .byte 0

    .section .bss.split, "aw", @nobits
    .balign 16
split_nmi_stack:
    .skip 16384

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

    .macro push_registers
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
    push \register
    .endr
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
    # The caller is where this program was linked. The kernel is left from its own half, which the gates' jumps are relative to.
    lea rax, [rip + 7f]
    or rax, -0x80000000
    jmp rax
7:
    cmp edi, 1
    je 2f
    cmp edi, 2
    je 3f
    push qword ptr [rip + split_ss]
    push qword ptr [rip + split_rsp]
    push qword ptr [rip + split_rflags]
    push qword ptr [rip + split_cs]
    push qword ptr [rip + split_rip]
    cmp edi, 4
    ja 6f
    je 5f
    cmp edi, 3
    je 4f
    load_registers
    swapgs
    iretq
2:
    load_registers
    mov rcx, [rip + split_rip]
    mov r11, [rip + split_rflags]
    mov rsp, [rip + split_rsp]
    swapgs
    sysretq
3:
    jmp qword ptr [rip + split_rip]
4:
    load_registers
    mov rcx, [rip + split_rip]
    mov r11, [rip + split_rflags]
    push 0
    push rdi
    jmp split_by_sysret
5:
    load_registers
    push 0
    push rdi
    jmp split_by_entry_stack
6:
    load_registers
    jmp split_kernel_stack_site

    .globl split_syscall
split_syscall:
    swapgs
    test byte ptr [rip + split_fast], 1
    jnz split_fast_syscall
    mov qword ptr [rip + split_vector], 0x100
    jmp split_called
    .globl split_syscall_again
split_syscall_again:
    swapgs
    mov qword ptr [rip + split_vector], 0x101
split_called:
    mov [rip + split_rsp], rsp
    mov [rip + split_rip], rcx
    mov [rip + split_rflags], r11
    mov qword ptr [rip + split_cs], 0x2b
    mov qword ptr [rip + split_error], 0
    save_registers
    jmp split_back

split_fast_syscall:
    mov [rip + split_rsp], rsp
    mov rsp, gs:[0]
    push qword ptr [rip + split_rsp]
    push rdi
    jmp split_sysret_site

    # From the kernel's stack, where RDI, a word, and a frame for IRET are.
split_by_sysret:
    mov rdi, rsp
    mov rsp, gs:[0]
    push qword ptr [rdi + 40]
    push qword ptr [rdi]
    .globl split_sysret_site
split_sysret_site:
    pop rdi
    pop rsp
    swapgs
    sysretq
    .globl split_sysret_site_end
split_sysret_site_end:

split_by_entry_stack:
    mov rdi, rsp
    mov rsp, gs:[0]
    push qword ptr [rdi + 48]
    push qword ptr [rdi + 40]
    push qword ptr [rdi + 32]
    push qword ptr [rdi + 24]
    push qword ptr [rdi + 16]
    push qword ptr [rdi]
    .globl split_entry_stack_site
split_entry_stack_site:
    pop rdi
    swapgs
    jmp split_iret

    .globl split_kernel_stack_site
split_kernel_stack_site:
    swapgs
    nop dword ptr [rax]
    test byte ptr [rsp + 8], 3
    jnz split_iret
    int3
split_iret:
    test byte ptr [rsp + 32], 4
    jnz split_iret_to_local
    iretq
    .globl split_iret_end
split_iret_end:
split_iret_to_local:
    int3

    # The error code or a zero, and the vector, are on the stack.
split_trap:
    test byte ptr [rip + split_fast], 1
    jz 1f
    test byte ptr [rsp + 24], 3
    jz 1f
    cmp qword ptr [rsp], 3
    je split_fast_breakpoint
    cmp qword ptr [rsp], 14
    je split_fast_fault
1:
    save_registers
split_ended:
    pop qword ptr [rip + split_vector]
    pop qword ptr [rip + split_error]
    pop qword ptr [rip + split_rip]
    pop qword ptr [rip + split_cs]
    pop qword ptr [rip + split_rflags]
    pop qword ptr [rip + split_rsp]
    pop qword ptr [rip + split_ss]
    mov rax, cr2
    mov [rip + split_cr2], rax
    test byte ptr [rip + split_cs], 3
    jz split_back
    swapgs
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

split_fast_breakpoint:
    swapgs
    add rsp, 8
    mov [rsp], rdi
    jmp split_entry_stack_site
split_fast_fault:
    swapgs
    add rsp, 16
    mov [rsp], rsi
    jmp split_kernel_stack_site

    # The next NMI comes to the same stack as soon as anything returns from an exception: so what this one interrupted is moved away first, below what
    # an NMI that it interrupted has.
    .globl split_nmi
split_nmi:
    push 0
    push 2
    push_registers
    mov rsi, rsp
    mov rdi, [rsi + 20 * 8]
    lea rax, [rip + split_nmi_stack]
    mov rcx, rdi
    sub rcx, rax
    cmp rcx, 16384
    jb 1f
    lea rdi, [rax + 16384]
1:
    sub rdi, 128 + 22 * 8
    and rdi, -16
    mov rsp, rdi
    mov ecx, 22
    cld
    rep movsq
    jmp split_nested

    .globl split_debug
split_debug:
    push 0
    push 1
    push_registers
split_nested:
    mov rdi, rsp
    cld
    call {hook}
    test al, al
    jnz 2f
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    pop \register
    .endr
    add rsp, 16
    test byte ptr [rsp + 8], 3
    jz 1f
    swapgs
    jmp split_kernel_stack_site
1:
    iretq
2:
    .set register, 0
    .rept 15
    pop qword ptr [rip + split_context + 8 * register]
    .set register, register + 1
    .endr
    jmp split_ended

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
    "#,
    hook = sym crate::hook,
);
