//! Things done without an end, as fast as possible.

use test_guests::apic::{self, Command};
use test_guests::cpu::{self, cpuid, try_rdmsr, try_vmcall};
use test_guests::params::Params;
use test_guests::smp::{self, TRAMPOLINE_PAGE};
use test_guests::trap::Fault;
use test_guests::{acpi, print, println, timer};

/// A storm says every so many rounds that it goes on.
const ALIVE_ROUNDS: u64 = 1 << 14;
const UNCLAIMED_PORT: u16 = 0x40;
const UNKNOWN_MSR: u32 = 0x1234;
const VECTOR: u8 = 0x70;

/// Does `round` for ever; ends the guest at its first fault.
fn for_ever(name: &str, mut round: impl FnMut(u64) -> Result<(), Fault>) {
    for number in 0.. {
        if let Err(fault) = round(number) {
            println!("case {name}: FAIL round {number}: {fault}");
            return;
        }
        if number % ALIVE_ROUNDS == ALIVE_ROUNDS - 1 {
            println!("fault: {name} alive {}", number + 1);
        }
    }
}

/// Nothing but exits: CPUID, an unknown MSR, an unknown hypercall, a port that nothing claims.
pub(crate) fn exits() {
    for_ever("exit-storm", |_| {
        let leaf = cpuid(0x4000_0000, 0);
        cpu::outb(UNCLAIMED_PORT, leaf.eax as u8);
        // The refusal is what is wanted.
        let _ = try_rdmsr(UNKNOWN_MSR);
        try_vmcall(u64::MAX, [0; 6]).map(|_| ())
    });
}

/// A timer that is always due.
pub(crate) fn timer() {
    for_ever("timer-storm", |number| {
        if number == 0 {
            apic::enable()?;
        }
        timer::arm(1)?;
        cpu::enable_interrupts();
        cpu::disable_interrupts();
        Ok(())
    });
}

/// Interrupts and NMIs to everybody, existing or not.
pub(crate) fn interrupts(params: &Params) {
    let others = start_others(params);
    for_ever("ipi-storm", |number| {
        if number == 0 {
            others.map(|_| ())?;
        }
        apic::send(Command::interrupt(VECTOR).to_all())?;
        apic::send(Command::nmi().to_others())?;
        apic::send(Command::interrupt(VECTOR).to(number as u32))?;
        cpu::enable_interrupts();
        cpu::disable_interrupts();
        Ok(())
    });
}

/// INIT and start-up for the VM's other vCPUs, whatever they are at, and for vCPUs that do not exist.
pub(crate) fn inits(params: &Params) {
    let others = start_others(params);
    for_ever("init-storm", |number| {
        let count = others?;
        for id in acpi::apic_ids(params).filter(|&id| id != smp::apic_id(0)) {
            apic::send(Command::init().to(id))?;
            if number % 3 != 0 {
                apic::send(Command::startup(TRAMPOLINE_PAGE).to(id))?;
            }
        }
        apic::send(Command::init().to(count as u32 + number as u32 % 0x1_0000))?;
        apic::send(Command::startup(number as u8).to(u32::MAX - 1))
    });
}

/// As much text as the console takes.
pub(crate) fn console() {
    for number in 0_u64.. {
        print!("fault: console-flood {number} ################################################\n");
    }
}

/// Starts the other vCPUs; returns how many vCPUs there are.
fn start_others(params: &Params) -> Result<usize, Fault> {
    smp::prepare()?;
    let mut count = 1;
    for id in acpi::apic_ids(params).filter(|&id| id != smp::apic_id(0)) {
        smp::start(count, id)?;
        count += 1;
    }
    Ok(count)
}
