//! Exceptions without end: `#DB` whose delivery is itself a cause of `#DB`, and `#AC` that its handler answers by trying again.
//!
//! A CPU that never leaves VMX non-root operation between such exceptions is the guest's for ever (CVE-2015-5307 and
//! CVE-2015-8104). Here each round also runs a handler, which says now and then that the loop goes on; where delivery alone
//! loops, no handler could. The frame of each `#DB` that `WATCHED` causes lies at the same place, under the second
//! breakpoint: delivering it breaks again, one frame lower.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::println;
use test_guests::trap::{self, ALIGNMENT_CHECK, DEBUG};

/// A loop says every so many rounds that it goes on.
const ALIVE_ROUNDS: u64 = 1 << 10;
/// Both breakpoints on, for writes of 8 bytes each (Intel SDM vol. 3B, "Debug Control Register (DR7)").
const DR7: u64 = 0x400 | 0b1010 | (0b1001 << 16) | (0b1001 << 20);
/// What the CPU pushes for an exception without an error code, RIP lowest.
const FRAME: u64 = 40;

/// RAM that neither the loader nor this image uses, for the TSS.
const TSS: u64 = 0x7_1000;
const TSS_SIZE: usize = 104;
const TSS_RSP0: u64 = TSS + 4;
const TSS_DESCRIPTOR: u64 = 0x0000_8900_0000_0067;

static ROUNDS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    safe static gdt_tss: AtomicU64;
    safe static boot_stack_top: u8;
    safe static loops_watched: u8;
    fn loops_debug() -> !;
    fn loops_alignment() -> !;
    fn loops_user() -> !;
}

pub(crate) fn debug(_: &mut Case, _: &Params) {
    trap::set_handler(DEBUG, loops_debug);
    let frame = &raw const boot_stack_top as u64 - FRAME;
    let watched = &raw const loops_watched as u64;
    // SAFETY: the breakpoints are this guest's own, and their handler is in place.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr7, {}", in(reg) watched, in(reg) frame, in(reg) DR7, options(nomem, nostack));
    }
    // SAFETY: the handler never comes back; it takes the whole stack.
    unsafe { loops_debug() }
}

pub(crate) fn alignment(_: &mut Case, _: &Params) {
    trap::set_handler(ALIGNMENT_CHECK, loops_alignment);
    // Base in bits 39:16 of the descriptor.
    gdt_tss.store(TSS_DESCRIPTOR | (TSS << 16), Relaxed);
    // SAFETY: RAM that nothing else uses.
    unsafe { core::ptr::write_bytes(TSS as *mut u8, 0, TSS_SIZE) };
    let stack = &raw const boot_stack_top as u64;
    // SAFETY: the field lies in the TSS above.
    unsafe { (TSS_RSP0 as *mut u64).write_unaligned(stack) };
    // SAFETY: goes to user mode for good; exceptions there come back to the handler on the whole stack.
    unsafe { loops_user() }
}

extern "C" fn debug_again() {
    again("db-loop");
}

extern "C" fn alignment_again() {
    again("ac-loop");
}

fn again(case: &str) {
    let rounds = ROUNDS.fetch_add(1, Relaxed) + 1;
    if rounds.is_multiple_of(ALIVE_ROUNDS) {
        println!("{case}: alive {rounds}");
    }
}

global_asm!(
    r#"
    .section .data.loops, "aw", @progbits
    .balign 8
    .globl loops_watched
loops_watched:
    .quad 0, 0

    .section .text.loops, "ax", @progbits
    .code64
    .globl loops_debug
loops_debug:
    # Below the frame under the breakpoint, then where that frame comes to lie again.
    lea rsp, [rip + boot_stack_top - 4096]
    call {debug_again}
    lea rsp, [rip + boot_stack_top]
    mov qword ptr [rip + loops_watched], 1
    ud2

    .globl loops_alignment
loops_alignment:
    call {alignment_again}
    add rsp, 8
    iretq

    # CR0.AM, then user mode with RFLAGS.AC, to an access that is not aligned.
    .globl loops_user
loops_user:
    mov rax, cr0
    bts rax, 18
    mov cr0, rax
    mov eax, 0x30
    ltr ax
    push 0x4b
    push 0
    push 0x40002
    push 0x43
    lea rax, [rip + loops_misaligned]
    push rax
    iretq
loops_misaligned:
    mov eax, [rip + loops_watched + 1]
    ud2
    "#,
    debug_again = sym debug_again,
    alignment_again = sym alignment_again,
);
