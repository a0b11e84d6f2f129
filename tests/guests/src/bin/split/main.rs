//! A kernel with a kernel half, and user code that reaches for it.
//!
//! `split=yes` says that the VM has the kernel/user split, so that what the kernel shows by mistake must be out of reach; without
//! the word it must be in reach, which is the control. `gates=yes` has the kernel be left as Linux is, so that the hypervisor has gates. `case=` chooses
//! cases, with commas between them; those that are `Asked` only run where they are chosen: one stops the VM, and the others are about gates.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "is a kernel")]

mod addresses;
mod breakpoints;
mod debug;
mod entry;
mod gates;
mod nmis;
mod private;
mod programs;
mod steps;
mod user;
mod world;

use core::sync::atomic::{AtomicBool, Ordering};

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{apic, cpu, guest, println, timer};

use entry::{Nested, split_syscall, split_syscall_again};
use user::{End, How, INTERRUPTS, SYSCALL, SYSCALL_AGAIN};
use world::{
    KERNEL, LEAK, NEW_SLOT, NOTHING, SECRET, UNSEEN_SLOT, USER_CODE, USER_DATA, USER_NOTHING,
    USER_TABLE,
};

guest!(main);

/// What a case does, in a VM with the split or without.
type CaseFn = fn(&mut Case, bool);

/// When a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Unless others are chosen.
    Unasked,
    /// Where it is chosen.
    Asked,
    /// Where it is chosen, and the kernel is another vCPU's.
    Elsewhere,
}

/// Its name, what it does, and when it runs.
const CASES: &[(&str, CaseFn, When)] = &[
    ("round-trips", round_trips, When::Unasked),
    ("interrupts", interrupts, When::Unasked),
    ("faults", faults, When::Unasked),
    ("mistake", mistake, When::Unasked),
    ("new-slot", new_slot, When::Unasked),
    ("unseen-tables", unseen_tables, When::Unasked),
    ("jump-to-user", jump_to_user, When::Unasked),
    ("ldt", ldt, When::Unasked),
    ("set-up-anew", set_up_anew, When::Unasked),
    ("vmfunc", vmfunc, When::Unasked),
    ("private", private::private, When::Unasked),
    ("conflict", conflict, When::Asked),
    ("many", many, When::Asked),
    ("steps", steps::steps, When::Asked),
    ("breakpoints", breakpoints::execution, When::Asked),
    ("watchpoints", breakpoints::data, When::Asked),
    ("mapped", addresses::mapped, When::Asked),
    ("reached", addresses::reached, When::Asked),
    ("forged", addresses::forged, When::Asked),
    ("nmis", nmis::nmis, When::Elsewhere),
];

/// VMFUNC switches views: the VM has the split, and `vmfunc=no` does not say that this processor has its switches exit.
static SWITCHES: AtomicBool = AtomicBool::new(false);

const ROUNDS: u32 = 20;
const DEBUG: u64 = 1;
const NMI: u64 = 2;
const BREAKPOINT: u64 = 3;
const INVALID_OPCODE: u64 = 6;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
/// Error codes of page faults: user code reads, writes or fetches where there is nothing, or where it may not.
const NOTHING_TO_READ: u64 = 0b00100;
const NOTHING_TO_WRITE: u64 = 0b00110;
const NOTHING_TO_RUN: u64 = 0b10100;
const NOT_YOURS_TO_READ: u64 = 0b00101;
const NOT_YOURS_TO_WRITE: u64 = 0b00111;
const NOT_YOURS_TO_RUN: u64 = 0b10101;
/// The kernel executes what it may not.
const NOT_KERNELS_TO_RUN: u64 = 0b10001;

/// MOV RAX, \[RDI\]; INT3.
const READ: [u8; 4] = [0x48, 0x8b, 0x07, 0xcc];
/// MOV \[RDI\], RAX; INT3.
const WRITE: [u8; 4] = [0x48, 0x89, 0x07, 0xcc];
/// JMP RDI.
const JUMP: [u8; 2] = [0xff, 0xe7];
/// MOV FS, ESI; MOV RAX, FS:\[RDI\]; INT3.
const READ_BY_SEGMENT: [u8; 7] = [0x8e, 0xe6, 0x64, 0x48, 0x8b, 0x07, 0xcc];
/// The second segment of the LDT, for user code.
const LDT_SEGMENT: u64 = 0x0f;

