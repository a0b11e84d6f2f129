//! EPT violations: device registers by every form of MOV, and the stops.

use super::machine::*;
use crate::addr::Gpa;
use crate::fault::StopReason;
use crate::platform::IOAPIC_BASE;
use crate::vcpu::Action;
use crate::vmx::exit::Interruption;
use crate::vmx::field;

pub const READ: u64 = 0x181;
pub const WRITE: u64 = 0x182;
const FETCH: u64 = 0x184;
/// The access that failed was the page walk's.
const WALK: u64 = 0x082;
const SELECT: u64 = IOAPIC_BASE.0;
const WINDOW: u64 = IOAPIC_BASE.0 + 0x10;

/// Executes `code` at RIP, which accesses `gpa`.
pub fn touch(machine: &mut Machine, code: &[u8], gpa: u64, qualification: u64) -> Action {
    let at = machine.rip() as usize;
    machine.put(at, code);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, gpa);
    machine.exit_with(reason::EPT_VIOLATION, qualification)
}

/// MOV [RBX], EAX.
pub fn store(machine: &mut Machine, gpa: u64, value: u32) -> Action {
    machine.gprs.set(RAX, value.into());
    touch(machine, &[0x89, 0x03], gpa, WRITE)
}

/// MOV EAX, [RBX].
pub fn load(machine: &mut Machine, gpa: u64) -> u32 {
    assert_eq!(touch(machine, &[0x8b, 0x03], gpa, READ), Action::Resume);
    assert_eq!(machine.injected(), None);
    machine.gprs.get(RAX) as u32
}

#[test]
fn a_carried_out_access_leaves_the_next_instructions_breakpoint_armed() {
    let mut machine = Machine::new();
    // An EPT violation saves RF set, as a fault does.
    machine.set_flags(RFLAGS_IF | RFLAGS_RF);
    assert_eq!(store(&mut machine, SELECT, 1), Action::Resume);
    assert_eq!(machine.cpu.read(field::GUEST_RFLAGS).0, RFLAGS_IF | 2);
    machine.set_flags(RFLAGS_IF | RFLAGS_RF | RFLAGS_TF);
    assert_eq!(store(&mut machine, SELECT, 1), Action::Resume);
    assert_eq!(
        machine.cpu.read(field::GUEST_RFLAGS).0,
        RFLAGS_IF | RFLAGS_TF | 2
    );
    assert_eq!(machine.cpu.read(field::GUEST_PENDING_DEBUG).0, DEBUG_BS);
}

#[test]
fn every_store_form_reaches_the_register() {
    for (code, value) in [
        (&[0x89, 0x03][..], 0x21),
        (&[0x44, 0x89, 0x43, 0x7f], 0x28),
        (&[0xc7, 0x03, 0x2b, 0, 0, 0], 0x2b),
        (&[0x48, 0xc7, 0x04, 0x25, 0, 0, 0, 0, 0x2c, 0, 0, 0], 0x2c),
        (&[0x66, 0x89, 0x03], 0x21),
        (&[0x88, 0x23], 0x43),
        (&[0xc6, 0x03, 0x2d], 0x2d),
        (&[0xa3, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0], 0x21),
    ] {
        let mut machine = Machine::new();
        machine.gprs.set(RAX, 0x4321);
        machine.gprs.set(crate::insn::GprIndex::new(8), 0x28);
        let rip = machine.rip();
        // The manual leaves the length undefined here; a stale one must not matter.
        machine.cpu.set(field::EXIT_INSTRUCTION_LENGTH, 1);
        assert_eq!(touch(&mut machine, code, SELECT, WRITE), Action::Resume);
        assert_eq!(machine.rip(), rip + code.len() as u64, "{code:x?}");
        assert_eq!(load(&mut machine, SELECT), value, "{code:x?}");
    }
}

#[test]
fn every_load_form_fills_its_register() {
    let old = 0x1111_1111_1111_1111;
    for (code, value) in [
        (&[0x8b, 0x03][..], 0x17_0020),
        (&[0x48, 0x8b, 0x03], 0x17_0020),
        (&[0x66, 0x8b, 0x03], 0x1111_1111_1111_0020),
        (&[0x8a, 0x03], 0x1111_1111_1111_1120),
        (&[0x8a, 0x23], 0x1111_1111_1111_2011),
        (&[0x0f, 0xb6, 0x03], 0x20),
        (&[0x48, 0x0f, 0xbf, 0x03], 0x20),
        (&[0x48, 0x63, 0x03], 0x17_0020),
        (&[0xa1, 0, 0, 0, 0, 0, 0, 0, 0], 0x17_0020),
    ] {
        let mut machine = Machine::new();
        assert_eq!(store(&mut machine, SELECT, 1), Action::Resume);
        machine.gprs.set(RAX, old);
        assert_eq!(touch(&mut machine, code, WINDOW, READ), Action::Resume);
        assert_eq!(machine.gprs.get(RAX), value, "{code:x?}");
    }
}

