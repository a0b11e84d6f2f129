//! Ways to stop, or never to stop.

use test_guests::case::Case;
use test_guests::cpu::{self, cpuid, try_rdmsr, try_vmcall};
use test_guests::params::Params;
use test_guests::{power, println, trap};

/// How long the exit storm rages, in ticks.
const STORM_TICKS: u64 = 50_000_000;
/// An endless storm says every so many rounds that it goes on.
const ALIVE_ROUNDS: u64 = 1 << 14;
const UNCLAIMED_PORT: u16 = 0x40;
const UNKNOWN_MSR: u32 = 0x1234;

/// An exception without an IDT.
pub(crate) fn triple_fault(case: &mut Case, _: &Params) {
    println!("case triple-fault: about to");
    trap::remove();
    // SAFETY: ends this VM, which is the purpose.
    unsafe { core::arch::asm!("ud2", options(nomem, nostack)) };
    case.check(false, format_args!("survived"));
}

/// Nothing but exits.
pub(crate) fn exit_storm(case: &mut Case, params: &Params) {
    let endless = params.get("endless").is_some();
    let start = cpu::ticks();
    let mut rounds: u64 = 0;
    while endless || cpu::ticks().wrapping_sub(start) < STORM_TICKS {
        let leaf = cpuid(0x4000_0000, 0);
        let msr = try_rdmsr(UNKNOWN_MSR);
        let call = try_vmcall(u64::MAX, [0; 6]);
        let port = cpu::inb(UNCLAIMED_PORT);
        cpu::outb(UNCLAIMED_PORT, port);
        case.check(
            leaf.eax >= 0x4000_0000 && msr.is_err() && call.is_ok(),
            format_args!("round {rounds} went wrong"),
        );
        rounds += 1;
        if endless && rounds.is_multiple_of(ALIVE_ROUNDS) {
            println!("exit-storm: alive {rounds}");
        }
    }
    println!("exit-storm: {rounds} rounds of 5 exits");
}

/// HLT with interrupts off: nothing will ever wake this vCPU.
pub(crate) fn halt(_: &mut Case, _: &Params) {
    println!("case halt: about to");
    power::halt();
}
