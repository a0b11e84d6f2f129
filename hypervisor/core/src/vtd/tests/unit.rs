use std::rc::Rc;

use crate::addr::Frame;
use crate::vtd::capability::InterruptMode;
use crate::vtd::invalidate::UnitId;
use crate::vtd::registers::Global;
use crate::vtd::unit::*;

use super::fake::{CAPABILITY, EXTENDED, Event, FakeRing, FakeUnit};

const WRITE_BUFFER: u64 = 1 << 4;
const PROTECTED: u64 = 1 << 5;
const POINTER: InterruptPointer = InterruptPointer {
    table: Frame(0x100),
    order: 8,
    mode: InterruptMode::X2apic,
};

fn bring_up(machine: &FakeUnit) -> Result<Unit<FakeUnit, Enabled, Way<FakeRing>>, UnitError> {
    let id = UnitId::new(3).unwrap();
    Unit::quiet(id, machine.clone(), machine.chosen())?
        .invalidation(FakeRing(Rc::clone(&machine.0)))?
        .root(Frame(0x40))?
        .interrupts(Some(POINTER))?
        .enable()
}

fn commands(machine: &FakeUnit) -> Vec<(Global, Global)> {
    let command = |event| match event {
        Event::Command { on, off } => Some((on, off)),
        _ => None,
    };
    machine.take_log().into_iter().filter_map(command).collect()
}

fn on(bit: Global) -> Event {
    Event::Command {
        on: bit,
        off: Global::empty(),
    }
}

#[test]
fn a_unit_is_brought_up_in_the_order_of_the_manual() {
    let machine = FakeUnit::new(CAPABILITY | PROTECTED, EXTENDED);
    machine.set(0x64, 1 << 31 | 1);
    bring_up(&machine).unwrap();
    let steps: Vec<_> = machine
        .take_log()
        .into_iter()
        .filter(|event| !matches!(event, Event::Descriptor(wait) if wait.0[0] & 0xf == 5))
        .filter(|event| !matches!(event, Event::Write(0x88, 1..)))
        .collect();
    let [context, iotlb, interrupts] = [[0x11, 0], [0xd2, 0], [4, 0]]
        .map(|words| Event::Descriptor(crate::vtd::queue::Descriptor(words)));
    let expected = [
        Event::Write(0x38, 1 << 31),
        Event::Write(0x88, 0),
        Event::Write(0x90, 0x99_000),
        on(Global::QUEUED_INVALIDATION),
        Event::Write(0x20, 0x40_000),
        on(Global::ROOT_TABLE),
        context,
        iotlb,
        Event::Write(0xb8, 0x10_0807),
        on(Global::INTERRUPT_TABLE),
        interrupts,
        on(Global::empty()),
        on(Global::INTERRUPT_REMAPPING),
        on(Global::TRANSLATION),
        Event::Write(0x64, 0),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn compatibility_interrupts_that_firmware_let_through_are_blocked_before_remapping_begins() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    machine.set(0x1c, u64::from(Global::COMPATIBILITY_FORMAT.bits()));
    bring_up(&machine).unwrap();
    let commands = commands(&machine);
    let at = |wanted| commands.iter().position(|found| *found == wanted).unwrap();
    let blocked = at((Global::empty(), Global::COMPATIBILITY_FORMAT));
    assert!(blocked < at((Global::INTERRUPT_REMAPPING, Global::empty())));
}

#[test]
fn firmwares_translation_stays_on_until_it_is_replaced() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let found = Global::TRANSLATION | Global::QUEUED_INVALIDATION | Global::INTERRUPT_REMAPPING;
    machine.set(0x1c, u64::from(found.bits()));
    bring_up(&machine).unwrap();
    let commands = commands(&machine);
    let turned_off = |bit| commands.iter().any(|(_, off)| off.contains(bit));
    assert!(!turned_off(Global::TRANSLATION));
    assert!(turned_off(Global::QUEUED_INVALIDATION) && turned_off(Global::INTERRUPT_REMAPPING));
}

#[test]
fn firmwares_scalable_mode_is_turned_off_first() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    machine.set(0x1c, u64::from(Global::TRANSLATION.bits()));
    machine.set(0x20, 0x5400);
    bring_up(&machine).unwrap();
    assert_eq!(
        commands(&machine)[0],
        (Global::empty(), Global::TRANSLATION)
    );
}

#[test]
fn write_buffers_are_flushed_before_pointers_and_invalidations() {
    let machine = FakeUnit::new(CAPABILITY | WRITE_BUFFER, EXTENDED);
    bring_up(&machine).unwrap();
    let flushes = commands(&machine)
        .iter()
        .filter(|(on, _)| on.contains(Global::WRITE_BUFFER))
        .count();
    assert_eq!(flushes, 4);
}

#[test]
fn a_command_never_repeats_what_happens_once() {
    let machine = FakeUnit::new(CAPABILITY | WRITE_BUFFER, EXTENDED);
    bring_up(&machine).unwrap();
    for (on, _) in commands(&machine) {
        assert!((on & Global::ONE_SHOT).iter().count() <= 1, "{on:?}");
    }
}

#[test]
fn each_step_that_is_not_answered_is_named() {
    let cases = [
        (Global::WRITE_BUFFER, Step::WriteBuffer),
        (Global::QUEUED_INVALIDATION, Step::QueueOn),
        (Global::ROOT_TABLE, Step::RootPointer),
        (Global::INTERRUPT_TABLE, Step::InterruptPointer),
        (Global::INTERRUPT_REMAPPING, Step::InterruptRemapping),
        (Global::TRANSLATION, Step::Translation),
    ];
    for (stuck, step) in cases {
        let machine = FakeUnit::new(CAPABILITY | WRITE_BUFFER, EXTENDED);
        machine.0.borrow_mut().stuck = stuck.bits();
        let unit = UnitId::new(3).unwrap();
        let error = bring_up(&machine).unwrap_err();
        assert_eq!(error, UnitError::NoAnswer { unit, step });
    }
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    machine.set(0x1c, u64::from(Global::QUEUED_INVALIDATION.bits()));
    machine.set(0x88, 0x40);
    let error = bring_up(&machine).unwrap_err();
    assert!(error.to_string().contains("DrainQueue"), "{error}");
}

#[test]
fn the_interrupt_pointer_matches_the_manual() {
    assert_eq!(POINTER.raw(), 0x10_0807);
    let small = InterruptPointer {
        order: 1,
        mode: InterruptMode::Xapic,
        ..POINTER
    };
    assert_eq!(small.raw(), 0x10_0000);
    assert_eq!(
        InterruptPointer {
            order: 16,
            ..POINTER
        }
        .raw(),
        0x10_080f
    );
}

#[test]
fn fault_messages_are_set_before_they_are_let_through() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    bring_up(&machine).unwrap().signal_faults(0xfee0_1000, 0x55);
    let log = machine.take_log();
    let last = &log[log.len() - 4..];
    let writes = [(0x3c, 0x55), (0x40, 0xfee0_1000), (0x44, 0), (0x38, 0)];
    assert_eq!(last, writes.map(|(at, value)| Event::Write(at, value)));
}
