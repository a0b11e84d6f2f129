//! Interrupts there and back: each one sent arrives, and what one costs.

use core::sync::atomic::{AtomicU32, Ordering};

use test_guests::apic::{self, Command};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::timer::sleep_until;
use test_guests::{cpu, println, smp, trap};

use crate::{LIMIT, Vcpus};

const PING: u8 = 0x50;
const PONG: u8 = 0x51;
const DEFAULT_ROUNDS: u64 = 1000;

static ROUNDS: AtomicU32 = AtomicU32::new(0);
/// How many had arrived before the first is sent, which may be before the other vCPU has begun to answer.
static BEFORE: AtomicU32 = AtomicU32::new(0);

/// The first vCPU and each other one bounce `ipi=` interrupts. Prints `smp: ipi <n> of <n> arrived, <ticks> ticks each`
/// for each direction together: a round trip is two.
pub(crate) fn ping_pong(case: &mut Case, params: &Params, vcpus: &Vcpus) {
    let rounds = params.number("ipi").unwrap_or(DEFAULT_ROUNDS) as u32;
    ROUNDS.store(rounds, Ordering::Relaxed);
    for (vcpu, id) in vcpus.others() {
        let before = (trap::count_on(vcpu, PING), trap::count(PONG));
        BEFORE.store(before.0, Ordering::Release);
        let given = smp::give(vcpu, answer);
        case.check(given.is_ok(), format_args!("cannot wake: {given:?}"));
        let start = cpu::ticks();
        for round in 0..rounds {
            let sent = apic::send(Command::interrupt(PING).to(id));
            let wanted = before.1.wrapping_add(round + 1);
            let back = sleep_until(LIMIT, || trap::count(PONG) == wanted);
            if sent.is_err() || !back {
                case.check(false, format_args!("round {round}: {sent:?}"));
                break;
            }
        }
        let ticks = cpu::ticks().wrapping_sub(start);
        let there = trap::count_on(vcpu, PING).wrapping_sub(before.0);
        let back = trap::count(PONG).wrapping_sub(before.1);
        let done = smp::wait_for(vcpu, LIMIT);
        case.check(
            done && there == rounds && back == rounds,
            format_args!("of {rounds} interrupts {there} arrived and {back} came back"),
        );
        let each = ticks.checked_div(u64::from(there) + u64::from(back));
        println!(
            "smp: ipi {} of {} arrived, {} ticks each",
            there + back,
            2 * rounds,
            each.unwrap_or(0)
        );
    }
}

/// Answers every interrupt of the first vCPU.
fn answer(_: usize) {
    let first = smp::apic_id(0);
    let before = BEFORE.load(Ordering::Acquire);
    for round in 0..ROUNDS.load(Ordering::Relaxed) {
        let wanted = before.wrapping_add(round + 1);
        if !sleep_until(LIMIT, || trap::count(PING) >= wanted)
            || apic::send(Command::interrupt(PONG).to(first)).is_err()
        {
            return;
        }
    }
}
