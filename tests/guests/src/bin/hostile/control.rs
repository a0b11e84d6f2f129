//! Control, debug and mode registers with values the manual forbids: each is #GP or #UD, none takes effect.

use test_guests::attempt;
use test_guests::case::Case;
use test_guests::cpu::{try_rdmsr, try_wrmsr};
use test_guests::params::Params;
use test_guests::trap::{Fault, GENERAL_PROTECTION, INVALID_OPCODE};

const EFER: u32 = 0xc000_0080;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Writes `$value` to a control or debug register.
macro_rules! write {
    ($register:literal, $value:expr) => {{
        // SAFETY: expected to be refused, or to be the value the register has.
        unsafe { attempt!(concat!("mov ", $register, ", rcx"); in("rcx") $value, options(nostack)) }
    }};
}

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

pub(crate) fn illegal_values(case: &mut Case, _: &Params) {
    let cr0 = read!("cr0");
    let cr4 = read!("cr4");
    for (what, value) in [
        ("CR0.PE clear with PG set", cr0 & !1),
        ("CR0.PG clear in 64-bit code", cr0 & !(1 << 31)),
        ("CR0.NW without CD", (cr0 | (1 << 29)) & !(1 << 30)),
        ("CR0 bit 32", cr0 | (1 << 32)),
        ("CR0 bit 63", cr0 | (1 << 63)),
    ] {
        refused(case, what, write!("cr0", value));
        case.check(read!("cr0") == cr0, format_args!("{what}: took effect"));
    }
    for (what, value) in [
        ("CR4.VMXE", cr4 | (1 << 13)),
        ("CR4.SMXE", cr4 | (1 << 14)),
        ("CR4.PAE clear in 64-bit mode", cr4 & !(1 << 5)),
        ("CR4 bit 15", cr4 | (1 << 15)),
        ("CR4 bit 31", cr4 | (1 << 31)),
        ("CR4 bit 63", cr4 | (1 << 63)),
    ] {
        refused(case, what, write!("cr4", value));
        case.check(read!("cr4") == cr4, format_args!("{what}: took effect"));
    }
    let cr3 = read!("cr3");
    refused(
        case,
        "CR3 beyond the address width",
        write!("cr3", cr3 | (1 << 62)),
    );
    refused(case, "CR8 = 16", write!("cr8", 16_u64));
    refused(case, "DR6 bit 32", write!("dr6", 1_u64 << 32));
    refused(case, "DR7 bit 32", write!("dr7", 1_u64 << 32));
    efer(case);
    missing_registers(case);
}

fn efer(case: &mut Case) {
    let Ok(efer) = try_rdmsr(EFER) else {
        case.check(false, format_args!("EFER cannot be read"));
        return;
    };
    for (what, value) in [
        ("EFER.LME clear with paging on", efer & !EFER_LME),
        ("EFER bit 1", efer | (1 << 1)),
        ("EFER bit 16", efer | (1 << 16)),
        ("EFER bit 63", efer | (1 << 63)),
    ] {
        // SAFETY: expected to be refused.
        refused(case, what, unsafe { try_wrmsr(EFER, value) });
        case.check(
            try_rdmsr(EFER) == Ok(efer),
            format_args!("{what}: took effect"),
        );
    }
    // LMA follows paging: a write to it is ignored or refused.
    // SAFETY: cannot leave long mode, by the architecture.
    let lma = unsafe { try_wrmsr(EFER, efer & !EFER_LMA) };
    case.check(
        lma.map_err(|fault| fault.vector) != Err(INVALID_OPCODE) && try_rdmsr(EFER) == Ok(efer),
        format_args!("EFER.LMA: {lma:?}"),
    );
}

/// Control registers that do not exist.
fn missing_registers(case: &mut Case) {
    let ud = Err(Fault {
        vector: INVALID_OPCODE,
        error: 0,
    });
    // SAFETY: expected to fault; CR1 and CR9 exist nowhere.
    let cr1 = unsafe { attempt!(".byte 0x0f, 0x22, 0xc9"; in("rcx") 0_u64, options(nostack)) };
    case.check(cr1 == ud, format_args!("mov cr1: {cr1:?}"));
    // SAFETY: as above.
    let cr9 =
        unsafe { attempt!(".byte 0x44, 0x0f, 0x22, 0xc9"; in("rcx") 0_u64, options(nostack)) };
    case.check(cr9 == ud, format_args!("mov cr9: {cr9:?}"));
}

fn refused(case: &mut Case, what: &str, outcome: Result<(), Fault>) {
    let gp = Err(Fault {
        vector: GENERAL_PROTECTION,
        error: 0,
    });
    case.check(outcome == gp, format_args!("{what}: {outcome:?}"));
}
