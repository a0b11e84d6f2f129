//! User code keeps a page from its kernel, which tries to read it all the same: by its own address, and by user code's.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bulkhead_core::hypercall::HypercallError;
use test_guests::case::Case;
use test_guests::cpu::try_vmcall;
use test_guests::println;

use crate::user::{self, End};
use crate::world::{self, KERNEL, LEAK, SECRET, USER_DATA, USER_NOTHING};
use crate::{BREAKPOINT, READ, WRITE, check};

const CONCEAL: u64 = 2;
const REVEAL: u64 = 3;
/// The kernel reads or writes, and a protection key would keep it from that.
const KEPT_FROM_READING: u64 = 0b10_0001;
const KEPT_FROM_WRITING: u64 = 0b10_0011;

unsafe extern "C" {
    safe static split_probe_at: AtomicU64;
    safe static split_probe_read: u8;
    safe static split_probe_write: u8;
}

// Instructions of the kernel's that may fault: what ends them is what ends user code. The value written is the address.
global_asm!(
    r#"
    .section .data.split, "aw", @progbits
    .balign 8
    .globl split_probe_at
split_probe_at:
    .quad 0

    .section .text.split, "ax", @progbits
    .globl split_probe_read
split_probe_read:
    mov rax, [rip + split_probe_at]
    mov rax, [rax]
    int3
    .globl split_probe_write
split_probe_write:
    mov rax, [rip + split_probe_at]
    mov [rax], rax
    int3
    "#
);

/// The kernel reads at `at`.
fn kernel_reads(at: u64) -> End {
    split_probe_at.store(at, Relaxed);
    user::jump_to(&split_probe_read)
}

/// And writes.
fn kernel_writes(at: u64) -> End {
    split_probe_at.store(at, Relaxed);
    user::jump_to(&split_probe_write)
}

/// User code makes hypercall `number` about `count` pages at `at`; what it returns.
fn call(number: u64, at: u64, count: u64) -> u64 {
    // MOV EAX, number; VMCALL; INT3.
    let code = [0xb8, number as u8, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xcc];
    user::run(&code, at, count).result
}

fn returns(case: &mut Case, what: &str, result: u64, expected: u64) {
    case.check(
        result == expected,
        format_args!("{what}: {result:#x}, not {expected:#x}"),
    );
}

/// With `split` a page may be private, and no second one.
pub(crate) fn private(case: &mut Case, split: bool) {
    let kernels = KERNEL + world::user_data_address();
    world::set_user_word(0, SECRET);
    world::set_user_word(1, SECRET);
    if !split {
        let unsupported = HypercallError::Unsupported.code();
        returns(case, "conceal", call(CONCEAL, USER_DATA, 1), unsupported);
        for at in [kernels, USER_DATA] {
            check(case, "the control", kernel_reads(at), |end| {
                !end.is_user && (end.vector, end.result) == (BREAKPOINT, SECRET)
            });
        }
        return;
    }
    let bad = HypercallError::BadArgument.code();
    for (at, count) in [
        (USER_NOTHING, 1),
        (LEAK, 1),
        (USER_DATA + 8, 1),
        (USER_DATA, 65),
    ] {
        returns(case, "a range", call(CONCEAL, at, count), bad);
    }
    let many = HypercallError::TooMany.code();
    returns(case, "two pages", call(CONCEAL, USER_DATA, 2), many);
    let of_kernel = try_vmcall(CONCEAL, [USER_DATA, 1, 0, 0, 0, 0]);
    let not_permitted = HypercallError::NotPermitted.code();
    returns(case, "the kernel's", of_kernel.unwrap_or(0), not_permitted);
    check(case, "none is private", kernel_reads(kernels), |end| {
        (end.vector, end.result) == (BREAKPOINT, SECRET)
    });

    returns(case, "conceal", call(CONCEAL, USER_DATA, 1), 0);
    for at in [kernels, USER_DATA] {
        let end = kernel_reads(at);
        println!("split: the kernel at {at:#x}: {end}");
        check(case, "the kernel reads", end, |end| {
            !end.is_user && end.is_page_fault(KEPT_FROM_READING, at) && end.result == at
        });
    }
    check(case, "the kernel writes", kernel_writes(USER_DATA), |end| {
        !end.is_user && end.is_page_fault(KEPT_FROM_WRITING, USER_DATA)
    });
    let end = user::run(&READ, USER_DATA, 0);
    check(case, "user code reads", end, |end| {
        (end.vector, end.result) == (BREAKPOINT, SECRET)
    });
    let end = user::run(&WRITE, USER_DATA, 0);
    let written = end.result;
    check(case, "user code writes", end, |end| {
        end.vector == BREAKPOINT
    });
    returns(case, "reveal", call(REVEAL, USER_DATA, 1), 0);
    returns(case, "reveal again", call(REVEAL, USER_DATA, 1), bad);
    check(case, "it is revealed", kernel_reads(kernels), |end| {
        (end.vector, end.result) == (BREAKPOINT, written)
    });

    // A kernel that puts the page to another use has it, with nothing of the secret.
    returns(case, "conceal", call(CONCEAL, USER_DATA, 1), 0);
    check(case, "another use", kernel_writes(kernels), |end| {
        !end.is_user && end.vector == BREAKPOINT
    });
    let words = [world::user_word(0), world::user_word(1)];
    case.check(words == [kernels, 0], format_args!("it has {words:x?}"));
}
