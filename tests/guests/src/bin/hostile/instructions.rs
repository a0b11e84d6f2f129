//! Instructions a guest has no business executing, and hypercalls nobody defined.

use bulkhead_core::hypercall::{Hypercall, HypercallError};
use test_guests::attempt;
use test_guests::case::Case;
use test_guests::cpu::{self, try_vmcall};
use test_guests::params::Params;
use test_guests::trap::{Fault, GENERAL_PROTECTION, INVALID_OPCODE};

use test_guests::random::{Random, SEED};

const UD: Result<(), Fault> = Err(Fault {
    vector: INVALID_OPCODE,
    error: 0,
});
const GP: Result<(), Fault> = Err(Fault {
    vector: GENERAL_PROTECTION,
    error: 0,
});

/// Expects one instruction to end as `$expected` says.
macro_rules! expect {
    ($case:ident, $expected:expr, $name:literal, $op:literal $(, $operand:tt($($reg:tt)+) $value:expr)*) => {
        // SAFETY: expected to fault; where it does not, the case fails.
        let outcome = unsafe { attempt!($op; $($operand($($reg)+) $value,)* out("rax") _, out("rdx") _) };
        $case.check(outcome == $expected, format_args!("{}: {outcome:?}", $name));
    };
}

pub(crate) fn vmx_and_smx(case: &mut Case, _: &Params) {
    let operand = [0_u64; 2];
    let at = operand.as_ptr();
    expect!(case, UD, "vmxon", "vmxon [rcx]", in("rcx") at);
    expect!(case, UD, "vmxoff", "vmxoff");
    expect!(case, UD, "vmlaunch", "vmlaunch");
    expect!(case, UD, "vmresume", "vmresume");
    expect!(case, UD, "vmptrld", "vmptrld [rcx]", in("rcx") at);
    expect!(case, UD, "vmptrst", "vmptrst [rcx]", in("rcx") at);
    expect!(case, UD, "vmclear", "vmclear [rcx]", in("rcx") at);
    expect!(case, UD, "vmread", "vmread rax, rcx", in("rcx") 0x4402_u64);
    expect!(case, UD, "vmread to memory", "vmread [rcx], rcx", in("rcx") at);
    expect!(case, UD, "vmwrite", "vmwrite rcx, rcx", in("rcx") 0x681e_u64);
    expect!(case, UD, "invept", "invept rdi, [rcx]", in("rcx") at, in("rdi") 2_u64);
    expect!(case, UD, "invvpid", "invvpid rdi, [rcx]", in("rcx") at, in("rdi") 2_u64);
    expect!(case, UD, "vmfunc 0", "xor eax, eax; vmfunc", in("rcx") 0_u64);
    expect!(case, UD, "vmfunc 63", "mov eax, 63; vmfunc", in("rcx") u64::MAX);
    expect!(case, UD, "getsec", "xor eax, eax; getsec");
    expect!(case, UD, "seamcall", ".byte 0x66, 0x0f, 0x01, 0xcf");
    expect!(case, UD, "tdcall", ".byte 0x66, 0x0f, 0x01, 0xcc");
}

pub(crate) fn undefined(case: &mut Case, _: &Params) {
    expect!(case, UD, "ud2", "ud2");
    expect!(case, UD, "rsm", "rsm");
    expect!(case, UD, "lock nop", ".byte 0xf0, 0x90");
    expect!(case, UD, "encls", "xor eax, eax; .byte 0x0f, 0x01, 0xcf");
    expect!(
        case,
        UD,
        "svm vmrun",
        "xor eax, eax; .byte 0x0f, 0x01, 0xd8"
    );
    expect!(case, UD, "into in 64-bit mode", ".byte 0xce");
    let beyond_gdt = Err(Fault {
        vector: GENERAL_PROTECTION,
        error: 0xfff8,
    });
    expect!(
        case,
        beyond_gdt,
        "a selector beyond the GDT",
        "mov eax, 0xfff8; mov es, eax"
    );
    expect!(case, GP, "a non-canonical address", "mov rax, [rcx]", in("rcx") 1_u64 << 63);
}

pub(crate) fn wild_hypercalls(case: &mut Case, _: &Params) {
    let mut random = Random::new(SEED);
    let pointers = [0, 1, 0xfff, 0xffff_ffff_ffff_f001, 1 << 47, u64::MAX];
    let unknown = HypercallError::UnknownNumber.code();
    let numbers = (0..256).chain([1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX]);
    for number in numbers {
        for pointer in pointers {
            let result = try_vmcall(number, [pointer; 6]);
            let known = Hypercall::try_from(number).is_ok();
            let fits = result.is_ok_and(|code| known || code == unknown);
            case.check(
                fits,
                format_args!("vmcall {number:#x}({pointer:#x}): {result:x?}"),
            );
        }
    }
    for _ in 0..1000 {
        let number = random.next() | (1 << 40);
        let result = try_vmcall(number, core::array::from_fn(|_| random.next()));
        case.check(
            result == Ok(unknown),
            format_args!("vmcall {number:#x}: {result:x?}"),
        );
    }
}

