//! A vCPU with interrupts off takes none, however many are sent to it, and gets only those that were sent.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use test_guests::apic::{self, Command, SPURIOUS_VECTOR};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::timer::{self, spin_until};
use test_guests::{cpu, println, smp, trap};

use crate::{LIMIT, Vcpus};

/// Two, in different priority classes: one is pending while the other comes.
const VECTORS: [u8; 2] = [0x52, 0x92];
/// A notification that nothing was posted with comes once in some thousands.
const DEFAULT_SENT: u64 = 40_000;
/// How many are sent before the target has to have had a turn.
const BURST: u64 = 256;
/// Ticks that the target spends with interrupts off at a time, which is several of the sender's commands.
const OFF: u64 = 20_000;
/// And asleep.
const DOZE: u64 = 20_000;

static STOP: AtomicBool = AtomicBool::new(false);
static TURNS: AtomicU32 = AtomicU32::new(0);
/// Turns with interrupts off in which one came.
static BROKEN: AtomicU32 = AtomicU32::new(0);

/// The first vCPU sends `masked=` interrupts to each other one, which has them off most of the time.
/// Prints `smp: masked <n> sent, <n> turns with interrupts off, 0 broken, 0 never sent`.
pub(crate) fn none_arrives_while_off(case: &mut Case, params: &Params, vcpus: &Vcpus) {
    let wanted = params.number("masked").unwrap_or(DEFAULT_SENT);
    for (vcpu, id) in vcpus.others() {
        STOP.store(false, Ordering::Relaxed);
        TURNS.store(0, Ordering::Relaxed);
        BROKEN.store(0, Ordering::Relaxed);
        let before = VECTORS.map(|vector| trap::count_on(vcpu, vector));
        let spurious = trap::count_on(vcpu, SPURIOUS_VECTOR);
        let given = smp::give(vcpu, be_deaf_at_times);
        let up = spin_until(LIMIT, || TURNS.load(Ordering::Relaxed) > 0);
        case.check(
            given.is_ok() && up,
            format_args!("cannot wake vCPU {vcpu}: {given:?}"),
        );
        for (number, vector) in (0..wanted).zip(VECTORS.into_iter().cycle()) {
            let sent = apic::send(Command::interrupt(vector).to(id));
            if sent.is_err() {
                case.check(false, format_args!("cannot send: {sent:?}"));
                break;
            }
            if number % BURST == 0 {
                // Without an end of them the target would do nothing but take them.
                let turns = TURNS.load(Ordering::Relaxed);
                let goes_on = spin_until(LIMIT, || TURNS.load(Ordering::Relaxed) != turns);
                case.check(goes_on, format_args!("the target does not go on"));
            }
        }
        // The last ones arrive when the target lets them.
        let arrived = || {
            VECTORS
                .into_iter()
                .zip(before)
                .all(|(vector, before)| trap::count_on(vcpu, vector) != before)
        };
        let all = spin_until(LIMIT, arrived);
        STOP.store(true, Ordering::Release);
        let woken = apic::send(Command::interrupt(smp::WAKE_VECTOR).to(id)).is_ok();
        let done = smp::wait_for(vcpu, LIMIT);
        let broken = BROKEN.load(Ordering::Relaxed);
        let strange = trap::count_on(vcpu, SPURIOUS_VECTOR).wrapping_sub(spurious);
        let turns = TURNS.load(Ordering::Relaxed);
        println!(
            "smp: masked {wanted} sent, {turns} turns with interrupts off, {broken} broken, {strange} never sent"
        );
        case.check(
            all && woken && done,
            format_args!("not all arrived, or no end"),
        );
        case.check(turns > 1, format_args!("the target had no turn"));
        case.check(broken == 0, format_args!("interrupts came while off"));
        case.check(strange == 0, format_args!("spurious interrupts came"));
    }
}

fn taken(vcpu: usize) -> u32 {
    VECTORS
        .into_iter()
        .chain([SPURIOUS_VECTOR])
        .fold(0, |sum, vector| {
            sum.wrapping_add(trap::count_on(vcpu, vector))
        })
}

/// Interrupts off, every other time with exits meanwhile, then asleep from one to the next, until told to stop.
fn be_deaf_at_times(vcpu: usize) {
    while !STOP.load(Ordering::Acquire) {
        cpu::disable_interrupts();
        let before = taken(vcpu);
        let exits = TURNS.load(Ordering::Relaxed) % 2 == 1;
        spin_until(OFF, || {
            if exits {
                let _ = cpu::cpuid(0, 0);
            }
            false
        });
        if taken(vcpu) != before {
            BROKEN.fetch_add(1, Ordering::Relaxed);
        }
        TURNS.fetch_add(1, Ordering::Relaxed);
        // An interrupt often comes while the exit for HLT is handled; the timer comes when no other does.
        if timer::doze(DOZE, || STOP.load(Ordering::Acquire)).is_err() {
            return;
        }
    }
}
