//! INS and OUTS, with and without REP: one iteration an exit, memory through the guest's own tables.

use super::machine::*;
use super::ports::access;
use crate::fault::StopReason;
use crate::platform::COM1_BASE;
use crate::vcpu::Action;
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const IN: u64 = 1 << 3;
const STRING: u64 = 1 << 4;
const REP: u64 = 1 << 5;
const INS: u64 = IN | STRING;
const OUTS: u64 = STRING;
const PAGE_FAULT: Interruption = Interruption::exception(14, true);

/// Address sizes as the instruction information has them.
const ADDRESS_16: u32 = 0;
const ADDRESS_32: u32 = 1 << 7;
const ADDRESS_64: u32 = 2 << 7;

fn string(machine: &mut Machine, qualification: u64, at: u64, address_size: u32) -> Action {
    machine.cpu.set_natural(field::GUEST_LINEAR_ADDRESS, at);
    machine.cpu.set(field::EXIT_INSTRUCTION_INFO, address_size);
    machine.exit_with(reason::IO, qualification)
}

fn sent(machine: &mut Machine) -> Vec<u8> {
    let mut bytes = [0; 64];
    let count = machine.take_output(&mut bytes);
    bytes[..count].to_vec()
}

#[test]
fn outs_sends_from_memory_and_moves_up() {
    let mut machine = Machine::new();
    machine.put(PAGE, b"hello");
    machine.gprs.set(RSI, MAPPED);
    let rip = machine.rip();
    let action = string(
        &mut machine,
        access(COM1_BASE, 1) | OUTS,
        MAPPED,
        ADDRESS_64,
    );
    assert_eq!(action, Action::Resume);
    assert_eq!(sent(&mut machine), b"h");
    assert_eq!(machine.gprs.get(RSI), MAPPED + 1);
    assert_eq!(machine.rip(), rip + 2);
}

#[test]
fn rep_outs_runs_once_an_exit_until_its_count_is_used_up() {
    let mut machine = Machine::new();
    machine.put(PAGE, b"hey");
    machine.gprs.set(RSI, MAPPED);
    machine.gprs.set(RCX, 3);
    let rip = machine.rip();
    for done in 1..=3 {
        let at = machine.gprs.get(RSI);
        let action = string(
            &mut machine,
            access(COM1_BASE, 1) | OUTS | REP,
            at,
            ADDRESS_64,
        );
        assert_eq!(action, Action::Resume);
        assert_eq!(machine.gprs.get(RCX), 3 - done);
        assert_eq!(machine.rip(), if done == 3 { rip + 2 } else { rip });
    }
    assert_eq!(sent(&mut machine), b"hey");
}

#[test]
fn a_resumed_repetition_meets_its_breakpoint_only_once() {
    let mut machine = Machine::new();
    machine.put(PAGE, b"no");
    machine.gprs.set(RCX, 2);
    machine.gprs.set(RSI, MAPPED);
    machine.set_flags(RFLAGS_RF);
    for resumed in [RFLAGS_RF, 0] {
        let at = machine.gprs.get(RSI);
        let action = string(
            &mut machine,
            access(COM1_BASE, 1) | OUTS | REP,
            at,
            ADDRESS_64,
        );
        assert_eq!(action, Action::Resume);
        let flags = machine.cpu.read(field::GUEST_RFLAGS).0;
        assert_eq!(flags & RFLAGS_RF, resumed);
    }
}

#[test]
fn rep_with_a_count_of_zero_does_nothing() {
    let mut machine = Machine::new();
    machine.gprs.set(RCX, 7 << 32);
    machine.gprs.set(RSI, MAPPED);
    let rip = machine.rip();
    let action = string(
        &mut machine,
        access(COM1_BASE, 1) | OUTS | REP,
        MAPPED,
        ADDRESS_32,
    );
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.rip(), rip + 2);
    assert_eq!(machine.gprs.get(RSI), MAPPED);
    assert!(sent(&mut machine).is_empty());
}

#[test]
fn ins_stores_and_the_direction_flag_moves_down() {
    let mut machine = Machine::new();
    machine.set_flags(RFLAGS_DF);
    machine.gprs.set(RDI, MAPPED + 0x100);
    let action = string(
        &mut machine,
        access(0x60, 4) | INS,
        MAPPED + 0x100,
        ADDRESS_64,
    );
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.gprs.get(RDI), MAPPED + 0xfc);
    assert_eq!(
        machine.cpu.ram[PAGE + 0x100..PAGE + 0x105],
        [0xff, 0xff, 0xff, 0xff, 0]
    );
}

