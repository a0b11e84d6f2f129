//! Exceptions on all vCPUs while timers go off: each handler runs once, from its beginning, and returns to where it was called.
#![allow(unsafe_code, reason = "faults on purpose")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{cpu, println, smp, timer, trap};

use crate::{LIMIT, Vcpus};

const INVALID_OPCODE: u8 = 6;
const DEFAULT_FAULTS: u64 = 100_000;
/// Faults between two timers.
const FAULTS_A_TIMER: u64 = 8;
/// A timer goes off within this many ticks: a few faults later.
const HORIZON: u64 = 600;

static FAULTS: AtomicU64 = AtomicU64::new(0);
/// Faults that were handled more or less often than once, or not from the faulting instruction's stack.
static WRONG: AtomicU32 = AtomicU32::new(0);

/// All vCPUs take `faults=` invalid opcodes each. Prints `smp: faults <n> on each vCPU, <n> wrong`.
pub(crate) fn each_is_handled_once(case: &mut Case, params: &Params, vcpus: &Vcpus) {
    let faults = params.number("faults").unwrap_or(DEFAULT_FAULTS);
    FAULTS.store(faults, Ordering::Relaxed);
    WRONG.store(0, Ordering::Relaxed);
    for (vcpu, _) in vcpus.others() {
        let given = smp::give(vcpu, fault);
        case.check(given.is_ok(), format_args!("cannot wake: {given:?}"));
    }
    fault(0);
    let mut done = true;
    for (vcpu, _) in vcpus.others() {
        done &= smp::wait_for(vcpu, LIMIT);
    }
    let wrong = WRONG.load(Ordering::Relaxed);
    println!("smp: faults {faults} on each vCPU, {wrong} wrong");
    case.check(done, format_args!("a vCPU does not end"));
    case.check(wrong == 0, format_args!("handlers went astray"));
    // Later cases rely on the one that wakes this vCPU.
    let armed = timer::arm(cpu::ticks().saturating_add(LIMIT));
    case.check(armed.is_ok(), format_args!("timer: {armed:?}"));
}

fn fault(_: usize) {
    cpu::enable_interrupts();
    for round in 0..FAULTS.load(Ordering::Relaxed) {
        if round % FAULTS_A_TIMER == 0 {
            // A prime step spreads the moments.
            let soon = round.wrapping_mul(97) % HORIZON;
            if timer::arm(cpu::ticks().wrapping_add(soon)).is_err() {
                WRONG.fetch_add(1, Ordering::Relaxed);
            }
        }
        let before = trap::count(INVALID_OPCODE);
        let (stack, back): (u64, u64);
        // SAFETY: UD2 only faults; the handler returns to the label with every register as it was, and the stack pointer is put back
        // whatever became of it.
        unsafe {
            asm!(
                "lea {at}, [rip + 3f]",
                "mov [{slot}], {at}",
                "mov {stack}, rsp",
                "ud2",
                "3:",
                "mov {back}, rsp",
                "mov rsp, {stack}",
                at = out(reg) _,
                slot = in(reg) trap::resume_slot(),
                stack = out(reg) stack,
                back = out(reg) back,
            );
        }
        let met = trap::take_fault();
        let handled = trap::count(INVALID_OPCODE).wrapping_sub(before);
        if met.is_ok() || handled != 1 || stack != back {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
    }
    cpu::disable_interrupts();
}
