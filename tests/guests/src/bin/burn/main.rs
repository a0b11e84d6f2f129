//! Work of known kinds, for tests of shares and of isolation; `mode=` on the command line chooses it.
//!
//! - `busy` (the default): every vCPU counts. Prints `burn: <n> iterations in <ticks> ticks`, all vCPUs together, whenever
//!   something is typed, and when `ticks=` are over or `iterations=` are done; without either it goes on for ever.
//! - `idle`: asleep but for a timer, `hz=` times a second; prints `burn: <n> beats` after `beats=` of them, or never.
//! - `halt`: asleep for good, ready for interrupts that do not come.
//! - `check`: works and checks itself, see [`check`].
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "loads and reads registers that the hypervisor has to switch"
)]

mod check;
mod extended;
mod registers;

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use test_guests::params::Params;
use test_guests::smp::MAX_VCPUS;
use test_guests::trap::Fault;
use test_guests::{acpi, apic, cpu, guest, println, serial, smp, timer};

guest!(main);

/// Iterations counted at once, and how many of these pass between two looks at console and clock.
const BLOCK: u64 = 1 << 16;
const BLOCKS: u64 = 16;
const DEFAULT_HZ: u64 = 10;

static ITERATIONS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
static STOP: AtomicBool = AtomicBool::new(false);

fn main(params: &Params) {
    let mode = params.get("mode").unwrap_or("busy");
    println!("burn: {mode}");
    let outcome = match mode {
        "busy" => busy(params),
        "idle" => idle(params),
        "halt" => loop {
            cpu::halt_for_interrupt();
        },
        "check" => check::rounds(params),
        _ => {
            println!("case runtime: FAIL no mode named '{mode}'");
            return;
        }
    };
    if let Err(fault) = outcome {
        println!("case runtime: FAIL {fault}");
    }
}

/// Starts every other vCPU that the MADT names; returns how many vCPUs there are.
fn start_others(params: &Params) -> Result<usize, Fault> {
    smp::prepare()?;
    let own = apic::id();
    let mut count = 1;
    for id in acpi::apic_ids(params)
        .filter(|&id| id != own)
        .take(MAX_VCPUS - 1)
    {
        if !smp::start(count, id)? {
            println!("case runtime: FAIL vCPU {count} does not start");
        }
        count += 1;
    }
    Ok(count)
}

fn busy(params: &Params) -> Result<(), Fault> {
    let (ticks, iterations) = (params.number("ticks"), params.number("iterations"));
    let vcpus = start_others(params)?;
    let start = cpu::ticks();
    for vcpu in 1..vcpus {
        smp::give(vcpu, |vcpu| {
            while !STOP.load(Ordering::Relaxed) {
                count_on(vcpu);
            }
        })?;
    }
    loop {
        let total = count_on(0);
        let passed = cpu::ticks().wrapping_sub(start);
        let done = ticks.is_some_and(|limit| passed >= limit)
            || iterations.is_some_and(|limit| total >= limit);
        if done || serial::receive().is_some() {
            println!("burn: {total} iterations in {passed} ticks");
        }
        if done {
            STOP.store(true, Ordering::Relaxed);
            return Ok(());
        }
    }
}

/// Counts for a while as vCPU `vcpu`; returns what all have counted.
fn count_on(vcpu: usize) -> u64 {
    for _ in 0..BLOCKS {
        // SAFETY: counts a register down.
        unsafe {
            asm!("2: dec {0}", "jnz 2b", inout(reg) BLOCK => _, options(nomem, nostack));
        }
        if let Some(own) = ITERATIONS.get(vcpu) {
            own.fetch_add(BLOCK, Ordering::Relaxed);
        }
    }
    ITERATIONS
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum()
}

fn idle(params: &Params) -> Result<(), Fault> {
    apic::enable()?;
    let period = timer::frequency() / params.number("hz").unwrap_or(DEFAULT_HZ).max(1);
    let beats = params.number("beats").unwrap_or(u64::MAX);
    let mut next = cpu::ticks();
    for _ in 0..beats {
        next = next.saturating_add(period);
        timer::arm(next)?;
        let before = timer::count();
        timer::sleep_until(u64::MAX, || timer::count() != before);
    }
    println!("burn: {beats} beats");
    Ok(())
}
