//! Maskable interrupts and NMIs delivered by software: injection, windows, priorities, events that an exit interrupted.

use super::machine::*;
use crate::vcpu::{Action, Readiness};
use crate::vmx::exit::Interruption;
use crate::vmx::field;

/// A violation on a device register: read, write not set, translated linear address.
const DEVICE_READ: u64 = 0x181;

#[test]
fn an_open_guest_gets_its_interrupt_at_once() {
    let mut machine = Machine::new();
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
    assert!(!machine.wants(INTERRUPT_WINDOW));
    // Delivered: the next exit finds nothing more to inject.
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(machine.injected(), None);
}

#[test]
fn a_closed_guest_opens_a_window_and_gets_it_there() {
    for (flags, blocking) in [
        (0, 0),
        (RFLAGS_IF, BLOCKED_BY_STI),
        (RFLAGS_IF, BLOCKED_BY_MOV_SS),
    ] {
        let mut machine = Machine::new();
        machine.set_flags(flags);
        // Retiring WRMSR would end a shadow: raise first, then let an exit find the shadow.
        machine.vcpu.apic.raise(0x41, crate::apic::Trigger::Edge);
        machine.block(blocking);
        assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
        assert_eq!(machine.injected(), None);
        assert!(machine.wants(INTERRUPT_WINDOW));
        machine.set_flags(RFLAGS_IF);
        machine.block(0);
        assert_eq!(machine.exit(reason::INTERRUPT_WINDOW), Action::Resume);
        assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
        assert!(!machine.wants(INTERRUPT_WINDOW));
    }
}

#[test]
fn a_higher_priority_interrupts_and_a_lower_one_waits_for_the_end() {
    let mut machine = Machine::new();
    assert_eq!(machine.raise(0x51), Action::Resume);
    assert_eq!(machine.raise(0x42), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert!(
        !machine.wants(INTERRUPT_WINDOW),
        "no window: it is not IF that blocks"
    );
    assert_eq!(machine.raise(0x61), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x61)));
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x42)));
}

#[test]
fn a_window_stays_open_for_the_second_of_two() {
    let mut machine = Machine::new();
    machine.set_flags(0);
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(machine.raise(0x61), Action::Resume);
    machine.set_flags(RFLAGS_IF);
    assert_eq!(machine.exit(reason::INTERRUPT_WINDOW), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x61)));
    assert!(
        !machine.wants(INTERRUPT_WINDOW),
        "0x41 waits for 0x61's end"
    );
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
}

#[test]
fn the_task_priority_holds_an_interrupt_until_it_falls_below_the_threshold() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(0x808, 0x50), Action::Resume);
    assert_eq!(machine.raise(0x4f), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert_eq!(machine.cpu.read(field::TPR_THRESHOLD), 4);
    // MOV to CR8 changes the page and exits.
    machine.vcpu.apic.set_task_priority(0x30);
    assert_eq!(machine.exit(reason::TPR_BELOW_THRESHOLD), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x4f)));
    assert_eq!(machine.cpu.read(field::TPR_THRESHOLD), 0);
}