pub(crate) fn xsetbv(case: &mut Case, _: &Params) {
    if cpu::cpuid(1, 0).ecx & (1 << 26) == 0 {
        expect!(case, UD, "xsetbv without XSAVE", "xsetbv", in("rcx") 0_u64);
        return;
    }
    // SAFETY: sets CR4.OSXSAVE; nothing here uses extended state.
    unsafe {
        core::arch::asm!("mov {0}, cr4", "or {0}, 1 << 18", "mov cr4, {0}", out(reg) _, options(nostack))
    };
    expect!(case, GP, "XCR0 = 0", "xor eax, eax; xor edx, edx; xsetbv", in("rcx") 0_u64);
    expect!(case, GP, "XCR0: AVX without SSE", "mov eax, 5; xor edx, edx; xsetbv", in("rcx") 0_u64);
    expect!(case, GP, "XCR0: bit 63", "mov eax, 1; mov edx, 0x80000000; xsetbv", in("rcx") 0_u64);
    expect!(case, GP, "XCR0: everything", "mov eax, -1; mov edx, -1; xsetbv", in("rcx") 0_u64);
    expect!(case, GP, "XCR0: half of MPX", "mov eax, 0xb; xor edx, edx; xsetbv", in("rcx") 0_u64);
    expect!(case, GP, "XCR0: half of AVX-512", "mov eax, 0x27; xor edx, edx; xsetbv", in("rcx") 0_u64);
    expect!(case, GP, "XCR1", "mov eax, 1; xor edx, edx; xsetbv", in("rcx") 1_u64);
    expect!(case, GP, "XCR 0xffffffff", "mov eax, 1; xor edx, edx; xsetbv", in("rcx") u64::MAX);
    expect!(case, Ok(()), "XCR0 = x87", "mov eax, 1; xor edx, edx; xsetbv", in("rcx") 0_u64);
    expect!(case, Ok(()), "XCR0 = x87 and SSE", "mov eax, 3; xor edx, edx; xsetbv", in("rcx") 0_u64);
}

/// Cache control, which must not reach the host's caches; #GP and #UD are answers too.
pub(crate) fn caches(case: &mut Case, _: &Params) {
    expect!(case, Ok(()), "wbinvd", "wbinvd");
    // SAFETY: a hypervisor turns INVD into nothing or WBINVD, or refuses it; the guest's memory must not be lost.
    let invd = unsafe { attempt!("invd"; options(nostack)) };
    case.check(invd.is_ok() || invd == GP, format_args!("invd: {invd:?}"));
    // SAFETY: sets CR0.CD; this guest runs the same with caches off.
    let off = unsafe {
        attempt!("mov rax, cr0", "or eax, 1 << 30", "mov cr0, rax"; out("rax") _, options(nostack))
    };
    case.check(off.is_ok(), format_args!("CR0.CD: {off:?}"));
    // SAFETY: clears CR0.CD again.
    let on = unsafe {
        attempt!("mov rax, cr0", "and eax, ~(1 << 30)", "mov cr0, rax"; out("rax") _, options(nostack))
    };
    case.check(on.is_ok(), format_args!("CR0.CD back: {on:?}"));
}

/// MONITOR and MWAIT: undefined where CPUID does not offer them, else no way to stop the processor for good.
pub(crate) fn monitor(case: &mut Case, _: &Params) {
    const MONITOR: u32 = 1 << 3;
    let expected = if cpu::cpuid(1, 0).ecx & MONITOR == 0 {
        UD
    } else {
        Ok(())
    };
    let line = [0_u64; 8];
    expect!(case, expected, "monitor", "mov rax, rdi; xor edx, edx; monitor", in("rcx") 0_u64, in("rdi") line.as_ptr());
    // Something has written the monitored line's neighbourhood by now, or not: with nothing else awake, MWAIT would
    // sleep for ever, so it is tried only where it must be refused.
    if expected == UD {
        expect!(case, UD, "mwait", "xor eax, eax; mwait", in("rcx") 0_u64);
    }
}

pub(crate) fn pause_loop(_: &mut Case, _: &Params) {
    for _ in 0..1_000_000 {
        core::hint::spin_loop();
    }
}
