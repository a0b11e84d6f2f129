//! From a device's line to the guest's handler and back: the console UART through the I/O APIC.

use super::machine::*;
use super::mmio::{load, store};
use super::ports::{inb, outb};
use crate::platform::{COM1_BASE, COM1_GSI, IOAPIC_BASE};
use crate::vcpu::{Action, Readiness};
use crate::vmx::exit::Interruption;

const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const NMI: u32 = 4 << 8;

/// Programs the UART's pin.
pub fn route(machine: &mut Machine, entry: u32) {
    for (index, value) in [(1, 0), (0, entry)] {
        let register = 0x10 + 2 * COM1_GSI + index;
        assert_eq!(store(machine, IOAPIC_BASE.0, register), Action::Resume);
        assert_eq!(store(machine, IOAPIC_BASE.0 + 0x10, value), Action::Resume);
    }
}

pub fn pin(machine: &mut Machine) -> u32 {
    assert_eq!(
        store(machine, IOAPIC_BASE.0, 0x10 + 2 * COM1_GSI),
        Action::Resume
    );
    load(machine, IOAPIC_BASE.0 + 0x10)
}

/// Has the UART assert its line: the transmitter is empty.
pub fn assert_line(machine: &mut Machine) {
    assert_eq!(outb(machine, COM1_BASE + 4, 8), Action::Resume);
    assert_eq!(outb(machine, COM1_BASE + 1, 2), Action::Resume);
}

#[test]
fn an_edge_interrupts_once() {
    let mut machine = Machine::new();
    route(&mut machine, 0x34);
    assert_line(&mut machine);
    assert_eq!(machine.injected(), Some(Interruption::external(0x34)));
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert_eq!(inb(&mut machine, COM1_BASE + 2) & 0xf, 2);
    assert_eq!(outb(&mut machine, COM1_BASE, b'x'), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x34)));
}

#[test]
fn a_typed_byte_interrupts_when_the_console_was_looked_at() {
    let mut machine = Machine::new();
    route(&mut machine, 0x34);
    assert_eq!(outb(&mut machine, COM1_BASE + 4, 8), Action::Resume);
    assert_eq!(outb(&mut machine, COM1_BASE + 1, 1), Action::Resume);
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    assert!(machine.is_halted());
    assert!(machine.push_input(b'q'));
    machine.route_interrupts();
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert_eq!(machine.injected(), Some(Interruption::external(0x34)));
    assert!(!machine.is_halted());
}

#[test]
fn a_level_comes_again_after_its_end_while_the_line_stays() {
    let mut machine = Machine::new();
    route(&mut machine, LEVEL | 0x54);
    assert_line(&mut machine);
    assert_eq!(machine.injected(), Some(Interruption::external(0x54)));
    assert_eq!(pin(&mut machine) & REMOTE_IRR, REMOTE_IRR);
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::external(0x54)));
    // The driver serves the device this time.
    assert_eq!(inb(&mut machine, COM1_BASE + 2) & 0xf, 2);
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert_eq!(pin(&mut machine) & REMOTE_IRR, 0);
}

#[test]
fn a_masked_level_waits_for_its_unmasking() {
    let mut machine = Machine::new();
    route(&mut machine, LEVEL | 1 << 16 | 0x54);
    assert_line(&mut machine);
    assert_eq!(machine.injected(), None);
    route(&mut machine, LEVEL | 0x54);
    assert_eq!(machine.injected(), Some(Interruption::external(0x54)));
}

#[test]
fn a_pin_may_deliver_an_nmi() {
    let mut machine = Machine::new();
    machine.set_flags(0);
    route(&mut machine, NMI);
    assert_line(&mut machine);
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
}

#[test]
fn a_level_turned_into_an_nmi_arrives_at_its_end() {
    let mut machine = Machine::new();
    route(&mut machine, LEVEL | 0x54);
    assert_line(&mut machine);
    route(&mut machine, LEVEL | NMI | 0x54);
    assert_eq!(machine.injected(), None);
    assert_eq!(machine.wrmsr(0x80b, 0), Action::Resume);
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
}
