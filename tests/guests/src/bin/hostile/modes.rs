//! Leaving long mode and coming back: through 32-bit protected mode without paging down to real mode, and a task switch.
//!
//! | step | registers |
//! |---|---|
//! | `modes_enter` | callee-saved registers on the stack, RSP kept in `modes_stack` |
//! | compatibility mode, paging off, EFER.LME off | 32-bit |
//! | `modes_real`: CR0.PE off, a CPUID and a port read there | 16-bit, CS and DS base 0x70000 |
//! | back up the same way | EAX = CPUID's highest leaf in real mode |
//!
//! The 16-bit part runs below 1 MiB, at `LOW`, where it is copied first. Selectors are those of the runtime's `boot`.

use core::arch::global_asm;

use test_guests::case::Case;
use test_guests::cpu::cpuid;
use test_guests::params::Params;
use test_guests::println;

/// Where the 16-bit part runs; its segment is `LOW >> 4`.
const LOW: u64 = 0x7_0000;
/// More than the 16-bit part has.
const LOW_SIZE: usize = 256;
const TSS_DESCRIPTOR_32: u64 = 0x0000_8900_0000_0067;
const MAX_BASIC_LEAF: u32 = 0;

unsafe extern "C" {
    safe static modes_real: [u8; LOW_SIZE];
    safe static gdt_tss: core::sync::atomic::AtomicU64;
    fn modes_enter() -> u32;
    fn modes_task_switch();
}

pub(crate) fn round_trip(case: &mut Case, _: &Params) {
    // SAFETY: RAM that neither the loader nor this image uses.
    unsafe { core::ptr::copy_nonoverlapping(modes_real.as_ptr(), LOW as *mut u8, LOW_SIZE) };
    for _ in 0..10 {
        // SAFETY: comes back in 64-bit mode with every callee-saved register as it was.
        let found = unsafe { modes_enter() };
        let expected = cpuid(MAX_BASIC_LEAF, 0).eax;
        case.check(
            found == expected,
            format_args!("CPUID in real mode gave {found:#x}, not {expected:#x}"),
        );
    }
}

/// A far jump to a TSS in 32-bit mode: task switches always leave VMX non-root operation.
pub(crate) fn task_switch(_: &mut Case, _: &Params) {
    const TSS: u64 = 0x7_1000;
    // Base in bits 39:16 and 63:56 of the descriptor.
    gdt_tss.store(
        TSS_DESCRIPTOR_32 | (TSS << 16),
        core::sync::atomic::Ordering::Relaxed,
    );
    println!("case task-switch: about to");
    // SAFETY: does not return unless the hypervisor carries out the switch to an empty TSS, which faults.
    unsafe { modes_task_switch() };
}

global_asm!(
    r#"
    .section .data.modes, "aw", @progbits
    .balign 8
modes_stack:
    .quad 0
modes_idt:
    .word 0
    .quad 0
modes_kept_idt:
    .word 0
    .quad 0

    .section .text.modes, "ax", @progbits
    .code64
    .globl modes_enter
modes_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    cli
    sidt modes_kept_idt(%rip)
    lidt modes_idt(%rip)
    movq %rsp, modes_stack(%rip)
    pushq $0x18
    pushq $modes_down
    lretq

    .globl modes_task_switch
modes_task_switch:
    cli
    lidt modes_idt(%rip)
    pushq $0x18
    pushq $modes_task
    lretq

    .code32
modes_task:
    call modes_leave_long_mode
    ljmp $0x30, $0

    # Paging and long mode off; EAX, ECX, EDX change.
modes_leave_long_mode:
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    andl $0xfffffeff, %eax
    wrmsr
    ret

modes_down:
    movl $0x10, %eax
    movl %eax, %ss
    call modes_leave_long_mode
    movl $0x28, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    ljmp $0x20, $0x0000

    # Copied to LOW. Selector 0x20 has base 0x70000 when set up by `boot`'s descriptor; offsets count from modes_real.
    .code16
    .globl modes_real
modes_real:
    movl %cr0, %eax
    andl $0xfffffffe, %eax
    movl %eax, %cr0
    ljmp $0x7000, $(modes_in_real - modes_real)
modes_in_real:
    xorl %eax, %eax
    cpuid
    movl %eax, %esi
    movw $0x40, %dx
    inb %dx, %al
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $modes_up
    .skip 256 - (. - modes_real)

    .code32
modes_up:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x08, $modes_back

    .code64
modes_back:
    movq modes_stack(%rip), %rsp
    lidt modes_kept_idt(%rip)
    movl %esi, %eax
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
    "#,
    options(att_syntax)
);
