//! INIT and start-up interrupts.

use super::machine::*;
use crate::bus::{Signal, Signals};
use crate::vcpu::{Action, Activity, Readiness};
use crate::vmx::field;

/// A machine whose vCPU is not the VM's first.
fn further() -> Machine {
    let mut machine = Machine::new();
    machine.vcpu.apic = crate::apic::LocalApic::new(1, 0);
    machine
}

#[test]
fn init_waits_for_a_start_up_which_begins_in_real_mode() {
    let mut machine = further();
    machine.set_flags(0);
    machine.cpu.signal(0, Signal::Init);
    assert_eq!(machine.exit(reason::WBINVD), Action::Leave);
    assert_eq!(machine.vcpu.activity(), Activity::WaitForSipi);
    assert!(machine.vcpu.is_deaf(&machine.cpu));
    machine.cpu.signal(0, Signal::Nmi);
    assert_eq!(machine.run_again(), Readiness::Waiting);
    machine.cpu.signal(0, Signal::Startup(0x9a));
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert_eq!(
        machine.injected(),
        None,
        "what came while it waited is lost"
    );
    assert_eq!(machine.rip(), 0);
    assert_eq!(machine.cpu.read(field::GUEST_CS_SELECTOR), 0x9a00);
    assert_eq!(machine.cpu.read(field::GUEST_CS_BASE).0, 0x9a000);
    assert_eq!(machine.cpu.read(field::GUEST_CR0).0, 0x20 | 0x10);
    assert_eq!(machine.cpu.read(field::CR0_READ_SHADOW).0, 0x6000_0010);
    assert_eq!(machine.cpu.read(field::GUEST_EFER), 0);
    assert_eq!(machine.cpu.read(field::ENTRY_CONTROLS) & 1 << 9, 0);
    assert_eq!(machine.gprs.get(RDX), 0x806c1);
    assert!(!machine.vcpu.apic.is_software_enabled());
}

#[test]
fn a_running_vcpu_ignores_a_start_up() {
    let mut machine = further();
    let rip = machine.rip();
    machine.cpu.signal(0, Signal::Startup(0x9a));
    assert_eq!(
        machine.exit_with(reason::EXTERNAL_INTERRUPT, 0),
        Action::Leave
    );
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert_eq!(machine.rip(), rip);
}

#[test]
fn the_boot_vcpu_goes_to_the_reset_vector() {
    let mut machine = Machine::new();
    machine.cpu.signal(0, Signal::Init);
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert_eq!(machine.rip(), 0xfff0);
    assert_eq!(machine.cpu.read(field::GUEST_CS_BASE).0, 0xffff_0000);
}
