//! Private pages: who may make them, and what each access of a kernel's to one comes to.

use super::machine::*;
use super::split::{
    FETCH, FRAMES, PAGE_FAULT, READ, READABLE, WALK, WRITABLE, WRITE, divided, run_kernel_code,
    run_user_code, violate,
};
use crate::addr::Gva;
use crate::hypercall::HypercallError;
use crate::split::{Place, Side};
use crate::vcpu::Action;
use crate::vcpu::linear::{self, LinearFault};
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const CONCEAL: u64 = 2;
const REVEAL: u64 = 3;
/// Of a page fault by a protection key.
const KEPT: u32 = 0x21;

/// What a hypercall answers.
fn call(machine: &mut Machine, number: u64, at: u64, count: u64) -> Result<(), u64> {
    machine.gprs.set(RAX, number);
    machine.gprs.set(RDI, at);
    machine.gprs.set(RSI, count);
    let rip = machine.rip();
    assert_eq!(machine.exit(reason::VMCALL), Action::Resume);
    assert_eq!((machine.rip(), machine.injected()), (rip + 2, None));
    match machine.gprs.get(RAX) {
        0 => Ok(()),
        error => Err(error),
    }
}

/// One whose user code has a private page at [`PAGE`].
fn private() -> Machine {
    let mut machine = divided();
    machine.put(PAGE, &[0x5a; 16]);
    run_user_code(&mut machine);
    assert_eq!(call(&mut machine, CONCEAL, PAGE as u64, 1), Ok(()));
    run_kernel_code(&mut machine);
    machine
}

#[test]
fn user_code_makes_pages_private_and_takes_that_back() {
    let mut machine = private();
    let page = PAGE as u64 >> 12;
    assert_eq!(machine.cpu.places.get(&page), Some(&Place::Private));
    run_user_code(&mut machine);
    assert_eq!(call(&mut machine, REVEAL, PAGE as u64, 1), Ok(()));
    assert_eq!(machine.cpu.places.get(&page), None);
    let refused = Err(HypercallError::BadArgument.code());
    assert_eq!(call(&mut machine, REVEAL, PAGE as u64, 1), refused);
}

#[test]
fn a_kernel_and_a_vm_without_the_split_make_none() {
    let mut machine = divided();
    let refused = Err(HypercallError::NotPermitted.code());
    for number in [CONCEAL, REVEAL] {
        assert_eq!(call(&mut machine, number, PAGE as u64, 1), refused);
    }
    let mut plain = Machine::new();
    run_user_code(&mut plain);
    let refused = Err(HypercallError::Unsupported.code());
    assert_eq!(call(&mut plain, CONCEAL, PAGE as u64, 1), refused);
}

#[test]
fn a_range_that_is_not_the_callers_is_refused() {
    let mut machine = divided();
    run_user_code(&mut machine);
    let refused = Err(HypercallError::BadArgument.code());
    for (at, count) in [
        (PAGE as u64 + 8, 1),
        (PAGE as u64, 0),
        (PAGE as u64, 65),
        (PAGE as u64, u64::MAX),
        (0x7fff_ffff_f000, 64),
        (0xffff_ffff_ffff_f000, 2),
        (WRITABLE, 1),
        (1 << 40, 1),
    ] {
        assert_eq!(call(&mut machine, CONCEAL, at, count), refused, "{at:#x}");
        let place = machine.cpu.places.values();
        assert!(place.copied().all(|place| place != Place::Private));
    }
}

#[test]
fn a_kernel_that_uses_users_address_or_reads_gets_a_page_fault() {
    for (kind, gva, code) in [
        (READ, PAGE as u64 + 8, KEPT),
        (WRITE, PAGE as u64 + 8, KEPT | 2),
        (READ, READABLE, KEPT),
    ] {
        let mut machine = private();
        let rip = machine.rip();
        let refused = violate(&mut machine, kind, gva, PAGE as u64 + 8);
        assert_eq!(
            (refused, machine.injected()),
            (Action::Resume, Some(PAGE_FAULT))
        );
        let given = machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE);
        assert_eq!((given, machine.cpu.cr2, machine.rip()), (code, gva, rip));
        assert!(machine.cpu.ram[PAGE..][..8].iter().any(|byte| *byte != 0));
        assert_eq!(machine.cpu.side, Some(Side::Kernel));
    }
}

#[test]
fn a_page_that_is_put_to_another_use_is_wiped_first() {
    const DELIVERS: Interruption = Interruption::exception(3, false);
    for (kind, gva, delivers) in [
        (WRITE, READABLE, false),
        (WALK, READABLE, false),
        (READ, READABLE, true),
    ] {
        let mut machine = private();
        if delivers {
            machine.cpu.set(field::IDT_VECTORING_INFO, DELIVERS.0);
        }
        let rip = machine.rip();
        let given = violate(&mut machine, kind, gva, PAGE as u64 + 8);
        assert_eq!((given, machine.rip()), (Action::Resume, rip));
        assert_eq!(machine.injected().is_some(), delivers);
        assert!(machine.cpu.ram[PAGE..][..0x1000].iter().all(|b| *b == 0));
        assert!(!machine.cpu.places.contains_key(&(PAGE as u64 >> 12)));
    }
}

#[test]
fn a_kernel_that_jumps_to_a_private_page_gets_its_page_fault() {
    let mut machine = private();
    let jumped = violate(&mut machine, FETCH, PAGE as u64, PAGE as u64);
    assert_eq!(
        (jumped, machine.injected()),
        (Action::Resume, Some(PAGE_FAULT))
    );
    assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 0x11);
}

#[test]
fn an_instruction_that_is_emulated_reads_none_for_the_kernel() {
    let mut machine = private();
    machine.cpu.places.insert(FRAMES[0] >> 12, Place::Private);
    let read = linear::read(&mut machine.cpu, Gva(WRITABLE), &mut [0; 4]);
    assert_eq!(
        read,
        Err(LinearFault::Page {
            at: Gva(WRITABLE),
            code: KEPT
        })
    );
    machine.cpu.places.remove(&(FRAMES[0] >> 12));
    let again = linear::read(&mut machine.cpu, Gva(WRITABLE), &mut [0; 4]);
    assert_eq!(again, Ok(()));
}