#[test]
fn a_load_may_change_the_stack_pointer() {
    let mut machine = Machine::new();
    assert_eq!(store(&mut machine, SELECT, 1), Action::Resume);
    machine.cpu.set_natural(field::GUEST_RSP, 0x9000);
    assert_eq!(
        touch(&mut machine, &[0x8b, 0x23], WINDOW, READ),
        Action::Resume
    );
    assert_eq!(machine.cpu.read(field::GUEST_RSP).0, 0x17_0020);
    machine.cpu.set_natural(field::GUEST_RSP, 0x2a);
    assert_eq!(
        touch(&mut machine, &[0x89, 0x23], SELECT, WRITE),
        Action::Resume
    );
    assert_eq!(load(&mut machine, SELECT), 0x2a);
}

#[test]
fn an_instruction_may_end_its_page_whatever_comes_after() {
    let mut machine = Machine::new();
    // The next page is not mapped; the instruction's last byte is the page's.
    machine.cpu.set_natural(field::GUEST_RIP, MAPPED + 0xffe);
    machine.put(PAGE + 0xffe, &[0x89, 0x03]);
    machine.gprs.set(RAX, 9);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, SELECT);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, WRITE),
        Action::Resume
    );
    assert_eq!(machine.rip(), MAPPED + 0x1000);
    machine.cpu.set_natural(field::GUEST_RIP, CODE);
    assert_eq!(load(&mut machine, SELECT), 9);
}

#[test]
fn an_instruction_across_pages_is_put_together() {
    let mut machine = Machine::new();
    machine.put(0x4008, &0x9003_u64.to_le_bytes());
    machine.cpu.set_natural(field::GUEST_RIP, MAPPED + 0xfff);
    machine.put(PAGE + 0xfff, &[0xc7]);
    machine.put(0x9000, &[0x03, 0x13, 0, 0, 0]);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, SELECT);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, WRITE),
        Action::Resume
    );
    assert_eq!(machine.rip(), MAPPED + 0x1005);
    machine.cpu.set_natural(field::GUEST_RIP, CODE);
    assert_eq!(load(&mut machine, SELECT), 0x13);
}

#[test]
fn code_that_vanished_is_the_guests_page_fault() {
    let mut machine = Machine::new();
    machine.cpu.set_natural(field::GUEST_RIP, MAPPED + 0x1000);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, SELECT);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, WRITE),
        Action::Resume
    );
    assert_eq!(machine.injected(), Some(Interruption::exception(14, true)));
    assert_eq!(machine.cpu.cr2, MAPPED + 0x1000);
}

#[test]
fn sixteen_and_thirty_two_bit_code_is_decoded_as_such() {
    let mut machine = Machine::new();
    machine.enter_protected_mode();
    machine.cpu.set_natural(field::GUEST_CS_BASE, 0x1000);
    machine.cpu.set_natural(field::GUEST_RIP, CODE - 0x1000);
    machine.gprs.set(RAX, 0x1_0002);
    machine.put(CODE as usize, &[0x66, 0x89, 0x03]);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, SELECT);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, WRITE),
        Action::Resume
    );
    assert_eq!(machine.rip(), CODE - 0x1000 + 3);
    machine.enter_real_mode();
    machine.cpu.set_natural(field::GUEST_CS_BASE, 0);
    machine.cpu.set_natural(field::GUEST_RIP, CODE);
    // MOV EAX, [SI] in 16-bit code.
    assert_eq!(
        touch(&mut machine, &[0x66, 0x8b, 0x04], SELECT, READ),
        Action::Resume
    );
    assert_eq!(machine.gprs.get(RAX), 2);
}

#[test]
fn code_addresses_wrap_at_32_bits_outside_64_bit_mode() {
    let mut machine = Machine::new();
    machine.enter_protected_mode();
    machine.cpu.set_natural(field::GUEST_CS_BASE, 0xffff_f000);
    machine.cpu.set_natural(field::GUEST_RIP, CODE + 0x1000);
    machine.put(CODE as usize, &[0x89, 0x03]);
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, SELECT);
    assert_eq!(
        machine.exit_with(reason::EPT_VIOLATION, WRITE),
        Action::Resume
    );
    assert_eq!(machine.injected(), None);
    assert_eq!(machine.rip(), CODE + 0x1002);
}