fn main(params: &Params) {
    let split = params.get("split") == Some("yes");
    SWITCHES.store(
        split && params.get("vmfunc") != Some("no"),
        Ordering::Relaxed,
    );
    if let Err(fault) = apic::enable() {
        println!("case runtime: FAIL {fault}");
        return;
    }
    let wanted = params.get("case");
    let runs = |name: &str, when| match wanted {
        Some(wanted) => wanted.split(',').any(|wanted| wanted == name),
        None => when == When::Unasked,
    };
    let elsewhere = |when| when == When::Elsewhere;
    if !CASES
        .iter()
        .any(|(name, _, when)| elsewhere(*when) && runs(name, *when))
    {
        world::build();
        println!("split: user code at {USER_CODE:#x}, kernel at {KERNEL:#x}");
    }
    if params.get("gates") == Some("yes") {
        user::return_by_sites();
    }
    for (name, run, when) in CASES {
        if runs(name, *when) {
            let mut case = Case::start(name);
            run(&mut case, split);
            case.finish();
        }
    }
}

/// A debug exception or an NMI; whether it ends user mode.
extern "C" fn hook(frame: &mut Nested) -> bool {
    if frame.vector == NMI {
        nmis::arrive(frame);
        return false;
    }
    debug::arrive(frame)
}

/// User code goes into the kernel so often that the exits tell whether it took any.
fn many(case: &mut Case, _: bool) {
    user::go_on_by_itself(true);
    let end = user::run(programs::many(), 0, 0);
    user::go_on_by_itself(false);
    check(case, "the end of many", end, |end| {
        end.is_user && end.vector == INVALID_OPCODE
    });
    case.check(
        user::registers_are_kept(),
        format_args!("registers changed on the way"),
    );
}

fn check(case: &mut Case, what: &str, end: End, holds: impl Fn(&End) -> bool) {
    case.check(holds(&end), format_args!("{what}: {end}"));
}

/// User code that does everything that leads to the kernel, and is resumed each time.
fn round_trips(case: &mut Case, _: bool) {
    round_trip(case, SYSCALL);
}

fn round_trip(case: &mut Case, entry: u64) {
    const CODE: [u8; 10] = [
        0x0f, 0x05, // SYSCALL
        0xcc, // INT3
        0x0f, 0x0b, // UD2
        0xf4, // HLT
        0x48, 0x8b, 0x07, // MOV RAX, [RDI]
        0xcc, // INT3
    ];
    for _ in 0..ROUNDS {
        let at = |vector, offset| {
            move |end: &End| end.is_user && (end.vector, end.rip) == (vector, USER_CODE + offset)
        };
        let end = user::run(&CODE, USER_NOTHING, 0);
        check(case, "SYSCALL", end, at(entry, 2));
        check(case, "INT3", user::resume(How::Sysret), at(BREAKPOINT, 3));
        check(case, "UD2", user::resume(How::Iret), at(INVALID_OPCODE, 3));
        user::skip(2);
        let end = user::resume(How::Sysret);
        check(case, "HLT", end, at(GENERAL_PROTECTION, 5));
        user::skip(1);
        let end = user::resume(How::Iret);
        check(case, "a page that is not there", end, |end| {
            end.is_page_fault(NOTHING_TO_READ, USER_NOTHING)
        });
        user::skip(3);
        check(case, "the end", user::resume(How::Iret), at(BREAKPOINT, 10));
        case.check(
            user::registers_are_kept(),
            format_args!("registers changed on the way"),
        );
    }
}

