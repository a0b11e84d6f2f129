//! HLT, what ends it, and the timers that bound how long the guest runs.

use super::devices::route;
use super::machine::*;
use super::ports::outb;
use crate::bus::{Signal, Signals};
use crate::platform::COM1_BASE;
use crate::vcpu::{Action, Readiness};
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const TIMER_LVT: u32 = 0x832;
const DEADLINE: u32 = 0x6e0;
const DEADLINE_MODE: u64 = 2 << 17;

fn timer_ticks(machine: &Machine) -> u64 {
    machine.cpu.read(field::PREEMPTION_TIMER).into()
}

/// Arms the timer for `ticks` from now, as the guest sees it.
fn arm(machine: &mut Machine, vector: u64, ticks: u64) {
    assert_eq!(
        machine.wrmsr(TIMER_LVT, DEADLINE_MODE | vector),
        Action::Resume
    );
    let deadline = machine.cpu.tsc + TSC_OFFSET + ticks;
    assert_eq!(machine.wrmsr(DEADLINE, deadline), Action::Resume);
    assert_eq!(machine.injected(), None);
}

#[test]
fn hlt_with_nothing_pending_halts_and_is_skipped() {
    let mut machine = Machine::new();
    let rip = machine.rip();
    machine.block(BLOCKED_BY_STI);
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    assert!(machine.is_halted());
    assert_eq!(machine.rip(), rip + 2);
    assert_eq!(machine.cpu.read(field::GUEST_INTERRUPTIBILITY), 0);
}

#[test]
fn hlt_after_sti_takes_the_pending_interrupt_and_never_halts() {
    let mut machine = Machine::new();
    machine.set_flags(0);
    assert_eq!(machine.raise(0x41), Action::Resume);
    machine.set_flags(RFLAGS_IF);
    machine.block(BLOCKED_BY_STI);
    assert_eq!(machine.exit(reason::HLT), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
    assert!(!machine.is_halted());
}

#[test]
fn a_guest_halted_with_interrupts_off_is_deaf_to_all_but_an_nmi() {
    for mut machine in [Machine::new(), Machine::with_hardware_delivery()] {
        machine.set_flags(0);
        machine.vcpu.apic.raise(0x41, crate::apic::Trigger::Edge);
        assert_eq!(machine.exit(reason::HLT), Action::Leave);
        assert!(machine.vcpu.is_deaf(&machine.cpu));
        assert_eq!(
            machine.run_again(),
            Readiness::Waiting,
            "the interrupt is not taken"
        );
        machine.cpu.signal(0, Signal::Nmi);
        assert_eq!(machine.run_again(), Readiness::Enter);
        assert_eq!(machine.injected(), Some(Interruption::nmi()));
        assert!(!machine.is_halted());
    }
}

#[test]
fn a_guest_halted_in_its_nmi_handler_is_deaf_to_a_further_one() {
    let mut machine = Machine::new();
    machine.set_flags(0);
    machine.block(BLOCKED_BY_NMI);
    machine.vcpu.nmi_pending = true;
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    assert!(machine.vcpu.is_deaf(&machine.cpu));
    assert_eq!(machine.run_again(), Readiness::Waiting);
    machine.set_flags(RFLAGS_IF);
    assert!(!machine.vcpu.is_deaf(&machine.cpu));
}

#[test]
fn a_device_whose_line_is_an_nmi_wakes_what_is_deaf_otherwise() {
    let nmi = 4 << 8;
    let masked = 1 << 16;
    for (entry, expected) in [(nmi, true), (nmi | masked, false), (0x34, false)] {
        let mut machine = Machine::new();
        route(&mut machine, entry);
        assert_eq!(outb(&mut machine, COM1_BASE + 4, 8), Action::Resume);
        assert_eq!(outb(&mut machine, COM1_BASE + 1, 1), Action::Resume);
        machine.set_flags(0);
        assert_eq!(machine.exit(reason::HLT), Action::Leave);
        assert_eq!(machine.devices.can_send_nmi(1), expected, "{entry:#x}");
        assert!(machine.push_input(b'q'));
        machine.route_interrupts();
        let woken = machine.run_again() == Readiness::Enter;
        assert_eq!(woken, expected, "{entry:#x}");
        let nmi = Some(Interruption::nmi());
        assert_eq!(machine.injected(), nmi.filter(|_| expected));
    }
}

#[test]
fn a_halted_guest_sleeps_through_times_that_bring_nothing() {
    let mut machine = Machine::new();
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    machine.vcpu.end(machine.cpu.tsc);
    for _ in 0..3 {
        machine.cpu.tsc += 1000;
        assert_eq!(machine.run_again(), Readiness::Waiting);
    }
    assert_eq!(machine.vcpu.counters.idle_ticks(), 3000);
    assert_eq!(machine.vcpu.counters.steal_ticks(), 0);
}

#[test]
fn a_deadline_wakes_a_halted_guest() {
    let mut machine = Machine::new();
    arm(&mut machine, 0xec, 64_000);
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    assert!(machine.is_halted());
    let due = machine.cpu.tsc + 64_000;
    assert_eq!(machine.vcpu.next_timer(machine.cpu.tsc), Some(due));
    machine.cpu.tsc += 63_999;
    assert_eq!(machine.run_again(), Readiness::Waiting, "one tick early");
    machine.cpu.tsc += 1;
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert_eq!(machine.injected(), Some(Interruption::external(0xec)));
    assert!(!machine.is_halted());
    assert_eq!(machine.rdmsr(DEADLINE), 0, "a deadline is met once");
}

#[test]
fn a_deadline_in_the_past_interrupts_at_once() {
    let mut machine = Machine::new();
    assert_eq!(
        machine.wrmsr(TIMER_LVT, DEADLINE_MODE | 0xec),
        Action::Resume
    );
    assert_eq!(machine.wrmsr(DEADLINE, 1), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0xec)));
}