#[test]
fn index_and_count_wrap_at_the_address_size() {
    let high = 0xaaaa_bbbb_0000_0000;
    for (size, start, next, count, left) in [
        (
            ADDRESS_16,
            high | 0x1_ffff,
            high | 0x1_0000,
            high | 2,
            high | 1,
        ),
        (ADDRESS_32, high | 0xffff_ffff, 0, high | 2, 1),
        (ADDRESS_64, u64::MAX, 0, high, high - 1),
    ] {
        let mut machine = Machine::new();
        machine.gprs.set(RSI, start);
        machine.gprs.set(RCX, count);
        let action = string(&mut machine, access(0x60, 1) | OUTS | REP, MAPPED, size);
        assert_eq!(action, Action::Resume);
        assert_eq!(machine.gprs.get(RSI), next, "{size:#x}");
        assert_eq!(machine.gprs.get(RCX), left, "{size:#x}");
    }
}

#[test]
fn a_page_fault_in_the_middle_keeps_what_was_done_and_loses_no_byte() {
    let mut machine = Machine::new();
    machine.gprs.set(RDI, MAPPED + 0xfff);
    machine.gprs.set(RCX, 2);
    assert!(machine.push_input(b'a'));
    let ins = access(COM1_BASE, 1) | INS | REP;
    assert_eq!(
        string(&mut machine, ins, MAPPED + 0xfff, ADDRESS_64),
        Action::Resume
    );
    assert_eq!(machine.cpu.ram[PAGE + 0xfff], b'a');
    assert!(machine.push_input(b'b'));
    let rip = machine.rip();
    assert_eq!(
        string(&mut machine, ins, MAPPED + 0x1000, ADDRESS_64),
        Action::Resume
    );
    assert_eq!(machine.injected(), Some(PAGE_FAULT));
    assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 2);
    assert_eq!(machine.cpu.cr2, MAPPED + 0x1000);
    assert_eq!(machine.rip(), rip);
    assert_eq!(
        (machine.gprs.get(RCX), machine.gprs.get(RDI)),
        (1, MAPPED + 0x1000)
    );
    // The guest maps the page and runs the instruction again.
    machine.put(0x4008, &0x7003_u64.to_le_bytes());
    assert_eq!(
        string(&mut machine, ins, MAPPED + 0x1000, ADDRESS_64),
        Action::Resume
    );
    assert_eq!(machine.cpu.ram[0x7000], b'b');
    assert_eq!(machine.rip(), rip + 2);
}

#[test]
fn a_value_across_pages_is_written_whole_or_not_at_all() {
    let mut machine = Machine::new();
    let action = string(
        &mut machine,
        access(0x60, 4) | INS,
        MAPPED + 0xffe,
        ADDRESS_64,
    );
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.injected(), Some(PAGE_FAULT));
    assert_eq!(machine.cpu.cr2, MAPPED + 0x1000);
    assert_eq!(machine.cpu.ram[PAGE + 0xffe..PAGE + 0x1000], [0, 0]);
    machine.put(0x4008, &0x7003_u64.to_le_bytes());
    let action = string(
        &mut machine,
        access(0x60, 4) | INS,
        MAPPED + 0xffe,
        ADDRESS_64,
    );
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.cpu.ram[PAGE + 0xffe..PAGE + 0x1000], [0xff, 0xff]);
    assert_eq!(machine.cpu.ram[0x7000..0x7003], [0xff, 0xff, 0]);
}

#[test]
fn a_user_cannot_reach_supervisor_pages_by_a_string() {
    let mut machine = Machine::new();
    machine.cpu.set(field::GUEST_SS_ACCESS, 0xc0f3);
    let action = string(&mut machine, access(0x60, 1) | INS, MAPPED, ADDRESS_64);
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.injected(), Some(PAGE_FAULT));
    assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 7);
}

#[test]
fn an_address_that_is_not_canonical_is_a_protection_fault() {
    let mut machine = Machine::new();
    let action = string(&mut machine, access(0x60, 1) | OUTS, 1 << 47, ADDRESS_64);
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::exception(13, true)));
}

#[test]
fn a_string_outside_memory_stops_the_vm() {
    for (qualification, write) in [(INS, true), (OUTS, false)] {
        let mut machine = Machine::new();
        let action = string(
            &mut machine,
            access(0x60, 1) | qualification,
            RAM as u64,
            ADDRESS_64,
        );
        let gpa = crate::addr::Gpa(RAM as u64);
        assert_eq!(
            action,
            Action::Stop(StopReason::OutsideMemory { gpa, write })
        );
    }
}

#[test]
fn each_iteration_ends_a_shadow_and_traps_a_single_step() {
    let mut machine = Machine::new();
    machine.set_flags(RFLAGS_TF | RFLAGS_IF);
    machine.block(BLOCKED_BY_STI);
    machine.gprs.set(RCX, 5);
    let action = string(
        &mut machine,
        access(0x60, 1) | OUTS | REP,
        MAPPED,
        ADDRESS_64,
    );
    assert_eq!(action, Action::Resume);
    assert_eq!(machine.cpu.read(field::GUEST_INTERRUPTIBILITY), 0);
    assert_eq!(machine.cpu.read(field::GUEST_PENDING_DEBUG).0, DEBUG_BS);
}
