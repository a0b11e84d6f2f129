//! A workload that checks itself: whatever another VM does meanwhile, nothing of this one may change.
//!
//! Each round, every vCPU fills its memory with a pattern, loads every register that is switched between VMs with values
//! of that round, lets the timer interrupt it while it counts `slice=` ticks, then compares everything. Prints
//! `check: round <n> ok` for every `every=`th of `rounds=` rounds, and at the end `check: done <n> rounds`; what differs
//! is a line `check: round <n> FAIL vCPU <n>: …`, and the end then `check: FAIL <n> differences`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use test_guests::params::Params;
use test_guests::random::{Random, SEED};
use test_guests::trap::Fault;
use test_guests::{apic, cpu, println, smp, timer};

use crate::extended::Extended;
use crate::registers;

const DEFAULT_ROUNDS: u64 = 100;
const DEFAULT_SLICE: u64 = 1_000_000;
const DEFAULT_MEMORY: u64 = 256 << 10;
/// Memory for the patterns: behind the guest's image, and so much for each vCPU.
const PATTERNS: u64 = 8 << 20;
const PATTERN_LIMIT: u64 = 2 << 20;
/// A vCPU that shares its CPU may take this long for a round, in ticks.
const LIMIT: u64 = 20_000_000_000;

static ROUND: AtomicU64 = AtomicU64::new(0);
static SLICE: AtomicU64 = AtomicU64::new(DEFAULT_SLICE);
static MEMORY: AtomicU64 = AtomicU64::new(DEFAULT_MEMORY);
static DIFFERENCES: AtomicU32 = AtomicU32::new(0);

pub(crate) fn rounds(params: &Params) -> Result<(), Fault> {
    let rounds = params.number("rounds").unwrap_or(DEFAULT_ROUNDS);
    let every = params.number("every").unwrap_or(1).max(1);
    let memory = params.number("memory").unwrap_or(DEFAULT_MEMORY);
    SLICE.store(
        params.number("slice").unwrap_or(DEFAULT_SLICE),
        Ordering::Relaxed,
    );
    MEMORY.store(memory.min(PATTERN_LIMIT), Ordering::Relaxed);
    let vcpus = crate::start_others(params)?;
    for round in 1..=rounds {
        ROUND.store(round, Ordering::Release);
        for vcpu in 1..vcpus {
            smp::give(vcpu, one)?;
        }
        one(0);
        for vcpu in 1..vcpus {
            // The timer wakes this vCPU should the other never end.
            timer::arm(cpu::ticks().saturating_add(LIMIT))?;
            if !smp::wait_for(vcpu, LIMIT) {
                differs(vcpu, format_args!("does not end"));
                return Ok(());
            }
        }
        if DIFFERENCES.load(Ordering::Relaxed) == 0 && round.is_multiple_of(every) {
            println!("check: round {round} ok");
        }
    }
    match DIFFERENCES.load(Ordering::Relaxed) {
        0 => println!("check: done {rounds} rounds"),
        count => println!("check: FAIL {count} differences"),
    }
    Ok(())
}

/// One round of one vCPU.
fn one(vcpu: usize) {
    let round = ROUND.load(Ordering::Acquire);
    let mut random = Random::new(SEED ^ (round << 8) ^ vcpu as u64);
    let extended = Extended::load(&mut random);
    let registers = registers::load(&mut random);
    let pattern = random.next() | 1;
    fill(vcpu, pattern);

    let slice = SLICE.load(Ordering::Relaxed);
    let start = cpu::ticks();
    let before = timer::count();
    let armed = timer::arm(start.saturating_add(slice / 2));
    cpu::enable_interrupts();
    timer::spin_until(slice, || false);
    let ticked = timer::spin_until(LIMIT, || timer::count() != before);
    cpu::disable_interrupts();

    if armed.is_err() || !ticked || timer::count() != before.wrapping_add(1) {
        differs(
            vcpu,
            format_args!("timer: {armed:?}, {} ticks", timer::count() - before),
        );
    }
    if let Some((offset, found)) = changed(vcpu, pattern) {
        differs(vcpu, format_args!("memory at {offset:#x} holds {found:#x}"));
    }
    registers
        .compare(|name, was, is| differs(vcpu, format_args!("{name} was {was:x?}, is {is:x?}")));
    extended.compare(|offset| differs(vcpu, format_args!("XSAVE area differs at {offset:#x}")));
    if smp::apic_id(vcpu) != apic::id() {
        differs(vcpu, format_args!("x2APIC id is {}", apic::id()));
    }
}

fn differs(vcpu: usize, what: core::fmt::Arguments<'_>) {
    DIFFERENCES.fetch_add(1, Ordering::Relaxed);
    let round = ROUND.load(Ordering::Relaxed);
    println!("check: round {round} FAIL vCPU {vcpu}: {what}");
}

/// The memory of `vcpu`, word by word.
fn words(vcpu: usize) -> impl Iterator<Item = *mut u64> {
    let start = PATTERNS + vcpu as u64 * PATTERN_LIMIT;
    (start..start + MEMORY.load(Ordering::Relaxed))
        .step_by(8)
        .map(|address| address as *mut u64)
}

fn fill(vcpu: usize, pattern: u64) {
    let mut random = Random::new(pattern);
    for word in words(vcpu) {
        // SAFETY: RAM behind the image, that nothing else of this guest uses.
        unsafe { word.write_volatile(random.next()) };
    }
}

/// The first word that differs from what `fill` wrote: its place and what it holds.
fn changed(vcpu: usize, pattern: u64) -> Option<(u64, u64)> {
    let mut random = Random::new(pattern);
    words(vcpu).find_map(|word| {
        // SAFETY: as in `fill`.
        let found = unsafe { word.read_volatile() };
        (found != random.next()).then_some((word as u64, found))
    })
}
