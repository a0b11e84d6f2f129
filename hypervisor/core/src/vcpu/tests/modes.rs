//! CR0 and CR4 writes that exit: what the guest sees, what is real, paging switched on and off.

use super::machine::*;
use crate::fault::StopReason;
use crate::vcpu::Action;
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const PE: u64 = 1;
const NE: u64 = 1 << 5;
const ET: u64 = 1 << 4;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const PCIDE: u64 = 1 << 17;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const IA32E: u32 = 1 << 9;
const GENERAL_PROTECTION: Interruption = Interruption::exception(13, true);

/// MOV CRn, RAX.
fn mov(machine: &mut Machine, cr: u64, value: u64) -> Action {
    machine.gprs.set(RAX, value);
    machine.exit_with(reason::CONTROL_REGISTER, cr)
}

fn refused(machine: &mut Machine, cr: u64, value: u64) {
    let fields = [
        field::GUEST_CR0,
        field::CR0_READ_SHADOW,
        field::GUEST_CR4,
        field::CR4_READ_SHADOW,
    ];
    let before = fields.map(|field| machine.cpu.read(field));
    let (rip, efer) = (machine.rip(), machine.cpu.read(field::GUEST_EFER));
    assert_eq!(mov(machine, cr, value), Action::Resume);
    assert_eq!(machine.injected(), Some(GENERAL_PROTECTION), "{value:#x}");
    assert_eq!(fields.map(|field| machine.cpu.read(field)), before);
    assert_eq!(machine.rip(), rip);
    assert_eq!(machine.cpu.read(field::GUEST_EFER), efer);
}

fn accepted(machine: &mut Machine, cr: u64, value: u64) {
    let rip = machine.rip();
    assert_eq!(mov(machine, cr, value), Action::Resume);
    assert_eq!(machine.injected(), None, "{value:#x}");
    assert_eq!(machine.rip(), rip + 2);
}

fn is_long(machine: &Machine) -> bool {
    let lma = machine.cpu.read(field::GUEST_EFER) & LMA != 0;
    let control = machine.cpu.read(field::ENTRY_CONTROLS) & IA32E != 0;
    assert_eq!(lma, control, "entry would fail");
    lma
}

#[test]
fn the_guest_sees_its_cache_bits_and_the_processor_does_not() {
    let mut machine = Machine::new();
    accepted(&mut machine, 0, PG | CD | NE | ET | PE);
    assert_eq!(
        machine.cpu.read(field::CR0_READ_SHADOW).0,
        PG | CD | NE | ET | PE
    );
    assert_eq!(machine.cpu.read(field::GUEST_CR0).0, PG | NE | ET | PE);
    accepted(&mut machine, 0, PG | PE);
    assert_eq!(machine.cpu.read(field::CR0_READ_SHADOW).0, PG | ET | PE);
    assert_eq!(machine.cpu.read(field::GUEST_CR0).0, PG | NE | ET | PE);
}

#[test]
fn the_stack_pointer_is_a_source_like_any_other() {
    let mut machine = Machine::new();
    machine.cpu.set_natural(field::GUEST_RSP, PG | CD | PE);
    assert_eq!(
        machine.exit_with(reason::CONTROL_REGISTER, 4 << 8),
        Action::Resume
    );
    assert_eq!(
        machine.cpu.read(field::CR0_READ_SHADOW).0,
        PG | CD | ET | PE
    );
}

#[test]
fn cr0_values_the_processor_refuses_fault() {
    let mut machine = Machine::new();
    for value in [PG, PG | PE | 1 << 29, PG | PE | 1 << 32, u64::MAX] {
        refused(&mut machine, 0, value);
    }
}

