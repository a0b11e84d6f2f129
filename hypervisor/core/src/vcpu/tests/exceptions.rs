//! Exceptions that exit (#DB, #AC, #MC, NMI) and exceptions that the dispatcher raises itself.

use super::machine::*;
use crate::vcpu::Action;
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const DEBUG: Interruption = Interruption::exception(1, false);
const ALIGNMENT: Interruption = Interruption::exception(17, true);
/// Exit information only: the exception came from an IRET that had unblocked NMIs.
const UNBLOCKED_NMI: u32 = 1 << 12;

fn exception(machine: &mut Machine, event: Interruption, qualification: u64) -> Action {
    machine.cpu.set(field::EXIT_INTERRUPTION_INFO, event.0);
    machine.exit_with(reason::EXCEPTION, qualification)
}

#[test]
fn a_debug_exception_reaches_the_guest_with_its_cause_in_dr6() {
    for (cause, dr6) in [
        (1 << 14, 0xffff_4ff0),
        (1 << 13 | 0b101, 0xffff_2ff5),
        (1 << 16, 0xfffe_0ff0),
        (u64::MAX, 0xfffe_6fff),
    ] {
        let mut machine = Machine::new();
        machine.cpu.set_natural(field::GUEST_DR7, 0x2400);
        machine.cpu.set(field::GUEST_DEBUGCTL, 3);
        assert_eq!(exception(&mut machine, DEBUG, cause), Action::Resume);
        assert_eq!(machine.injected(), Some(DEBUG));
        assert_eq!(machine.cpu.dr6, dr6, "{cause:#x}");
        assert_eq!(machine.cpu.read(field::GUEST_DR7).0, 0x400, "GD falls");
        assert_eq!(machine.cpu.read(field::GUEST_DEBUGCTL), 2, "LBR falls");
    }
}

#[test]
fn int1_is_delivered_as_the_software_event_it_is() {
    let mut machine = Machine::new();
    machine.cpu.set(field::EXIT_INSTRUCTION_LENGTH, 1);
    let int1 = Interruption(1 << 31 | Interruption::PRIVILEGED_SOFTWARE << 8 | 1);
    assert_eq!(exception(&mut machine, int1, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(int1));
    assert_eq!(machine.cpu.read(field::ENTRY_INSTRUCTION_LENGTH), 1);
}

#[test]
fn single_stepping_over_sti_or_mov_ss_leaves_an_entry_the_cpu_accepts() {
    for shadow in [BLOCKED_BY_STI, BLOCKED_BY_MOV_SS] {
        let mut machine = Machine::new();
        machine.set_flags(RFLAGS_TF | RFLAGS_IF);
        machine.block(shadow);
        assert_eq!(exception(&mut machine, DEBUG, 1 << 14), Action::Resume);
        assert_eq!(machine.injected(), Some(DEBUG));
    }
}

#[test]
fn a_single_step_over_hlt_wakes_the_guest() {
    let mut machine = Machine::new();
    machine.set_flags(RFLAGS_TF);
    assert_eq!(machine.exit(reason::HLT), Action::Resume);
    assert!(!machine.is_halted());
    let pending = machine.cpu.read(field::GUEST_PENDING_DEBUG).0;
    assert_eq!(
        pending, DEBUG_BS,
        "the processor raises the trap after the entry"
    );
}

#[test]
fn an_alignment_check_is_reflected_with_its_code() {
    let mut machine = Machine::new();
    machine.cpu.set(field::EXIT_INTERRUPTION_ERROR_CODE, 0);
    machine.cpu.set(field::ENTRY_EXCEPTION_ERROR_CODE, 0x99);
    assert_eq!(exception(&mut machine, ALIGNMENT, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(ALIGNMENT));
    assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 0);
}

#[test]
fn an_iret_that_faults_keeps_nmis_blocked() {
    let mut machine = Machine::new();
    let event = Interruption(ALIGNMENT.0 | UNBLOCKED_NMI);
    assert_eq!(exception(&mut machine, event, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(ALIGNMENT));
    assert_eq!(
        machine.cpu.read(field::GUEST_INTERRUPTIBILITY),
        BLOCKED_BY_NMI
    );
}

#[test]
fn an_interrupt_that_an_exception_cut_short_arrives_after_it() {
    for exception_event in [ALIGNMENT, DEBUG] {
        let mut machine = Machine::new();
        assert_eq!(machine.raise(0x41), Action::Resume);
        assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
        machine
            .cpu
            .set(field::IDT_VECTORING_INFO, Interruption::external(0x41).0);
        assert_eq!(exception(&mut machine, exception_event, 0), Action::Resume);
        assert_eq!(machine.injected(), Some(exception_event));
        assert!(machine.wants(INTERRUPT_WINDOW));
        machine.cpu.set(field::IDT_VECTORING_INFO, 0);
        assert_eq!(machine.exit(reason::INTERRUPT_WINDOW), Action::Resume);
        assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
        assert!(!machine.wants(INTERRUPT_WINDOW));
    }
}

#[test]
fn an_nmi_that_an_exception_cut_short_arrives_after_it() {
    let mut machine = Machine::new();
    machine.block(BLOCKED_BY_NMI);
    machine
        .cpu
        .set(field::IDT_VECTORING_INFO, Interruption::nmi().0);
    assert_eq!(exception(&mut machine, ALIGNMENT, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(ALIGNMENT));
    assert!(machine.wants(NMI_WINDOW));
    machine.cpu.set(field::IDT_VECTORING_INFO, 0);
    assert_eq!(machine.exit(reason::NMI_WINDOW), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
    assert!(!machine.wants(NMI_WINDOW));
}

#[test]
fn a_software_interrupt_that_an_exception_cut_short_is_left_to_its_instruction() {
    let mut machine = Machine::new();
    let int = 1 << 31 | Interruption::SOFTWARE_INTERRUPT << 8 | 0x80;
    machine.cpu.set(field::IDT_VECTORING_INFO, int);
    assert_eq!(exception(&mut machine, ALIGNMENT, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(ALIGNMENT));
    assert!(!machine.wants(INTERRUPT_WINDOW | NMI_WINDOW));
}

#[test]
fn a_host_nmi_delays_nothing_that_was_under_way() {
    let mut machine = Machine::new();
    let rip = machine.rip();
    assert_eq!(
        exception(&mut machine, Interruption::nmi(), 0),
        Action::HostNmi
    );
    assert_eq!((machine.rip(), machine.injected()), (rip, None));
    machine
        .cpu
        .set(field::IDT_VECTORING_INFO, Interruption::external(0x41).0);
    assert_eq!(
        exception(&mut machine, Interruption::nmi(), 0),
        Action::HostNmi
    );
    assert_eq!(machine.injected(), Some(Interruption::external(0x41)));
}

#[test]
fn a_machine_check_is_the_hosts_also_during_entry() {
    let mut machine = Machine::new();
    assert_eq!(
        exception(&mut machine, Interruption::exception(18, false), 0),
        Action::HostMachineCheck
    );
    assert_eq!(
        machine.exit_unchecked(1 << 31 | 41),
        Action::HostMachineCheck
    );
}

#[test]
fn a_fault_in_real_mode_has_no_error_code() {
    let mut machine = Machine::new();
    machine.enter_real_mode();
    machine.gprs.set(RCX, 0xdead);
    assert_eq!(machine.exit(reason::RDMSR), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::exception(13, false)));
    machine.cpu.set_natural(field::GUEST_CR0, 0x21);
    assert_eq!(machine.exit(reason::RDMSR), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::exception(13, true)));
}
