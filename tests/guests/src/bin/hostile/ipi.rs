//! Interprocessor interrupts with absurd vectors, destinations and delivery modes, through x2APIC registers.

use test_guests::case::Case;
use test_guests::cpu::try_rdmsr;
use test_guests::params::Params;
use test_guests::trap::{self, Fault, GENERAL_PROTECTION};
use test_guests::{apic, cpu, println};

const DELIVERY_MODE_SHIFT: u64 = 8;
const DELIVERY_FIXED: u64 = 0;
const DELIVERY_INIT: u64 = 5;
const DELIVERY_STARTUP: u64 = 6;
const LOGICAL: u64 = 1 << 11;
const LEVEL_ASSERT: u64 = 1 << 14;
const SHORTHAND_SHIFT: u64 = 18;
const SHORTHAND_SELF: u64 = 1;
const SHORTHAND_OTHERS: u64 = 3;
const DESTINATION_SHIFT: u64 = 32;
/// Exception numbers and the range whose handlers expect an error code: a self-IPI there would look like an exception.
const FIRST_SAFE_VECTOR: u64 = 32;
const TEST_VECTOR: u8 = 0x77;
const SELF_IPI_VECTOR: u8 = 0x78;
/// Interrupts are on for this many loops, so that what is pending arrives.
const DRAIN_LOOPS: u32 = 10_000;

pub(crate) fn absurd(case: &mut Case, _: &Params) {
    if let Err(fault) = apic::enable() {
        case.check(false, format_args!("x2APIC mode refused: {fault}"));
        return;
    }
    let own_id = try_rdmsr(apic::ID).unwrap_or(0);
    let strangers = [
        own_id + 1,
        0x7f,
        0xfe,
        0xffff,
        0x1234_5678,
        0x8000_0000,
        0xffff_fffe,
    ];

    // Others, by id and by shorthand: there is nobody, in any delivery mode.
    for mode in 0..8 {
        for vector in [0, 1, 15, 16, 31, 32, 0x80, 0xff] {
            for flags in [0, LEVEL_ASSERT, LOGICAL, LEVEL_ASSERT | LOGICAL, 1 << 15] {
                let command = vector | (mode << DELIVERY_MODE_SHIFT) | flags;
                for id in strangers {
                    if flags & LOGICAL == 0 || !names_us(id) {
                        send(case, command | (id << DESTINATION_SHIFT));
                    }
                }
                send(case, command | (SHORTHAND_OTHERS << SHORTHAND_SHIFT));
            }
        }
    }
    // Reserved bits.
    for bit in [13, 16, 17, 20, 31] {
        send(
            case,
            LEVEL_ASSERT
                | u64::from(TEST_VECTOR)
                | (1 << bit)
                | (strangers[0] << DESTINATION_SHIFT),
        );
    }
    // Ourselves: illegal vectors, SMI, NMI, reserved modes, start-up.
    for mode in (0..8).filter(|&mode| mode != DELIVERY_INIT) {
        send(
            case,
            (mode << DELIVERY_MODE_SHIFT) | LEVEL_ASSERT | (own_id << DESTINATION_SHIFT),
        );
        if mode != DELIVERY_FIXED {
            send(
                case,
                (mode << DELIVERY_MODE_SHIFT) | LEVEL_ASSERT | (SHORTHAND_SELF << SHORTHAND_SHIFT),
            );
        }
    }
    for vector in (0..16).chain([0x100, 0xffff_ffff, u64::MAX]) {
        expect_gp_or_ok(
            case,
            "self-IPI",
            vector,
            apic::write(apic::SELF_IPI, vector),
        );
    }
    valid_ones_arrive(case, own_id);
}

/// Whether the logical destination `id` includes this vCPU (Intel SDM vol. 3A, "Logical Destination Mode in x2APIC Mode").
fn names_us(id: u64) -> bool {
    let own = try_rdmsr(apic::LOGICAL_DESTINATION).unwrap_or(0);
    id >> 16 == own >> 16 && id & own & 0xffff != 0
}

/// Each valid way to interrupt oneself delivers exactly once.
fn valid_ones_arrive(case: &mut Case, own_id: u64) {
    drain();
    let before = (trap::count(TEST_VECTOR), trap::count(SELF_IPI_VECTOR));
    send(
        case,
        u64::from(TEST_VECTOR) | LEVEL_ASSERT | (own_id << DESTINATION_SHIFT),
    );
    drain();
    send(
        case,
        u64::from(TEST_VECTOR) | LEVEL_ASSERT | (SHORTHAND_SELF << SHORTHAND_SHIFT),
    );
    drain();
    let outcome = apic::write(apic::SELF_IPI, u64::from(SELF_IPI_VECTOR));
    case.check(outcome.is_ok(), format_args!("valid self-IPI: {outcome:?}"));
    drain();
    let after = (trap::count(TEST_VECTOR), trap::count(SELF_IPI_VECTOR));
    case.check(
        after == (before.0 + 2, before.1 + 1),
        format_args!("self-IPIs arrived {before:?} -> {after:?}"),
    );

    // All at once: every vector pends in its own bit.
    for vector in FIRST_SAFE_VECTOR..=0xfe {
        expect_gp_or_ok(
            case,
            "self-IPI",
            vector,
            apic::write(apic::SELF_IPI, vector),
        );
    }
    let before = trap::count(TEST_VECTOR);
    drain();
    case.check(
        trap::count(TEST_VECTOR) == before + 1,
        format_args!("of all vectors at once, one got lost"),
    );
}

/// INIT and start-up to oneself are ignored, and the local APIC works on as before.
pub(crate) fn init_self(case: &mut Case, _: &Params) {
    if let Err(fault) = apic::enable() {
        case.check(false, format_args!("x2APIC mode refused: {fault}"));
        return;
    }
    let own_id = try_rdmsr(apic::ID).unwrap_or(0);
    println!("sending INIT and start-up to ourselves");
    for mode in [DELIVERY_INIT, DELIVERY_STARTUP] {
        send(
            case,
            (mode << DELIVERY_MODE_SHIFT) | LEVEL_ASSERT | (own_id << DESTINATION_SHIFT),
        );
    }
    valid_ones_arrive(case, own_id);
}

fn drain() {
    cpu::enable_interrupts();
    for _ in 0..DRAIN_LOOPS {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
}

fn send(case: &mut Case, command: u64) {
    expect_gp_or_ok(case, "ICR", command, apic::write(apic::ICR, command));
}

fn expect_gp_or_ok(case: &mut Case, what: &str, value: u64, result: Result<(), Fault>) {
    if let Err(fault) = result {
        case.check(
            fault.vector == GENERAL_PROTECTION,
            format_args!("{what} {value:#x}: {fault}"),
        );
    }
}