/// The timer interrupts user code that does nothing else.
fn interrupts(case: &mut Case, _: bool) {
    const SPIN: [u8; 2] = [0xeb, 0xfe];
    /// Ticks that user code may spin for.
    const SOON: u64 = 20_000;
    user::run(&[0xcc], 0, 0);
    for _ in 0..ROUNDS {
        if let Err(fault) = timer::arm(cpu::ticks().saturating_add(SOON)) {
            case.check(false, format_args!("the timer: {fault}"));
            return;
        }
        user::set_code(&SPIN, INTERRUPTS);
        let end = user::resume(How::Iret);
        check(case, "a timer interrupt", end, |end| {
            end.is_user && (end.vector, end.rip) == (u64::from(timer::VECTOR), USER_CODE)
        });
        apic::end_of_interrupt();
    }
}

/// What is not user code's is no more so with the split than without, and looks the same.
fn faults(case: &mut Case, _: bool) {
    world::set_user_word(0, 42);
    let end = user::run(&READ, USER_DATA, 0);
    check(case, "its own data", end, |end| {
        (end.vector, end.result) == (BREAKPOINT, 42)
    });
    user::run(&WRITE, USER_DATA, 0);
    case.check(
        world::user_word(0) != 42,
        format_args!("user data is not written"),
    );
    let kernels = KERNEL + 0x10_0000;
    for (code, at, error) in [
        (&READ[..], kernels, NOT_YOURS_TO_READ),
        (&WRITE, kernels, NOT_YOURS_TO_WRITE),
        (&JUMP, kernels, NOT_YOURS_TO_RUN),
        (&READ, NOTHING, NOTHING_TO_READ),
        (&WRITE, NOTHING, NOTHING_TO_WRITE),
        (&JUMP, NOTHING, NOTHING_TO_RUN),
        (&READ, USER_NOTHING, NOTHING_TO_READ),
        (&WRITE, USER_NOTHING, NOTHING_TO_WRITE),
        (&JUMP, USER_NOTHING, NOTHING_TO_RUN),
        // The kernel's, in the lower half.
        (&READ, 0x10_0000, NOT_YOURS_TO_READ),
    ] {
        let end = user::run(code, at, 0);
        check(case, "a fault", end, |end| end.is_page_fault(error, at));
    }
}

/// Has user code read the secret at `at`, and says what came of it.
fn read_secret(case: &mut Case, at: u64, split: bool) {
    let end = look_for_secret(case, at, split);
    println!("split: user code at {at:#x}: {end}");
}

/// Has user code read the secret at `at`.
fn look_for_secret(case: &mut Case, at: u64, split: bool) -> End {
    let end = user::run(&READ, at, 0);
    if split {
        check(case, "the kernel's page", end, |end| {
            end.is_page_fault(NOT_YOURS_TO_READ, at)
        });
    } else {
        check(case, "the kernel's page, without the split", end, |end| {
            (end.vector, end.result) == (BREAKPOINT, SECRET)
        });
    }
    end
}

/// The kernel half has a page that user code may use, as far as its tables go.
fn mistake(case: &mut Case, split: bool) {
    read_secret(case, LEAK, split);
}

/// The kernel half grows while user code comes and goes.
fn new_slot(case: &mut Case, split: bool) {
    let at = world::slot(NEW_SLOT);
    let end = user::run(&READ, at, 0);
    check(case, "a free slot", end, |end| {
        end.is_page_fault(NOTHING_TO_READ, at)
    });
    world::fill_new_slot();
    read_secret(case, at, split);
}

/// User code runs with a top-level table that the processor has never seen.
fn unseen_tables(case: &mut Case, split: bool) {
    world::use_unseen_tables();
    read_secret(case, world::slot(UNSEEN_SLOT), split);
    read_secret(case, LEAK, split);
    round_trip(case, SYSCALL);
    world::use_first_tables();
    round_trip(case, SYSCALL);
}

/// The kernel follows a pointer of user code's.
fn jump_to_user(case: &mut Case, split: bool) {
    user::run(&READ, USER_DATA, 0);
    let end = user::jump(&[0xcc]);
    if split {
        check(case, "a user's page", end, |end| {
            !end.is_user && end.is_page_fault(NOT_KERNELS_TO_RUN, USER_CODE)
        });
    } else {
        check(case, "a user's page, without the split", end, |end| {
            !end.is_user && (end.vector, end.rip) == (BREAKPOINT, USER_CODE + 1)
        });
    }
}

