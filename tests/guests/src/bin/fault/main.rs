//! Every way a VM can die or misbehave, one a run, for a VM that others must not notice; `case=` chooses it.
//!
//! `after=<ticks>` has it behave until then. Prints `fault: <case> begins`, and cases without an end print
//! `fault: <case> alive <rounds>` now and then. What concerns virtio is in the guest `virtio`.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "executes instructions that end the VM on purpose"
)]

mod storms;

use core::arch::asm;

use bulkhead_core::platform::{
    WATCHDOG_CONTROL_PORT, WATCHDOG_COUNTDOWN_PORT, WATCHDOG_FIRED, WATCHDOG_MIN_MS, WATCHDOG_RUN,
    WATCHDOG_STATUS_PORT,
};
use test_guests::params::Params;
use test_guests::{cpu, guest, power, println, timer, trap};

guest!(main);

type CaseFn = fn(&Params);

const CASES: &[(&str, CaseFn)] = &[
    ("triple-fault", |_| triple_fault()),
    ("if-off", |_| interrupts_off()),
    ("halt", |_| power::halt()),
    ("sleep", |_| {
        loop {
            cpu::halt_for_interrupt();
        }
    }),
    ("reset", |_| power::reset()),
    ("power-off", |_| power::off()),
    ("outside-memory", |_| outside_memory()),
    ("watchdog", |_| watchdog()),
    ("exit-storm", |_| storms::exits()),
    ("timer-storm", |_| storms::timer()),
    ("ipi-storm", storms::interrupts),
    ("init-storm", storms::inits),
    ("console-flood", |_| storms::console()),
];

fn main(params: &Params) {
    let wanted = params.get("case").unwrap_or("");
    let Some((name, run)) = CASES.iter().find(|(name, _)| *name == wanted) else {
        println!("case runtime: FAIL no case named '{wanted}'; there are:");
        for (name, _) in CASES {
            println!("  {name}");
        }
        return;
    };
    timer::spin_until(params.number("after").unwrap_or(0), || false);
    println!("fault: {name} begins");
    run(params);
}

/// An exception without an IDT.
fn triple_fault() {
    trap::remove();
    // SAFETY: ends this VM, which is the purpose.
    unsafe { asm!("ud2", options(nomem, nostack)) };
}

/// A vCPU that gives nothing away: no exit, no interrupt.
fn interrupts_off() {
    // SAFETY: loops for good.
    unsafe { asm!("cli", "2: jmp 2b", options(nomem, nostack)) };
}

/// Starts the watchdog and hangs. Prints `fault: the watchdog ended the last life` where it did.
fn watchdog() {
    if cpu::inb(WATCHDOG_STATUS_PORT) & WATCHDOG_FIRED != 0 {
        println!("fault: the watchdog ended the last life");
    }
    cpu::outl(WATCHDOG_COUNTDOWN_PORT, WATCHDOG_MIN_MS);
    cpu::outb(WATCHDOG_CONTROL_PORT, WATCHDOG_RUN);
    interrupts_off();
}

/// A read where there is neither memory nor a device.
fn outside_memory() {
    let nowhere = test_guests::window::map(1 << 38);
    // SAFETY: an integer may have any value, should the hypervisor put memory there.
    let found = unsafe { (nowhere as *const u64).read_volatile() };
    println!("case outside-memory: FAIL read {found:#x}");
}
