//! The processor delivers virtual interrupts: what is handed to it, and the exits it still makes.

use super::devices::{assert_line, pin, route};
use super::machine::*;
use super::ports::inb;
use crate::apic::Reg;
use crate::bus::{Signal, Signals};
use crate::fault::StopReason;
use crate::platform::COM1_BASE;
use crate::vcpu::{Action, Readiness};
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

fn status(machine: &Machine) -> u16 {
    machine.cpu.read(field::GUEST_INTERRUPT_STATUS)
}

/// The vectors whose end exits.
fn ending_vectors(machine: &Machine) -> Vec<u32> {
    let bitmaps = [
        field::EOI_EXIT_BITMAP_0,
        field::EOI_EXIT_BITMAP_1,
        field::EOI_EXIT_BITMAP_2,
        field::EOI_EXIT_BITMAP_3,
    ]
    .map(|bitmap| machine.cpu.read(bitmap));
    (0..256)
        .filter(|vector| bitmaps[*vector as usize / 64] & 1 << (vector % 64) != 0)
        .collect()
}

/// What the processor does with the highest request on entry.
fn deliver(machine: &mut Machine) -> u8 {
    let [requested, _] = status(machine).to_le_bytes();
    machine.vcpu.apic.resync();
    machine.vcpu.apic.accept(requested);
    let (next, serving) = machine.vcpu.apic.requested_and_serving();
    machine.cpu.set(
        field::GUEST_INTERRUPT_STATUS,
        u16::from_le_bytes([next, serving]),
    );
    requested
}

/// What the processor does when the guest writes its EOI register; true where that exits.
fn end(machine: &mut Machine) -> bool {
    let [_, serving] = status(machine).to_le_bytes();
    machine.vcpu.apic.resync();
    assert!(machine.vcpu.apic.page().bit(Reg::ISR, serving));
    let _ = machine.vcpu.apic.eoi();
    let (next, still) = machine.vcpu.apic.requested_and_serving();
    machine.cpu.set(
        field::GUEST_INTERRUPT_STATUS,
        u16::from_le_bytes([next, still]),
    );
    let exits = ending_vectors(machine).contains(&serving.into());
    if exits {
        assert_eq!(
            machine.exit_with(reason::VIRTUAL_EOI, serving.into()),
            Action::Resume
        );
    }
    exits
}

#[test]
fn a_request_is_published_and_nothing_is_injected() {
    let mut machine = Machine::with_hardware_delivery();
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert!(!machine.wants(INTERRUPT_WINDOW));
    assert_eq!(status(&machine), 0x41);
    assert_eq!(deliver(&mut machine), 0x41);
    assert_eq!(machine.raise(0x61), Action::Resume);
    assert_eq!(status(&machine), 0x4161);
    assert_eq!(machine.raise(0x31), Action::Resume);
    assert_eq!(status(&machine), 0x4161, "the highest request stays");
    assert_eq!(machine.cpu.read(field::TPR_THRESHOLD), 0);
}

#[test]
fn what_the_processor_delivered_meanwhile_is_not_requested_again() {
    let mut machine = Machine::with_hardware_delivery();
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(deliver(&mut machine), 0x41);
    assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
    assert_eq!(status(&machine), 0x4100);
    assert!(!end(&mut machine), "an edge ends without an exit");
    assert_eq!(machine.exit(reason::PREEMPTION_TIMER), Action::Resume);
    assert_eq!(status(&machine), 0);
}

#[test]
fn only_level_triggered_vectors_exit_at_their_end() {
    let mut machine = Machine::with_hardware_delivery();
    route(&mut machine, LEVEL | 0x94);
    assert_line(&mut machine);
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(ending_vectors(&machine), [0x94]);
    // The same vector as an edge: its end is nobody's business any more.
    assert_eq!(machine.raise(0x94), Action::Resume);
    assert!(ending_vectors(&machine).is_empty());
}