/// User code loads a segment out of one local descriptor table, then another, then none.
fn ldt(case: &mut Case, _: bool) {
    for word in 0..4 {
        world::set_user_word(word, word as u64 + 0x77);
    }
    for (table, base) in [(0, 8), (1, 16), (0, 24)] {
        world::use_ldt(Some((table, base)));
        let end = user::run(&READ_BY_SEGMENT, USER_DATA, LDT_SEGMENT);
        check(case, "a segment of the LDT", end, |end| {
            (end.vector, end.result) == (BREAKPOINT, 0x77 + base / 8)
        });
    }
    world::use_ldt(None);
    let end = user::run(&READ_BY_SEGMENT, USER_DATA, LDT_SEGMENT);
    check(case, "a segment of no LDT", end, |end| {
        (end.vector, end.error) == (GENERAL_PROTECTION, LDT_SEGMENT & !3)
    });
}

/// Another entry point, other tables, another IDT, and back.
fn set_up_anew(case: &mut Case, split: bool) {
    world::use_entry(&split_syscall_again);
    round_trip(case, SYSCALL_AGAIN);
    world::use_idt(1);
    round_trip(case, SYSCALL_AGAIN);
    world::use_unseen_tables();
    world::use_entry(&split_syscall);
    round_trip(case, SYSCALL);
    read_secret(case, world::slot(UNSEEN_SLOT), split);
    world::use_first_tables();
    world::use_idt(0);
    world::use_entry(&split_syscall);
    round_trip(case, SYSCALL);
    read_secret(case, LEAK, split);
}

/// User code switches views by itself, as far as it can.
fn vmfunc(case: &mut Case, _split: bool) {
    let switches = SWITCHES.load(Ordering::Relaxed);
    // MOV ECX, ESI; XOR EAX, EAX; VMFUNC; MOV RAX, [RDI]; INT3.
    const CODE: [u8; 11] = [
        0x89, 0xf1, 0x31, 0xc0, 0x0f, 0x01, 0xd4, 0x48, 0x8b, 0x07, 0xcc,
    ];
    /// Where VMFUNC is in it, and what comes after.
    const SWITCH: u64 = USER_CODE + 4;
    const AFTER: u64 = USER_CODE + 7;
    for index in [0, 1, 2, 3, 511, 512, 0xffff_ffff] {
        let end = user::run(&CODE, LEAK, index);
        println!("split: VMFUNC to {index:#x}: {end}");
        // The views of kernel and user code; no other is there, and without the split none at all.
        if switches && index < 2 {
            check(case, "a switch", end, |end| {
                end.is_page_fault(NOT_YOURS_TO_READ, LEAK) && end.rip == AFTER
            });
        } else {
            check(case, "no switch", end, |end| {
                end.is_user && (end.vector, end.rip) == (INVALID_OPCODE, SWITCH)
            });
        }
    }
    // Where the hypervisor has its gates for a kernel like this one, if it has.
    for gates in [KERNEL - (1 << 30), KERNEL - (2 << 30)] {
        for code in [&READ[..], &WRITE, &JUMP] {
            let end = user::run(code, gates, 0);
            check(case, "a gate", end, |end| {
                end.is_user && (end.vector, end.cr2) == (PAGE_FAULT, gates)
            });
        }
    }
    round_trip(case, SYSCALL);
}

/// A page table of the kernel half is a page of user code's: with the split, nothing is right any more.
fn conflict(case: &mut Case, split: bool) {
    world::fill_new_slot();
    user::run(&READ, USER_DATA, 0);
    world::show_table_to_user();
    let end = user::run(&READ, USER_TABLE, 0);
    case.check(
        !split,
        format_args!("user code goes on with a table of the kernel's: {end}"),
    );
    check(case, "a page table", end, |end| {
        end.vector == BREAKPOINT && end.result & 1 == 1
    });
}
