//! IN and OUT: the console UART, the power block, and ports with nothing behind them.

use super::machine::*;
use crate::fault::StopReason;
use crate::platform::{
    COM1_BASE, POWER_OFF_COMMAND, POWER_SLEEP_CONTROL_PORT, RESET_PORT, RESET_VALUE,
};
use crate::vcpu::Action;

const IN: u64 = 1 << 3;

/// The exit qualification of an access of `size` bytes to `port`.
pub fn access(port: u16, size: u64) -> u64 {
    u64::from(port) << 16 | (size - 1)
}

pub fn outb(machine: &mut Machine, port: u16, value: u8) -> Action {
    machine.gprs.set(RAX, 0xabcd_ef00 | u64::from(value));
    machine.exit_with(reason::IO, access(port, 1))
}

pub fn inb(machine: &mut Machine, port: u16) -> u8 {
    assert_eq!(
        machine.exit_with(reason::IO, access(port, 1) | IN),
        Action::Resume
    );
    machine.gprs.get(RAX) as u8
}

#[test]
fn a_port_nobody_claims_reads_as_ones_and_swallows_writes() {
    for (size, rax) in [
        (1, 0x1122_3344_5566_77ff),
        (2, 0x1122_3344_5566_ffff),
        (4, 0xffff_ffff),
    ] {
        let mut machine = Machine::new();
        machine.gprs.set(RAX, 0x1122_3344_5566_7788);
        for port in [0, 0x60, 0xcf0, 0xfffe, 0xffff] {
            let rip = machine.rip();
            let qualification = access(port, size);
            assert_eq!(machine.exit_with(reason::IO, qualification), Action::Resume);
            let before = machine.gprs.get(RAX);
            assert_eq!(
                machine.exit_with(reason::IO, qualification | IN),
                Action::Resume
            );
            assert_eq!(machine.rip(), rip + 4);
            assert_eq!(machine.gprs.get(RAX), rax, "{port:#x} after {before:#x}");
        }
    }
}

#[test]
fn the_uart_keeps_its_scratch_byte_and_sends_what_is_written() {
    let mut machine = Machine::new();
    assert_eq!(outb(&mut machine, COM1_BASE + 7, 0x5a), Action::Resume);
    assert_eq!(inb(&mut machine, COM1_BASE + 7), 0x5a);
    for byte in *b"ok" {
        assert_eq!(outb(&mut machine, COM1_BASE, byte), Action::Resume);
    }
    let mut sent = [0; 8];
    assert_eq!(machine.take_output(&mut sent), 2);
    assert_eq!(&sent[..2], b"ok");
}

#[test]
fn a_wide_access_reaches_each_byte_port_it_covers() {
    let mut machine = Machine::new();
    // The last byte below the UART, and its first three.
    machine
        .gprs
        .set(RAX, u64::from_le_bytes(*b"\0x\0\0\0\0\0\0"));
    assert_eq!(
        machine.exit_with(reason::IO, access(COM1_BASE - 1, 4)),
        Action::Resume
    );
    let mut sent = [0; 8];
    assert_eq!(machine.take_output(&mut sent), 1);
    assert_eq!(sent[0], b'x');
    assert_eq!(outb(&mut machine, COM1_BASE + 7, 0x12), Action::Resume);
    assert_eq!(
        machine.exit_with(reason::IO, access(COM1_BASE + 7, 2) | IN),
        Action::Resume
    );
    assert_eq!(machine.gprs.get(RAX) & 0xffff, 0xff12);
}

#[test]
fn much_output_asks_for_an_exchange() {
    let mut machine = Machine::new();
    let polls = (0..200)
        .filter(|_| outb(&mut machine, COM1_BASE, b'.') == Action::Poll)
        .count();
    assert!((1..200).contains(&polls), "{polls}");
    let rip = machine.rip();
    assert_eq!(outb(&mut machine, COM1_BASE, b'.'), Action::Poll);
    assert_eq!(machine.rip(), rip + 2, "skipped all the same");
}

#[test]
fn power_off_and_reset_stop_the_vm() {
    let mut machine = Machine::new();
    assert_eq!(
        outb(&mut machine, POWER_SLEEP_CONTROL_PORT, 0x20),
        Action::Resume
    );
    assert_eq!(outb(&mut machine, RESET_PORT, 0), Action::Resume);
    assert_eq!(
        outb(&mut machine, POWER_SLEEP_CONTROL_PORT, POWER_OFF_COMMAND),
        Action::Stop(StopReason::PowerOff)
    );
    assert_eq!(
        outb(&mut Machine::new(), RESET_PORT, RESET_VALUE),
        Action::Stop(StopReason::Reset)
    );
    // A wide write that covers the port counts as well.
    let mut machine = Machine::new();
    machine.gprs.set(RAX, u64::from(RESET_VALUE) << 16);
    assert_eq!(
        machine.exit_with(reason::IO, access(POWER_SLEEP_CONTROL_PORT, 4)),
        Action::Stop(StopReason::Reset)
    );
}