#[test]
fn a_level_comes_again_after_its_end_while_the_line_stays() {
    let mut machine = Machine::with_hardware_delivery();
    route(&mut machine, LEVEL | 0x54);
    assert_line(&mut machine);
    assert_eq!(deliver(&mut machine), 0x54);
    assert_eq!(pin(&mut machine) & REMOTE_IRR, REMOTE_IRR);
    assert!(end(&mut machine));
    assert_eq!(status(&machine), 0x54, "requested again");
    assert_eq!(deliver(&mut machine), 0x54);
    assert_eq!(inb(&mut machine, COM1_BASE + 2) & 0xf, 2);
    assert!(end(&mut machine));
    assert_eq!(status(&machine), 0);
    assert_eq!(pin(&mut machine) & REMOTE_IRR, 0);
}

#[test]
fn an_end_that_exits_is_done_already() {
    let mut machine = Machine::with_hardware_delivery();
    let rip = machine.rip();
    assert_eq!(machine.exit_with(reason::VIRTUAL_EOI, 0x54), Action::Resume);
    assert_eq!(machine.rip(), rip);
}

#[test]
fn a_request_wakes_a_halted_guest_that_can_take_it() {
    let mut machine = Machine::with_hardware_delivery();
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    assert!(machine.is_halted());
    machine.cpu.signal(
        0,
        Signal::Interrupt {
            vector: 0x41,
            trigger: crate::apic::Trigger::Edge,
        },
    );
    assert_eq!(machine.run_again(), Readiness::Enter);
    assert!(!machine.is_halted());
    assert_eq!(status(&machine), 0x41);
}

#[test]
fn a_request_below_the_task_priority_does_not_wake() {
    let mut machine = Machine::with_hardware_delivery();
    machine.vcpu.apic.set_task_priority(0x50);
    machine.vcpu.apic.raise(0x41, crate::apic::Trigger::Edge);
    assert_eq!(machine.exit(reason::HLT), Action::Leave);
    assert!(machine.is_halted());
    assert_eq!(status(&machine), 0x41);
}

#[test]
fn disabling_the_apic_ends_a_vm_whose_apic_the_processor_virtualises() {
    let mut machine = Machine::with_hardware_delivery();
    assert_eq!(machine.wrmsr(0x808, 0x50), Action::Resume);
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(machine.wrmsr(0x1b, 0xfee0_0d00), Action::Resume, "as it is");
    assert_eq!(
        machine.wrmsr(0x1b, 0xfee0_0100),
        Action::Stop(StopReason::ApicDisabled)
    );
}

#[test]
fn an_interrupt_that_an_exception_cut_short_is_requested_again() {
    let mut machine = Machine::with_hardware_delivery();
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(deliver(&mut machine), 0x41);
    assert_eq!(status(&machine), 0x4100);
    machine
        .cpu
        .set(field::IDT_VECTORING_INFO, Interruption::external(0x41).0);
    let alignment = Interruption::exception(17, true);
    machine.cpu.set(field::EXIT_INTERRUPTION_INFO, alignment.0);
    assert_eq!(machine.exit(reason::EXCEPTION), Action::Resume);
    assert_eq!(machine.injected(), Some(alignment));
    assert_eq!(status(&machine), 0x41);
    assert_eq!(machine.vcpu.apic.page().get(Reg::PPR), 0);
}

#[test]
fn nmis_are_still_injected() {
    let mut machine = Machine::with_hardware_delivery();
    assert_eq!(machine.raise(0x41), Action::Resume);
    assert_eq!(
        machine.wrmsr(0x830, 1 << 18 | 4 << 8 | 1 << 14),
        Action::Resume
    );
    assert_eq!(machine.injected(), Some(Interruption::nmi()));
    assert_eq!(status(&machine), 0x41);
}

#[test]
fn a_self_ipi_with_a_reserved_vector_is_an_apic_error() {
    let mut machine = Machine::with_hardware_delivery();
    let rip = machine.rip();
    // The processor stored 0 in the page's SELF IPI register and exited after the instruction.
    assert_eq!(machine.exit_with(reason::APIC_WRITE, 0x3f0), Action::Resume);
    assert_eq!((machine.rip(), machine.injected()), (rip, None));
    assert_eq!(machine.wrmsr(0x828, 0), Action::Resume);
    assert_eq!(machine.rdmsr(0x828), 1 << 5);
}