#[test]
fn paging_cannot_be_switched_off_in_64_bit_code_or_with_pcids() {
    let mut machine = Machine::new();
    refused(&mut machine, 0, PE | CD);
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xc09b);
    machine
        .cpu
        .set_natural(field::GUEST_CR4, PAE | PCIDE | 0x2040);
    refused(&mut machine, 0, PE | CD);
    machine.cpu.set_natural(field::GUEST_CR4, PAE | 0x2040);
    accepted(&mut machine, 0, PG | PE | CD);
    assert_eq!(machine.cpu.translations_forgotten, 0);
    accepted(&mut machine, 0, PE);
    assert_eq!(machine.cpu.translations_forgotten, 1);
    assert!(!is_long(&machine));
    assert_eq!(machine.cpu.read(field::GUEST_CR0).0, PE | NE | ET);
}

#[test]
fn paging_with_lme_activates_long_mode() {
    let mut machine = Machine::new();
    machine.enter_protected_mode();
    machine.cpu.set(field::GUEST_EFER, LME);
    machine.cpu.set_natural(field::GUEST_CR4, 0x2040);
    refused(&mut machine, 0, PG | PE | CD);
    machine.cpu.set_natural(field::GUEST_CR4, PAE | 0x2040);
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xa09b);
    refused(&mut machine, 0, PG | PE | CD);
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xc09b);
    accepted(&mut machine, 0, PG | PE | CD);
    assert!(is_long(&machine));
}

#[test]
fn pae_paging_loads_its_four_top_entries() {
    let mut machine = Machine::new();
    machine.enter_protected_mode();
    machine.cpu.set_natural(field::GUEST_CR3, 0x5020);
    let entries = [0xa001_u64, 0xb001, 0xdead_0000_0000_0000, 0xc019];
    for (index, entry) in entries.iter().enumerate() {
        machine.put(0x5020 + 8 * index, &entry.to_le_bytes());
    }
    accepted(&mut machine, 0, PG | PE | CD);
    assert!(!is_long(&machine));
    let loaded = [
        field::GUEST_PDPTE0,
        field::GUEST_PDPTE1,
        field::GUEST_PDPTE2,
        field::GUEST_PDPTE3,
    ]
    .map(|field| machine.cpu.read(field));
    assert_eq!(loaded, entries);
}

#[test]
fn bad_top_entries_refuse_pae_paging() {
    for entry in [0xa003_u64, 0xa005, 1 | 1 << 63] {
        let mut machine = Machine::new();
        machine.enter_protected_mode();
        machine.cpu.set_natural(field::GUEST_CR3, 0x5000);
        machine.put(0x5018, &entry.to_le_bytes());
        refused(&mut machine, 0, PG | PE | CD);
    }
    let mut machine = Machine::new();
    machine.enter_protected_mode();
    machine.cpu.set_natural(field::GUEST_CR3, RAM as u64);
    refused(&mut machine, 0, PG | PE | CD);
}

#[test]
fn cr4_takes_only_features_that_the_guest_has() {
    let mut machine = Machine::new();
    // VMXE, SMXE, CET, LA57.
    for bit in [13, 14, 23, 12, 32] {
        refused(&mut machine, 4, PAE | 1 << bit);
    }
    let allowed = machine.vcpu.cpuid.allowed_cr4();
    accepted(&mut machine, 4, allowed);
    assert_eq!(machine.cpu.read(field::CR4_READ_SHADOW).0, allowed);
    assert_eq!(machine.cpu.read(field::GUEST_CR4).0, allowed | 0x2040);
}

#[test]
fn efer_may_switch_long_mode_only_without_paging() {
    let mut machine = Machine::new();
    machine.enter_protected_mode();
    assert_eq!(machine.wrmsr(0xc000_0080, LME | 1 << 11), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert_eq!(machine.cpu.read(field::GUEST_EFER), LME | 1 << 11);
    assert_eq!(machine.wrmsr(0xc000_0080, 0), Action::Resume);
    assert_eq!(machine.cpu.read(field::GUEST_EFER), 0);
}

#[test]
fn accesses_that_no_control_makes_exit_stop_the_vm() {
    // MOV CR3, MOV CR8, MOV from CR0, CLTS, LMSW.
    for qualification in [3, 8, 0x10, 0x20, 0x30] {
        assert_eq!(
            Machine::new().exit_with(reason::CONTROL_REGISTER, qualification),
            Action::Stop(StopReason::UnexpectedExit(28))
        );
    }
}