#[test]
fn other_instructions_on_a_device_stop_the_vm() {
    for code in [
        &[0x01, 0x03][..],
        &[0xf0, 0x89, 0x03],
        &[0xf3, 0xa4],
        &[0x0f, 0x11, 0x03],
        &[0x89, 0xc3],
        &[0xff, 0x33],
    ] {
        let gpa = Gpa(SELECT);
        assert_eq!(
            touch(&mut Machine::new(), code, SELECT, WRITE),
            Action::Stop(StopReason::UndecodedAccess { gpa }),
            "{code:x?}"
        );
    }
}

#[test]
fn what_is_neither_memory_nor_device_stops_the_vm() {
    for (gpa, qualification) in [
        (RAM as u64, READ),
        (IOAPIC_BASE.0 - 1, WRITE),
        (IOAPIC_BASE.0 + 0x1000, READ),
        (0xfee0_0000, WRITE),
        (0, READ),
        (u64::MAX, WRITE),
        (SELECT, WALK),
    ] {
        let write = qualification & 2 != 0;
        let expected = StopReason::OutsideMemory {
            gpa: Gpa(gpa),
            write,
        };
        let mut machine = Machine::new();
        assert_eq!(
            touch(&mut machine, &[0x89, 0x03], gpa, qualification),
            Action::Stop(expected)
        );
    }
}

#[test]
fn code_outside_memory_stops_the_vm() {
    for at in [RAM as u64, SELECT] {
        let gpa = Gpa(at);
        assert_eq!(
            touch(&mut Machine::new(), &[0x89, 0x03], at, FETCH),
            Action::Stop(StopReason::ExecutedOutsideMemory { gpa })
        );
    }
}

#[test]
fn a_device_access_ends_an_interrupt_shadow() {
    let mut machine = Machine::new();
    machine.block(BLOCKED_BY_MOV_SS);
    assert_eq!(store(&mut machine, SELECT, 1), Action::Resume);
    assert_eq!(machine.cpu.read(field::GUEST_INTERRUPTIBILITY), 0);
}

/// MOV [RBX], EAX, which met a page that is being brought back with this outcome.
fn sealed(outcome: Result<(), StopReason>) -> Machine {
    let mut machine = Machine::new();
    machine.cpu.encrypted.insert(0x1234, outcome);
    machine
}

const SEALED: u64 = 0x123_4568;

#[test]
fn what_met_a_sealed_page_runs_again() {
    for qualification in [READ, WRITE, FETCH, WALK] {
        let mut machine = sealed(Ok(()));
        let before = machine.rip();
        let action = touch(&mut machine, &[0x89, 0x03], SEALED, qualification);
        assert_eq!(action, Action::Resume);
        assert_eq!((machine.rip(), machine.injected()), (before, None));
    }
}

#[test]
fn an_event_that_met_a_sealed_page_is_delivered_again() {
    let mut machine = sealed(Ok(()));
    let interrupt = Interruption(1 << 31 | 0x40);
    machine.cpu.set(field::IDT_VECTORING_INFO, interrupt.0);
    assert_eq!(touch(&mut machine, &[0x90], SEALED, WRITE), Action::Resume);
    assert_eq!(machine.injected(), Some(interrupt));
}

#[test]
fn an_iret_that_met_a_sealed_page_has_not_ended_the_nmi_handler() {
    const UNBLOCKED_NMI: u64 = 1 << 12;
    for (qualification, blocked) in [(READ, 0), (READ | UNBLOCKED_NMI, BLOCKED_BY_NMI)] {
        let mut machine = sealed(Ok(()));
        assert_eq!(
            touch(&mut machine, &[0xcf], SEALED, qualification),
            Action::Resume
        );
        assert_eq!(machine.cpu.read(field::GUEST_INTERRUPTIBILITY), blocked);
    }
}

#[test]
fn a_page_that_is_not_what_was_sealed_stops_the_vm() {
    let gpa = Gpa(SEALED);
    for reason in [StopReason::Integrity { gpa }, StopReason::PageLost { gpa }] {
        let mut machine = sealed(Err(reason));
        let action = touch(&mut machine, &[0x89, 0x03], SEALED, WRITE);
        assert_eq!(action, Action::Stop(reason));
    }
}
