//! Accesses where the VM has no memory: `at=0x…` chooses the guest physical address, else a list is tried.
//!
//! The hypervisor may stop the VM with a report or let reads give all ones: the harness knows which to expect.

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{attempt, cpu, println, window};

const ADDRESS_SIZES: u32 = 0x8000_0008;

pub(crate) fn read(case: &mut Case, params: &Params) {
    each_address(params, |gpa| {
        let at = window::map(gpa);
        let value: u64;
        // SAFETY: a read of whatever is there, which changes no memory of this guest.
        let outcome =
            unsafe { attempt!("mov rax, [rcx]"; in("rcx") at, out("rax") value, options(nostack)) };
        println!("read {gpa:#x}: {outcome:?} {value:#x}");
        case.check(
            outcome.is_err() || value == u64::MAX,
            format_args!("{gpa:#x} holds {value:#x}"),
        );
    });
}

pub(crate) fn write(_: &mut Case, params: &Params) {
    each_address(params, |gpa| {
        let at = window::map(gpa);
        // SAFETY: the address is outside this guest's RAM.
        let outcome = unsafe { attempt!("mov [rcx], rcx"; in("rcx") at, options(nostack)) };
        println!("write {gpa:#x}: {outcome:?}");
    });
}

pub(crate) fn fetch(case: &mut Case, params: &Params) {
    each_address(params, |gpa| {
        let at = window::map(gpa);
        // SAFETY: expected never to come back but by a fault.
        let outcome = unsafe { attempt!("jmp rcx"; in("rcx") at, options(nostack)) };
        println!("fetch {gpa:#x}: {outcome:?}");
        case.check(outcome.is_err(), format_args!("executed {gpa:#x}"));
    });
}

fn each_address(params: &Params, mut access: impl FnMut(u64)) {
    if let Some(gpa) = params.hex("at") {
        access(gpa);
        return;
    }
    let limit = 1_u64 << (cpu::cpuid(ADDRESS_SIZES, 0).eax & 0xff).clamp(32, 52);
    let end = params.ram_end();
    for gpa in [
        end,
        end + 0x10_0000,
        0xd000_0000,
        0xfed0_0000,
        0xffff_f000,
        limit / 2,
        limit - 0x1000,
    ] {
        access(gpa);
    }
}
