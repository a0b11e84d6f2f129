//! The kernel/user split where the processor does not tell user code from the kernel's, and where another CPU was faster.

use super::machine::*;
use super::split::{
    FETCH, FRAMES, LOW, MONITOR_TRAP_EXIT, PAGE_FAULT, READ, READABLE, WRITABLE, WRITE, divided,
    in_user, run_user_code, violate,
};
use crate::addr::Gpa;
use crate::split::{Place, Side};
use crate::vcpu::Action;
use crate::vmx::field;

/// One whose kernel's code has to be found.
fn untold() -> Machine {
    let mut machine = divided();
    machine.cpu.code = Some(Vec::new());
    machine
}

#[test]
fn a_kernels_page_is_found_to_be_code_where_the_processor_does_not_tell() {
    let mut machine = untold();
    let fetched = violate(&mut machine, FETCH, READABLE, FRAMES[1] + 0x10);
    assert_eq!((fetched, machine.injected()), (Action::Resume, None));
    assert_eq!(machine.cpu.code, Some(vec![Gpa(FRAMES[1] + 0x10)]));
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    assert_eq!(machine.vcpu.counters.split.code, 1);
    // Written to, by an instruction that may be its own, it is none any more.
    let written = violate(&mut machine, WRITE, READABLE, FRAMES[1] + 0x20);
    assert_eq!(written, Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Base));
    assert!(machine.cpu.places.contains_key(&(FRAMES[1] >> 12)));
    assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
    assert!(!machine.cpu.places.contains_key(&(FRAMES[1] >> 12)));
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    assert_eq!(machine.vcpu.counters.split.steps, 1);
}

#[test]
fn a_user_page_is_never_found_to_be_the_kernels_code() {
    let mut machine = untold();
    let jumped = violate(&mut machine, FETCH, CODE, CODE);
    assert_eq!(
        (jumped, machine.injected()),
        (Action::Resume, Some(PAGE_FAULT))
    );
    assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 0x11);
    assert_eq!(machine.cpu.code, Some(vec![]));
    // And user code enters its own view.
    run_user_code(&mut machine);
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::User));
}

#[test]
fn an_access_that_the_view_allows_by_now_is_tried_again() {
    for (mut machine, kind) in [(divided(), WRITE), (divided(), READ), (in_user(), WRITE)] {
        let (side, rip) = (machine.cpu.side, machine.rip());
        machine.cpu.places.insert(FRAMES[0] >> 12, Place::Open);
        let again = violate(&mut machine, kind, CODE, FRAMES[0]);
        assert_eq!((again, machine.injected()), (Action::Resume, None));
        assert_eq!((machine.cpu.side, machine.rip()), (side, rip));
    }
}

#[test]
fn what_changes_while_it_is_read_keeps_user_code_out_until_it_is_read_again() {
    let mut machine = divided();
    run_user_code(&mut machine);
    machine.cpu.set_natural(field::GUEST_GDTR_BASE, WRITABLE);
    machine.cpu.set(field::GUEST_GDTR_LIMIT, 0x7f);
    machine.cpu.changes_to_come = 1;
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    assert_eq!(machine.vcpu.counters.split.to_user, 0);
    // The guest has another page there now.
    let table: [u8; 8] = (FRAMES[1] | 3).to_le_bytes();
    machine.put(LOW as usize, &table);
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::User));
    let named = machine.cpu.admitted.iter().map(|(_, names)| names[0].gpa);
    assert!(named.eq(FRAMES.map(Gpa)));
}