#[test]
fn an_exit_of_any_kind_notices_a_deadline_that_passed() {
    let mut machine = Machine::new();
    arm(&mut machine, 0xec, 100);
    machine.cpu.tsc += 100;
    assert_eq!(machine.exit(reason::WBINVD), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0xec)));
}

#[test]
fn the_preemption_timer_rounds_down_and_counts_to_the_end_of_the_vcpus_time() {
    let mut machine = Machine::new();
    arm(&mut machine, 0xec, 95);
    assert_eq!(timer_ticks(&machine), 2);
    machine.cpu.tsc += 1;
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(timer_ticks(&machine), 2);
    assert_eq!(machine.wrmsr(DEADLINE, 0), Action::Resume);
    // One tick less than the longest time, of which one has passed.
    assert_eq!(timer_ticks(&machine), u64::from(u32::MAX) - 1);
}

#[test]
fn a_masked_timer_asks_for_no_wake_up() {
    let mut machine = Machine::new();
    arm(&mut machine, 0xec, 1000);
    assert_eq!(
        machine.wrmsr(TIMER_LVT, DEADLINE_MODE | 1 << 16 | 0xec),
        Action::Resume
    );
    assert_eq!(timer_ticks(&machine), u64::from(u32::MAX));
}

#[test]
fn a_periodic_timer_keeps_waking() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(0x83e, 0b1011), Action::Resume);
    assert_eq!(machine.wrmsr(TIMER_LVT, 1 << 17 | 0xec), Action::Resume);
    assert_eq!(machine.wrmsr(0x838, 6400), Action::Resume);
    for _ in 0..3 {
        assert_eq!(timer_ticks(&machine), 200);
        machine.cpu.tsc += 6400;
        assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
        assert_eq!(machine.injected(), Some(Interruption::external(0xec)));
        assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    }
}

#[test]
fn a_periodic_timer_faster_than_an_exit_lets_the_guest_run_between() {
    let mut machine = Machine::new();
    machine.set_flags(0);
    assert_eq!(machine.wrmsr(0x83e, 0b1011), Action::Resume);
    assert_eq!(machine.wrmsr(TIMER_LVT, 1 << 17 | 0x40), Action::Resume);
    assert_eq!(machine.wrmsr(0x838, 1), Action::Resume);
    for _ in 0..3 {
        machine.cpu.tsc += 1 + (timer_ticks(&machine) << TIMER_SHIFT);
        assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
        machine.cpu.tsc += 500;
        assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
        assert!(timer_ticks(&machine) >= 1000 >> TIMER_SHIFT);
        machine.cpu.tsc += 1500;
    }
    machine.set_flags(RFLAGS_IF);
    assert_eq!(machine.exit(reason::INTERRUPT_WINDOW), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x40)));
}

#[test]
fn a_deadline_soon_after_another_is_met_on_time() {
    let mut machine = Machine::new();
    arm(&mut machine, 0xec, 64);
    machine.cpu.tsc += 64;
    assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0xec)));
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    arm(&mut machine, 0xec, 64);
    assert_eq!(timer_ticks(&machine), 64 >> TIMER_SHIFT);
}

#[test]
fn moving_the_tsc_past_a_deadline_fires_it() {
    let mut machine = Machine::new();
    arm(&mut machine, 0xec, 1000);
    assert_eq!(machine.wrmsr(0x3b, 1000), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0xec)));
}

#[test]
fn the_cpu_is_given_back_when_the_time_is_over() {
    let mut machine = Machine::new();
    let now = machine.cpu.tsc;
    machine.vcpu.begin(now, now + 5_000);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(timer_ticks(&machine), 5_000 >> TIMER_SHIFT);
    machine.cpu.tsc += 5_000;
    assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Leave);
    assert_eq!(machine.exit(reason::CPUID), Action::Leave);
}
