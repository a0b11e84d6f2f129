//! vCPUs that halt with interrupts off and are started again, as CPU hotplug does; and INIT to the first vCPU.

use core::sync::atomic::{AtomicU32, Ordering};

use test_guests::apic::{self, Command};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::smp::MAX_VCPUS;
use test_guests::timer::spin_until;
use test_guests::{cpu, power, println, smp};

use crate::{LIMIT, Vcpus};

const DEFAULT_CYCLES: u64 = 100;
/// The number under which the first vCPU is started again: it may still be using its own stack.
const SPARE: usize = MAX_VCPUS - 1;
/// How long the first vCPU gets to show that it goes on after INIT.
const PATIENCE: u64 = 20_000_000;

static DEAF: AtomicU32 = AtomicU32::new(0);

/// Each other vCPU goes deaf and is started again, `cycles=` times. Prints `smp: hotplug <n> cycles of vCPU <n>`.
pub(crate) fn cycle(case: &mut Case, params: &Params, vcpus: &Vcpus) {
    let cycles = params.number("cycles").unwrap_or(DEFAULT_CYCLES);
    for (vcpu, id) in vcpus.others() {
        let before = smp::starts(vcpu);
        for cycle in 0..cycles {
            let parked = DEAF.load(Ordering::Acquire);
            let given = smp::give(vcpu, go_deaf);
            let deaf = spin_until(LIMIT, || DEAF.load(Ordering::Acquire) != parked);
            let up = smp::start(vcpu, id);
            if given.is_err() || !deaf || up != Ok(true) {
                case.check(false, format_args!("cycle {cycle}: {given:?}, {up:?}"));
                return;
            }
        }
        case.check(
            u64::from(smp::starts(vcpu) - before) == cycles,
            format_args!("vCPU {vcpu} came up {} times", smp::starts(vcpu) - before),
        );
        // It takes interrupts as before.
        let works = smp::run(vcpu, LIMIT, |_| {});
        case.check(works == Ok(true), format_args!("afterwards: {works:?}"));
        println!("smp: hotplug {cycles} cycles of vCPU {vcpu}");
    }
}

fn go_deaf(_: usize) {
    DEAF.fetch_add(1, Ordering::Release);
    power::halt();
}

static ALIVE: AtomicU32 = AtomicU32::new(0);

/// Another vCPU sends INIT, then start-up, to the first, and tells what became of it: `smp: after INIT the first vCPU
/// <goes on | waits and starts again | is gone>`. Whatever it is, the VM's end is that vCPU's to bring about.
pub(crate) fn init_first(case: &mut Case, _: &Params, vcpus: &Vcpus) {
    let last = vcpus.count() - 1;
    let given = smp::give(last, attack);
    case.check(
        given.is_ok() && last > 0,
        format_args!("no vCPU to send it: {given:?}"),
    );
    loop {
        ALIVE.fetch_add(1, Ordering::Release);
        cpu::enable_interrupts();
    }
}

fn attack(_: usize) {
    let first = smp::apic_id(0);
    let sent = apic::send(Command::init().to(first));
    let seen = ALIVE.load(Ordering::Acquire);
    // One that was under way when INIT was sent does not count as going on.
    let goes_on = spin_until(PATIENCE, || ALIVE.load(Ordering::Acquire) > seen + 2);
    let what = if goes_on {
        "goes on"
    } else if smp::start(SPARE, first) == Ok(true) {
        "waits and starts again"
    } else {
        "is gone"
    };
    println!("smp: after INIT ({sent:?}) the first vCPU {what}");
    println!("case init-bsp: ok");
    power::off();
}
