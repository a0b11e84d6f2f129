//! What user code does that is more than a few bytes.
//!
//! RDI is an address that it reads, RSI where it goes on when that was a page fault (see [`entry`](crate::entry)).

use core::arch::global_asm;

use crate::world::USER_NOTHING;

unsafe extern "C" {
    static split_many: u8;
    static split_many_end: u8;
    static split_tour: u8;
    static split_tour_end: u8;
    static split_loop: u8;
    static split_loop_end: u8;
}

/// How often [`many`] goes into the kernel.
pub(crate) const MANY: u64 = 10_000;

/// System calls and breakpoints, then UD2.
pub(crate) fn many() -> &'static [u8] {
    between(&raw const split_many, &raw const split_many_end)
}

/// A system call, a breakpoint, a page fault, then UD2.
pub(crate) fn tour() -> &'static [u8] {
    between(&raw const split_tour, &raw const split_tour_end)
}

/// Over and over what [`tour`] has, until the second word of GS is not zero: then UD2. HLT where a register is not what it was. Now and then it looks at RDI, where it
/// is to find RDX, 7 for a page fault; R14 is the exclusive disjunction of the registers that are never changed, and R10 the first word of GS.
pub(crate) fn checked_loop() -> &'static [u8] {
    between(&raw const split_loop, &raw const split_loop_end)
}

fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    let length = end as usize - start as usize;
    // SAFETY: the assembly below has these bytes between the labels, and nothing writes to them.
    unsafe { core::slice::from_raw_parts(start, length) }
}

global_asm!(
    r#"
    .section .rodata.split, "a", @progbits
    .globl split_many
split_many:
    mov esi, {many} / 2
1:
    syscall
    int3
    dec esi
    jnz 1b
    ud2
    .globl split_many_end
split_many_end:

    .globl split_tour
split_tour:
    syscall
    int3
    lea rsi, [rip + 1f]
    mov rax, [rdi]
1:
    ud2
    .globl split_tour_end
split_tour_end:

    .globl split_loop
split_loop:
    mov eax, 0x1234567
    syscall
    cmp rax, 0x1234567
    jne 9f
    mov ecx, 0x89
    mov r11d, 0x77
    int3
    cmp rcx, 0x89
    jne 9f
    cmp r11, 0x77
    jne 9f
    mov eax, 7
    lea rsi, [rip + 1f]
    movabs rax, [{nothing}]
1:
    cmp rax, 7
    jne 9f
    inc dword ptr [rsp - 64]
    test dword ptr [rsp - 64], 31
    jnz 3f
    lea rsi, [rip + 2f]
    mov rax, [rdi]
2:
    cmp rax, rdx
    jne 9f
3:
    mov rax, rsp
    xor rax, rbx
    xor rax, rbp
    xor rax, r8
    xor rax, r9
    xor rax, r10
    xor rax, r12
    xor rax, r13
    xor rax, r15
    cmp rax, r14
    jne 9f
    cmp r10, gs:[0]
    jne 9f
    cmp qword ptr gs:[8], 0
    je split_loop
    ud2
9:
    hlt
    .globl split_loop_end
split_loop_end:
    "#,
    many = const MANY,
    nothing = const USER_NOTHING,
);