#[test]
fn an_nmi_goes_in_unless_blocked_and_then_at_the_nmi_window() {
    let to_self = 1 << 18 | 4 << 8 | 1 << 14;
    let mut machine = Machine::new();
    machine.set_flags(0);
    assert_eq!(machine.wrmsr(0x830, to_self), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
    assert!(!machine.wants(NMI_WINDOW));
    machine.block(BLOCKED_BY_NMI);
    assert_eq!(machine.wrmsr(0x830, to_self), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert!(machine.wants(NMI_WINDOW));
    machine.block(0);
    assert_eq!(machine.exit(reason::NMI_WINDOW), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
    assert!(!machine.wants(NMI_WINDOW));
}

#[test]
fn disabling_the_apic_takes_back_what_was_asked_for_a_pending_interrupt() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(0x808, 0x50), Action::Resume);
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(machine.cpu.read(field::TPR_THRESHOLD), 4);
    assert_eq!(machine.wrmsr(0x1b, 0xfee0_0100), Action::Resume);
    assert_eq!(machine.cpu.read(field::TPR_THRESHOLD), 0);
    assert_eq!(machine.injected(), None);
    let mut machine = Machine::new();
    machine.set_flags(0);
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert!(machine.wants(INTERRUPT_WINDOW));
    assert_eq!(machine.wrmsr(0x1b, 0xfee0_0100), Action::Resume);
    assert!(!machine.wants(INTERRUPT_WINDOW));
}

#[test]
fn an_nmi_goes_before_an_interrupt_and_both_arrive() {
    let mut machine = Machine::new();
    machine.set_flags(0);
    assert_eq!(machine.raise(0x41), Action::Resume);
    machine.set_flags(RFLAGS_IF);
    assert_eq!(
        machine.wrmsr(0x830, 1 << 18 | 4 << 8 | 1 << 14),
        Action::Resume
    );
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
    assert!(machine.wants(INTERRUPT_WINDOW));
    assert_eq!(machine.exit(reason::INTERRUPT_WINDOW), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
}

#[test]
fn ipis_for_nobody_do_nothing() {
    let mut machine = Machine::new();
    for icr in [7 << 32 | 0x41, 3 << 18 | 0x41, 1 << 32 | 4 << 8] {
        assert_eq!(machine.wrmsr(0x830, icr), Action::Resume);
        assert_eq!(machine.injected(), None, "{icr:#x}");
    }
    // INIT and SIPI to oneself neither fault nor reset.
    for icr in [1 << 18 | 5 << 8 | 1 << 14, 2 << 18 | 6 << 8 | 8] {
        assert_eq!(machine.wrmsr(0x830, icr), Action::Resume);
        assert_eq!(machine.injected(), None, "{icr:#x}");
    }
    assert_eq!(machine.wrmsr(0x830, 2 << 18 | 0x41), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
}

/// Which of the further vCPUs got mail.
fn reached(machine: &Machine) -> Vec<usize> {
    let boxes = machine.cpu.mailboxes.iter().enumerate().skip(1);
    boxes
        .filter(|(_, mailbox)| {
            let waits = mailbox.is_waiting();
            let _ = mailbox.take();
            waits
        })
        .map(|(id, _)| id)
        .collect()
}

#[test]
fn ipis_reach_exactly_the_vcpus_that_the_destination_names() {
    let mut machine = Machine::new();
    let logical = 1 << 11;
    let everyone_else = 3 << 18;
    let lowest = 1 << 8;
    for (icr, expected) in [
        (2 << 32 | 0x41, vec![2]),
        (4 << 32 | 0x41, vec![]),
        (0xffff_fffe << 32 | 0x41, vec![]),
        (0xffff_ffff << 32 | 0x41, vec![1, 2, 3]),
        (everyone_else | 0x41, vec![1, 2, 3]),
        (0b1010 << 32 | logical | 0x41, vec![1, 3]),
        (0b1010 << 32 | logical | lowest | 0x41, vec![1]),
        ((1 << 16 | 0b1111) << 32 | logical | 0x41, vec![]),
        (everyone_else | 5 << 8 | 1 << 14, vec![1, 2, 3]),
        (3 << 32 | 6 << 8 | 0x9a, vec![3]),
    ] {
        let _ = machine.wrmsr(0x830, icr);
        assert_eq!(reached(&machine), expected, "{icr:#x}");
    }
}

#[test]
fn an_interrupted_delivery_happens_again_before_the_access() {
    for (event, code, length) in [
        (Interruption::external(0x41).0, None, None),
        (Interruption::exception(14, true).0, Some(7), None),
        (1 << 31 | 4 << 8 | 0x80, None, Some(2)),
        (1 << 31 | 6 << 8 | 3, None, Some(1)),
    ] {
        let mut machine = Machine::new();
        let rip = machine.rip();
        // Bit 12 is undefined here and reserved at entry.
        machine.cpu.set(field::IDT_VECTORING_INFO, event | 1 << 12);
        machine
            .cpu
            .set(field::IDT_VECTORING_ERROR_CODE, code.unwrap_or(0));
        machine
            .cpu
            .set(field::EXIT_INSTRUCTION_LENGTH, length.unwrap_or(9));
        machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, 0xfec0_0000);
        assert_eq!(
            machine.exit_with(reason::EPT_VIOLATION, DEVICE_READ),
            Action::Resume
        );
        assert_eq!(machine.injected(), Some(Interruption(event)));
        let given = machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE);
        assert!(code.is_none_or(|code| code == given));
        let given = machine.cpu.read(field::ENTRY_INSTRUCTION_LENGTH);
        assert!(length.is_none_or(|length| length == given));
        assert_eq!(machine.rip(), rip);
    }
}

#[test]
fn an_interrupted_nmi_is_unblocked_to_be_delivered_again() {
    let mut machine = Machine::new();
    machine.block(BLOCKED_BY_NMI);
    machine
        .cpu
        .set(field::IDT_VECTORING_INFO, Interruption::nmi().0);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, 0xfec0_0000);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, DEVICE_READ),
        Action::Resume
    );
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
}

#[test]
fn an_event_delivered_again_keeps_new_interrupts_waiting() {
    let mut machine = Machine::new();
    machine.vcpu.apic.raise(0x71, crate::apic::Trigger::Edge);
    machine.vcpu.attention = true;
    machine
        .cpu
        .set(field::IDT_VECTORING_INFO, Interruption::external(0x41).0);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, 0xfec0_0000);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, DEVICE_READ),
        Action::Resume
    );
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
    assert!(machine.wants(INTERRUPT_WINDOW));
}

#[test]
fn a_host_interrupt_is_ended_and_costs_the_guest_nothing() {
    let mut machine = Machine::new();
    let rip = machine.rip();
    machine.cpu.set(
        field::EXIT_INTERRUPTION_INFO,
        Interruption::external(0xf0).0,
    );
    assert_eq!(machine.exit(reason::EXTERNAL_INTERRUPT), Action::Leave);
    assert_eq!(machine.cpu.host_interrupts, [0xf0]);
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert_eq!((machine.rip(), machine.injected()), (rip, None));
}
